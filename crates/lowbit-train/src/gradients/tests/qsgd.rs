use super::{normal, rounding};
use crate::gradients::{Method, Qsgd};

const TRIALS: u32 = 2000;

/// For a number of a bucket: the distance between two levels, and the part of it above the lower one.
fn spread(x: f32, norm: f64, levels: f64) -> (f64, f64) {
    let place = f64::from(x).abs() / norm * levels;
    (norm / levels, place - place.floor())
}

/// Each number is rounded up with probability f and down with 1 − f by steps of Δ, so that its variance is
/// Δ²f(1 − f), that of its squared error Δ⁴(f(1 − f)(1 − 3f + 3f²) − f²(1 − f)²), and means of T trials
/// deviate by a √T-th of it. Six deviations are exceeded with a probability below 10⁻⁸. A restored number
/// is off by three roundings (2⁻²² of it), and the probability by 2⁻²⁴ Δ.
#[test]
fn unbiased_with_the_variance_of_the_formula() {
    for bits in [2, 4, 8] {
        let qsgd = Qsgd { bits, bucket: 100 };
        let (method, v) = (Method::Qsgd(qsgd), normal(250, u64::from(bits)));
        let levels = f64::from(qsgd.levels());
        let mut sums = vec![0.0f64; v.len()];
        let mut errors = vec![0.0f64; v.len()];
        for step in 0..TRIALS {
            let message = method.encode(&v, step, &rounding()).unwrap();
            for (at, x) in method.decode(&message, v.len()).unwrap().into_iter().enumerate() {
                sums[at] += f64::from(x);
                errors[at] += (f64::from(x) - f64::from(v[at])).powi(2);
            }
        }
        let trials = f64::from(TRIALS);
        for (bucket, from) in v.chunks(100).zip((0..).step_by(100)) {
            let square: f64 = bucket.iter().map(|&x| f64::from(x).powi(2)).sum();
            let (mut variance, mut deviation, mut measured) = (0.0, 0.0, 0.0);
            for (at, &x) in bucket.iter().enumerate() {
                let (step, f) = spread(x, square.sqrt(), levels);
                let p = f * (1.0 - f);
                let off = (sums[from + at] / trials - f64::from(x)).abs();
                let allowed = 6.0 * step * (p / trials).sqrt();
                let rounding = f64::from(x).abs() / 4_194_304.0 + step / 16_777_216.0;
                assert!(off <= allowed + rounding, "{bits} bits, number {at}: {off} > {allowed}");
                variance += step * step * p;
                deviation += step.powi(4) * (p * (1.0 - 3.0 * p) - p * p);
                measured += errors[from + at] / trials;
            }
            let allowed = 6.0 * (deviation / trials).sqrt() + 1e-5 * variance;
            assert!((measured - variance).abs() <= allowed, "{bits}: {measured}, not {variance}");
            // Lemma 3.1.
            let d = bucket.len() as f64;
            let bound = (d / (levels * levels)).min(d.sqrt() / levels) * square;
            assert!(variance <= bound, "{bits} bits: {variance} > {bound}");
        }
    }
}

/// Zeros stay zeros; numbers that are whole levels stay as they are; the greatest magnitudes survive.
#[test]
fn exact_numbers_are_kept() {
    let method = Method::Qsgd(Qsgd { bits: 4, bucket: 4 });
    let round = |v: &[f32]| {
        let message = method.encode(v, 5, &rounding()).unwrap();
        method.decode(&message, v.len()).unwrap()
    };
    for v in [vec![0.0; 9], vec![0.0, -3.0, 0.0, 0.0, 7.5], vec![-0.0, f32::MAX], vec![1e-40; 3]] {
        let want: Vec<f32> = v.iter().map(|&x| if x.abs() < 1e-37 { 0.0 } else { x }).collect();
        assert_eq!(round(&v), want);
    }
    // ‖v‖ overflows f32, so the greatest f32 stands for it.
    assert_eq!(round(&[f32::MAX, f32::MIN]), [f32::MAX, f32::MIN]);
    let tiny = f32::MIN_POSITIVE;
    assert!(round(&[tiny, -tiny, tiny]).iter().all(|x| x.is_finite()));
}

#[test]
fn a_rerun_repeats_and_another_step_does_not() {
    let (method, v) = (Method::Qsgd(Qsgd::new(4)), normal(600, 1));
    let encode = |step| method.encode(&v, step, &rounding()).unwrap();
    assert_eq!(encode(3), encode(3));
    assert_ne!(encode(3), encode(4));
}
