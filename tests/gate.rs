//! Tests of gated activations: what the case table does not vary, and faults that it catches.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::conformance::{Case, Op, Status, Values, run};
use lowbit::format::{ActivationFunction, StaticScale, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FloatType, GateArgs, GateLayout, GatePlan, GateSpec, Output, PlanError, RecordError,
    Role, SubBuffer,
};
use lowbit::reference::{self, OutputType};
use pollster::block_on;

/// Rows that exceed a binding are split, and give the same in both layouts.
#[test]
fn rows_are_split() {
    let (m, n) = (100, 75);
    let (gate, up) = (floats(m * n, 1), floats(m * n, 2));
    let function = ActivationFunction::GeluTanh;
    let expected = reference::gate(&gate, &up, function, OutputType::F32).unwrap();
    let halves: Vec<f32> =
        gate.chunks(n).zip(up.chunks(n)).flat_map(|(gate, up)| [gate, up].concat()).collect();
    let pairs: Vec<f32> = gate.iter().zip(&up).flat_map(|(&gate, &up)| [gate, up]).collect();
    for host in large_and_small(16384, 4) {
        for (layout, x) in GateLayout::ALL.into_iter().zip([&halves, &pairs]) {
            let spec = GateSpec::new(m as u32, n as u32, function).with_layout(layout);
            let plan = block_on(GatePlan::new(host.kernels(), &spec)).unwrap();
            let source = host.storage(bytemuck::cast_slice(x)).unwrap();
            let y = host.zeros(spec.y_bytes(m as u32)).unwrap();
            let args = GateArgs { activations: (&source).into(), scale: None, output: (&y).into() };
            let bound = block_on(plan.bind(args)).unwrap();
            host.submit(|pass| bound.record(pass, m as u32).unwrap()).unwrap();
            let words = host.read(&y, 0, m * n).unwrap();
            for (want, word) in expected.iter().zip(words) {
                let got = f32::from_bits(word);
                assert!(reference::check(want, got).passes(), "{got}, must be {}", want.value);
            }
        }
    }
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let function = ActivationFunction::Silu;
    let spec = GateSpec::new(4, 8, function);
    assert_eq!(spec.check(), Ok(()));
    let stride = |role, stride, need| Err(PlanError::Stride { role, stride, need });
    assert_eq!(spec.clone().with_strides(15, 8).check(), stride(Role::Activations, 15, 16));
    assert_eq!(spec.clone().with_strides(16, 7).check(), stride(Role::Output, 7, 8));
    let odd = GateSpec::new(4, 7, function).with_activations(FloatType::F16);
    assert_eq!(odd.check(), Err(PlanError::OddHalves { n: 7 }));
    assert_eq!(odd.with_layout(GateLayout::Interleaved).check(), Ok(()));
    for output in [Output::Accumulators, Output::Int8("int8-g32".parse().unwrap())] {
        let refused = spec.clone().with_output(output).check();
        assert!(matches!(refused, Err(PlanError::UnsupportedOutput { op: "gate", .. })));
    }
    for (max_m, n) in [(1 << 20, 8), (4, 1 << 30)] {
        let refused = GateSpec::new(max_m, n, function).check();
        assert!(matches!(refused, Err(PlanError::TooLarge { .. })));
    }

    let plan = block_on(GatePlan::new(&kernels, &spec)).unwrap();
    let [x, y, small] = [256, 128, 16].map(|bytes| noop.buffer(bytes));
    let plain = noop.buffer_for(256, wgpu::BufferUsages::UNIFORM);
    let good = GateArgs { activations: (&x).into(), scale: None, output: (&y).into() };
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
        assert_eq!(bound.record(pass, 0), Ok(()));
    });
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let too_small = |role, need| BindError::TooSmall { role, need, have: 16 };
    let tiny = SubBuffer::from(&small);
    assert_eq!(refuse(GateArgs { activations: tiny, ..good }), too_small(Role::Activations, 256));
    assert_eq!(refuse(GateArgs { output: tiny, ..good }), too_small(Role::Output, 128));
    let late = SubBuffer { buffer: &x, offset: 8 };
    let (role, offset, align) = (Role::Activations, 8, 16);
    let misaligned = BindError::Misaligned { role, offset, align };
    assert_eq!(refuse(GateArgs { activations: late, ..good }), misaligned);
    assert_eq!(
        refuse(GateArgs { activations: (&plain).into(), ..good }),
        BindError::Usage { role }
    );
    assert_eq!(refuse(GateArgs { output: (&x).into(), ..good }), BindError::Aliased { role });
    let scale = Some(StaticScale { scale: 1.0, zero_point: 0 });
    let unplanned = BindError::Argument { role: Role::Scales, planned: false };
    assert_eq!(refuse(GateArgs { scale, ..good }), unplanned);
    noop.assert_quiet();
}

/// A fault: its name, the layout, the output, X, the function, the values, and the text that is replaced
/// in the shader.
type Fault = (
    &'static str,
    GateLayout,
    &'static str,
    FloatType,
    ActivationFunction,
    Values,
    [&'static str; 2],
);

const FAULTS: [Fault; 7] = [
    (
        "gate and up exchanged",
        GateLayout::Halves,
        "f32",
        FloatType::F32,
        ActivationFunction::Silu,
        Values::Normal,
        [
            "vec4<f32>(activate(gate.xy), activate(gate.zw)) * up",
            "vec4<f32>(activate(up.xy), activate(up.zw)) * gate",
        ],
    ),
    (
        "a second half that begins one quad late",
        GateLayout::Halves,
        "f16",
        FloatType::F32,
        ActivationFunction::Relu,
        Values::Normal,
        ["column + p.columns,", "column + p.columns + 4u,"],
    ),
    (
        "two columns that are exchanged",
        GateLayout::Interleaved,
        "f32",
        FloatType::F16,
        ActivationFunction::Gelu,
        Values::Normal,
        ["vec4<f32>(a.x, a.z, b.x, b.z)", "vec4<f32>(a.x, b.x, a.z, b.z)"],
    ),
    (
        "a skipped last quad",
        GateLayout::Halves,
        "f32",
        FloatType::F32,
        ActivationFunction::GeluTanh,
        Values::Normal,
        ["if (id >= row_count() * quads)", "if (id + 1u >= row_count() * quads)"],
    ),
    (
        "the function left out for two columns",
        GateLayout::Interleaved,
        "int8-token",
        FloatType::F32,
        ActivationFunction::Silu,
        Values::Normal,
        ["activate(gate.zw)", "gate.zw"],
    ),
    (
        "a row in the place of another",
        GateLayout::Halves,
        "int8-tensor-asym",
        FloatType::F32,
        ActivationFunction::Identity,
        Values::Normal,
        ["p.x_at + row * p.x_stride", "p.x_at + (row ^ 1u) * p.x_stride"],
    ),
    (
        "a NaN that does not show",
        GateLayout::Halves,
        "int8-token-asym",
        FloatType::F32,
        ActivationFunction::Relu,
        Values::NotFinite,
        ["if (range.bad)", "if (false)"],
    ),
];

#[test]
fn each_fault_is_caught() {
    let Some(host) = host() else { return };
    let hosts = std::slice::from_ref(host);
    for (name, layout, output, x, function, values, [from, to]) in FAULTS {
        let output = match output {
            "f32" => FloatType::F32.into(),
            "f16" => FloatType::F16.into(),
            int8 => Output::Int8(int8.parse().unwrap()),
        };
        let (op, types) = (Op::Gate { layout, output }, (x, FloatType::F32));
        let case = Case::of_x(op, WeightFormat::f32(), types, (5, 100), values);
        let case = Case { strided: false, function, ..case };
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = GateSpec::new(5, 100, function).with_activations(x).with_output(output);
        let shader = spec.with_layout(layout).shader(faulty[0].kernels().caps());
        let text = shader.compose().unwrap().source;
        assert_eq!(text.matches(from).count(), 1, "{name}: the shader has changed");
        block_on(faulty[0].kernels().plant(&shader, &text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{name} was not caught");
        eprintln!("caught: {name:45} {}", report.reason.as_deref().unwrap_or(""));
    }
}
