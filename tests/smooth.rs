//! Tests of activation smoothing: the network computes the same function, and int8 loses less.

use lowbit::compress::calibrate::{Observer, Statistics};
use lowbit::compress::smooth::{self, Linear, Options, SmoothError};
use lowbit::compress::{dequantize, quantize};
use lowbit::format::{Granularity, WeightFormat};

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut random = crate::common::Random(seed);
    (0..count).map(|_| (0..4).map(|_| random.float()).sum()).collect()
}

/// Returns rows of `k` bell-shaped channels, of which some are 50 to 100 times larger.
fn outliers(m: usize, k: usize) -> Vec<f32> {
    let large = |channel: usize| match channel % 43 {
        5 => 50.0,
        12 => 100.0,
        40 => 75.0,
        _ => 1.0,
    };
    random(m * k, 1).iter().enumerate().map(|(i, x)| x * large(i % k)).collect()
}

fn product(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// Returns `‖Y − Ŷ‖ / ‖Y‖` in W8A8, computed in f64 from codes and scales.
fn w8a8_error(x: &[f32], w: &[f32], k: usize, factors: &[f32]) -> f64 {
    let n = w.len() / k;
    let scaled: Vec<f32> = w.iter().zip(factors.iter().cycle()).map(|(w, s)| w * s).collect();
    let int8 = WeightFormat::int8(Granularity::Channel);
    let restored = dequantize(&quantize(&scaled, n, k, &int8).unwrap());
    let smoothed: Vec<f32> = x.iter().zip(factors.iter().cycle()).map(|(x, s)| x / s).collect();
    let absmax = smoothed.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let scale = absmax / 127.0;
    let code = |x: &f32| f64::from((x / scale).round_ties_even()) * f64::from(scale);
    let codes: Vec<f64> = smoothed.iter().map(code).collect();
    let exact = product(&wide(x), &wide(w), k);
    let made = product(&codes, &wide(&restored), k);
    let error: f64 = exact.iter().zip(&made).map(|(a, b)| (a - b).powi(2)).sum();
    (error / exact.iter().map(|y| y * y).sum::<f64>()).sqrt()
}

#[test]
fn planted_outliers_lose_less() {
    let (m, k, n) = (64, 128, 48);
    let (x, w) = (outliers(m, k), random(n * k, 2));
    for powers_of_two in [false, true] {
        let options = Options { powers_of_two, ..Options::default() };
        let linears = [Linear { weights: &w, rows: n }];
        let smoothing = smooth::search(&x, k, &linears, &options).unwrap();
        let (before, after) = (smoothing.error_before(), smoothing.error());
        assert!(before > 3.0 * after, "{before} {after}");
        // Both errors are as stated. Dequantized weights are rounded once, to 2⁻²⁴.
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-6;
        assert!(near(before, w8a8_error(&x, &w, k, &vec![1.0; k])));
        assert!(near(after, w8a8_error(&x, &w, k, smoothing.factors())));
        // The result is the best of the tried values, and all were tried.
        assert_eq!(smoothing.tried().len(), 21);
        let least = smoothing.tried().iter().map(|(_, error)| *error).fold(before, f64::min);
        assert_eq!(after, least);
        let (alpha, _) = smoothing.tried().iter().find(|(_, error)| *error == least).unwrap();
        assert_eq!(smoothing.alpha(), Some(*alpha));
        // The range is that of the smoothed rows, up to the rounding of |x|/s.
        let smoothed = x.iter().zip(smoothing.factors().iter().cycle()).map(|(x, s)| (x / s).abs());
        assert_eq!(smoothing.range().max(), smoothed.fold(0.0, f32::max));
        let power = |s: &f32| s.to_bits() & 0x7f_ffff == 0;
        assert_eq!(smoothing.factors().iter().all(power), powers_of_two);
    }
    // With a single channel there is nothing to gain, because its factor cancels in both scales.
    let smoothing =
        smooth::search(&x, 1, &[Linear { weights: &[0.5], rows: 1 }], &Options::default());
    let smoothing = smoothing.unwrap();
    assert!(smoothing.error() <= smoothing.error_before());
}

#[test]
fn factors_are_their_formula() {
    let x = [3.0, 0.001, 1e30, f32::MAX, 1.5, 1.0];
    let w = [0.02, 7.0, 1e-30, f32::MAX, 1.5, 2.0];
    for alpha in [0.0, 0.05, 0.5, 0.75, 1.0] {
        let factors = smooth::factors(&x, &w, alpha, false).unwrap();
        for ((s, x), w) in factors.iter().zip(x).zip(w) {
            let want = f64::from(x).powf(alpha) / f64::from(w).powf(1.0 - alpha);
            let want = want.clamp(64f64.exp2().recip(), 64f64.exp2());
            // The factors are rounded once to f32. exp2 and log2 are far more accurate than that.
            assert!((f64::from(*s) - want).abs() <= want / (1 << 24) as f64 * 1.001, "{s} {want}");
        }
        for (s, t) in factors.iter().zip(smooth::factors(&x, &w, alpha, true).unwrap()) {
            // The result differs by at most half a doubling, and s was rounded.
            let off = (f64::from(t) / f64::from(*s)).log2().abs();
            assert!(t.to_bits() & 0x7f_ffff == 0 && off <= 0.5 + 1e-6, "{s} {t}");
        }
    }
    // Channels of zeros in X or in W keep the factor 1.
    let tiny = f32::MIN_POSITIVE / 2.0;
    let dead = smooth::factors(&[0.0, 5.0, tiny, 3.0], &[2.0, 0.0, 1.0, tiny], 0.5, false);
    assert_eq!(dead.unwrap(), [1.0; 4]);
}

/// A norm and three linear layers that share its output.
struct Block {
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    weights: Vec<Vec<f32>>,
}

const K: usize = 48;

impl Block {
    fn new() -> Self {
        let large = |i: usize| if i % 11 == 3 { 60.0 } else { 1.0 };
        let gamma = random(K, 7).iter().enumerate().map(|(i, g)| g * large(i)).collect();
        let weights = (0..3).map(|i| random(16 * K, 10 + i)).collect();
        Self { x: random(20 * K, 5), gamma, beta: random(K, 8), weights }
    }

    /// Returns the output of the norm in f32, as an engine has it.
    fn normed(&self) -> Vec<f32> {
        let row = |x: &[f32]| -> Vec<f32> {
            let mean = x.iter().sum::<f32>() / K as f32;
            let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / K as f32;
            let unit = x.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt());
            unit.zip(&self.gamma).zip(&self.beta).map(|((n, g), b)| n * g + b).collect()
        };
        self.x.chunks(K).flat_map(row).collect()
    }

    fn run(&self) -> Vec<f32> {
        let x = self.normed();
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        let y = |w: &Vec<f32>| -> Vec<f32> {
            x.chunks(K).flat_map(|x| w.chunks(K).map(move |w| dot(x, w))).collect()
        };
        self.weights.iter().flat_map(y).collect()
    }

    fn smoothed(&self, powers_of_two: bool) -> Self {
        let linears: Vec<_> =
            self.weights.iter().map(|weights| Linear { weights, rows: 16 }).collect();
        let options = Options { powers_of_two, ..Options::default() };
        let smoothing = smooth::search(&self.normed(), K, &linears, &options).unwrap();
        let s = smoothing.factors();
        assert!(smoothing.alpha().is_some() && s.iter().any(|s| *s > 2.0));
        let (mut gamma, mut beta) = (self.gamma.clone(), self.beta.clone());
        smooth::fold_into_norm(&mut gamma, Some(&mut beta), s).unwrap();
        let weights = self.weights.iter().map(|w| smooth::scale_columns(w, s).unwrap());
        Self { x: self.x.clone(), gamma, beta, weights: weights.collect() }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_network_stays_what_it_is() {
    let block = Block::new();
    // Powers of two change no product.
    assert_eq!(bits(&block.smoothed(true).run()), bits(&block.run()));
    // Other factors are rounded in W' and in γ' and β'. Each product changes by at most (1 + δ)² −
    // 1 with δ = 2⁻²⁴. The unit rows of the norm are the same, and everything else is in f64, which
    // adds K + 4 roundings of 2⁻⁵³ on either side.
    let other = block.smoothed(false);
    assert_ne!(bits(&other.gamma), bits(&block.gamma));
    let units = Block { gamma: vec![1.0; K], beta: vec![0.0; K], ..Block::new() }.normed();
    let delta = f64::from(f32::EPSILON) / 2.0;
    let slack = (1.0 + delta).powi(2) - 1.0 + 2.0 * (K + 4) as f64 * f64::EPSILON;
    for (w, v) in block.weights.iter().zip(&other.weights) {
        for unit in units.chunks(K) {
            for (w, v) in w.chunks(K).zip(v.chunks(K)) {
                let (mut a, mut b, mut bound) = (0.0, 0.0, 0.0);
                for j in 0..K {
                    let n = f64::from(unit[j]);
                    let f = f64::from;
                    a += f(w[j]) * (n * f(block.gamma[j]) + f(block.beta[j]));
                    b += f(v[j]) * (n * f(other.gamma[j]) + f(other.beta[j]));
                    let size = (n * f(block.gamma[j])).abs() + f(block.beta[j]).abs();
                    bound += f(w[j]).abs() * size;
                }
                assert!((a - b).abs() <= slack * bound, "{a} {b} {bound}");
            }
        }
    }
}

#[test]
fn a_linear_before_takes_the_factors_too() {
    let (k, columns, m) = (32, 24, 10);
    let large = |i: usize| if i / columns % 9 == 2 { 70.0 } else { 1.0 };
    let up: Vec<f32> =
        random(k * columns, 3).iter().enumerate().map(|(i, w)| w * large(i)).collect();
    let (bias, down, x) = (random(k, 4), random(8 * k, 5), random(m * columns, 6));
    let linear = |x: &[f32], w: &[f32], bias: &[f32], k: usize| -> Vec<f32> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        let row = |x| w.chunks(k).zip(bias).map(move |(w, b)| dot(x, w) + b).collect::<Vec<_>>();
        x.chunks(k).flat_map(row).collect()
    };
    let hidden = |w: &[f32], bias: &[f32]| -> Vec<f32> {
        linear(&x, w, bias, columns).iter().map(|x| x.max(0.0)).collect()
    };
    let before = linear(&hidden(&up, &bias), &down, &[0.0; 8], k);
    let options = Options { powers_of_two: true, ..Options::default() };
    let linears = [Linear { weights: &down, rows: 8 }];
    let smoothing = smooth::search(&hidden(&up, &bias), k, &linears, &options).unwrap();
    let s = smoothing.factors();
    assert!(s.iter().any(|s| *s != 1.0));
    let (mut folded, mut folded_bias) = (up.clone(), bias.clone());
    smooth::fold_into_rows(&mut folded, Some(&mut folded_bias), columns, s).unwrap();
    let scaled = smooth::scale_columns(&down, s).unwrap();
    let after = linear(&hidden(&folded, &folded_bias), &scaled, &[0.0; 8], k);
    assert_eq!(bits(&after), bits(&before));
}

#[test]
fn calibrated_ranges_are_kept_to() {
    let (k, n) = (16, 8);
    let (x, w) = (random(10 * k, 1), random(n * k, 2));
    let mut statistics = Statistics::new(Observer::channels("layer", k)).unwrap();
    statistics.observe(&x).unwrap();
    statistics.observe(&x.iter().map(|x| 4.0 * x).collect::<Vec<_>>()).unwrap();
    let absmax = statistics.absmax().unwrap();
    let options = Options { absmax: Some(absmax.clone()), ..Options::default() };
    let linears = [Linear { weights: &w, rows: n }];
    let smoothing = smooth::search(&x, k, &linears, &options).unwrap();
    let want = smooth::smoothed_absmax(&absmax, smoothing.factors()).unwrap();
    assert_eq!(smoothing.range().max(), want);
    let own = smooth::search(&x, k, &linears, &Options::default()).unwrap();
    assert!(smoothing.error_before() > own.error_before());
}

#[test]
fn what_cannot_be_is_refused() {
    let w = [1.0, 2.0];
    let linears = [Linear { weights: &w, rows: 1 }];
    let search = |x: &[f32], k, linears: &[Linear<'_>], alphas: &[f64]| {
        let options = Options { alphas: alphas.to_vec(), ..Options::default() };
        smooth::search(x, k, linears, &options).unwrap_err()
    };
    assert_eq!(search(&[1.0; 2], 2, &[], &[0.5]), SmoothError::Nothing("linears"));
    assert_eq!(search(&[], 2, &linears, &[0.5]), SmoothError::Nothing("rows of X"));
    assert_eq!(search(&[1.0], 0, &linears, &[0.5]), SmoothError::Nothing("channels"));
    assert!(matches!(search(&[1.0; 3], 2, &linears, &[0.5]), SmoothError::WrongLength { .. }));
    assert!(matches!(search(&[1.0; 3], 3, &linears, &[0.5]), SmoothError::WrongLength { .. }));
    for alpha in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(search(&[1.0; 2], 2, &linears, &[alpha]), SmoothError::Alpha(_)));
    }
    assert!(matches!(search(&[1.0; 2], 2, &linears, &[]), SmoothError::Alpha(_)));
    let bad = search(&[1.0, 2.0, f32::INFINITY, 0.0], 2, &linears, &[0.5]);
    let (what, value) = ("X", f32::INFINITY);
    assert_eq!(bad, SmoothError::NonFinite { what, row: 1, col: 0, value });
    let nan = [Linear { weights: &[1.0, f32::NAN], rows: 1 }];
    assert!(matches!(
        search(&[1.0; 2], 2, &nan, &[0.5]),
        SmoothError::NonFinite { what: "W", row: 0, col: 1, .. }
    ));
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 2.0] {
        let error = smooth::scale_columns(&w, &[1.0, factor]).unwrap_err();
        assert!(matches!(error, SmoothError::Factor { channel: 1, .. }), "{factor}");
    }
    assert!(smooth::scale_columns(&w, &[1.0; 3]).is_err());
    assert!(smooth::scale_columns(&[f32::MAX, 1.0], &[2.0, 1.0]).is_err());
    assert!(smooth::factors(&[1.0], &[1.0, 2.0], 0.5, false).is_err());
    assert!(smooth::factors(&[f32::NAN], &[1.0], 0.5, false).is_err());
    // If smoothing fails, neither γ nor β changes.
    let (mut gamma, mut beta) = ([1.0, 2.0], [1.0, f32::MAX]);
    assert!(smooth::fold_into_norm(&mut gamma, Some(&mut beta), &[0.5, 0.5]).is_err());
    assert_eq!((gamma, beta), ([1.0, 2.0], [1.0, f32::MAX]));
    assert!(smooth::fold_into_rows(&mut [1.0; 5], None, 2, &[0.5, 0.5]).is_err());
    // If everything is zero, there is nothing to smooth and nothing is lost.
    let zeros = [Linear { weights: &[0.0; 4], rows: 2 }];
    let dead = smooth::search(&[0.0; 6], 2, &zeros, &Options::default()).unwrap();
    assert_eq!((dead.alpha(), dead.error(), dead.factors()), (None, 0.0, &[1.0, 1.0][..]));
}
