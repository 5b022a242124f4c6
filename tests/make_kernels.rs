//! The kernels that make weights, against the host: bit for bit.
//!
//! Everything runs on a device with WebGPU's default limits and no features.

use half::f16;
use lowbit::format::{Granularity, ScaleType, WeightFormat};
use lowbit::ops::dequantize::DequantizeChoice;
use lowbit::ops::make::MakeKernel;
use std::sync::OnceLock;
use wgpu::util::DeviceExt;

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = pollster::block_on(instance.request_adapter(&Default::default()))
            .expect("no adapter: install one, e.g. mesa-vulkan-drivers");
        let info = adapter.get_info();
        println!("adapter: {} ({} {})", info.name, info.driver, info.driver_info);
        let (device, queue) =
            pollster::block_on(adapter.request_device(&Default::default())).unwrap();
        Gpu { device, queue }
    })
}

/// A binding: a uniform, an input, or an output that comes back.
enum Bind<'a> {
    Uniform(&'a [u8]),
    Read(&'a [u32]),
    Write(Vec<u32>),
}

impl Gpu {
    fn pipeline(&self, label: &str, source: &str, binds: &[Bind]) -> wgpu::ComputePipeline {
        let entries: Vec<_> = binds
            .iter()
            .enumerate()
            .map(|(i, bind)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match bind {
                        Bind::Uniform(_) => wgpu::BufferBindingType::Uniform,
                        Bind::Read(_) => wgpu::BufferBindingType::Storage { read_only: true },
                        Bind::Write(_) => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let d = &self.device;
        let group = d.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(label),
            entries: &entries,
        });
        let layout = d.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&group)],
            immediate_size: 0,
        });
        let module = d.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        d.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        })
    }

    /// Runs one pipeline after another over the same bindings; `Write`s come back changed.
    fn run(&self, passes: &[(&wgpu::ComputePipeline, [u32; 3])], binds: &mut [Bind]) {
        let buffers: Vec<_> = binds
            .iter()
            .map(|bind| {
                let (bytes, usage): (&[u8], _) = match bind {
                    Bind::Uniform(bytes) => (bytes, wgpu::BufferUsages::UNIFORM),
                    Bind::Read(words) => (bytemuck::cast_slice(words), wgpu::BufferUsages::STORAGE),
                    Bind::Write(words) => (
                        bytemuck::cast_slice(words),
                        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                    ),
                };
                let bytes = if bytes.is_empty() { &[0; 4] } else { bytes };
                self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                    label: None,
                    contents: bytes,
                    usage,
                })
            })
            .collect();
        let entries: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(i, buffer)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (pipeline, [x, y, z]) in passes {
                let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &pipeline.get_bind_group_layout(0),
                    entries: &entries,
                });
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
        }
        let mut reads = vec![];
        for (bind, buffer) in binds.iter_mut().zip(&buffers) {
            if let Bind::Write(words) = bind {
                let copy = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: buffer.size(),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
                reads.push((words, copy));
            }
        }
        self.queue.submit([encoder.finish()]);
        for (_, copy) in &reads {
            copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        }
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        for (words, copy) in reads {
            let have = words.len();
            let bytes = copy.get_mapped_range(..).unwrap();
            words.clear();
            words.extend(bytemuck::cast_slice::<u8, u32>(&bytes)[..have].iter());
        }
    }
}

/// A grid of at least `invocations`, folded into three dimensions although it need not be.
fn grid(invocations: u64) -> [u32; 3] {
    let groups = invocations.div_ceil(64) as u32;
    let x = groups.min(1000);
    let y = groups.div_ceil(x).min(7);
    [x, y, groups.div_ceil(x * y)]
}

const SOFTFLOAT: &str = include_str!("../shaders/lib/softfloat.wgsl");
const HALF: &str = include_str!("../shaders/lib/half.wgsl");

/// `expression` of `a` and `b` for each pair.
fn map2(expression: &str, pairs: &[[u32; 2]]) -> Vec<u32> {
    let source = format!(
        "{SOFTFLOAT}{HALF}
        @group(0) @binding(0) var<storage, read> input: array<vec2<u32>>;
        @group(0) @binding(1) var<storage, read_write> output: array<u32>;
        @compute @workgroup_size(64)
        fn main(
            @builtin(workgroup_id) g: vec3<u32>,
            @builtin(num_workgroups) n: vec3<u32>,
            @builtin(local_invocation_index) lane: u32,
        ) {{
            let id = (g.x + n.x * (g.y + n.y * g.z)) * 64u + lane;
            if (id >= arrayLength(&output)) {{ return; }}
            let a = input[id].x;
            let b = input[id].y;
            output[id] = {expression};
        }}"
    );
    let gpu = gpu();
    let mut binds =
        [Bind::Read(pairs.as_flattened()), Bind::Write(vec![0xdead_beef; pairs.len()])];
    let pipeline = gpu.pipeline(expression, &source, &binds);
    gpu.run(&[(&pipeline, grid(pairs.len() as u64))], &mut binds);
    let [_, Bind::Write(out)] = binds else { unreachable!() };
    out
}

fn map(expression: &str, values: &[u32]) -> Vec<u32> {
    map2(expression, &values.iter().map(|&a| [a, 0]).collect::<Vec<_>>())
}

/// SplitMix64: enough for test data, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    fn bits(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
    /// A positive normal f32, uniform in its bits.
    fn normal(&mut self) -> u32 {
        0x0080_0000 + self.below(0x7f00_0000) as u32
    }
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
    /// Roughly a normal distribution: the sum of twelve.
    fn gauss(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

/// Magnitudes where rounding, carries and exponents change: zero and normals.
fn edges() -> Vec<u32> {
    let fractions = [
        0, 1, 2, 3, 0x2a_aaaa, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x55_5555, 0x7f_fffd, 0x7f_fffe,
        0x7f_ffff,
    ];
    let exponents = [
        1, 2, 3, 23, 24, 25, 26, 27, 28, 101, 102, 103, 112, 113, 125, 126, 127, 128, 129, 134,
        142, 149, 150, 151, 157, 158, 159, 229, 230, 252, 253, 254,
    ];
    let mut all = vec![0];
    all.extend(exponents.iter().flat_map(|e| fractions.map(|f| e << 23 | f)));
    all
}

const MILLIONS: usize = 2_000_000;

#[track_caller]
fn same(what: &str, pairs: &[[u32; 2]], got: &[u32], want: impl Fn(u32, u32) -> u32) {
    assert_eq!(pairs.len(), got.len());
    let mut wrong = 0;
    for (&[a, b], &got) in pairs.iter().zip(got) {
        let want = want(a, b);
        if got != want {
            wrong += 1;
            if wrong < 8 {
                println!("{what}({a:#010x}, {b:#010x}) = {got:#010x}, not {want:#010x}");
            }
        }
    }
    assert_eq!(wrong, 0, "{what}: wrong results of {}", pairs.len());
    println!("{what}: {} pairs", pairs.len());
}

#[test]
fn division_is_correctly_rounded() {
    let mut random = Random(1);
    let edges = edges();
    let mut pairs: Vec<[u32; 2]> = vec![];
    pairs.extend(edges.iter().flat_map(|&a| edges.iter().map(move |&b| [a, b])));
    pairs.retain(|&[_, b]| b != 0);
    for _ in 0..MILLIONS {
        pairs.push([random.normal(), random.normal()]);
        // Quotients in and about the subnormals.
        let b = random.normal();
        let e = (b >> 23).saturating_sub(127 + random.below(28) as u32).max(1);
        pairs.push([e << 23 | random.bits() >> 9, b]);
        // What codes are: a weight next to half a step.
        let scale = f32::from_bits(random.normal() % 0x2000_0000 + 0x3000_0000);
        let steps = random.below(32768) as f32 + 0.5;
        let weight = (scale * steps).to_bits() as i32 + random.below(5) as i32 - 2;
        pairs.push([weight as u32, scale.to_bits()]);
    }
    let got = map2("div_f32(a, b)", &pairs);
    same("div_f32", &pairs, &got, |a, b| (f32::from_bits(a) / f32::from_bits(b)).to_bits());
    // The whole step from weight to code.
    let got = map2("rne_to_int(div_f32(a, b))", &pairs);
    same("rne_to_int(div_f32)", &pairs, &got, |a, b| {
        (f32::from_bits(a) / f32::from_bits(b)).round_ties_even() as u32
    });
}

#[test]
fn addition_is_correctly_rounded() {
    let mut random = Random(2);
    let edges = edges();
    let mut pairs: Vec<[u32; 2]> = vec![];
    pairs.extend(edges.iter().flat_map(|&a| edges.iter().map(move |&b| [a, b])));
    for _ in 0..MILLIONS {
        let a = random.normal();
        pairs.push([a, random.normal()]);
        // Near enough in exponent that both count, at any alignment.
        let e = ((a >> 23) as i32 + random.below(60) as i32 - 30).clamp(1, 254) as u32;
        pairs.push([a, e << 23 | random.bits() >> 9]);
        // Few bits: ties.
        let e = ((a >> 23) as i32 - 24 + random.below(3) as i32).clamp(1, 254) as u32;
        pairs.push([a, e << 23 | (random.below(4) as u32) << 21]);
    }
    let got = map2("add_f32(a, b)", &pairs);
    same("add_f32", &pairs, &got, |a, b| (f32::from_bits(a) + f32::from_bits(b)).to_bits());
}

#[test]
fn rounding_to_integers() {
    let mut random = Random(3);
    let mut values = edges();
    values.extend((0..70_000).flat_map(|i| {
        let tie = (i as f32 + 0.5).to_bits();
        [(i as f32).to_bits(), tie - 1, tie, tie + 1]
    }));
    values.extend([4294967040f32, 4294967296.0, f32::MAX, 8388607.5, 16777215.0].map(f32::to_bits));
    values.extend((0..MILLIONS).map(|_| (random.below(45) as u32 + 118) << 23 | random.bits() >> 9));
    let pairs: Vec<_> = values.iter().map(|&a| [a, 0]).collect();
    let got = map("rne_to_int(a)", &values);
    same("rne_to_int", &pairs, &got, |a, _| f32::from_bits(a).round_ties_even() as u32);
}

#[test]
fn all_halves_widen_exactly() {
    let halves: Vec<u32> = (0..=0xffff).collect();
    // The upper half of the word must not matter.
    let dirty: Vec<u32> = halves.iter().map(|h| h | 0xffff_0000).collect();
    let pairs: Vec<_> = halves.iter().map(|&h| [h, 0]).collect();
    for (expression, input) in [
        ("half_to_f32_bits(a)", &halves),
        ("bitcast<u32>(half_to_f32(a))", &halves),
        ("bitcast<u32>(half_to_f32(a))", &dirty),
        ("bitcast<u32>(half2_to_f32(a).x)", &dirty),
        ("bitcast<u32>(half2_to_f32(a << 16u).y)", &halves),
        ("bitcast<u32>(half4_to_f32(vec2<u32>(0u, (a << 16u) | 1u)).w)", &halves),
    ] {
        let got: Vec<u32> = map(expression, input)
            .into_iter()
            .map(|bits| if f32::from_bits(bits).is_nan() { f32::NAN.to_bits() } else { bits })
            .collect();
        same(expression, &pairs, &got, |h, _| {
            let wide = f16::from_bits(h as u16).to_f32();
            if wide.is_nan() { f32::NAN.to_bits() } else { wide.to_bits() }
        });
    }
}

#[test]
fn halves_round_to_nearest_even() {
    let mut random = Random(4);
    let mut values = vec![0, 1, 0x7f_ffff, 0x80_0000, f32::INFINITY.to_bits(), f32::NAN.to_bits()];
    values.extend([0x7f80_0001, 0x7fff_ffff, 0x7f80_2000]);
    values.extend(edges());
    // Every half, every midpoint to the next, and their neighbours.
    for h in 0..=0x7c00u16 {
        let this = f16::from_bits(h).to_f32();
        let next = if h >= 0x7bff { 65536.0 } else { f16::from_bits(h + 1).to_f32() };
        for centre in [this.to_bits(), ((this + next) / 2.0).to_bits()] {
            values.extend([centre.saturating_sub(1), centre, centre + 1]);
        }
    }
    values.extend((0..MILLIONS).map(|_| random.bits() >> 1));
    // From 2⁻²⁶ to 2¹⁷, where something happens.
    values.extend((0..MILLIONS).map(|_| 0x3280_0000 + random.below(0x1580_0000) as u32));
    let values: Vec<u32> = values.into_iter().flat_map(|v| [v, v | 0x8000_0000]).collect();
    let pairs: Vec<_> = values.iter().map(|&v| [v, 0]).collect();
    let nan = |h: u32| if h & 0x7fff > 0x7c00 { h & 0x8000 | 0x7e00 } else { h };
    for expression in ["f32_bits_to_half(a)", "f32_to_half(bitcast<f32>(a))"] {
        let got: Vec<u32> = map(expression, &values).into_iter().map(nan).collect();
        same(expression, &pairs, &got, |v, _| {
            nan(u32::from(f16::from_f32(f32::from_bits(v)).to_bits()))
        });
    }
    let got = map2(
        "f32x2_to_half2(vec2<f32>(bitcast<f32>(a), bitcast<f32>(b)))",
        &[[1.5f32.to_bits(), (-65520f32).to_bits()], [6e-8f32.to_bits(), 2048.5f32.to_bits()]],
    );
    assert_eq!(got, [0xfc00_3e00, 0x6800_0001]);
}

fn formats() -> Vec<WeightFormat> {
    let g = |g| Granularity::group(g).unwrap();
    let mut all = vec![WeightFormat::f32(), WeightFormat::f16()];
    for granularity in [
        Granularity::Tensor,
        Granularity::Channel,
        g(1),
        g(3),
        g(7),
        g(32),
        g(64),
        g(100),
        g(u32::MAX),
    ] {
        all.push(WeightFormat::int16(granularity));
        for base in [WeightFormat::int8(granularity), WeightFormat::int4(granularity)] {
            for scale in [ScaleType::F32, ScaleType::F16] {
                all.push(base.with_scales(scale));
                all.push(base.with_scales(scale).asymmetric());
            }
        }
    }
    all.extend(all.clone().into_iter().map(WeightFormat::two_four));
    all
}

fn parse(source: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    // No capability at all: no f16, no subgroups, no i64.
    let info = naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::empty(),
    )
    .validate(&module)
    .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    (module, info)
}

/// What a function does with floats beyond moving them: the first such expression.
fn float_arithmetic(
    module: &naga::Module,
    function: &naga::Function,
    info: &naga::valid::FunctionInfo,
) -> Option<String> {
    use naga::Expression as E;
    let float = |handle: naga::Handle<E>| {
        let scalar = info[handle].ty.inner_with(&module.types).scalar();
        scalar.is_some_and(|s| {
            matches!(s.kind, naga::ScalarKind::Float | naga::ScalarKind::AbstractFloat)
        })
    };
    function.expressions.iter().find_map(|(handle, expression)| {
        let bad = match *expression {
            E::Unary { expr, .. } => float(expr),
            E::Binary { left, right, .. } => float(left) || float(right),
            E::Relational { argument, .. } => float(argument),
            E::Math { arg, .. } => float(arg) || float(handle),
            // Without `convert` it is a bitcast.
            E::As { expr, convert: Some(_), .. } => float(expr) || float(handle),
            E::Derivative { .. } | E::CooperativeMultiplyAdd { .. } => true,
            _ => false,
        };
        bad.then(|| format!("{:?}: {expression:?}", function.name))
    })
}

/// The entry point's own arithmetic and that of every function it reaches.
fn reachable_float_arithmetic(source: &str) -> Option<String> {
    let (module, info) = parse(source);
    let entry = &module.entry_points[0];
    let mut todo = vec![];
    let mut seen = std::collections::HashSet::new();
    let mut found = float_arithmetic(&module, &entry.function, info.get_entry_point(0));
    calls(&entry.function.body, &mut todo);
    while let Some(handle) = todo.pop() {
        if seen.insert(handle) {
            let function = &module.functions[handle];
            found = found.or_else(|| float_arithmetic(&module, function, &info[handle]));
            calls(&function.body, &mut todo);
        }
    }
    found
}

fn calls(block: &naga::Block, out: &mut Vec<naga::Handle<naga::Function>>) {
    use naga::Statement as S;
    for statement in block.iter() {
        match statement {
            S::Call { function, .. } => out.push(*function),
            S::Block(block) => calls(block, out),
            S::If { accept, reject, .. } => {
                calls(accept, out);
                calls(reject, out);
            }
            S::Switch { cases, .. } => cases.iter().for_each(|case| calls(&case.body, out)),
            S::Loop { body, continuing, .. } => {
                calls(body, out);
                calls(continuing, out);
            }
            _ => {}
        }
    }
}

/// Every kernel of every format is valid with no feature and binds at most eight storage
/// buffers; those that make weights use no float arithmetic anywhere.
#[test]
fn making_is_integer_arithmetic_only() {
    let mut shaders = std::collections::BTreeSet::new();
    for format in formats() {
        for kernel in MakeKernel::ALL {
            let source = kernel.source(&format);
            if shaders.insert(source.clone()) {
                let found = reachable_float_arithmetic(&source);
                assert_eq!(found, None, "{} for {format}", kernel.name());
            }
        }
        for (indexed, f16) in [(false, false), (false, true), (true, false), (true, true)] {
            let (module, _) = parse(&DequantizeChoice { format, indexed, f16 }.source());
            assert!(module.global_variables.len() <= 9);
        }
    }
    println!("{} shaders", shaders.len());
    // The check can fail: dequantizing does multiply.
    let format = WeightFormat::int8(Granularity::Channel);
    let multiply = DequantizeChoice { format, indexed: false, f16: false }.source();
    assert!(reachable_float_arithmetic(&multiply).is_some());
}
