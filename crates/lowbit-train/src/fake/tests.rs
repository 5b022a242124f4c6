use super::{FakeFormat, FoldError, Given, fake_quantize, fold};
use crate::random::{Purpose, Random};
use burn::tensor::{Device, Tensor, TensorData};
use lowbit::compress::dequantize;
use lowbit::format::{CodeType, Granularity, Offset, ScaleType, WeightFormat};
use lowbit::reference::{
    FakeQuantCase, FakeQuantGradients, MatmulCase, OutputType, check, check_fake_gradients,
    check_fake_quantize, check_fake_ranges, matmul,
};

const ROWS: usize = 5;
const COLUMNS: usize = 19;

fn format(name: &str) -> FakeFormat {
    FakeFormat::new(name.parse().unwrap()).unwrap()
}

/// Every dense format that there is, with groups that end with a row and groups that do not.
fn formats() -> Vec<FakeFormat> {
    let mut formats = Vec::new();
    let codes = CodeType::ALL.into_iter().filter(|code| code.is_integer());
    for code in codes {
        for granularity in [
            Granularity::Tensor,
            Granularity::Channel,
            Granularity::group(4).unwrap(),
            Granularity::group(7).unwrap(),
        ] {
            for offset in [Offset::Fixed, Offset::ZeroPoint, Offset::ZeroPoint4] {
                for scales in [ScaleType::F32, ScaleType::F16] {
                    let format = WeightFormat::new(code, granularity);
                    let format = format.with_offset(offset).with_scales(scales);
                    formats.extend(FakeFormat::new(format));
                }
            }
        }
    }
    // int16 has one offset and one type of scales; of the other five, those of at most 4 bits have a third
    // offset.
    assert_eq!(formats.len(), 4 * (1 + 3 * 4 + 3 * 6));
    formats
}

/// Numbers of which some are clamped, some are ties and some are 0.
fn values(seed: u64) -> Vec<f32> {
    let random = Random::new(seed, Purpose::Subset);
    (0..ROWS * COLUMNS)
        .map(|at| match at % 11 {
            4 => 0.0,
            7 => (at % 5) as f32 - 2.5,
            _ => 2.0 * random.normal(at as u64),
        })
        .collect()
}

/// Scales and zero points that clamp some values.
fn given(format: FakeFormat) -> (Vec<f32>, Vec<f32>) {
    let [rows, groups] = format.scales(ROWS, COLUMNS);
    let (low, high) = format.codes();
    let scale = |at: usize| 2.5 / format.steps() * (1.0 + 0.1 * (at % 7) as f32);
    let zero = |at: usize| (low + high) as f32 / 2.0 + 0.4 * (at % 5) as f32 - 0.7;
    let count = rows * groups;
    let zeros =
        if format.is_symmetric() { vec![0.0; count] } else { (0..count).map(zero).collect() };
    ((0..count).map(scale).collect(), zeros)
}

fn case<'a>(
    format: &'a WeightFormat,
    x: &'a [f32],
    (scales, zeros): &'a (Vec<f32>, Vec<f32>),
) -> FakeQuantCase<'a> {
    let zeros = if format.is_symmetric() { &[] } else { zeros.as_slice() };
    FakeQuantCase { format, x, k: COLUMNS, scales, zeros }
}

fn as_given((scales, zeros): &(Vec<f32>, Vec<f32>)) -> Given<'_> {
    Given { scales, zeros }
}

fn passes(judged: lowbit::reference::Judgement, what: &str) {
    assert!(judged.fault.is_none(), "{what}: {judged:?}");
}

#[test]
fn values_and_ranges_are_those_of_the_reference() {
    for fake in formats() {
        let (x, given, format) = (values(1), given(fake), fake.format());
        let y = fake.forward(&x, COLUMNS, as_given(&given));
        let name = format.to_string();
        passes(
            check_fake_quantize(&case(&format, &x, &given), OutputType::F32, &y).unwrap(),
            &name,
        );
        let ranges = fake.ranges(&x, COLUMNS);
        passes(check_fake_ranges(&case(&format, &x, &ranges)).unwrap(), &name);
    }
}

#[test]
fn gradients_are_those_of_the_reference() {
    for fake in formats() {
        for gradient_scale in [false, true] {
            let (x, dy, given, format) = (values(2), values(3), given(fake), fake.format());
            let got = fake.backward(&x, &dy, COLUMNS, as_given(&given), gradient_scale);
            assert!(got.x.contains(&0.0) && got.scales.iter().any(|&ds| ds != 0.0));
            let zeros = if fake.is_symmetric() { Vec::new() } else { got.zeros };
            let got = FakeQuantGradients { x: got.x, scales: got.scales, zeros };
            let case = case(&format, &x, &given);
            let judged =
                check_fake_gradients(&case, &dy, gradient_scale, OutputType::F32, &got).unwrap();
            passes(judged, &format.to_string());
        }
    }
}

/// The table of special values in `lowbit::ops::fake_quant`.
#[test]
fn special_values() {
    let fake = format("int8-g2-asym");
    let x = [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 2.0, 1.0, 1.0, 1.0, 1.0];
    let scales = [1.0, 1.0, 1.0, -1.0, 1.0];
    let zeros = [0.0, 0.0, 0.0, 0.0, f32::NAN];
    let given = Given { scales: &scales, zeros: &zeros };
    let y = fake.forward(&x, 10, given);
    assert!(y[0].is_nan() && y[6..].iter().all(|y| y.is_nan()));
    assert_eq!(y[1..6], [1.0, 127.0, -128.0, 0.0, 2.0]);
    let dy = [1.0, 1.0, 1.0, 1.0, f32::INFINITY, 1.0, 1.0, 1.0, 1.0, 1.0];
    let gradients = fake.backward(&x, &dy, 10, given, false);
    assert!(gradients.x[0].is_nan() && gradients.x[6..].iter().all(|dx| dx.is_nan()));
    assert_eq!(gradients.x[1..6], [1.0, 0.0, 0.0, f32::INFINITY, 1.0]);
    assert!(gradients.scales[0].is_nan() && gradients.zeros[0].is_nan());
    assert_eq!((gradients.scales[1], gradients.zeros[1]), (127.0 - 128.0, -2.0));
    assert!(gradients.scales[2].is_nan() && gradients.zeros[2].is_nan());
    let (scales, zeros) = fake.ranges(&[0.0, 1e-39, f32::INFINITY, 0.0], 4);
    assert_eq!((scales[0], zeros[0]), (1.0, -128.0));
    assert!(scales[1].is_nan());
}

#[test]
fn fitted_ranges_are_no_worse_than_whole_ones() {
    for fake in formats() {
        let x = values(4);
        let error = |given: (Vec<f32>, Vec<f32>)| -> f64 {
            let y = fake.forward(&x, COLUMNS, as_given(&given));
            x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum()
        };
        assert!(error(fake.fitted(&x, COLUMNS)) <= error(fake.ranges(&x, COLUMNS)));
    }
    // At 2 bits a range that holds the greatest magnitude is far from the best.
    let (fake, x) = (format("int2-tensor"), values(4));
    let (whole, fitted) = (fake.ranges(&x, COLUMNS).0[0], fake.fitted(&x, COLUMNS).0[0]);
    assert!(fitted < 0.8 * whole, "{fitted} of {whole}");
}

/// The operation returns what the host functions return, for all inputs, bit for bit.
#[test]
fn the_operation_records_its_gradients() {
    let device = Device::flex().autodiff();
    for fake in formats() {
        let (x, dy, given) = (values(5), values(6), given(fake));
        let shape = fake.scales(ROWS, COLUMNS);
        let leaf = |values: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device).require_grad()
        };
        let (scales, zeros) = (leaf(&given.0, shape), leaf(&given.1, shape));
        // A transposed input is not contiguous.
        let turned: Vec<f32> =
            (0..COLUMNS * ROWS).map(|at| x[at % ROWS * COLUMNS + at / ROWS]).collect();
        let input = leaf(&turned, [COLUMNS, ROWS]);
        let y = fake_quantize(input.clone().transpose(), scales.clone(), zeros.clone(), fake, true);
        let want = fake.forward(&x, COLUMNS, as_given(&given));
        assert_eq!(y.clone().into_data().try_to_vec::<f32>().unwrap(), want);
        let gradients = (y * leaf(&dy, [ROWS, COLUMNS])).sum().backward();
        let want = fake.backward(&x, &dy, COLUMNS, as_given(&given), true);
        let got = |of: &Tensor<2>, turn: bool| {
            let gradient = of.grad(&gradients).unwrap();
            let gradient = if turn { gradient.transpose() } else { gradient };
            gradient.into_data().try_to_vec::<f32>().unwrap()
        };
        assert_eq!(got(&input, true), want.x);
        assert_eq!(got(&scales, false), want.scales);
        assert_eq!(got(&zeros, false), want.zeros);
    }
}

/// Every packed weight is the fake-quantized one, so that a matmul with packed weights has the exact
/// result of the fake-quantized layer, and the layer's own result is within the bound of a matmul.
#[test]
fn packed_weights_are_the_fake_quantized_ones() {
    let device = Device::flex();
    for fake in formats() {
        let (w, given, name) = (values(7), given(fake), fake.format().to_string());
        let packed = fold(&w, ROWS, COLUMNS, fake, as_given(&given)).unwrap();
        let y = fake.forward(&w, COLUMNS, as_given(&given));
        assert_eq!(dequantize(&packed), y, "{name}");

        let inputs: Vec<f32> = values(8)[..3 * COLUMNS].to_vec();
        let tensor = |values: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let (x, w) = (tensor(&inputs, [3, COLUMNS]), tensor(&y, [ROWS, COLUMNS]));
        let got = x.matmul(w.transpose()).into_data().try_to_vec::<f32>().unwrap();
        let case = MatmulCase {
            x: &inputs,
            m: 3,
            weights: &packed,
            bias: None,
            output: OutputType::F32,
            zero_folded: false,
        };
        for (expected, got) in matmul(&case).unwrap().iter().zip(got) {
            assert!(check(expected, got).passes(), "{name}: {got}, not {expected:?}");
        }
    }
}

#[test]
fn sparse_weights_are_packed_with_their_mask() {
    for name in ["2:4+int4-g8-asym", "2:4+int8-channel-f16s"] {
        let fake = format(name);
        let mut w = values(9);
        for (at, w) in w.iter_mut().enumerate() {
            *w = if at % COLUMNS % 4 < 2 { 0.0 } else { *w };
        }
        let given = given(fake);
        let packed = fold(&w, ROWS, COLUMNS, fake, as_given(&given)).unwrap();
        assert_eq!(dequantize(&packed), fake.forward(&w, COLUMNS, as_given(&given)), "{name}");
        let error = fold(&values(1), ROWS, COLUMNS, fake, as_given(&given)).unwrap_err();
        assert!(matches!(error, FoldError::NotTwoFour { row: 0, .. }), "{error}");
    }
}

#[test]
fn weights_that_are_not_finite_are_errors() {
    let fake = format("int4-channel");
    let mut w = values(1);
    let given = given(fake);
    w[COLUMNS + 2] = f32::NAN;
    let error = fold(&w, ROWS, COLUMNS, fake, as_given(&given)).unwrap_err();
    assert!(matches!(error, FoldError::NonFinite { row: 1, column: 2, .. }), "{error}");
}

#[test]
fn other_formats_are_refused() {
    for name in ["f32", "nf4-g64", "q4_k", "mxfp4", "int4-g32-min", "int4-g32-perm"] {
        let error = FakeFormat::new(name.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("int2-channel"), "{error}");
    }
}
