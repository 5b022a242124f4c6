//! Tests of the kernels that quantize weights, which must equal the host bit for bit.
//!
//! Everything runs on a device with WebGPU's default limits and without features.

use crate::common::some_of;
use half::f16;
use lowbit::compress::{self, CompressError};
use lowbit::format::{
    CodeType, DeviceImage, DeviceLayout, Granularity, Mask24, Offset, PackedWeights, RowOrder,
    ScaleType, WeightFormat,
};
use lowbit::gpu::{Caps, KernelDesc};
use lowbit::host::{Host, HostError};
use lowbit::ops::quantize_weights::{WeightsAccess, WeightsKernel};
use lowbit::ops::registry;
use lowbit::ops::{
    BindError, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, FloatType,
    QuantizeWeightsArgs, QuantizeWeightsError, QuantizeWeightsJob, QuantizeWeightsPlan,
    QuantizeWeightsSpec, RecordError, SourceRows, SubBuffer,
};
use pollster::block_on;
use std::sync::OnceLock;
use wgpu::util::DeviceExt;

fn adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::default();
    let adapter = block_on(instance.request_adapter(&Default::default()))
        .expect("no adapter: install one, e.g. mesa-vulkan-drivers");
    let info = adapter.get_info();
    println!("adapter: {} ({} {})", info.name, info.driver, info.driver_info);
    adapter
}

fn gpu() -> &'static Host {
    static GPU: OnceLock<Host> = OnceLock::new();
    GPU.get_or_init(|| Host::with_limits(&adapter(), wgpu::Limits::defaults()).unwrap())
}

/// Hosts with the same device that are told of tiny limits, so that everything is split. One uses
/// single rows and one uses panels of eight rows, which need bindings twice as large.
fn tiny_gpus() -> &'static [Host; 2] {
    static GPUS: OnceLock<[Host; 2]> = OnceLock::new();
    GPUS.get_or_init(|| {
        [(RowOrder::Rows, 2048), (RowOrder::Panels, 4096)].map(|(order, max_binding)| {
            let adapter = adapter();
            let limits = wgpu::Limits::defaults();
            let (device, queue) =
                block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
            let mut caps = Caps::new(&adapter.get_info(), &limits, wgpu::Features::empty());
            (caps.row_order, caps.max_binding, caps.max_groups) = (order, max_binding, 3);
            Host::with_caps(adapter.get_info(), device, queue, &caps).unwrap()
        })
    })
}

/// Runs shaders that are not kernels of the crate.
struct Harness(&'static Host);

/// A binding: an input, or an output that is read back.
enum Bind<'a> {
    Read(&'a [u32]),
    Write(Vec<u32>),
}

impl Harness {
    fn pipeline(&self, label: &str, source: &str, binds: &[Bind]) -> wgpu::ComputePipeline {
        let entries: Vec<_> = binds
            .iter()
            .enumerate()
            .map(|(i, bind)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match bind {
                        Bind::Read(_) => wgpu::BufferBindingType::Storage { read_only: true },
                        Bind::Write(_) => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let d = self.0.device();
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

    /// Runs the pipelines one after another with the same bindings. `Write` bindings contain the
    /// results afterwards.
    fn run(&self, passes: &[(&wgpu::ComputePipeline, [u32; 3])], binds: &mut [Bind]) {
        let buffers: Vec<_> = binds
            .iter()
            .map(|bind| {
                let (bytes, usage): (&[u8], _) = match bind {
                    Bind::Read(words) => (bytemuck::cast_slice(words), wgpu::BufferUsages::STORAGE),
                    Bind::Write(words) => (
                        bytemuck::cast_slice(words),
                        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                    ),
                };
                let bytes = if bytes.is_empty() { &[0; 4] } else { bytes };
                self.0.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
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
        let mut encoder = self.0.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (pipeline, [x, y, z]) in passes {
                let group = self.0.device().create_bind_group(&wgpu::BindGroupDescriptor {
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
                let copy = self.0.device().create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: buffer.size(),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
                reads.push((words, copy));
            }
        }
        self.0.queue().submit([encoder.finish()]);
        for (_, copy) in &reads {
            copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        }
        self.0.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        for (words, copy) in reads {
            let have = words.len();
            let bytes = copy.get_mapped_range(..).unwrap();
            words.clear();
            words.extend(bytemuck::cast_slice::<u8, u32>(&bytes)[..have].iter());
        }
    }
}

/// Returns a grid of at least `invocations`, folded into three dimensions even if that is not
/// necessary.
fn grid(invocations: u64) -> [u32; 3] {
    let groups = invocations.div_ceil(64) as u32;
    let x = groups.min(1000);
    let y = groups.div_ceil(x).min(7);
    [x, y, groups.div_ceil(x * y)]
}

const SOFTFLOAT: &str = include_str!("../shaders/lib/softfloat.wgsl");
const RECIPROCAL: &str = include_str!("../shaders/lib/reciprocal.wgsl");
const HALF: &str = concat!(
    include_str!("../shaders/lib/half.wgsl"),
    include_str!("../shaders/lib/half_pair.wgsl")
);

/// Evaluates `expression` of `a` and `b` for each pair.
fn map2(expression: &str, pairs: &[[u32; 2]]) -> Vec<u32> {
    let source = format!(
        "{SOFTFLOAT}{RECIPROCAL}{HALF}
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
    let gpu = Harness(gpu());
    let mut binds = [Bind::Read(pairs.as_flattened()), Bind::Write(vec![0xdead_beef; pairs.len()])];
    let pipeline = gpu.pipeline(expression, &source, &binds);
    gpu.run(&[(&pipeline, grid(pairs.len() as u64))], &mut binds);
    let [_, Bind::Write(out)] = binds else { unreachable!() };
    out
}

fn map(expression: &str, values: &[u32]) -> Vec<u32> {
    map2(expression, &values.iter().map(|&a| [a, 0]).collect::<Vec<_>>())
}

/// SplitMix64. It is good enough for test data and gives the same numbers everywhere.
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
    /// Returns the bits of a positive normal f32, uniform over the bit patterns.
    fn normal(&mut self) -> u32 {
        0x0080_0000 + self.below(0x7f00_0000) as u32
    }
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
    /// Returns a roughly normal number: the sum of twelve uniform ones.
    fn gauss(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

/// Returns magnitudes at which rounding, carries and exponents change: zero and normal numbers.
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
        // Quotients that are subnormal or nearly so.
        let b = random.normal();
        let e = (b >> 23).saturating_sub(127 + random.below(28) as u32).max(1);
        pairs.push([e << 23 | random.bits() >> 9, b]);
        // Quotients as they occur in codes: a weight near half a step.
        let scale = f32::from_bits(random.normal() % 0x2000_0000 + 0x3000_0000);
        let steps = random.below(32768) as f32 + 0.5;
        let weight = (scale * steps).to_bits() as i32 + random.below(5) as i32 - 2;
        pairs.push([weight as u32, scale.to_bits()]);
    }
    let got = map2("div_f32(a, b)", &pairs);
    same("div_f32", &pairs, &got, |a, b| (f32::from_bits(a) / f32::from_bits(b)).to_bits());
    // The whole computation from a weight to its code.
    let got = map2("rne_to_int(div_f32(a, b))", &pairs);
    same("rne_to_int(div_f32)", &pairs, &got, |a, b| {
        (f32::from_bits(a) / f32::from_bits(b)).round_ties_even() as u32
    });
    // The same with a reciprocal. Only bits of normal numbers are allowed here, as scales are.
    pairs.retain(|&[_, b]| (0x0080_0000..0x7f80_0000).contains(&b));
    let got = map2("steps_by(a, divisor_of(b))", &pairs);
    same("steps_by", &pairs, &got, |a, b| {
        ((f32::from_bits(a) / f32::from_bits(b)).round_ties_even() as u32).min(65536)
    });
}

/// Tests every significand of a weight with scales that have few bits set, all bits set or none.
/// This includes ties and the quotients next to them.
#[test]
fn every_significand_over_some_scales() {
    for scale in [0x0080_0000u32, 0x00ff_ffff, 0x0080_0001, 0x00c0_0000, 0x00b5_04f3] {
        let by = scale & 0x007f_ffff | 118 << 23;
        let pairs: Vec<[u32; 2]> = (0..1 << 23).map(|low| [low | 127 << 23, by]).collect();
        let got = map2("steps_by(a, divisor_of(b))", &pairs);
        same("steps_by", &pairs, &got, |a, b| {
            (f32::from_bits(a) / f32::from_bits(b)).round_ties_even() as u32
        });
    }
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
        // The exponents are close enough for both numbers to matter, at any alignment.
        let e = ((a >> 23) as i32 + random.below(60) as i32 - 30).clamp(1, 254) as u32;
        pairs.push([a, e << 23 | random.bits() >> 9]);
        // Few bits are set, which gives ties.
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
    values
        .extend((0..MILLIONS).map(|_| (random.below(45) as u32 + 118) << 23 | random.bits() >> 9));
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
    // On devices that are said to keep subnormals, the native conversion is tested too.
    let native = match gpu().kernels().caps().exact_f16_unpack {
        true => "bitcast<u32>(unpack2x16float(a).x)",
        false => "half_to_f32_bits(a)",
    };
    for (expression, input) in [
        (native, &halves),
        ("half_to_f32_bits(a)", &halves),
        ("bitcast<u32>(half_to_f32(a))", &halves),
        ("bitcast<u32>(half2_to_f32(a).x)", &dirty),
        ("bitcast<u32>(half2_to_f32(a << 16u).y)", &halves),
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
    // Tests every f16, every midpoint to the next one, and the neighbors of both.
    for h in 0..=0x7c00u16 {
        let this = f16::from_bits(h).to_f32();
        let next = if h >= 0x7bff { 65536.0 } else { f16::from_bits(h + 1).to_f32() };
        for centre in [this.to_bits(), ((this + next) / 2.0).to_bits()] {
            values.extend([centre.saturating_sub(1), centre, centre + 1]);
        }
    }
    values.extend((0..MILLIONS).map(|_| random.bits() >> 1));
    // From 2⁻²⁶ to 2¹⁷, which is where results vary.
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
    all.extend(small_formats());
    all
}

/// Every code type and offset of small codes, with both types of scales in turn.
fn small_formats() -> Vec<WeightFormat> {
    let g = |g| Granularity::group(g).unwrap();
    let mut all = vec![];
    for code_type in CodeType::ALL.into_iter().filter(|code| code.is_integer()) {
        for offset in [Offset::Fixed, Offset::ZeroPoint, Offset::ZeroPoint4] {
            for granularity in [Granularity::Tensor, Granularity::Channel, g(7), g(32)] {
                let format = WeightFormat::new(code_type, granularity).with_offset(offset);
                if WeightsKernel::SmallCodes.takes(&format) && format.check().is_ok() {
                    let scale_type = [ScaleType::F32, ScaleType::F16][all.len() / 3 % 2];
                    all.push(format.with_scales(scale_type));
                }
            }
        }
    }
    assert_eq!(all.len(), 11 * 4);
    all
}

fn parse(source: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    // No capabilities, neither f16 nor subgroups, except 64-bit integers if the shader uses them.
    let capabilities = match source.contains("u64") {
        true => naga::valid::Capabilities::SHADER_INT64,
        false => naga::valid::Capabilities::empty(),
    };
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    (module, info)
}

/// Returns the first expression of a function that does more with floats than move them.
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
            // Without `convert`, this is a bitcast.
            E::As { expr, convert: Some(_), .. } => float(expr) || float(handle),
            E::Derivative { .. } | E::CooperativeMultiplyAdd { .. } => true,
            _ => false,
        };
        bad.then(|| format!("{:?}: {expression:?}", function.name))
    })
}

/// Checks the entry point and every function that it calls.
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

/// Every kernel of every format is valid without any feature. The kernels that quantize weights
/// contain no float arithmetic.
#[test]
fn making_is_integer_arithmetic_only() {
    let mut shaders = std::collections::HashSet::new();
    for format in formats() {
        for kernel in WeightsKernel::ALL.into_iter().filter(|kernel| kernel.takes(&format)) {
            for access in WeightsAccess::ALL {
                let shader = kernel.shader(&format, RowOrder::Panels, access);
                if shaders.insert(shader.clone()) {
                    let found = reachable_float_arithmetic(&shader.compose().unwrap().source);
                    assert_eq!(found, None, "{}", shader.id);
                }
            }
        }
        for spec in dequantize_specs(2, 2, format) {
            if spec.check().is_err() {
                continue;
            }
            let shader = spec.shader(&registry::cpus()[2]);
            if shaders.insert(shader.clone()) {
                parse(&shader.compose().unwrap().source);
            }
        }
    }
    let names: std::collections::HashSet<_> = shaders.iter().map(|s: &KernelDesc| &s.id).collect();
    assert_eq!(names.len(), shaders.len(), "two shaders of one name");
    println!("{} shaders", shaders.len());
    // Shows that the check can fail: dequantizing does multiply floats.
    let multiply = DequantizeSpec::new(1, 1, WeightFormat::int8(Granularity::Channel))
        .shader(&registry::gpus()[0]);
    assert!(reachable_float_arithmetic(&multiply.compose().unwrap().source).is_some());
}

fn dequantize_specs(n: u32, k: u32, format: WeightFormat) -> [DequantizeSpec; 4] {
    let (all, some) = (DequantizeSpec::new(n, k, format), DequantizeSpec::gather(9, n, k, format));
    let half = |spec: &DequantizeSpec| spec.clone().with_output(FloatType::F16);
    [half(&all), half(&some), all, some]
}

/// Returns a row of weights of some kind that `format` can represent.
fn row(format: &WeightFormat, kind: usize, k: usize, random: &mut Random) -> Vec<f32> {
    // The number of steps between zero and the largest weight if the scale is 2⁻³.
    let steps = match format.code_range() {
        Some((low, high)) if high - low < 128 && random.below(2) == 0 => {
            [high - low, high / 2][random.below(2) as usize].max(1) as f32
        }
        _ => [7.0, 127.0, 15.0, 255.0, 32767.0][random.below(5) as usize],
    };
    (0..k)
        .map(|_| {
            let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
            let x = match kind {
                0 => 0.05 * random.gauss(),
                1 if random.below(50) == 0 => 50.0 * random.gauss(),
                1 => 0.3 * random.gauss(),
                2 if random.below(6) == 0 => random.gauss(),
                2 => 0.0 * sign,
                3 => f32::from_bits(random.below(0x80_0000) as u32 * random.below(2) as u32) * sign,
                4 if random.below(3) == 0 => steps / 8.0 * sign,
                4 => (random.below(steps as u64) as f32 + 0.5) / 8.0 * sign,
                5 => [0.5, 1.0][random.below(2) as usize] * sign,
                6 => [1e38, 1.7e38, 3e-32, 2.5, 7e37][random.below(5) as usize] * sign,
                7 if random.below(3) == 0 => 1e-30 * random.unit() * sign,
                7 => f32::from_bits(random.below(0x100_0000) as u32) * sign,
                8 => random.gauss().abs(),
                9 => -random.gauss().abs(),
                _ => {
                    f32::from_bits((100 + random.below(40) as u32) << 23 | random.bits() >> 9)
                        * sign
                }
            };
            fit(format, x)
        })
        .collect()
}

const KINDS: usize = 11;

/// Returns the nearest weight whose group never needs an impossible scale, whatever the other
/// weights are.
fn fit(format: &WeightFormat, x: f32) -> f32 {
    let (least, most) = match (format.code_type().is_integer(), format.scale_type()) {
        (false, _) if format.code_type() == CodeType::F32 => (0.0, f32::MAX),
        (false, _) => (0.0, 65519.0),
        (true, ScaleType::F32) => (1e-33, 1.7e38),
        (true, _) => {
            let steps = format.code_range().map_or(1, |(low, high)| (high - low) / 2);
            (0.02, (65000.0 * steps as f32).min(4e5))
        }
    };
    // Subnormals are kept, because they count as 0.
    if x.is_normal() && x.abs() < least { 0.0f32.copysign(x) } else { x.clamp(-most, most) }
}

/// Runs a plan on `w`, which is inside a larger buffer with a stride, into buffers full of garbage.
fn make(host: &Host, w: &[f32], mask: Option<&Mask24>, spec: &QuantizeWeightsSpec) -> Made {
    let (n, k, stride) = (spec.n as usize, spec.k as usize, spec.stride as usize);
    // All words that are not weights are NaN, so that a kernel that reads them reports an error.
    let mut buffers = vec![];
    let cut = n / 3;
    // The offset is aligned as far as the stride, so that wide loads are used if they are possible.
    let step = 1 << stride.trailing_zeros().min(3);
    for rows in [0..cut, cut..n] {
        let offset = step * (3 + rows.start % 5);
        let mut words = vec![f32::NAN.to_bits(); offset + rows.len() * stride + 4];
        for (i, row) in rows.clone().enumerate() {
            for col in 0..k {
                words[offset + i * stride + col] = w[row * k + col].to_bits();
            }
        }
        buffers.push((host.storage(&words).unwrap(), 4 * offset as u64, rows.len()));
    }
    let source: Vec<_> = buffers
        .iter()
        .map(|(buffer, offset, rows)| SourceRows {
            at: SubBuffer { buffer, offset: *offset },
            rows: *rows,
        })
        .collect();
    let mask = mask.map(|mask| {
        let mut words = vec![0xffff_ffff; 5];
        words.extend(mask.words());
        host.storage(&words).unwrap()
    });
    let weights = block_on(DeviceWeights::allocate(host.kernels(), spec.weights, n, k)).unwrap();
    for block in weights.blocks() {
        for buffer in block.buffers() {
            host.queue().write_buffer(buffer, 0, &vec![0xa5; buffer.size() as usize]);
        }
    }
    let plan = block_on(QuantizeWeightsPlan::new(host.kernels(), spec)).unwrap();
    let bound = block_on(plan.bind(QuantizeWeightsArgs {
        source: &source,
        mask: mask.as_ref().map(|buffer| SubBuffer { buffer, offset: 20 }),
        output: &weights,
    }))
    .unwrap();
    if bound.chunks() > 0 {
        let words = host.read(bound.status(), 0, bound.status_words()).unwrap();
        assert_eq!(bound.check(&words), Err(QuantizeWeightsError::NotRun));
    }
    // The plan is recorded twice, and nothing of the first run may remain.
    host.submit(|pass| {
        bound.record(pass, spec.n).unwrap();
        bound.record(pass, spec.n).unwrap();
    })
    .unwrap();
    let status = host.read(bound.status(), 0, bound.status_words()).unwrap();
    let image = host.download_rows(&weights).unwrap();
    Made { image, result: bound.check(&status), chunks: bound.chunks() }
}

struct Made {
    image: DeviceImage,
    result: Result<(), QuantizeWeightsError>,
    chunks: usize,
}

fn as_make_error(error: CompressError) -> QuantizeWeightsError {
    match error {
        CompressError::NonFinite { row, col, .. } => QuantizeWeightsError::NonFinite { row, col },
        CompressError::ScaleRange { row, group, scale_type, .. } => {
            QuantizeWeightsError::ScaleRange { row, group, scale_type }
        }
        CompressError::F16Overflow { row, col, .. } => {
            QuantizeWeightsError::F16Overflow { row, col }
        }
        other => panic!("{other}"),
    }
}

/// Quantizes on the GPU and on the host and compares the results. Returns whether this succeeded,
/// and the number of chunks.
#[track_caller]
fn compare(
    host: &Host,
    w: &[f32],
    mask: Option<&Mask24>,
    spec: &QuantizeWeightsSpec,
) -> (bool, usize) {
    let (n, k, format) = (spec.n as usize, spec.k as usize, spec.weights);
    let want = match mask {
        None => compress::quantize(w, n, k, &format),
        Some(mask) => compress::quantize_masked(w, mask, &format),
    };
    let made = make(host, w, mask, spec);
    match want {
        Err(error) => {
            assert_eq!(made.result, Err(as_make_error(error)), "{format} {n}×{k}");
            (false, made.chunks)
        }
        Ok(packed) => {
            assert_eq!(made.result, Ok(()), "{format} {n}×{k}");
            let layout = DeviceLayout::new(format, n, k, RowOrder::Rows).unwrap();
            let want = layout.pack(&packed, 0..n);
            for (part, row_words, got, want) in [
                ("side", layout.side_words, &made.image.side, &want.side),
                ("codes", layout.code_words, &made.image.codes, &want.codes),
            ] {
                assert_eq!(got.len(), want.len());
                if let Some(at) = (0..got.len()).find(|&i| got[i] != want[i]) {
                    let (row, word) = (at / row_words, at % row_words);
                    panic!(
                        "{format} {n}×{k}: {part} of row {row}, word {word}: {:#010x}, not {:#010x}\n{:?}",
                        got[at],
                        want[at],
                        &w[row * k..][..k]
                    );
                }
            }
            (true, made.chunks)
        }
    }
}

/// Tests every second format, or all, with ragged, tiny and empty shapes. Each row has one kind of weights, and
/// each matrix has all kinds.
#[test]
fn equal_to_the_host() {
    let mut random = Random(5);
    let mut cases = 0;
    let shapes = [0, 1, 2, 3, 4, 6, 7, 8, 9, 31, 32, 33, 64, 66, 72, 130].map(|k| (2 * KINDS, k));
    for format in some_of(formats(), 2) {
        for (n, k) in shapes.into_iter().chain([(0, 0), (0, 9), (1, 0), (1, 1), (1, 257)]) {
            let w: Vec<f32> =
                (0..n).flat_map(|r| row(&format, r % KINDS, k, &mut random)).collect();
            let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format)
                .with_stride(k as u32 + [0, 1, 2, 4, 8][random.below(5) as usize]);
            let (good, _) = compare(gpu(), &w, None, &spec);
            assert!(good, "{format} {n}×{k} must be possible");
            cases += 1;
        }
    }
    println!("{cases} matrices");
}

/// Tests the greatest weights that there are: no code may stand for an infinite one.
#[test]
fn the_greatest_weights_stay_finite() {
    let max = f32::MAX;
    for format in formats() {
        if format.scale_type() == ScaleType::F16 || format.code_type() == CodeType::F16 {
            continue;
        }
        for w in [[-max, 0.0, -max / 127.0, 0.0], [max.next_down(), 0.0, 0.0, 1.0]] {
            let (good, _) = compare(gpu(), &w, None, &QuantizeWeightsSpec::new(1, 4, format));
            assert!(good, "{format}");
            let packed = compress::quantize(&w, 1, 4, &format).unwrap();
            let back = compress::dequantize(&packed);
            assert!(back.iter().all(|w| w.is_finite()), "{format}: {back:?}");
        }
    }
}

/// Tests one kind of weights at a time if all rows share a range.
#[test]
fn equal_to_the_host_per_tensor() {
    let mut random = Random(6);
    let mut cases = 0;
    for format in formats().into_iter().filter(|f| f.granularity() == Granularity::Tensor) {
        for kind in 0..KINDS {
            let (n, k) = (5, 40 + kind);
            let w: Vec<f32> = (0..n).flat_map(|_| row(&format, kind, k, &mut random)).collect();
            compare(gpu(), &w, None, &QuantizeWeightsSpec::new(n as u32, k as u32, format));
            cases += 1;
        }
    }
    println!("{cases} matrices");
}

#[test]
fn given_masks() {
    let mut random = Random(7);
    let mut cases = 0;
    for format in formats().into_iter().filter(WeightFormat::is_sparse) {
        for k in [1, 5, 32, 71] {
            let n = KINDS;
            let w: Vec<f32> = (0..n).flat_map(|r| row(&format, r, k, &mut random)).collect();
            let keep: Vec<u64> = (0..n * k.div_ceil(4)).map(|_| random.next()).collect();
            let mask = Mask24::from_fn(n, k, |row, col| {
                let bits = keep[row * k.div_ceil(4) + col / 4];
                [bits & 3, bits >> 2 & 3].contains(&(col as u64 % 4))
            })
            .unwrap();
            let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format).with_given_mask();
            assert!(compare(gpu(), &w, Some(&mask), &spec).0);
            cases += 1;
        }
    }
    println!("{cases} matrices");
}

/// The kernels refuse the same weights as the host and name the same position.
#[test]
fn refusals_are_the_hosts() {
    let mut random = Random(8);
    let (mut good, mut bad) = (0, 0);
    for format in formats() {
        for case in 0..6 {
            let (n, k) = (4, 37);
            let mut w: Vec<f32> = (0..n * k)
                .map(|_| f32::from_bits(random.bits() % 0x7f80_0000) * (random.gauss().signum()))
                .collect();
            match case {
                0 => {}
                // One or several invalid weights in a valid matrix.
                1..=3 => {
                    w.iter_mut().for_each(|x| *x = fit(&format, random.gauss()));
                    let value = [f32::NAN, f32::INFINITY, -f32::NAN][case - 1];
                    w[random.below((n * k) as u64) as usize] = value;
                    if case == 3 {
                        w[random.below((n * k) as u64) as usize] = f32::NEG_INFINITY;
                        w[random.below((n * k) as u64) as usize] = 3e38;
                    }
                }
                4 => {
                    w.iter_mut().for_each(|x| *x = fit(&format, random.gauss()));
                    for x in [3e38, -3e38, 65520.0, -65519.0, 1e-38, -2e-38, 7e-5, 1e-44] {
                        w[random.below((n * k) as u64) as usize] = x;
                    }
                }
                // Weights whose scales are near the least f32 and f16 scales.
                _ => {
                    let least = match format.scale_type() {
                        ScaleType::F32 => f32::MIN_POSITIVE,
                        _ => f16::MIN_POSITIVE.to_f32(),
                    };
                    w.fill(0.0);
                    let steps = [7.0, 15.0, 127.0, 255.0, 32767.0][random.below(5) as usize];
                    let bits = (least * steps).to_bits() + random.below(5) as u32 - 2;
                    w[random.below((n * k) as u64) as usize] = f32::from_bits(bits);
                }
            }
            let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format);
            *(if compare(gpu(), &w, None, &spec).0 { &mut good } else { &mut bad }) += 1;
        }
    }
    println!("{good} good, {bad} refused");
    assert!(good > 50 && bad > 500);
}

#[test]
fn bad_masks_are_refused() {
    let host = gpu();
    let format = WeightFormat::int8(Granularity::Channel).two_four();
    let (n, k) = (3, 70);
    let words = |host: &Host, at: usize, nibble: u32| {
        let mut words = vec![0x4444_4444u32; n * 3];
        words[at / 8] = words[at / 8] & !(0xf << (at % 8 * 4)) | nibble << (at % 8 * 4);
        host.storage(&words).unwrap()
    };
    let w = host.storage(&vec![1.0f32.to_bits(); n * k]).unwrap();
    let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format).with_given_mask();
    let plan = block_on(QuantizeWeightsPlan::new(host.kernels(), &spec)).unwrap();
    let output = block_on(DeviceWeights::allocate(host.kernels(), format, n, k)).unwrap();
    let source = [SourceRows { at: (&w).into(), rows: n }];
    for nibble in 0..16 {
        let at = 24 + 17;
        let mask = words(host, at, nibble);
        let args =
            QuantizeWeightsArgs { source: &source, mask: Some((&mask).into()), output: &output };
        let bound = block_on(plan.bind(args)).unwrap();
        host.submit(|pass| bound.record(pass, n as u32).unwrap()).unwrap();
        let status = host.read(bound.status(), 0, bound.status_words()).unwrap();
        let good = [0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110].contains(&nibble);
        let want =
            if good { Ok(()) } else { Err(QuantizeWeightsError::BadMask { row: 1, quad: 17 }) };
        assert_eq!(bound.check(&status), want, "{nibble:04b}");
        // Even if weights were refused, the buffers contain well-formed weights.
        host.download(&output).unwrap();
        assert!(bound.check(&status[1..]).is_err());
    }
}

/// Bindings of 2 KiB and grids of 3 workgroups per dimension give the same bits.
#[test]
fn chunks_are_equal_to_the_whole() {
    let mut random = Random(9);
    let mut most = 0;
    for (i, format) in some_of(formats(), 2).into_iter().enumerate() {
        let (n, k) = (41, 70);
        // Good weights split on both devices; masks and refusals on one of them, in turn.
        let in_turn = &tiny_gpus()[i % 2];
        let w: Vec<f32> = (0..n).flat_map(|r| row(&format, r % KINDS, k, &mut random)).collect();
        let mut spec =
            QuantizeWeightsSpec::new(n as u32, k as u32, format).with_stride(k as u32 + 1);
        for tiny in tiny_gpus() {
            let (good, chunks) = compare(tiny, &w, None, &spec);
            assert!(good && chunks > 3, "{format}: {chunks} chunks");
            most = most.max(chunks);
        }
        if format.is_sparse() {
            let mask = compress::prune_magnitude(&w, n, k).unwrap();
            spec = spec.with_given_mask();
            compare(in_turn, &w, Some(&mask), &spec);
        }
        let mut bad = w.clone();
        bad[37 * k + 5] = f32::NAN;
        bad[39 * k + 1] = f32::NAN;
        let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format);
        compare(in_turn, &bad, None, &spec);
    }
    println!("at most {most} chunks");
}

/// Several matrices in one pass, with one scratch buffer and one status: the same bits as one by
/// one, also where each of them is split, and an error that names its matrix.
#[test]
fn many_are_equal_to_one_by_one() {
    let mut random = Random(10);
    let kernels_of = [gpu(), &tiny_gpus()[0]];
    let names = [
        "int8-channel",
        "int4-g64-asym",
        "f16",
        "2:4+int8-tensor",
        "int8-tensor",
        "int8-g5-asym-f16s",
        "f32",
        "2:4+int4-g32",
    ];
    for host in kernels_of {
        let kernels = host.kernels();
        let mut all = Vec::new();
        for (i, name) in names.into_iter().enumerate() {
            // One of them has no rows.
            let (n, k) = (if i == 5 { 0 } else { 9 + 4 * i }, 70 - i);
            let format: WeightFormat = name.parse().unwrap();
            let w: Vec<f32> =
                (0..n).flat_map(|r| row(&format, r % KINDS, k, &mut random)).collect();
            let source = host.storage(bytemuck::cast_slice(&w)).unwrap();
            let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format);
            let plan = block_on(QuantizeWeightsPlan::new(kernels, &spec)).unwrap();
            let output = block_on(DeviceWeights::allocate(kernels, format, n, k)).unwrap();
            all.push((name, plan, source, output, w));
        }
        let rows: Vec<_> = all
            .iter()
            .map(|(_, plan, source, ..)| {
                [SourceRows { at: source.into(), rows: plan.spec().n as usize }]
            })
            .collect();
        let jobs: Vec<_> = all
            .iter()
            .zip(&rows)
            .map(|((name, plan, _, output, _), source)| {
                let args = QuantizeWeightsArgs { source, mask: None, output };
                QuantizeWeightsJob { name, plan, args }
            })
            .collect();
        let bound = block_on(QuantizeWeightsPlan::bind_many(kernels, &jobs)).unwrap();
        let total: u32 = all.iter().map(|(_, plan, ..)| plan.spec().n).sum();
        assert_eq!(bound.rows(), total);
        let status = || host.read(bound.status(), 0, bound.status_words()).unwrap();
        let of = |name: &str, error| {
            Err(QuantizeWeightsError::Matrix { name: name.into(), error: Box::new(error) })
        };
        assert_eq!(bound.check(&status()), of(names[0], QuantizeWeightsError::NotRun));
        for have in [0, total - 1, total + 1] {
            let refused = Err(RecordError::NotWhole { need: total, have });
            host.submit(|pass| assert_eq!(bound.record(pass, have), refused)).unwrap();
        }
        host.submit(|pass| bound.record(pass, total).unwrap()).unwrap();
        assert_eq!(bound.check(&status()), Ok(()));
        for (name, plan, _, output, w) in &all {
            let alone = make(host, w, None, plan.spec());
            assert_eq!(alone.result, Ok(()));
            assert!(host.download_rows(output).unwrap() == alone.image, "{name}");
        }
        // Faults of two matrices: the first is named, with its own row and column.
        for (i, row) in [(3, 7), (6, 2)] {
            let (k, at) = (70 - i, row * (70 - i) + 3);
            let nan = f32::NAN.to_bits().to_le_bytes();
            host.queue().write_buffer(&all[i].2, 4 * at as u64, &nan);
            host.submit(|pass| bound.record(pass, total).unwrap()).unwrap();
            assert!(at < k * (row + 1));
            let error = QuantizeWeightsError::NonFinite { row: 7, col: 3 };
            assert_eq!(bound.check(&status()), of(names[3], error));
        }
        assert!(bound.check(&status()[1..]).is_err());
        // A matrix that cannot be bound is named too.
        let mut wrong = jobs.clone();
        wrong[2].args.output = wrong[1].args.output;
        match block_on(QuantizeWeightsPlan::bind_many(kernels, &wrong)).map(drop) {
            Err(BindError::Matrix { name, error }) => {
                assert_eq!(name, names[2]);
                assert!(matches!(*error, BindError::WrongWeights { .. }));
            }
            other => panic!("{other:?}"),
        }
        let none = block_on(QuantizeWeightsPlan::bind_many(kernels, &[])).unwrap();
        host.submit(|pass| none.record(pass, 0).unwrap()).unwrap();
        assert_eq!(none.check(&[]), Ok(()));
    }
}

fn packed(format: &WeightFormat, n: usize, k: usize, random: &mut Random) -> PackedWeights {
    let w: Vec<f32> = (0..n).flat_map(|r| row(format, r % KINDS, k, random)).collect();
    compress::quantize(&w, n, k, format).unwrap()
}

/// Returns the f32 values that a GPU may return for the product: either neighbor, or 0 if it is
/// flushed.
fn neighbours(format: &WeightFormat, value: f32) -> [u32; 3] {
    let exact = !format.code_type().is_integer() || value == 0.0;
    let near = |bits: u32| if exact { value.to_bits() } else { bits };
    [value.to_bits(), near(value.to_bits() + 1), near(value.to_bits().wrapping_sub(1))]
}

#[track_caller]
fn check_dequantize(host: &Host, weights: &DeviceWeights, packed: &PackedWeights, stride: u32) {
    const HOLE: u32 = 0xcafe_f00d;
    let (n, k, format) = (packed.n(), packed.k(), packed.format());
    let want = compress::dequantize(packed);
    let mut indices: Vec<u32> = (0..7).map(|i| (i * 5 + 2) % n.max(1) as u32).collect();
    if n == 0 {
        indices.fill(3);
    }
    indices.extend([n as u32, u32::MAX]);
    for spec in dequantize_specs(n as u32, k as u32, format) {
        let half = spec.output == FloatType::F16;
        let stride =
            if half { (k as u32).next_multiple_of(2) + 2 * stride } else { k as u32 + stride };
        let code_textures = weights.has_textures();
        let mut spec = spec.with_stride(stride);
        spec.code_textures = code_textures;
        let row_words = if half { stride / 2 } else { stride } as usize;
        // The list of indices starts after a word that does not belong to it.
        let list = spec.gather.map(|_| host.storage(&[&[0], &indices[..]].concat()).unwrap());
        let gathered = spec.gather.is_some();
        let rows: Vec<u32> = if gathered { indices.clone() } else { (0..n as u32).collect() };
        let output = host.storage(&vec![HOLE; rows.len() * row_words + 8]).unwrap();
        let plan = block_on(DequantizePlan::new(host.kernels(), &spec)).unwrap();
        let bound = block_on(plan.bind(DequantizeArgs {
            weights,
            indices: list.as_ref().map(|buffer| SubBuffer { buffer, offset: 4 }),
            output: SubBuffer { buffer: &output, offset: 12 },
        }))
        .unwrap();
        for count in if gathered { vec![2, 9] } else { vec![rows.len()] } {
            let mut recorded = Ok(());
            host.submit(|pass| recorded = bound.record(pass, count as u32)).unwrap();
            recorded.unwrap();
            let got = host.read(&output, 0, rows.len() * row_words + 8).unwrap();
            let what = format!("{format} {n}×{k} {:?} gather {gathered}", spec.output);
            assert!(got[..3].iter().all(|&w| w == HOLE), "{what}: before");
            for (i, &row) in rows.iter().enumerate() {
                let words = &got[3 + i * row_words..][..row_words];
                let at = |col: usize| match half {
                    false => words[col],
                    true => words[col / 2] >> (16 * (col % 2)) & 0xffff,
                };
                let columns = if half { 2 * row_words } else { row_words };
                for col in 0..columns {
                    let got = at(col);
                    let hole = if half { HOLE >> (16 * (col % 2)) & 0xffff } else { HOLE };
                    if col >= k || i >= count {
                        assert_eq!(got, hole, "{what}: hole at {i}, {col}");
                    } else if row as usize >= n {
                        assert_eq!(got, if half { 0x7e00 } else { 0x7fc0_0000 }, "{what}: NaN");
                    } else {
                        let values = neighbours(&format, want[row as usize * k + col]);
                        let good = values.map(|v| match half {
                            true => u32::from(f16::from_f32(f32::from_bits(v)).to_bits()),
                            false => v,
                        });
                        assert!(good.contains(&got), "{what}: {got:#x} of {good:x?} at {i}, {col}");
                    }
                }
            }
            assert!(got[3 + rows.len() * row_words..].iter().all(|&w| w == HOLE), "{what}: after");
        }
        // A gather takes fewer rows; all rows are taken at once.
        let (m, max_m) = (rows.len() as u32 + 1, rows.len() as u32);
        let refused = match gathered {
            true => RecordError::MTooLarge { m, max_m },
            false => RecordError::NotWhole { need: max_m, have: m },
        };
        host.submit(|pass| assert_eq!(bound.record(pass, m), Err(refused))).unwrap();
    }
}

#[test]
fn dequantize_and_gather() {
    let mut random = Random(10);
    let mut cases = 0;
    let dequantized = |format: &WeightFormat| DequantizeSpec::new(1, 1, *format).check().is_ok();
    for (i, format) in some_of(formats().into_iter().filter(dequantized), 2).into_iter().enumerate()
    {
        for (n, k) in [(0, 5), (3, 0), (1, 1), (KINDS, 5), (KINDS, 32), (2 * KINDS, 71)] {
            let packed = packed(&format, n, k, &mut random);
            let weights = gpu().upload(&packed).unwrap();
            check_dequantize(gpu(), &weights, &packed, random.below(3) as u32);
            cases += 1;
        }
        // One of the two devices that split everything, in turn.
        let tiny = &tiny_gpus()[i % 2];
        let packed = packed(&format, 41, 70, &mut random);
        let weights = tiny.upload(&packed).unwrap();
        check_dequantize(tiny, &weights, &packed, 1);
    }
    println!("{cases} matrices, four ways");
}

/// Tests the calls that take and return slices.
#[test]
fn host_calls() {
    let mut random = Random(11);
    for name in ["int4-g64-asym", "2:4+int8-channel", "f16", "int8-tensor"] {
        let format: WeightFormat = name.parse().unwrap();
        for (n, k) in [(0, 7), (7, 0), (9, 130)] {
            let w: Vec<f32> = (0..n).flat_map(|_| row(&format, 0, k, &mut random)).collect();
            let packed = compress::quantize(&w, n, k, &format).unwrap();
            let weights = gpu().compress(&w, n, k, &format).unwrap();
            assert_eq!(gpu().download(&weights).unwrap(), packed);
            let all = gpu().dequantize(&weights).unwrap();
            assert!(compress::relative_error(&compress::dequantize(&packed), &all) < 1e-6);
            // Rows past the last one are an error of the host. Kernels return NaN for them.
            assert!(gpu().gather(&weights, &[n as u32]).is_err());
            if n > 8 && k > 0 {
                let some = gpu().gather(&weights, &[8, 0]).unwrap();
                assert_eq!(some, [&all[8 * k..9 * k], &all[..k]].concat());
            }
        }
        let bad = gpu().compress(&[1.0, f32::NAN], 1, 2, &format);
        assert!(
            matches!(
                bad,
                Err(HostError::QuantizeWeights(QuantizeWeightsError::NonFinite { row: 0, col: 1 }))
            ),
            "{bad:?}"
        );
        assert!(matches!(
            gpu().compress(&[1.0], 1, 2, &format),
            Err(HostError::WrongLength { .. })
        ));
    }
}

/// Measures the time. Run it with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let (n, k) = (2048, 2048);
    let mut random = Random(12);
    let w: Vec<f32> = (0..n * k).map(|_| 0.02 * random.gauss()).collect();
    let source = gpu().storage(bytemuck::cast_slice(&w)).unwrap();
    for name in ["f16", "int8-channel", "int8-tensor", "int4-g64-asym", "2:4+int4-g64-asym-f16s"] {
        let format: WeightFormat = name.parse().unwrap();
        let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format);
        let plan = block_on(QuantizeWeightsPlan::new(gpu().kernels(), &spec)).unwrap();
        let output = block_on(DeviceWeights::allocate(gpu().kernels(), format, n, k)).unwrap();
        let rows = [SourceRows { at: (&source).into(), rows: n }];
        let args = QuantizeWeightsArgs { source: &rows, mask: None, output: &output };
        let bound = block_on(plan.bind(args)).unwrap();
        for _ in 0..3 {
            let start = std::time::Instant::now();
            gpu().submit(|pass| bound.record(pass, n as u32).unwrap()).unwrap();
            let gpu = start.elapsed();
            let start = std::time::Instant::now();
            let packed = compress::quantize(&w, n, k, &format).unwrap();
            println!("{name}: GPU {gpu:?}, host {:?}, {}", start.elapsed(), packed.n());
        }
        let start = std::time::Instant::now();
        gpu().dequantize(&output).unwrap();
        println!("{name}: dequantize and read back {:?}", start.elapsed());
    }
}

/// Wrong buffers give an error of this crate, and not of the device.
#[test]
fn buffers_are_checked() {
    let host = gpu();
    let format = WeightFormat::int4(Granularity::Channel);
    let output = block_on(DeviceWeights::allocate(host.kernels(), format, 4, 64)).unwrap();
    let w = host.storage(&[0; 256]).unwrap();
    let bind = |spec: &QuantizeWeightsSpec, at: SubBuffer, rows, mask: Option<SubBuffer>| {
        let plan = block_on(QuantizeWeightsPlan::new(host.kernels(), spec)).unwrap();
        let source = [SourceRows { at, rows }];
        block_on(plan.bind(QuantizeWeightsArgs { source: &source, mask, output: &output }))
            .map(|_| ())
    };
    let spec = QuantizeWeightsSpec::new(4, 64, format);
    assert_eq!(bind(&spec, (&w).into(), 4, None), Ok(()));
    assert_eq!(bind(&spec, (&w).into(), 3, None), Err(BindError::Rows { need: 4, have: 3 }));
    let late = |offset| SubBuffer { buffer: &w, offset };
    assert!(matches!(bind(&spec, late(4), 4, None), Err(BindError::TooSmall { .. })));
    assert!(matches!(bind(&spec, late(2), 4, None), Err(BindError::Misaligned { .. })));
    let wide = spec.clone().with_stride(65);
    assert!(matches!(bind(&wide, (&w).into(), 4, None), Err(BindError::TooSmall { .. })));
    let codes = output.blocks()[0].codes().buffer().unwrap();
    let tiny = QuantizeWeightsSpec::new(4, 64, format).with_stride(u32::MAX);
    assert!(matches!(bind(&tiny, codes.into(), 4, None), Err(BindError::TooSmall { .. })));
    assert_eq!(
        bind(&spec, (&w).into(), 4, Some((&w).into())),
        Err(BindError::Mask { planned: false })
    );
    let other = QuantizeWeightsSpec::new(4, 63, format);
    assert!(matches!(bind(&other, (&w).into(), 4, None), Err(BindError::WrongWeights { .. })));
    assert!(QuantizeWeightsSpec::new(4, 64, format).with_given_mask().check().is_err());
    assert!(QuantizeWeightsSpec::new(4, 64, format).with_stride(63).check().is_err());
    assert!(QuantizeWeightsSpec::new(1, 64, format).with_stride(0).check().is_ok());
    assert!(QuantizeWeightsSpec::new(u32::MAX, 1, format).check().is_err());

    let spec = DequantizeSpec::gather(5, 4, 64, format);
    let plan = block_on(DequantizePlan::new(host.kernels(), &spec)).unwrap();
    let y = host.zeros(5 * 64 * 4).unwrap();
    let bind = |indices, output: SubBuffer, weights| {
        block_on(plan.bind(DequantizeArgs { weights, indices, output })).map(|_| ())
    };
    assert_eq!(bind(Some((&w).into()), (&y).into(), &output), Ok(()));
    assert_eq!(bind(None, (&y).into(), &output), Err(BindError::Indices { planned: true }));
    assert!(matches!(
        bind(Some((&y).into()), (&y).into(), &output),
        Err(BindError::Aliased { .. })
    ));
    assert!(matches!(
        bind(Some(late(1020)), (&y).into(), &output),
        Err(BindError::TooSmall { .. })
    ));
    assert!(DequantizeSpec::gather(1 << 20, 4, 64, format).check().is_err());
    let odd = DequantizeSpec::new(2, 3, format).with_output(FloatType::F16).with_stride(3);
    assert!(odd.check().is_err());
}
