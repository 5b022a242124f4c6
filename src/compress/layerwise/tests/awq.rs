use super::{Random, gram_of, inputs};
use crate::compress::layerwise::{
    Gram, LayerwiseError, Options, awq, clip_search, gptq, output_error,
};
use crate::compress::smooth::scale_columns;
use crate::compress::{Scheme, dequantize, quantize_scheme};

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}

/// Inputs of which some columns are much larger than others.
fn outliers(rows: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut x = inputs(rows, k, seed);
    for (at, x) in x.iter_mut().enumerate() {
        *x *= if at % k % 11 == 4 { 20.0 } else { 1.0 };
    }
    x
}

fn mean_abs(x: &[f32], k: usize) -> Vec<f64> {
    let rows = (x.len() / k) as f64;
    let column = |j: usize| x.iter().skip(j).step_by(k).map(|x| f64::from(x.abs())).sum::<f64>();
    (0..k).map(|j| column(j) / rows).collect()
}

/// The error of rounding with factors, in the other order: X is divided by them.
fn error_with(x: &[f32], k: usize, w: &[f32], factors: &[f32], scheme: &Scheme) -> f64 {
    let (n, divided) = (w.len() / k, x.iter().zip(factors.iter().cycle()).map(|(x, s)| x / s));
    let gram = gram_of(&divided.collect::<Vec<_>>(), k);
    let scaled = scale_columns(w, factors).unwrap();
    let kept = dequantize(&quantize_scheme(&scaled, n, k, scheme).unwrap());
    output_error(&gram, &scaled, &kept, n).unwrap()
}

#[test]
fn factors_help_where_there_are_outliers() {
    let k = 96;
    let x = outliers(300, k, 1);
    let (gram, mean_abs) = (gram_of(&x, k), mean_abs(&x, k));
    let mut random = Random(2);
    let (one, two) = (random.normals(20 * k), random.normals(5 * k));
    for name in ["int4-g32-asym", "int3-channel", "nf4", "q4_0", "nvfp4"] {
        let scheme = scheme(name);
        let got = awq(&[(&one, 20), (&two, 5)], k, &gram, &mean_abs, &scheme, 20).unwrap();
        assert!(got.alpha > 0.0 && got.error < 0.75 * got.plain_error, "{name}: {got:?}");
        let want: f64 =
            [&one, &two].map(|w| error_with(&x, k, w, &got.factors, &scheme)).iter().sum();
        // Factors round products and inputs to f32.
        assert!((want / got.error - 1.0).abs() < 1e-3, "{name}: {want} {}", got.error);
        let plain: f64 =
            [&one, &two].map(|w| error_with(&x, k, w, &vec![1.0; k], &scheme)).iter().sum();
        assert!((plain / got.plain_error - 1.0).abs() < 1e-9);
        // Every step of the grid is no better.
        for step in 0..20 {
            let alpha = f64::from(step) / 20.0;
            let powers: Vec<f64> = mean_abs.iter().map(|x| x.powf(alpha)).collect();
            let most = powers.iter().copied().fold(0.0, f64::max);
            let least = powers.iter().copied().fold(f64::INFINITY, f64::min);
            let factors: Vec<f32> =
                powers.iter().map(|s| (s / (most * least).sqrt()) as f32).collect();
            let error: f64 =
                [&one, &two].map(|w| error_with(&x, k, w, &factors, &scheme)).iter().sum();
            assert!(error > got.error * (1.0 - 1e-3), "{name} {alpha}");
            if alpha == got.alpha {
                let far = |(a, b): (&f32, &f32)| (a / b - 1.0).abs() > 1e-6;
                assert!(!factors.iter().zip(&got.factors).any(far));
            }
        }
    }
}

#[test]
fn plain_rounding_is_one_of_the_choices() {
    let (n, k) = (6, 16);
    let x = inputs(100, k, 3);
    let w = Random(4).normals(n * k);
    let (gram, mean_abs) = (gram_of(&x, k), mean_abs(&x, k));
    let one = awq(&[(&w, n)], k, &gram, &mean_abs, &scheme("int4-g16"), 1).unwrap();
    assert_eq!((one.alpha, one.factors, one.error), (0.0, vec![1.0; k], one.plain_error));
    // f32 has no error to lower.
    let exact = awq(&[(&w, n)], k, &gram, &mean_abs, &scheme("f32"), 20).unwrap();
    assert_eq!((exact.alpha, exact.error), (0.0, 0.0));
    let none = awq(&[], k, &gram, &mean_abs, &scheme("int4-g16"), 20).unwrap();
    assert_eq!((none.alpha, none.error), (0.0, 0.0));
    // Columns that are always 0 keep their weights as they are.
    let mut dead = x;
    dead.iter_mut().step_by(k).for_each(|x| *x = 0.0);
    let mean_abs = self::mean_abs(&dead, k);
    assert_eq!(mean_abs[0], 0.0);
    let got =
        awq(&[(&w, n)], k, &gram_of(&dead, k), &mean_abs, &scheme("int3-channel"), 20).unwrap();
    assert_eq!(got.factors[0], 1.0);
    assert!(got.factors.iter().all(|s| s.is_normal()));
}

#[test]
fn clipping_by_outputs() {
    let (n, k) = (24, 192);
    let gram = gram_of(&outliers(400, k, 5), k);
    let mut w = Random(6).normals(n * k);
    w.iter_mut().step_by(53).for_each(|x| *x *= 3.0);
    for name in ["int3-g64-asym", "int3-channel", "int4-g32", "nf4", "int3-g64-min", "q4_0"] {
        let scheme = scheme(name);
        let got = clip_search(&w, n, k, &gram, &scheme).unwrap();
        assert!(got.error < 0.95 * got.plain_error, "{name}: {} {}", got.error, got.plain_error);
        let kept = dequantize(&quantize_scheme(&got.weights, n, k, &scheme).unwrap());
        assert_eq!(output_error(&gram, &w, &kept, n), Ok(got.error));
        // Each weight is as it was or at the limit of its group, which is one of ten.
        let unit = scheme.format().geometry(n, k).unwrap().group_size;
        for (before, after) in w.chunks(k).zip(got.weights.chunks(k)) {
            for (before, after) in before.chunks(unit).zip(after.chunks(unit)) {
                let most = |x: &[f32]| x.iter().fold(0f32, |most, x| most.max(x.abs()));
                let part = most(after) / most(before);
                assert!(part > 0.5499 && (part * 20.0 - (part * 20.0).round()).abs() < 1e-4);
                let limited = |(a, b): (&f32, &f32)| a.clamp(-most(after), most(after)) == *b;
                assert!(before.iter().zip(after).all(limited));
            }
        }
    }
    for name in ["int4-tensor", "nvfp4", "f32"] {
        let refused = clip_search(&w, n, k, &gram, &scheme(name));
        assert!(matches!(refused, Err(LayerwiseError::Unsupported { .. })), "{name}");
    }
}

/// Rounding is not better than AWQ, and AWQ with GPTQ not worse than GPTQ on its factors' inputs.
#[test]
fn methods_compose() {
    let (n, k) = (16, 64);
    let x = outliers(200, k, 7);
    let (gram, mean_abs) = (gram_of(&x, k), mean_abs(&x, k));
    let w = Random(8).normals(n * k);
    let int3 = scheme("int3-g32-asym");
    let found = awq(&[(&w, n)], k, &gram, &mean_abs, &int3, 20).unwrap();
    let scaled = scale_columns(&w, &found.factors).unwrap();
    let divided: Vec<f32> =
        x.iter().zip(found.factors.iter().cycle()).map(|(x, s)| x / s).collect();
    let gram = gram_of(&divided, k);
    let clipped = clip_search(&scaled, n, k, &gram, &int3).unwrap();
    assert!(clipped.error <= clipped.plain_error);
    assert!((clipped.plain_error / found.error - 1.0).abs() < 1e-3);
    let both = gptq(&scaled, n, k, &gram, &int3, &Options::default()).unwrap();
    assert!(both.error < found.error && found.error < found.plain_error);
}

#[test]
fn what_is_refused() {
    let (n, k) = (2, 4);
    let gram = gram_of(&inputs(9, k, 1), k);
    let (w, mean, int4) = ([0.5; 8], [1.0; 4], scheme("int4-channel"));
    let run = |w: &[f32], gram: &Gram, mean: &[f64], grid| {
        awq(&[(w, n)], k, gram, mean, &int4, grid).map(drop)
    };
    assert!(run(&w, &gram, &mean, 20).is_ok());
    assert!(matches!(run(&w[1..], &gram, &mean, 20), Err(LayerwiseError::WrongLength { .. })));
    assert!(matches!(run(&w, &gram, &mean[1..], 20), Err(LayerwiseError::WrongLength { .. })));
    assert!(matches!(run(&w, &gram, &mean, 0), Err(LayerwiseError::Option { .. })));
    assert!(matches!(run(&w, &Gram::new(4).unwrap(), &mean, 20), Err(LayerwiseError::Nothing(_))));
    for bad in [f64::NAN, -1.0, f64::INFINITY] {
        let mean = [1.0, bad, 1.0, 1.0];
        assert!(matches!(run(&w, &gram, &mean, 20), Err(LayerwiseError::NonFinite { .. })));
    }
    let nan = [f32::NAN; 8];
    assert!(matches!(run(&nan, &gram, &mean, 20), Err(LayerwiseError::NonFinite { .. })));
    assert!(clip_search(&nan, n, k, &gram, &int4).is_err());
    assert!(clip_search(&w, n, k, &Gram::new(4).unwrap(), &int4).is_err());
    let empty = clip_search(&[], 0, k, &gram, &int4).unwrap();
    assert_eq!((empty.error, empty.weights.len()), (0.0, 0));
}
