//! The model against kernels whose lines are known by hand, and the kernels against their goals.

use super::*;
use lowbit::conformance::{self, Extent, Status};
use lowbit::format::WeightFormat;
use lowbit::gpu::{Instrument, KernelDesc};
use lowbit::host::Host;
use lowbit::ops::Activations;
use lowbit::ops::MatmulSpec;
use lowbit::ops::matmul::{code_textures_pay, select};

/// An adapter of this machine; `None` says why there is none.
fn adapter() -> Option<Host> {
    match Host::new() {
        Ok(host) => Some(host),
        Err(error) if std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("LOWBIT_REQUIRE_GPU is set, and {error}"),
    }
}

/// Runs two workgroups of a shader that reads `x` (binding 3) and `w` (4), and writes `y` (7).
fn run(host: &Host, wgsl: &str) -> Trace {
    let bindings = vec![
        Binding::data(3, "x", "numbers", Access::Read),
        Binding::new(4, "codes", BindingRole::Codes, Access::Read),
        Binding::data(7, "y", "numbers", Access::Write),
    ];
    let tracer = Tracer::new(host).unwrap();
    let desc = KernelDesc::new("tiny", Vec::new(), bindings);
    let instrumented = tracer.instrument(&desc, wgsl).unwrap().unwrap();
    let device = host.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: instrumented.source,
    });
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let entry = |binding, read_only| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: storage(read_only),
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &[entry(3, true), entry(4, true), entry(7, false)],
    });
    let layouts = [Some(&layout), Some(&instrumented.layout)];
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &layouts,
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let buffers = [3, 4, 7].map(|binding| (binding, host.zeros(1 << 16).unwrap()));
    let entries = buffers.each_ref().map(|(binding, buffer)| wgpu::BindGroupEntry {
        binding: *binding,
        resource: buffer.as_entire_binding(),
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &layout,
        entries: &entries,
    });
    tracer.start(host, 1);
    host.submit(|pass| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_bind_group(1, &instrumented.group, &[]);
        pass.dispatch_workgroups(2, 1, 1);
    })
    .unwrap();
    tracer.take(host).unwrap()
}

/// A kernel of 64 invocations, `l` of workgroup `g`. The tail is a declaration of its own.
fn tiny(x: &str, body: &str) -> String {
    format!(
        "@group(0) @binding(3) var<storage, read> x: {x};
        @group(0) @binding(4) var<storage, read> codes: array<u32>;
        @group(0) @binding(7) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(64) fn main(
            @builtin(local_invocation_index) l: u32, @builtin(workgroup_id) id: vec3<u32>,
        ) {{ let g = id.x; {body} }}"
    )
}

/// Lines are of 32, 64 and 128 bytes. Both workgroups count.
fn x_of(trace: &Trace, width: u16) -> (u64, u64, [u64; 3], [u64; 3]) {
    let lines = trace.count("tiny", width).lines.get(&Operand::X).copied().unwrap_or_default();
    (lines.accesses, lines.used, lines.lines, lines.ideal)
}

#[test]
fn loads_of_tiny_kernels_touch_the_lines_that_they_should() {
    let Some(host) = adapter() else { return };
    let vectors = "array<vec4<f32>>";
    let x = |x: &str, body: &str, width| x_of(&run(&host, &tiny(x, body)), width);
    // Neighboring vectors of 16 bytes: 1024 bytes a workgroup.
    let whole = "let v = x[64u * g + l]; y[l] = v.x + v.y + v.z + v.w;";
    assert_eq!(x(vectors, whole, 32), (4, 2048, [64, 32, 16], [64, 32, 16]));
    assert_eq!(x(vectors, whole, 64), (2, 2048, [64, 32, 16], [64, 32, 16]));
    // A vector of each 128 bytes.
    let strided = "let v = x[8u * l]; y[l] = v.x + v.y + v.z + v.w;";
    assert_eq!(x(vectors, strided, 32), (4, 2048, [128; 3], [64, 32, 16]));
    // A component is 4 bytes of them.
    let component = "y[l] = x[8u * l].z;";
    assert_eq!(x(vectors, component, 32), (4, 512, [128; 3], [16, 8, 4]));
    // All lanes read one word; 40 words are 160 bytes.
    let broadcast = "y[l] = x[40u + 0u * l];";
    assert_eq!(x("array<f32>", broadcast, 32), (4, 16, [4; 3], [4; 3]));
    // Four bytes late: 128 bytes end in a second line, of any size in one more.
    let late = "y[l] = x[l + 1u];";
    assert_eq!(x("array<f32>", late, 32), (4, 512, [20, 12, 8], [16, 8, 4]));
    assert_eq!(x("array<f32>", late, 64), (2, 512, [18, 10, 6], [16, 8, 4]));
    // 40 of 64 lanes: all of one subgroup of 32, and 8 of the other.
    let partial = "if (l < 40u) { y[l] = x[l]; }";
    assert_eq!(x("array<f32>", partial, 32), (4, 320, [10, 6, 4], [10, 6, 4]));
    assert_eq!(x("array<f32>", partial, 64), (2, 320, [10, 6, 4], [10, 6, 4]));
    // Lanes leave the loop one after the other: 64 words, 64 words, and 12 of 140.
    let ragged = "for (var i = l; i < 140u; i += 64u) { y[l] += x[i]; }";
    assert_eq!(x("array<f32>", ragged, 64), (6, 1120, [36, 18, 10], [36, 18, 10]));
    // Without the loop: y is not X.
    assert_eq!(x("array<f32>", "y[l] = 1.0;", 32), (0, 0, [0; 3], [0; 3]));
}

#[test]
fn addresses_go_through_structs_arrays_and_functions() {
    let Some(host) = adapter() else { return };
    let nested = "
        struct Inner { a: f32, b: vec3<f32>, c: array<array<u32, 3>, 2> }
        @group(0) @binding(3) var<storage, read> x: array<Inner>;
        @group(0) @binding(4) var<storage, read> codes: array<mat2x3<f32>>;
        @group(0) @binding(7) var<storage, read_write> y: array<atomic<u32>>;
        fn third(i: i32, j: u32) -> u32 { return x[i].c[1][j]; }
        @compute @workgroup_size(4) fn main(@builtin(local_invocation_index) l: u32) {
            let place = &x[l];
            let b = (*place).b;
            let m = codes[l][1];
            atomicAdd(&y[l], u32(b.x + m.z) + third(i32(l), 2u) + third(0, l));
        }";
    let trace = run(&host, nested);
    // Inner takes 64 bytes: a at 0, b at 16 with 12 bytes, c at 28 with 24, rounded up to 16.
    let (accesses, used, lines, ideal) = x_of(&trace, 32);
    assert_eq!(accesses, 2 * 3);
    // b, then c[1][2] at 48 of each lane's; then words at 40, 44, 48 and 52 of the first, whose last
    // one is past the array, which is clamped where it is loaded.
    assert_eq!(used, 2 * (4 * 12 + 4 * 4 + 16));
    // 4 lines of 32 bytes, 4 of 64, 2 of 128; the same again; one, or two of 32.
    assert_eq!((lines, ideal), ([2 * 9, 2 * 9, 2 * 5], [2 * 4, 2 * 3, 2 * 3]));
    let counted = trace.count("tiny", 32);
    // Columns of 12 bytes are 16 apart, and matrices 32: lines of four lanes.
    let w = counted.lines[&Operand::W];
    assert_eq!((w.accesses, w.used, w.lines), (2, 2 * 48, [8, 4, 2]));
    let y = counted.lines[&Operand::Y];
    assert_eq!((y.accesses, y.used, y.lines), (2, 32, [2; 3]));
    assert_eq!(trace.distinct_bytes("tiny", Operand::W), 48);
}

#[test]
fn workgroup_memory_conflicts_in_banks() {
    let Some(host) = adapter() else { return };
    let banks = |store: &str, load: &str| {
        let body = format!("t[{store}] = f32(l); workgroupBarrier(); y[l] = t[{load}];");
        let wgsl = format!("var<workgroup> t: array<f32, 4096>; {}", tiny("array<f32>", &body));
        let Banks { accesses, cycles, ideal } = run(&host, &wgsl).count("tiny", 32).banks;
        (accesses, cycles, ideal)
    };
    // Two workgroups of two subgroups, a store and a load each.
    assert_eq!(banks("l", "l"), (8, 8, 8));
    assert_eq!(banks("l", "32u * l"), (8, 4 + 4 * 32, 8));
    assert_eq!(banks("33u * l", "0u"), (8, 8, 8));
    assert_eq!(banks("2u * l", "63u - l"), (8, 4 * 2 + 4, 8));
}

/// The traced kernels compute what they should: cases of each op that are within their bounds, or equal bit
/// for bit.
#[test]
fn tracing_changes_no_result() {
    let Some(real) = adapter() else { return };
    let caps = real.kernels().caps().clone();
    let tracing = Tracing::new(&real, &caps).unwrap();
    tracing.start(u32::MAX);
    // One of each op; rewritten kernels take long to compile.
    let mut seen: std::collections::HashMap<&str, usize> = Default::default();
    let mut cases = conformance::table(Extent::Quick);
    cases.retain(|case| {
        let turn = seen.entry(case.op.name()).or_default();
        *turn += 1;
        *turn == 8
    });
    let reports = conformance::run(std::slice::from_ref(tracing.host()), &cases, &|_| {});
    let failed: Vec<_> = reports.iter().filter(|report| report.status == Status::Fail).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let ran = reports.iter().filter(|report| report.status == Status::Pass).count();
    eprintln!(
        "{ran} of {} cases ran, and {} kernels",
        cases.len(),
        tracing.take().unwrap().kernels().len()
    );
    assert!(ran * 2 > cases.len(), "{ran} of {}", cases.len());
}

/// Each byte of codes and scales is read by some lane, and none of another row: what is traced is all
/// that a matmul reads.
#[test]
fn traces_hold_every_byte_of_w() {
    let Some(real) = adapter() else { return };
    for (class, m) in [(Class::Gpu, 1), (Class::Gpu, 32), (Class::Software, 1)] {
        let caps = class.caps(real.kernels().caps());
        let tracing = Tracing::new(&real, &caps).unwrap();
        let weights: WeightFormat = "int8-g128".parse().unwrap();
        let mut spec = MatmulSpec::new(m, 128, 1024, weights);
        spec.code_textures = code_textures_pay(&weights, spec.k, &caps);
        let measured = tracing.matmul(&spec, select(&spec, &caps, m), m).unwrap();
        let kernel = measured.choice.name();
        let (_, tile_n) = measured.choice.schedule.tile();
        let rows = u64::from((2 * tile_n).max(32).min(spec.n));
        // A byte a weight and four a group.
        let bytes = rows * (1024 + 8 * 4);
        assert_eq!(measured.trace.distinct_bytes(&kernel, Operand::W), bytes, "{kernel}");
        let x = measured.trace.distinct_bytes(&kernel, Operand::X);
        assert_eq!(x, u64::from(m) * 1024 * 4, "{kernel}");
        let y = measured.trace.distinct_bytes(&kernel, Operand::Y);
        assert_eq!(y, u64::from(m) * rows * 4, "{kernel}");
    }
}

/// How many times the lines that its bytes need a load of a GPU's schedule may touch.
const MOST: [(Operand, f64); 2] = [(Operand::W, 1.1), (Operand::X, 1.25)];

/// Schedules that do not reach that yet, and what they need instead.
struct Short {
    schedule: &'static str,
    operand: Operand,
    /// W for operand W, X for operand X.
    of: &'static str,
    /// The most that was measured, for subgroups of 32 and 64.
    factor: f64,
}

const fn short(schedule: &'static str, operand: Operand, of: &'static str, factor: f64) -> Short {
    Short { schedule, operand, of, factor }
}

const SHORT: [Short; 12] = [
    // A lane owns 32 neighbouring columns of X, which it loads 16 bytes at a time, f16 4 bytes.
    short("gemv", Operand::X, "f32", 8.0),
    short("gemv", Operand::X, "f16", 16.0),
    short("int_gemv", Operand::X, "int8-token", 1.98),
    // Blocks of more than 16 bytes take several loads.
    short("gemv", Operand::W, "f16", 4.0),
    short("gemv", Operand::W, "int8-channel", 1.89),
    short("int_gemv", Operand::W, "int8-channel", 1.85),
    // Each lane that fetches W reads a row of its own, and so for int8 X.
    short("tiled", Operand::W, "f16", 8.0),
    short("tiled", Operand::W, "int8-channel", 7.23),
    short("tiled", Operand::W, "int4-g128", 9.6),
    short("tiled", Operand::X, "f16", 4.0),
    short("int_tiled", Operand::W, "", 10.67),
    short("int_tiled", Operand::X, "int8-token", 7.94),
];

impl Short {
    fn is(&self, family: &str, operand: Operand, of: &str) -> bool {
        self.schedule == family && self.operand == operand && (self.of.is_empty() || self.of == of)
    }
}

/// A kernel, its schedule without numbers, an operand, the format of that, and its factor.
type Factor = (String, String, Operand, &'static str, f64);

/// Returns a sentence for each factor that is too large, or too small to be listed.
fn faults(factors: &[Factor]) -> Vec<String> {
    let mut faults = Vec::new();
    let most = |operand| MOST.iter().find(|(of, _)| *of == operand).map_or(1.0, |(_, most)| *most);
    for (kernel, family, operand, of, factor) in factors {
        let listed = SHORT.iter().find(|short| short.is(family, *operand, of));
        let most = listed.map_or(most(*operand), |short| short.factor);
        // Listed factors have two decimals.
        if *factor > most + 0.005 {
            let name = operand.name();
            faults
                .push(format!("{kernel}, {name} ({of}): {factor:.3} times the lines, not {most}"));
        }
    }
    for short in &SHORT {
        let of_it =
            factors.iter().filter(|(_, family, operand, of, _)| short.is(family, *operand, of));
        let worst = of_it.map(|(.., factor)| *factor).fold(0.0, f64::max);
        if worst <= most(short.operand) {
            let Short { schedule, operand, of, .. } = short;
            let name = operand.name();
            faults.push(format!("{schedule}, {name} ({of}): {worst:.3} is good enough; unlist it"));
        }
    }
    faults
}

/// Returns the factors of a kernel for both operands, the larger of those for subgroups of 32 and 64.
fn factors(trace: &Trace, kernel: &str, [weights, activations]: [&'static str; 2]) -> Vec<Factor> {
    let family = kernel
        .split(['.', '_'])
        .take_while(|part| !part.starts_with(|c: char| c.is_ascii_digit() || c == 'm'));
    let family = family.collect::<Vec<_>>().join("_");
    let worst = |operand| {
        let of =
            |width| trace.count(kernel, width).lines.get(&operand).map_or(1.0, |l| l.factor(2));
        SUBGROUPS.map(of).into_iter().fold(0.0, f64::max)
    };
    [(Operand::W, weights), (Operand::X, activations)]
        .map(|(operand, of)| (kernel.to_string(), family.clone(), operand, of, worst(operand)))
        .into()
}

#[test]
fn schedules_of_gpus_touch_few_lines() {
    let Some(real) = adapter() else { return };
    let caps = Class::Gpu.caps(real.kernels().caps());
    let mut all = Vec::new();
    for weights in ["f16", "int8-channel", "int4-g128"] {
        for activations in ["f32", "f16", "int8-token"] {
            let tracing = Tracing::new(&real, &caps).unwrap();
            for m in [1, 4, 32, 128] {
                // Two trips of 32 lanes with 32 columns each.
                let spec = MatmulSpec::new(m, 4096, 2048, weights.parse().unwrap())
                    .with_activations(activations.parse::<Activations>().unwrap());
                if spec.check().is_err() {
                    continue;
                }
                let measured = tracing.matmul(&spec, select(&spec, &caps, m), m).unwrap();
                let kernel = measured.choice.name();
                all.extend(factors(&measured.trace, &kernel, [weights, activations]));
            }
        }
    }
    for (kernel, _, operand, of, factor) in &all {
        eprintln!("{kernel}, {} ({of}): {factor:.3}", operand.name());
    }
    let faults = faults(&all);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A planted fault: lanes take neighbouring trips one after the other, so that their loads of W are
/// apart. Results stay right; only the lines tell.
#[test]
fn lanes_that_read_apart_are_found() {
    let Some(real) = adapter() else { return };
    let caps = Class::Gpu.caps(real.kernels().caps());
    let spec = MatmulSpec::new(1, 4096, 4096, "int4-g128".parse().unwrap());
    let schedule = select(&spec, &caps, 1);
    let measure = |tracer| {
        let tracing = Tracing::with_tracer(&real, &caps, tracer).unwrap();
        let measured = tracing.matmul(&spec, schedule, 1).unwrap();
        factors(&measured.trace, &measured.choice.name(), ["int4-g128", "f32"])
    };
    let of_w = |factors: &[Factor]| factors[0].4;
    let sound = measure(Tracer::new(&real).unwrap());
    assert!(of_w(&sound) <= 1.1, "{sound:?}");
    let each = "let each = steps / TRIP / LANES; for (var trip = lane * each; trip < (lane + 1u) * each; trip += 1u) {";
    let good = "for (var trip = lane; trip < steps / TRIP; trip += LANES) {";
    let mut tracer = Tracer::new(&real).unwrap();
    tracer.replaced = Some((good, each));
    let faulty = measure(tracer);
    // Four trips a lane: codes of neighbouring lanes are 64 bytes apart, and so are 16 lines where
    // four would do; scales stay in one line.
    assert!(of_w(&faulty) > 3.0, "{faulty:?}");
    assert!(faults(&faulty).iter().any(|fault| fault.contains(", w (int4-g128)")), "{faulty:?}");
    // A permutation of lanes changes no line.
    let mut tracer = Tracer::new(&real).unwrap();
    tracer.replaced = Some(("let lane = local % LANES;", "let lane = (local * 5u) % LANES;"));
    assert_eq!(of_w(&measure(tracer)), of_w(&sound));
}
