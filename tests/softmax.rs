//! Tests of the softmax: what the case table does not vary, and faults that it catches.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::conformance::{Case, Op, Status, Values, run};
use lowbit::format::WeightFormat;
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FloatType, PlanError, RecordError, Role, SoftmaxArgs, SoftmaxPlan, SoftmaxSpec,
    SubBuffer,
};
use lowbit::reference::{self, OutputType, SoftmaxCase};
use pollster::block_on;

/// Takes the softmax of packed rows on the device.
fn softmax(host: &Host, spec: &SoftmaxSpec, x: &[f32]) -> Vec<f32> {
    let plan = block_on(SoftmaxPlan::new(host.kernels(), spec)).unwrap();
    let source = host.storage(bytemuck::cast_slice(x)).unwrap();
    let y = host.zeros(spec.y_bytes(spec.max_m)).unwrap();
    let args = SoftmaxArgs { activations: (&source).into(), output: (&y).into() };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, spec.max_m).unwrap()).unwrap();
    host.read(&y, 0, x.len()).unwrap().into_iter().map(f32::from_bits).collect()
}

/// Rows that exceed a binding are split, and are within the bound; each row adds up to 1.
#[test]
fn rows_are_split() {
    let (m, n) = (60, 301);
    let x: Vec<f32> = floats(m * n, 3).iter().map(|v| 20.0 * v).collect();
    let spec = SoftmaxSpec::new(m as u32, n as u32).with_scale(-0.5).with_soft_cap(4.0);
    let case = SoftmaxCase { x: &x, k: n, scale: -0.5, soft_cap: Some(4.0), sums: 4 };
    let expected = reference::softmax(&case, OutputType::F32).unwrap();
    for host in large_and_small(16384, 4) {
        let y = softmax(host, &spec, &x);
        for (want, &got) in expected.iter().zip(&y) {
            assert!(reference::check(want, got).passes(), "{got}, must be {}", want.value);
        }
        assert!(y.chunks(n).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-4));
    }
}

/// Masked columns are 0 exactly; rows without a finite number are NaN, and large numbers overflow nothing.
#[test]
fn odd_rows() {
    let Some(host) = host() else { return };
    let (none, low, high) = (f32::NAN, f32::NEG_INFINITY, f32::INFINITY);
    let x = [
        [low, 2.0, low, 2.0, low],
        [low; 5],
        [1.0, none, 2.0, low, 3.0],
        [1.0, high, 2.0, low, 3.0],
        [f32::MAX, -f32::MAX, f32::MAX, low, 0.0],
        [-f32::MAX; 5],
    ];
    let y = softmax(host, &SoftmaxSpec::new(6, 5), x.as_flattened());
    assert_eq!(y[..5], [0.0, 0.5, 0.0, 0.5, 0.0]);
    assert!(y[5..20].iter().all(|y| y.is_nan()), "{y:?}");
    assert_eq!(y[20..25], [0.5, 0.0, 0.5, 0.0, 0.0]);
    assert!(y[25..].iter().all(|y| (y - 0.2).abs() < 1e-6), "{y:?}");
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = SoftmaxSpec::new(4, 8);
    assert_eq!(spec.check(), Ok(()));
    let stride = |role| Err(PlanError::Stride { role, stride: 7, need: 8 });
    assert_eq!(spec.clone().with_strides(7, 8).check(), stride(Role::Activations));
    assert_eq!(spec.clone().with_strides(8, 7).check(), stride(Role::Output));
    for scale in [0.0, f32::NAN, f32::INFINITY, 1e-40] {
        let refused = spec.clone().with_scale(scale).check();
        assert!(matches!(refused, Err(PlanError::Number { name: "scale", .. })));
    }
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let refused = spec.clone().with_soft_cap(cap).check();
        assert!(matches!(refused, Err(PlanError::Number { name: "soft_cap", .. })));
    }
    let refused = SoftmaxSpec::new(1 << 20, 8).check();
    assert!(matches!(refused, Err(PlanError::TooLarge { name: "max_m", .. })));

    let plan = block_on(SoftmaxPlan::new(&kernels, &spec)).unwrap();
    let [x, y, small] = [128, 128, 16].map(|bytes| noop.buffer(bytes));
    let plain = noop.buffer_for(128, wgpu::BufferUsages::UNIFORM);
    let good = SoftmaxArgs { activations: (&x).into(), output: (&y).into() };
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
        assert_eq!(bound.record(pass, 0), Ok(()));
    });
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let too_small = |role| BindError::TooSmall { role, need: 128, have: 16 };
    let tiny = SubBuffer::from(&small);
    assert_eq!(refuse(SoftmaxArgs { activations: tiny, ..good }), too_small(Role::Activations));
    assert_eq!(refuse(SoftmaxArgs { output: tiny, ..good }), too_small(Role::Output));
    let late = SubBuffer { buffer: &x, offset: 4 };
    let (role, offset, align) = (Role::Activations, 4, 16);
    let misaligned = BindError::Misaligned { role, offset, align };
    assert_eq!(refuse(SoftmaxArgs { activations: late, ..good }), misaligned);
    assert_eq!(refuse(SoftmaxArgs { output: (&x).into(), ..good }), BindError::Aliased { role });
    let usage = refuse(SoftmaxArgs { activations: (&plain).into(), ..good });
    assert_eq!(usage, BindError::Usage { role });
    noop.assert_quiet();
}

/// A fault: its name, whether there is a soft cap, the columns, the values, and the text that is replaced
/// in the shader.
type Fault = (&'static str, bool, usize, Values, [&'static str; 2]);

const FAULTS: [Fault; 6] = [
    (
        "a largest that is not subtracted",
        false,
        100,
        Values::Outliers,
        ["powers4(x) - top", "powers4(x) - 0.0 * top"],
    ),
    (
        "columns past the last that count",
        false,
        101,
        Values::Normal,
        [
            "select(vec4<f32>(0.0), weights4(load_x4(x_at, column), top), here4(column))",
            "weights4(load_x4(x_at, column), top)",
        ],
    ),
    (
        "a skipped last quad",
        false,
        100,
        Values::Normal,
        [
            "column += 4u * WORKGROUP) {\n        sums",
            "column += 4u * WORKGROUP) {\n        if (column + 4u >= p.k) { break; }\n        sums",
        ],
    ),
    ("no scale", false, 100, Values::Normal, ["let scaled = x * p.scale;", "let scaled = x;"]),
    (
        "a soft cap that is even",
        true,
        100,
        Values::Normal,
        ["select(size, -size, scaled < vec4<f32>(0.0))", "size"],
    ),
    (
        "an infinity that does not show",
        false,
        99,
        Values::NotFinite,
        ["let bad = odd_sum || sum < 0.5 || sum > 0.5 * BROKEN;", "let bad = false;"],
    ),
];

#[test]
fn each_fault_is_caught() {
    let Some(host) = host() else { return };
    let hosts = std::slice::from_ref(host);
    for (name, capped, n, values, [from, to]) in FAULTS {
        let types = (FloatType::F16, FloatType::F32);
        let case = Case::of_x(Op::Softmax { capped }, WeightFormat::f32(), types, (5, n), values);
        let case = Case { strided: false, ..case };
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = SoftmaxSpec::new(5, n as u32).with_types(FloatType::F16, FloatType::F32);
        let spec = if capped { spec.with_soft_cap(1.0) } else { spec };
        let shader = spec.shader(faulty[0].kernels().caps());
        let text = shader.compose().unwrap().source;
        assert_eq!(text.matches(from).count(), 1, "{name}: the shader has changed");
        block_on(faulty[0].kernels().plant(&shader, &text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{name} was not caught");
        eprintln!("caught: {name:45} {}", report.reason.as_deref().unwrap_or(""));
    }
}
