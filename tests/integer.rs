//! Tests of quantized X through the public interface: layers that are chained in integers, the
//! calls of the host, functions, and errors. `lowbit verify` (conformance) tests the products
//! themselves.

use crate::common::Random;
use lowbit::conformance::{Case, Quantized, Status, Values, run};
use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, Granularity, PackedWeights, Parts,
    Quantization, Scales, StaticScale, WeightFormat, random_weights,
};
use lowbit::host::{Host, HostError};
use lowbit::ops::{
    Activations, BindError, DeviceWeights, FloatType, MatmulArgs, MatmulPlan, MatmulSpec, Output,
    PlanError, QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec, Schedule,
    Select,
};
use lowbit::reference::{self, IntegerCase, apply};
use pollster::block_on;

const TENSOR: ActivationFormat = ActivationFormat::int8(ActivationGranularity::Tensor);
const TOKEN: ActivationFormat = ActivationFormat::int8(ActivationGranularity::Token);

fn floats(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..count).map(|_| (0..4).map(|_| random.float()).sum()).collect()
}

fn packed(n: usize, k: usize, format: &str, seed: u64) -> PackedWeights {
    let format: WeightFormat = format.parse().unwrap();
    PackedWeights::quantize(&floats(n * k, seed), n, k, &format).unwrap()
}

fn upload(host: &Host, packed: &PackedWeights) -> DeviceWeights {
    block_on(DeviceWeights::upload(host.kernels(), packed)).unwrap()
}

/// x → int8 → W1, ReLU → int8 → W2 → f32, with nothing but integers between the layers. The second
/// matmul is checked with the codes that the first one wrote.
#[test]
fn layers_chain_in_integers() {
    let Some(host) = crate::common::host() else { return };
    for (first, second, hidden) in [
        ("int8-channel", "int8-channel", TENSOR),
        ("int8-g64-asym", "int4-g32-asym", TENSOR.asymmetric()),
        ("2:4+int8-channel", "2:4+int4-g64", TENSOR.asymmetric()),
    ] {
        let (m, k, inner, n) = (5u32, 100u32, 70u32, 33u32);
        let (w1, w2) = (packed(70, 100, first, 1), packed(33, 70, second, 2));
        let (d1, d2) = (upload(host, &w1), upload(host, &w2));
        let x = floats((m * k) as usize, 3);
        let bias = floats(inner as usize, 4);
        let kernels = host.kernels();

        let quantize = QuantizeActivationsSpec::new(m, k, TOKEN);
        let quantize = block_on(QuantizeActivationsPlan::new(kernels, &quantize)).unwrap();
        let spec1 = MatmulSpec::of(m, &d1)
            .with_activations(Activations::Int8(TOKEN))
            .with_output(Output::Int8(hidden))
            .with_function(ActivationFunction::Relu)
            .with_bias();
        let spec2 = MatmulSpec::of(m, &d2).with_activations(Activations::Int8(hidden));
        assert_eq!(spec1.y_stride, spec2.x_stride);
        let [plan1, plan2] =
            [&spec1, &spec2].map(|s| block_on(MatmulPlan::new(kernels, s, Select::Auto)).unwrap());
        let source = host.storage(bytemuck::cast_slice(&x)).unwrap();
        let codes = host.zeros(quantize.output_bytes(m)).unwrap();
        let between = host.zeros(spec1.y_bytes(m)).unwrap();
        let y = host.zeros(spec2.y_bytes(m)).unwrap();
        let bias_buffer = host.storage(bytemuck::cast_slice(&bias)).unwrap();
        let scale =
            StaticScale { scale: 0.25, zero_point: if hidden.is_symmetric() { 0 } else { -128 } };
        let q = block_on(quantize.bind(QuantizeActivationsArgs {
            activations: (&source).into(),
            given: None,
            output: (&codes).into(),
        }))
        .unwrap();
        let args = MatmulArgs {
            activations: (&codes).into(),
            weights: &d1,
            bias: Some((&bias_buffer).into()),
            output: (&between).into(),
        };
        let b1 = block_on(plan1.bind_scaled(args, scale)).unwrap();
        let b2 = block_on(plan2.bind(MatmulArgs {
            activations: (&between).into(),
            weights: &d2,
            bias: None,
            output: (&y).into(),
        }))
        .unwrap();
        // There is one submission, and nothing is read in between.
        host.submit(|pass| {
            q.record(pass, m).unwrap();
            b1.record(pass, m).unwrap();
            b2.record(pass, m).unwrap();
        })
        .unwrap();

        let read =
            |buffer: &wgpu::Buffer| host.read(buffer, 0, (buffer.size() / 4) as usize).unwrap();
        let (codes, between, y) = (read(&codes), read(&between), read(&y));
        let (l1, l2) = (TOKEN.layout(100).unwrap(), hidden.layout(70).unwrap());
        let m = m as usize;
        let case = IntegerCase { x: &codes, m, layout: &l1, weights: &w1, bias: Some(&bias) };
        let inner_want =
            reference::integer_matmul(&case, 32 * spec1.slice_blocks() as usize).unwrap();
        for (at, want) in inner_want.iter().enumerate() {
            let want = want.after(ActivationFunction::Relu, reference::OutputType::F32);
            let (row, column) = (at / 70, at % 70);
            let code = between[row * l2.row_words + column / 4].to_le_bytes()[column % 4] as i8;
            let symmetric = hidden.is_symmetric();
            let verdict =
                reference::check_code(&want, scale.scale, scale.zero_point, symmetric, code);
            assert!(verdict.passes(), "{first}: code {code} of {want:?}");
        }
        let case = IntegerCase {
            x: &between[..m * l2.row_words],
            m,
            layout: &l2,
            weights: &w2,
            bias: None,
        };
        let want = reference::integer_matmul(&case, 32 * spec2.slice_blocks() as usize).unwrap();
        for (want, &got) in want.iter().zip(&y) {
            assert!(reference::check(want, f32::from_bits(got)).passes(), "{second}: {want:?}");
        }
        assert_eq!(want.len(), m * n as usize);
    }
}

/// Compares the results with f64 matmuls of the original floats, within the error that the formats
/// allow: each x differs by at most half a step.
#[test]
fn the_host_quantizes_and_multiplies() {
    let Some(host) = crate::common::host() else { return };
    let (m, n, k) = (3, 40, 200);
    let x = floats(m * k, 5);
    let bias = floats(n, 6);
    let group = ActivationGranularity::Group(64.try_into().unwrap());
    let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    let fixed = StaticScale { scale: largest / 127.0, zero_point: 0 };
    for how in [
        Quantization::Dynamic(TOKEN),
        Quantization::Dynamic(TOKEN.asymmetric()),
        Quantization::Dynamic(TENSOR),
        Quantization::Dynamic(ActivationFormat::int8(group)),
        Quantization::Static(fixed),
        Quantization::Static(StaticScale { scale: largest / 100.0, zero_point: 3 }),
    ] {
        for format in ["int8-channel", "int4-g32-asym", "2:4+int8-g64"] {
            let w = packed(n, k, format, 7);
            let weights = host.upload(&w).unwrap();
            let function = ActivationFunction::Gelu;
            let y = host.quantized_matmul(&x, m, &weights, Some(&bias), how, function).unwrap();
            let values = lowbit::compress::dequantize(&w);
            for row in 0..m {
                for column in 0..n {
                    let pairs = || {
                        (0..k)
                            .map(|i| (f64::from(x[row * k + i]), f64::from(values[column * k + i])))
                    };
                    let exact: f64 =
                        pairs().map(|(x, w)| x * w).sum::<f64>() + f64::from(bias[column]);
                    // Steps are at most largest/100, and the slope of GELU is less than 1.13.
                    let step = f64::from(largest) / 100.0;
                    let slack: f64 = pairs().map(|(_, w)| 0.5001 * step * w.abs()).sum();
                    let got = f64::from(y[row * n + column]);
                    let want = apply(function, exact);
                    assert!(
                        (got - want).abs() <= 1.13 * slack + 1e-4,
                        "{how:?} {format} [{row}, {column}]: {got}, not {want} ± {slack}"
                    );
                }
            }
        }
    }
    // Empty inputs give empty outputs.
    let weights = host.upload(&packed(n, k, "int8-channel", 7)).unwrap();
    let function = ActivationFunction::Identity;
    let how = Quantization::Dynamic(TOKEN);
    assert!(host.quantized_matmul(&[], 0, &weights, None, how, function).unwrap().is_empty());
    // NaN must not be lost.
    let mut bad = x.clone();
    bad[k + 5] = f32::NAN;
    let y = host.quantized_matmul(&bad, m, &weights, None, how, function).unwrap();
    assert!(y[..n].iter().all(|v| v.is_finite()) && y[n..2 * n].iter().all(|v| v.is_nan()));
}

/// The oracle with minima and zero points that are floats, against sums of x · w in f64 from the decoded
/// weights, and its bound by hand.
#[test]
fn the_oracle_adds_minima() {
    let (m, n, k) = (3, 5, 300);
    let x_format = ActivationFormat::int8(ActivationGranularity::Group(64.try_into().unwrap()));
    let layout = x_format.asymmetric().layout(k).unwrap();
    let mut random = Random(11);
    let mut below = |end: u64| (random.next() % end) as i64;
    let mut x = vec![0u32; m * layout.row_words];
    for row in x.chunks_mut(layout.row_words) {
        for column in 0..k {
            row[column / 4] |= u32::from((below(256) - 128) as u8) << (8 * (column % 4));
        }
        for group in 0..layout.groups {
            row[layout.scale_at + group] = (0.25 + below(100) as f32 / 64.0).to_bits();
            row[layout.zero_at + group] = (below(256) - 128) as i32 as u32;
        }
    }
    for format in ["q4_1", "q4_k", "q5_k", "int2-channel-fzero-f16s", "int8-g96-min"] {
        let format: WeightFormat = format.parse().unwrap();
        let weights = random_weights(format, n, k, 5, true).unwrap();
        let case = IntegerCase { x: &x, m, layout: &layout, weights: &weights, bias: None };
        let got = reference::integer_matmul(&case, 32).unwrap();
        let mut kept = Vec::new();
        for column in 0..n {
            reference::decode_row(&weights, column, &mut kept).unwrap();
            for row in 0..m {
                let x = &x[row * layout.row_words..][..layout.row_words];
                let real = |column: usize| {
                    let group = column / 64;
                    let code = x[column / 4].to_le_bytes()[column % 4] as i8;
                    let zero = x[layout.zero_at + group] as i32;
                    f64::from(f32::from_bits(x[layout.scale_at + group]))
                        * f64::from(i32::from(code) - zero)
                };
                let want: f64 = kept.iter().map(|w| real(w.column) * w.value).sum();
                let size: f64 = kept.iter().map(|w| (real(w.column) * w.value).abs()).sum();
                let value = got[row * n + column].value;
                assert!((value - want).abs() <= 1e-12 * size, "{format}: {value}, not {want}");
            }
        }
    }
    // One column: 2 products and the bias, which take R = 2 + 1 + 1 + 1 roundings.
    let layout = TOKEN.layout(1).unwrap();
    let mut x = vec![0u32; layout.row_words];
    (x[0], x[layout.scale_at]) = (100, 0.5f32.to_bits());
    let format: WeightFormat = "int4-channel-min".parse().unwrap();
    let parts = Parts {
        codes: vec![7],
        scales: Scales::F32(vec![2.0]),
        minima: Scales::F32(vec![-3.0]),
        ..Parts::default()
    };
    let weights = PackedWeights::new(format, 1, 1, parts).unwrap();
    let case = IntegerCase { x: &x, m: 1, layout: &layout, weights: &weights, bias: Some(&[8.0]) };
    let got = reference::integer_matmul(&case, 32).unwrap()[0];
    assert_eq!(got.value, 0.5 * (2.0 * 700.0 - 3.0 * 100.0) + 8.0);
    let bound = 5.0 / 8_388_608.0 * (700.0 + 150.0 + 8.0);
    assert!((got.bound / bound - 1.0).abs() < 1e-5, "{} {bound}", got.bound);
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(host) = crate::common::host() else { return };
    let plan = |spec: &MatmulSpec| block_on(MatmulPlan::new(host.kernels(), spec, Select::Auto));
    let spec = |format: &str| {
        let format: WeightFormat = format.parse().unwrap();
        MatmulSpec::new(4, 64, 96, format).with_activations(Activations::Int8(TOKEN))
    };
    for format in [
        "f32",
        "f16",
        "int16-channel",
        "int8-g24",
        "2:4+f16",
        "nf4-g64",
        "e4m3-g32",
        "q2_k",
        "2:4+int4-g16",
        "int4-g32-perm",
    ] {
        let error = plan(&spec(format)).unwrap_err();
        assert!(matches!(error, PlanError::Unsupported { .. }), "{format}: {error}");
    }
    for (format, why) in [
        ("int8-g24", "groups of 16 columns, or of a multiple of 32"),
        ("q2_k", "kept for blocks of 32"),
        ("2:4+int4-g16", "in one word"),
        ("nf4-g64", "codebook"),
        ("e4m3-g32", "floats"),
    ] {
        let error = plan(&spec(format)).unwrap_err().to_string();
        assert!(error.contains(why), "{format}: {error}");
    }
    for format in
        ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q3_k", "q4_k", "q5_k", "q6_k", "int2-g32-fzero"]
    {
        assert!(spec(format).check().is_ok(), "{format}");
    }
    assert!(plan(&spec("int8-g24").with_activations(FloatType::F32)).is_ok());
    let sound = spec("int8-channel");
    let error = plan(&sound.clone().with_output(Output::Int8(TOKEN))).unwrap_err();
    assert!(matches!(error, PlanError::StaticScaleNeeded { .. }), "{error}");
    let float = MatmulSpec::new(4, 64, 96, WeightFormat::int8(Granularity::Channel));
    for output in [Output::Int8(TENSOR), Output::Accumulators] {
        let error = plan(&float.clone().with_output(output)).unwrap_err();
        assert!(matches!(error, PlanError::IntegerOutput { .. }), "{error}");
    }
    let odd = sound.clone().with_x_strides(sound.x_stride + 1, 0);
    assert!(matches!(plan(&odd).unwrap_err(), PlanError::OddStride { multiple: 4, .. }));
    let short = sound.clone().with_x_strides(sound.x_stride - 4, 0);
    assert!(matches!(plan(&short).unwrap_err(), PlanError::Stride { .. }));
    for (spec, schedule) in [
        (&sound, Schedule::Rows { m_tile: 1, n_tile: 2 }),
        (&float, Schedule::IntRows { m_tile: 1 }),
    ] {
        let how = Select::Pinned(schedule);
        let error = block_on(MatmulPlan::new(host.kernels(), spec, how)).unwrap_err();
        assert!(matches!(error, PlanError::WrongSchedule { .. }), "{error}");
    }

    // Output scales that are invalid are refused.
    let w = upload(host, &packed(64, 96, "int8-channel", 1));
    let codes = host.zeros(sound.x_bytes(4)).unwrap();
    let out = sound.clone().with_output(Output::Int8(TENSOR));
    let y = host.zeros(out.y_bytes(4).max(sound.y_bytes(4))).unwrap();
    let args =
        MatmulArgs { activations: (&codes).into(), weights: &w, bias: None, output: (&y).into() };
    let mut plain = sound;
    plain.code_textures = false;
    let (plain, coded) = (plan(&plain).unwrap(), plan(&out).unwrap());
    let good = StaticScale { scale: 0.5, zero_point: 0 };
    let error = block_on(plain.bind_scaled(args, good)).unwrap_err();
    assert_eq!(error, BindError::OutputScale { planned: false });
    let error = block_on(coded.bind(args)).unwrap_err();
    assert_eq!(error, BindError::OutputScale { planned: true });
    for (scale, zero_point) in
        [(0.0, 0), (-1.0, 0), (f32::NAN, 0), (f32::INFINITY, 0), (1e-39, 0), (3e38, 0), (1.0, 1)]
    {
        let bad = StaticScale { scale, zero_point };
        let error = block_on(coded.bind_scaled(args, bad)).unwrap_err();
        assert!(matches!(error, BindError::Activations(_)), "{scale} {zero_point}: {error}");
        let weights = host.upload(&packed(64, 96, "int8-channel", 1)).unwrap();
        let how = Quantization::Static(bad);
        let x = vec![0.0; 96];
        let result =
            host.quantized_matmul(&x, 1, &weights, None, how, ActivationFunction::Identity);
        let refused = matches!(result, Err(HostError::Plan(PlanError::Activations(_))));
        // The host uses an asymmetric format for a zero point other than 0, so that is no error.
        assert_eq!(refused, zero_point == 0, "{scale} {zero_point}");
    }
}

/// Tests every function over a range of arguments through a kernel. W is 1, and X steps through the
/// range.
#[test]
fn functions_are_within_their_bound() {
    let Some(host) = crate::common::host() else { return };
    let (m, n) = (1000usize, 1);
    let mut x: Vec<f32> = (0..m).map(|i| (i as f32 - 500.0) / 40.0).collect();
    (x[0], x[1], x[2], x[3]) = (-3e38, 3e38, 1e-38, -1e-38);
    let w = PackedWeights::quantize(&[1.0], 1, 1, &WeightFormat::f32()).unwrap();
    let weights = upload(host, &w);
    for function in ActivationFunction::ALL {
        let spec = MatmulSpec::new(m as u32, n, 1, WeightFormat::f32()).with_function(function);
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
        let source = host.storage(bytemuck::cast_slice(&x)).unwrap();
        let y = host.zeros(spec.y_bytes(m as u32)).unwrap();
        let bound = block_on(plan.bind(MatmulArgs {
            activations: (&source).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        }))
        .unwrap();
        host.submit(|pass| bound.record(pass, m as u32).unwrap()).unwrap();
        let got = host.read(&y, 0, m).unwrap();
        let case = reference::MatmulCase {
            x: &x,
            m,
            weights: &w,
            bias: None,
            output: reference::OutputType::F32,
            zero_folded: false,
        };
        let mut worst = 0.0f64;
        for ((want, &got), x) in reference::matmul(&case).unwrap().iter().zip(&got).zip(&x) {
            let want = want.after(function, reference::OutputType::F32);
            let verdict = reference::check(&want, f32::from_bits(got));
            worst = worst.max(verdict.error_over_bound);
            assert!(verdict.passes(), "{function:?}({x}) is {}, {want:?}", f32::from_bits(got));
        }
        eprintln!("{}: {worst:.3} of the bound", function.name());
    }
}

/// Weights, X and Y exceed their bindings, and grids exceed a dispatch. This makes several blocks
/// of rows of W and several spans of rows of X, and the codes of Y are completed once per span.
#[test]
fn small_bindings_split_the_work() {
    let Some(host) = crate::common::host() else { return };
    let mut caps = host.kernels().caps().clone();
    (caps.max_binding, caps.max_groups) = (24 << 10, 7);
    let (info, device) = (host.adapter_info().clone(), host.device().clone());
    let host = Host::with_caps(info, device, host.queue().clone(), &caps).unwrap();
    let (m, n, k) = (33, 150, 1030);
    let mut cases = Vec::new();
    for (i, format) in ["int8-g64-asym", "int4-channel", "2:4+int4-g32-asym"].iter().enumerate() {
        let weights = upload(&host, &packed(n, k, format, 9));
        assert!(weights.blocks().len() > 1, "{format} fits a binding");
        let outputs = [
            Output::Int8(TENSOR),
            Output::Int8(TENSOR.asymmetric()),
            Output::Float(FloatType::F16),
        ];
        for (j, output) in outputs.into_iter().enumerate() {
            for schedule in Schedule::integer(k as u32) {
                if !(i + j + schedule.tile().0 as usize).is_multiple_of(3) {
                    continue;
                }
                let format: WeightFormat = format.parse().unwrap();
                let quantized = Quantized { format: TOKEN.asymmetric(), output };
                let mut case = Case::integer(format, quantized, (m, n, k), Values::Normal);
                (case.strided, case.bias, case.schedule) = (j != 1, true, Some(schedule));
                cases.push(case);
            }
        }
    }
    let reports = run(&[host], &cases, &|_| ());
    for report in &reports {
        assert_eq!(report.status, Status::Pass, "{}: {:?}", report.id, report.reason);
    }
    assert!(reports.len() >= 20, "{}", reports.len());
}
