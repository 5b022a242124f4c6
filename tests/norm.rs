//! Tests of normalization: what the case table does not vary, and faults that it catches.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::conformance::{Case, Normalized, Op, Status, Values, run};
use lowbit::format::{ActivationError, ActivationFormat, StaticScale, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FloatType, NormArgs, NormKind, NormPlan, NormResidual, NormSpec, Output, PlanError,
    RecordError, Role, SubBuffer,
};
use lowbit::reference::{self, NormCase, OutputType};
use pollster::block_on;

/// Normalizes packed rows on the device.
fn normalize(host: &Host, spec: &NormSpec, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let plan = block_on(NormPlan::new(host.kernels(), spec)).unwrap();
    let source = host.storage(bytemuck::cast_slice(x)).unwrap();
    let weight = host.storage(bytemuck::cast_slice(weight)).unwrap();
    let output = host.zeros(spec.y_bytes(spec.max_m)).unwrap();
    let (activations, weight, output) = ((&source).into(), Some((&weight).into()), &output);
    let (residual, bias, scale) = (None, None, None);
    let args = NormArgs { activations, residual, weight, bias, scale, output: output.into() };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, spec.max_m).unwrap()).unwrap();
    let words = host.read(output, 0, x.len()).unwrap();
    words.into_iter().map(f32::from_bits).collect()
}

/// Rows and heads that exceed a binding are split, and give the same.
#[test]
fn rows_are_split() {
    let (m, heads, k) = (50, 6, 100);
    let x = floats(m * heads * k, 3);
    let weight = floats(k, 4);
    let case = NormCase {
        x: &x,
        residual: None,
        k,
        centered: false,
        epsilon: 1e-6,
        weight: Some(&weight),
        offset: 0.0,
        bias: None,
        sums: 4,
    };
    let expected = reference::normalize(&case, OutputType::F32).unwrap();
    let row = (heads * k) as u32;
    let spec = NormSpec::new(m as u32, k as u32, NormKind::Rms, 1e-6)
        .with_batch(heads as u32)
        .with_x_strides(row, k as u32)
        .with_y_strides(row, k as u32);
    for host in large_and_small(16384, 4) {
        let y = normalize(host, &spec, &x, &weight);
        for (want, got) in expected.iter().zip(y) {
            assert!(reference::check(want, got).passes(), "{got}, must be {}", want.value);
        }
    }
}

/// Large numbers whose squares overflow become NaN, as those that are not finite, and only their row.
#[test]
fn rows_without_a_result_are_nan() {
    let Some(host) = host() else { return };
    for kind in NormKind::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20, f32::MAX] {
            let mut x = floats(3 * 70, 5);
            x[70 + 69] = bad;
            let y = normalize(host, &NormSpec::new(3, 70, kind, 1e-6), &x, &[1.0; 70]);
            assert!(y[70..140].iter().all(|y| y.is_nan()), "{kind:?} {bad}: {:?}", &y[70..140]);
            assert!(y[..70].iter().chain(&y[140..]).all(|y| y.is_finite()), "{kind:?} {bad}");
        }
    }
}

/// The bias and the residual are there or not; rows of zeros give the bias.
#[test]
fn zeros_give_the_bias() {
    let Some(host) = host() else { return };
    let spec = NormSpec::new(2, 5, NormKind::Layer, 1e-12).without_weight().with_bias();
    let plan = block_on(NormPlan::new(host.kernels(), &spec)).unwrap();
    let zeros = host.zeros(40).unwrap();
    let values = [1.0f32, -2.0, 3.0, 0.0, 5.0];
    let bias = host.storage(bytemuck::cast_slice(&values)).unwrap();
    let y = host.zeros(40).unwrap();
    let args = NormArgs {
        activations: (&zeros).into(),
        residual: None,
        weight: None,
        bias: Some((&bias).into()),
        scale: None,
        output: (&y).into(),
    };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, 2).unwrap()).unwrap();
    let got = host.read(&y, 0, 10).unwrap();
    let want = [values, values].concat();
    assert_eq!(got, want.into_iter().map(f32::to_bits).collect::<Vec<_>>());
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = NormSpec::new(4, 8, NormKind::Rms, 1e-5).with_residual(FloatType::F16);
    assert_eq!(spec.check(), Ok(()));
    let stride = |role, stride, need| Err(PlanError::Stride { role, stride, need });
    assert_eq!(spec.clone().with_x_strides(7, 0).check(), stride(Role::Activations, 7, 8));
    assert_eq!(spec.clone().with_residual_strides(7, 0).check(), stride(Role::Residual, 7, 8));
    assert_eq!(spec.clone().with_sum_strides(7, 0).check(), stride(Role::Sum, 7, 8));
    assert_eq!(spec.clone().with_y_strides(7, 0).check(), stride(Role::Output, 7, 8));
    let (role, multiple) = (Role::Sum, 2);
    let odd = spec.clone().with_sum_strides(9, 0).check();
    assert_eq!(odd, Err(PlanError::OddStride { role, stride: 9, multiple }));
    // Heads must not overlap: neither each other nor the next row.
    let heads = NormSpec::new(4, 8, NormKind::Rms, 1e-5).with_batch(3).with_y_strides(24, 8);
    assert_eq!(heads.clone().with_x_strides(24, 8).check(), Ok(()));
    assert_eq!(heads.clone().with_x_strides(23, 8).check(), stride(Role::Activations, 8, 77));
    assert_eq!(heads.clone().with_x_strides(24, 7).check(), stride(Role::Activations, 7, 80));
    for epsilon in [0.0, -1e-5, 1e-40, f32::NAN, f32::INFINITY] {
        let refused = NormSpec::new(4, 8, NormKind::Rms, epsilon).check();
        assert!(matches!(refused, Err(PlanError::Number { name: "epsilon", .. })), "{epsilon}");
    }
    let refused = spec.clone().with_weight_offset(f32::NAN).check();
    assert!(matches!(refused, Err(PlanError::Number { name: "weight_offset", .. })));
    for output in ["int8-g32", "int8-g64-asym"] {
        let output = Output::Int8(output.parse().unwrap());
        let refused = spec.clone().with_output(output).check().unwrap_err();
        assert!(refused.to_string().contains("ask for int8-token"), "{refused}");
    }
    let refused = spec.clone().with_output(Output::Accumulators).check();
    assert!(matches!(refused, Err(PlanError::UnsupportedOutput { op: "norm", .. })));
    for (max_m, k) in [(1 << 20, 8), (4, 1 << 31)] {
        let refused = NormSpec::new(max_m, k, NormKind::Rms, 1e-5).check();
        assert!(matches!(refused, Err(PlanError::TooLarge { .. })));
    }

    let plan = block_on(NormPlan::new(&kernels, &spec)).unwrap();
    let [x, r, sum, weight, y, small] = [128, 64, 64, 32, 128, 16].map(|bytes| noop.buffer(bytes));
    let plain = noop.buffer_for(128, wgpu::BufferUsages::UNIFORM);
    let residual = NormResidual { input: (&r).into(), sum: (&sum).into() };
    let good = NormArgs {
        activations: (&x).into(),
        residual: Some(residual),
        weight: Some((&weight).into()),
        bias: None,
        scale: None,
        output: (&y).into(),
    };
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
        assert_eq!(bound.record(pass, 0), Ok(()));
    });
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let argument = |role, planned| BindError::Argument { role, planned };
    let scale = Some(StaticScale { scale: 1.0, zero_point: 0 });
    assert_eq!(refuse(NormArgs { residual: None, ..good }), argument(Role::Residual, true));
    assert_eq!(refuse(NormArgs { weight: None, ..good }), argument(Role::Weights, true));
    assert_eq!(refuse(NormArgs { bias: good.weight, ..good }), argument(Role::Bias, false));
    assert_eq!(refuse(NormArgs { scale, ..good }), argument(Role::Scales, false));
    let too_small = |role, need| BindError::TooSmall { role, need, have: 16 };
    let tiny = SubBuffer::from(&small);
    assert_eq!(refuse(NormArgs { weight: Some(tiny), ..good }), too_small(Role::Weights, 32));
    assert_eq!(refuse(NormArgs { output: tiny, ..good }), too_small(Role::Output, 128));
    let short = NormResidual { sum: tiny, ..residual };
    assert_eq!(refuse(NormArgs { residual: Some(short), ..good }), too_small(Role::Sum, 64));
    let late = SubBuffer { buffer: &x, offset: 4 };
    let misaligned = refuse(NormArgs { activations: late, ..good });
    let (role, offset, align) = (Role::Activations, 4, 16);
    assert_eq!(misaligned, BindError::Misaligned { role, offset, align });
    let usage = NormArgs { activations: (&plain).into(), ..good };
    assert_eq!(refuse(usage), BindError::Usage { role: Role::Activations });
    let aliased = |role| BindError::Aliased { role };
    assert_eq!(refuse(NormArgs { output: (&x).into(), ..good }), aliased(Role::Activations));
    let same = NormResidual { sum: (&x).into(), ..residual };
    assert_eq!(refuse(NormArgs { residual: Some(same), ..good }), aliased(Role::Sum));
    let same = NormResidual { sum: (&y).into(), ..residual };
    assert_eq!(refuse(NormArgs { residual: Some(same), ..good }), aliased(Role::Sum));
    assert_eq!(refuse(NormArgs { weight: Some((&y).into()), ..good }), aliased(Role::Weights));

    // A static scale must fit its format, and a dynamic one takes none.
    let format: ActivationFormat = "int8-tensor".parse().unwrap();
    let spec = NormSpec::new(4, 8, NormKind::Rms, 1e-5).with_output(Output::Int8(format));
    let plan = block_on(NormPlan::new(&kernels, &spec)).unwrap();
    let y = noop.buffer(spec.y_bytes(4));
    let good = NormArgs { residual: None, output: (&y).into(), ..good };
    let refuse = |args| block_on(plan.bind(args)).map(drop);
    assert_eq!(refuse(good), Err(argument(Role::Scales, true)));
    assert_eq!(refuse(NormArgs { scale, ..good }), Ok(()));
    let (scale, zero_point) = (1.0, 1);
    let wrong = Some(StaticScale { scale, zero_point });
    let error = ActivationError::Static { scale, zero_point, format };
    assert_eq!(refuse(NormArgs { scale: wrong, ..good }), Err(BindError::Activations(error)));
    noop.assert_quiet();
}

/// A fault of normalization: its name, kind, whether there is a residual, X and Y, the shape, whether it
/// is strided, and the text that is replaced in the shader.
type Fault = (&'static str, NormKind, bool, &'static str, (usize, usize), bool, [&'static str; 2]);

const FAULTS: [Fault; 12] = [
    (
        "a skipped last quad",
        NormKind::Rms,
        false,
        "f32",
        (5, 100),
        false,
        [
            "column < p.k; column += 4u * WORKGROUP) {\n        let v",
            "column + 4u < p.k; column += 4u * WORKGROUP) {\n        let v",
        ],
    ),
    (
        "no epsilon",
        NormKind::Rms,
        false,
        "f32",
        (5, 100),
        false,
        ["inverseSqrt(square + p.epsilon)", "inverseSqrt(square)"],
    ),
    (
        "no offset of the weight",
        NormKind::Rms,
        false,
        "f16",
        (5, 100),
        false,
        ["weight[w_at.w]) + p.offset", "weight[w_at.w])"],
    ),
    (
        "a weight of the neighbouring column",
        NormKind::Rms,
        false,
        "int8-token",
        (4, 386),
        false,
        [
            "p.weight_at + at",
            "p.weight_at + (at ^ select(vec4<u32>(0u), vec4<u32>(1u), at == vec4<u32>(384u)))",
        ],
    ),
    (
        "squares that are not centered",
        NormKind::Layer,
        false,
        "f32",
        (5, 100),
        false,
        ["value4(place, column) - mean", "value4(place, column)"],
    ),
    (
        "columns past the last that count",
        NormKind::Layer,
        false,
        "f32",
        (5, 33),
        false,
        [
            "sums += select(vec4<f32>(0.0), d * d, columns4(column) < vec4<u32>(p.k));",
            "sums += d * d;",
        ],
    ),
    (
        "a dropped bias",
        NormKind::Layer,
        false,
        "f16",
        (5, 100),
        false,
        ["factor + shift;", "factor;"],
    ),
    (
        "the mean kept",
        NormKind::Layer,
        false,
        "int8-token-asym",
        (5, 100),
        false,
        ["(v - measured.mean)", "v"],
    ),
    (
        "a residual that is not in the sum",
        NormKind::Rms,
        true,
        "f32",
        (5, 100),
        false,
        [
            "put_total(place.total, column, v);",
            "put_total(place.total, column, load_x4(place.x, column));",
        ],
    ),
    (
        "a residual of the neighbouring row",
        NormKind::Rms,
        true,
        "int8-tensor",
        (5, 100),
        false,
        [
            "p.r_at + item * p.r_batch + row * p.r_stride",
            "p.r_at + item * p.r_batch + (row ^ 1u) * p.r_stride",
        ],
    ),
    (
        "the rows of another head",
        NormKind::Rms,
        false,
        "f32",
        (7, 100),
        true,
        ["p.x_at + item * p.x_batch", "p.x_at"],
    ),
    (
        "an infinity that does not show",
        NormKind::Rms,
        false,
        "f16",
        (5, 99),
        false,
        ["let bad = (bitcast<u32>(square) & 0x7f800000u) == 0x7f800000u;", "let bad = false;"],
    ),
];

#[test]
fn each_fault_is_caught() {
    let Some(host) = host() else { return };
    let hosts = std::slice::from_ref(host);
    for (name, kind, residual, output, (m, k), strided, [from, to]) in FAULTS {
        let output = match output {
            "f32" => FloatType::F32.into(),
            "f16" => FloatType::F16.into(),
            int8 => Output::Int8(int8.parse().unwrap()),
        };
        let residual = residual.then_some(FloatType::F32);
        let op = Op::Norm(Normalized { kind, residual, output });
        // f16 loads do not depend on strides.
        let types = (FloatType::F16, FloatType::F32);
        let values = if k == 99 { Values::NotFinite } else { Values::Normal };
        let case = Case::of_x(op, WeightFormat::f32(), types, (m, k), values);
        let case = Case { strided, bias: kind == NormKind::Layer, ..case };
        let sound = &run(hosts, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(sound.status, Status::Pass, "{name}: {:?}", sound.reason);
        // Each fault gets a device of its own, because its kernels are cached there.
        let faulty = [Host::new().unwrap()];
        let spec = NormSpec::new(m as u32, k as u32, kind, 1e-5)
            .with_activations(FloatType::F16)
            .with_output(output);
        let spec = match residual {
            Some(float) => spec.with_residual(float),
            None => spec,
        };
        let shader = spec.shader(faulty[0].kernels().caps());
        let text = shader.compose().unwrap().source;
        assert_eq!(text.matches(from).count(), 1, "{name}: the shader has changed");
        block_on(faulty[0].kernels().plant(&shader, &text.replace(from, to))).unwrap();
        let report = &run(&faulty, std::slice::from_ref(&case), &|_| ())[0];
        assert_eq!(report.status, Status::Fail, "{name} was not caught");
        eprintln!("caught: {name:45} {}", report.reason.as_deref().unwrap_or(""));
    }
}
