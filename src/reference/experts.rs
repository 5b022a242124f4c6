//! Choosing experts and adding up what they made.

use super::bound::{ETA, UNIT, gamma};
use super::{Expected, OutputType};

/// Returns the experts of a row of logits, the `top` largest first, with their expected weights. Of equal
/// logits the first is chosen first; a NaN is below all numbers.
///
/// A weight is w = e/S with e = exp(d), d = v − largest, and S the sum of e over the chosen experts or over
/// all. d is rounded once, and WGSL's exp is accurate to 3 + 2|d| ulp, so that ê = e(1 + r) with
///
/// ```text
/// |r| ≤ (1 + (3 + 2|d|)u) · exp(u|d|) − 1
/// ```
///
/// The sum of n of them adds γ_{n−1}, so that Ŝ = S(1 + s), |s| ≤ (1 + Σ e·r / S)(1 + γ_{n−1}) − 1, plus
/// n·η for those that are flushed; S ≥ 1, because the largest has e = 1. WGSL's division is accurate to
/// 2.5 ulp. e, as it is written and read, and the quotient may be flushed: 3η.
pub fn route(logits: &[f32], top: usize, weights_of_all: bool) -> Vec<(usize, Expected)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let value = |expert: usize| {
        let v = f64::from(logits[expert]);
        if v.is_nan() { None } else { Some(v) }
    };
    // Stable, and `None` is less than all numbers.
    order.sort_by(|&a, &b| value(b).partial_cmp(&value(a)).unwrap_or(std::cmp::Ordering::Equal));
    let largest = order.first().map_or(0.0, |&first| f64::from(logits[first]));
    let share = |expert: usize| {
        let d = f64::from(logits[expert]) - largest;
        let error = (1.0 + (3.0 + 2.0 * d.abs()) * UNIT) * (UNIT * d.abs()).exp() - 1.0;
        // Where exp is 0, the error of d does not matter.
        let e = d.exp();
        (e, if e < ETA * ETA { 0.0 } else { error })
    };
    let summed = if weights_of_all { &order[..] } else { &order[..top] };
    let (mut sum, mut errors) = (0.0, 0.0);
    for (e, error) in summed.iter().map(|&expert| share(expert)) {
        sum += e;
        errors += e * error;
    }
    let n = summed.len();
    let of_sum = (1.0 + errors / sum) * (1.0 + gamma(n.saturating_sub(1))) - 1.0 + n as f64 * ETA;
    order[..top]
        .iter()
        .map(|&expert| {
            let (e, error) = share(expert);
            let weight = e / sum;
            let relative = (1.0 + error) / (1.0 - of_sum) * (1.0 + 2.5 * UNIT) - 1.0;
            let own = (n + 4) as f64 * f64::EPSILON;
            let bound = weight * (relative + own) + 3.0 * ETA;
            (expert, Expected::new(weight, bound, OutputType::F32))
        })
        .collect()
}

/// Returns the expected `old + Σ weight · x`, written as `output`, from pairs of a weight and an x.
///
/// T products that are not 0 take a rounding each, and they and `old` go through at most T additions: γ_{T+1}
/// of Σ|weight·x| + |old|. In units of η: a flushed weight costs |x|, a flushed x |weight|, the product
/// and its addition 1 each, and `old` 1 where it is read and 1 where the sum is written.
pub fn combine(terms: &[(f32, f32)], old: Option<f32>, output: OutputType) -> Expected {
    let old_value = old.map_or(0.0, f64::from);
    let (mut value, mut magnitude, mut flushes, mut count) = (old_value, old_value.abs(), 0.0, 0);
    for (weight, x) in terms.iter().map(|&(weight, x)| (f64::from(weight), f64::from(x))) {
        if weight * x == 0.0 {
            continue;
        }
        value += weight * x;
        magnitude += (weight * x).abs();
        flushes += weight.abs() + x.abs() + 2.0;
        count += 1;
    }
    if old_value != 0.0 {
        flushes += 2.0;
    }
    let roundings = if count == 0 { 0 } else { count + 1 };
    let own = (count + 4) as f64 * f64::EPSILON;
    let bound = (gamma(roundings) + own) * magnitude + ETA * flushes * (1.0 + gamma(roundings));
    Expected::new(value, bound, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_by_hand() {
        let logits = [1.0, 3.0, f32::NAN, 3.0, -2.0];
        let experts =
            |top, all| route(&logits, top, all).into_iter().map(|(e, _)| e).collect::<Vec<_>>();
        assert_eq!(experts(5, false), [1, 3, 0, 4, 2]);
        let logits = [1.0, 3.0, 3.0];
        let weights: Vec<f64> = route(&logits, 2, false).iter().map(|(_, w)| w.value).collect();
        assert_eq!(weights, [0.5, 0.5]);
        let all = route(&logits, 1, true);
        let want = 1.0 / (2.0 + (-2f64).exp());
        assert!((all[0].1.value - want).abs() < 1e-15);
        assert!(all[0].1.bound < 20.0 * UNIT);
        let sum = combine(&[(0.5, 3.0), (0.25, -2.0)], Some(10.0), OutputType::F32);
        assert_eq!(sum.value, 11.0);
        assert!(sum.bound >= 3.0 * 12.0 * UNIT && sum.bound < 3.1 * 12.0 * UNIT, "{}", sum.bound);
        assert_eq!(combine(&[(0.0, 3.0)], None, OutputType::F16).bound, 0.0);
    }
}
