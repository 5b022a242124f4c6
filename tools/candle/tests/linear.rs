//! candle beside itself: layers of lowbit against candle's own matmul with the dequantized weights.
//!
//! The tolerance is derived, not chosen. With exact weights w and y = Σxw + b: lowbit is within B
//! of y, the oracle's bound. candle has the weights rounded to f32, and sums K products and the bias
//! in f32, to nearest (u = 2⁻²⁴) and in some order: K + 2 roundings a term at most. Products and
//! sums below the least normal number η may lose that much each, so
//!
//! ```text
//! |lowbit − candle| ≤ B + γ_{K+2}·(Σ|x||w| + |b|) + (2K + 2)·η,   γ_R = R·u / (1 − R·u)
//! ```
//!
//! With f16 X, candle has X widened and gives f32; B then has the rounding of Y to f16.

use candle_core::{DType, Device, Module, Tensor};
use lowbit::format::PackedWeights;
use lowbit::host::Host;
use lowbit::reference::{self, MatmulCase, OutputType};
use lowbit_candle::{Dense, FeedForward, Function, Linear};
use std::sync::Arc;

const FORMATS: [&str; 9] = [
    "f32",
    "f16",
    "int16-channel",
    "int8-channel",
    "int8-g32-asym-f16s",
    "int4-g64-asym",
    "int4-tensor",
    "2:4+int8-channel",
    "2:4+int4-g32-asym",
];

fn host() -> Option<Arc<Host>> {
    match Host::new() {
        Ok(host) => Some(Arc::new(host)),
        Err(error) if std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("LOWBIT_REQUIRE_GPU is set, and {error}"),
    }
}

/// Numbers within ±1, by a linear congruential generator.
fn uniform(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(dims: &[usize], seed: u32) -> Tensor {
    Tensor::from_vec(uniform(dims.iter().product(), seed), dims, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A layer, and candle's with the same weights, dequantized by the oracle.
struct Pair {
    ours: Linear,
    theirs: Dense,
    packed: PackedWeights,
    bias: Vec<f32>,
}

fn pair(host: &Arc<Host>, n: usize, k: usize, format: &str, seed: u32) -> Pair {
    let w = uniform(n * k, seed);
    let packed = PackedWeights::quantize(&w, n, k, &format.parse().unwrap()).unwrap();
    let b = tensor(&[n], seed + 1);
    let exact = reference::dequantize_f64(&packed).unwrap();
    let rounded: Vec<f32> = exact.iter().map(|&w| w as f32).collect();
    let theirs =
        Dense { w: Tensor::from_vec(rounded, (n, k), &Device::Cpu).unwrap(), b: b.clone() };
    let ours = Linear::new(host, &packed, Some(&b)).unwrap();
    Pair { ours, theirs, packed, bias: values(&b) }
}

/// γ_{K+2} of the head of this file.
fn gamma(k: usize) -> f64 {
    let ru = (k + 2) as f64 / 16_777_216.0;
    ru / (1.0 - ru)
}

/// How far lowbit and candle may be apart, a number each of Y.
fn tolerance(pair: &Pair, x: &Tensor, output: OutputType) -> Vec<f64> {
    let (n, k) = (pair.packed.n(), pair.packed.k());
    let x = values(x);
    let case = MatmulCase {
        x: &x,
        m: x.len() / k,
        weights: &pair.packed,
        bias: Some(&pair.bias),
        output,
        zero_folded: false,
    };
    let w = reference::dequantize_f64(&pair.packed).unwrap();
    let (gamma, eta) = (gamma(k), f64::from(f32::MIN_POSITIVE));
    let expected = reference::matmul(&case).unwrap();
    expected
        .iter()
        .enumerate()
        .map(|(at, expected)| {
            let (x, w) = (&x[at / n * k..][..k], &w[at % n * k..][..k]);
            let products = x.iter().zip(w).map(|(&x, &w)| (f64::from(x) * w).abs());
            let magnitude = products.sum::<f64>() + f64::from(pair.bias[at % n]).abs();
            expected.bound + gamma * magnitude + (2 * k + 2) as f64 * eta
        })
        .collect()
}

/// The worst difference as a share of its tolerance.
fn compare(ours: &Tensor, theirs: &Tensor, tolerance: &[f64]) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let (ours, theirs) = (values(ours), values(theirs));
    assert_eq!(ours.len(), tolerance.len());
    let share = |((a, b), t): ((&f32, &f32), &f64)| {
        let share = (f64::from(*a) - f64::from(*b)).abs() / t;
        assert!(share <= 1.0, "{a} and {b}: {share} times what may be");
        share
    };
    ours.iter().zip(&theirs).zip(tolerance).map(share).fold(0.0, f64::max)
}

#[test]
fn a_layer_is_candles_with_dequantized_weights() {
    let Some(host) = host() else { return };
    for format in FORMATS {
        for (n, k) in [(96, 128), (33, 70)] {
            let pair = pair(&host, n, k, format, 1);
            for dims in [&[k][..], &[1, k], &[7, k], &[2, 3, k], &[150, k], &[2, 2, 5, k]] {
                let x = tensor(dims, 5);
                let worst = compare(
                    &pair.ours.forward(&x).unwrap(),
                    &pair.theirs.forward(&x).unwrap(),
                    &tolerance(&pair, &x, OutputType::F32),
                );
                // A layer that gave candle's own result would be no test.
                assert!(k != 128 || dims[0] != 150 || worst > 0.0);
            }
        }
    }
}

#[test]
fn halves_in_halves_out() {
    let Some(host) = host() else { return };
    for format in FORMATS {
        for (n, k) in [(96, 128), (33, 71)] {
            let pair = pair(&host, n, k, format, 11);
            for m in [1, 5, 70] {
                let x = tensor(&[m, k], 6).to_dtype(DType::F16).unwrap();
                let ours = pair.ours.forward(&x).unwrap();
                assert_eq!(ours.dtype(), DType::F16);
                let theirs = pair.theirs.forward(&x.to_dtype(DType::F32).unwrap()).unwrap();
                compare(&ours, &theirs, &tolerance(&pair, &x, OutputType::F16));
            }
        }
    }
}

/// Transposed, narrowed, broadcast, permuted: the same as after `contiguous`, bit for bit.
#[test]
fn strides_are_followed() {
    let Some(host) = host() else { return };
    let k = 70;
    let layer = pair(&host, 33, k, "int8-channel", 3).ours;
    let whole = tensor(&[4, k + 9, 6], 7);
    let views = [
        whole.transpose(1, 2).unwrap().narrow(2, 5, k).unwrap(),
        tensor(&[9, k], 8).narrow(0, 2, 5).unwrap(),
        tensor(&[k, 8], 8).t().unwrap(),
        tensor(&[1, k], 8).broadcast_as((3, k)).unwrap(),
        tensor(&[3, 2, k], 8).permute((1, 0, 2)).unwrap(),
        tensor(&[0, k], 8),
    ];
    for view in views {
        for dtype in [DType::F32, DType::F16] {
            let view = view.to_dtype(dtype).unwrap();
            let plain = view.contiguous().unwrap();
            let (a, b) = (layer.forward(&view).unwrap(), layer.forward(&plain).unwrap());
            assert_eq!(a.dims()[a.rank() - 1], 33);
            assert_eq!(values(&a), values(&b), "{:?}", view.layout());
        }
    }
    assert!(!whole.transpose(1, 2).unwrap().is_contiguous());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(host) = host() else { return };
    let pair = pair(&host, 33, 70, "int8-channel", 3);
    let refused = |x: &Tensor| pair.ours.forward(x).unwrap_err().to_string();
    let message = refused(&tensor(&[4, 69], 1));
    assert!(message.contains("lowbit-linear") && message.contains("69"), "{message}");
    assert!(refused(&tensor(&[], 1)).contains("lowbit-linear"));
    for dtype in [DType::F64, DType::U8, DType::BF16] {
        let message = refused(&tensor(&[4, 70], 1).to_dtype(dtype).unwrap());
        assert!(message.contains("lowbit-linear"), "{message}");
    }
    // More rows than a plan takes: lowbit's own words come through.
    let narrow = Linear::new(
        &host,
        &PackedWeights::quantize(&[1.0], 1, 1, &"f32".parse().unwrap()).unwrap(),
        None,
    )
    .unwrap();
    let message = narrow.forward(&tensor(&[1 << 20, 1], 1)).unwrap_err().to_string();
    assert!(message.contains("max_m"), "{message}");
    let bias = Linear::new(&host, &pair.packed, Some(&tensor(&[34], 1))).unwrap_err().to_string();
    assert!(bias.contains("bias") && bias.contains("34"), "{bias}");
    let nan = Tensor::full(f32::NAN, (4, 64), &Device::Cpu).unwrap();
    let format = "int8-channel".parse().unwrap();
    let message = Linear::quantize(&host, &nan, None, &format).unwrap_err().to_string();
    assert!(message.contains("row 0, column 0 is not finite"), "{message}");
    // And it goes on.
    assert!(pair.ours.forward(&tensor(&[4, 70], 1)).is_ok());
}

/// Two layers with ReLU, which is exact and spreads no error: what the first may be off reaches an
/// output through Σ|w₂|, and the second adds its own at the X it was given.
#[test]
fn a_network_is_candles_to_the_end() {
    let Some(host) = host() else { return };
    for format in FORMATS {
        let (up, down) = (pair(&host, 160, 96, format, 21), pair(&host, 96, 160, format, 31));
        let x = tensor(&[2, 9, 96], 41);
        let first = tolerance(&up, &x, OutputType::F32);
        let inner = Function::Relu.apply(&up.ours.forward(&x).unwrap()).unwrap();
        let w = reference::dequantize_f64(&down.packed).unwrap();
        let spread = |at: usize| -> f64 {
            let (off, w) = (&first[at / 96 * 160..][..160], &w[at % 96 * 160..][..160]);
            off.iter().zip(w).map(|(off, w)| off * w.abs()).sum()
        };
        // candle's second layer rounds relative to candle's inner values, which are larger by what
        // the first may be off at most: hence 1 + γ.
        let second = tolerance(&down, &inner, OutputType::F32);
        let more = 1.0 + gamma(160);
        let total: Vec<f64> =
            second.iter().enumerate().map(|(at, own)| own + spread(at) * more).collect();
        let theirs = FeedForward { up: up.theirs, function: Function::Relu, down: down.theirs };
        let ours = FeedForward { up: up.ours, function: Function::Relu, down: down.ours };
        compare(&ours.forward(&x).unwrap(), &theirs.forward(&x).unwrap(), &total);
    }
}
