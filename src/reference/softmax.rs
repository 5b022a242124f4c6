//! The softmax of rows in f64, and the error bounds of kernels that compute it.

use super::bound::{ETA, UNIT, gamma};
use super::{Expected, OutputType, ReferenceError, check_length, room_for};

/// One softmax of rows.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxCase<'a> {
    /// X, `[m, k]`.
    pub x: &'a [f32],
    /// The number of columns.
    pub k: usize,
    /// The scale of X.
    pub scale: f32,
    /// The soft cap, if there is one.
    pub soft_cap: Option<f32>,
    /// The number of partial sums that the sum of a row is divided into. Kernels may have more.
    pub sums: usize,
}

/// Returns the expected results `[m, k]`. A row with a NaN or with +∞, or whose largest z is not finite, has
/// NaN as its value: every result of a correct kernel is NaN.
///
/// With the model of `bound.rs` (u = 2⁻²³), let z = scale · x, or c · tanh(scale · x / c), M the largest z,
/// d = z − M, w = exp(d) and S = Σw.
///
/// **z.** Without a cap it is rounded once, and a subnormal x may count as 0: e_z = u|z| + η·|scale|, and η
/// where the product is flushed. With one, a = x · (scale/c) goes through two roundings. Kernels take
/// tanh |a| = (1 − t)/(1 + t) with t = exp(−2|a|). WGSL's exp is accurate to 3 + 4|a| ulp for that
/// argument, whose own error is 3u·2|a|, so that t is off by t(3 + 10|a|)u. The slope in t is at most
/// 2, t ≤ 1 and t|a| ≤ 0.19: 10u. The difference, the sum and the division are 1u, 1u and 2.5u. The
/// exponent is at least −87, where t is nothing beside 1. So tanh is within 15u, and e_z = 16u·c with the
/// last product, and η(1 + |scale|) as before.
///
/// **d.** The largest computed z is within the largest e_z of M, so that e = 2·max e_z + u|d|.
///
/// **w.** exp is accurate to 3 + 2|d| ulp: ŵ is within w(exp(e + (3 + 2|d| + 2e)u) − 1) = w·r. Below e⁻⁸⁷ it may be
/// 0 or that.
///
/// **y.** A weight goes through n = ⌈k/sums⌉ + log₂(sums) additions: those of its partial sum, and a tree over
/// the partial sums. So Ŝ is within S·R of S, R = Σwr/S + γ_n(1 + Σwr/S). The division is accurate to 2.5u:
///
/// ```text
/// |ŷ − y| ≤ y·((1 + r)(1 + 2.5u)/(1 − R) − 1) + 3η
/// ```
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn softmax(case: &SoftmaxCase, output: OutputType) -> Result<Vec<Expected>, ReferenceError> {
    let m = case.x.len() / case.k.max(1);
    check_length("x", m * case.k, case.x.len())?;
    let mut out = room_for(m, case.k)?;
    for row in case.x.chunks(case.k.max(1)) {
        softmax_row(case, row, output, &mut out);
    }
    Ok(out)
}

fn softmax_row(case: &SoftmaxCase, x: &[f32], output: OutputType, out: &mut Vec<Expected>) {
    let scale = f64::from(case.scale);
    let power = |&x: &f32| {
        let scaled = scale * f64::from(x);
        case.soft_cap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh())
    };
    let z: Vec<f64> = x.iter().map(power).collect();
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let odd = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    if x.iter().any(odd) || !most.is_finite() {
        let none = Expected { value: f64::NAN, bound: 0.0, overflow: false };
        out.extend(x.iter().map(|_| none));
        return;
    }
    let off = match case.soft_cap {
        Some(cap) => 16.0 * UNIT * f64::from(cap) + ETA * (1.0 + scale.abs()),
        None => {
            let finite = z.iter().filter(|z| z.is_finite());
            let size = finite.fold(0.0, |size, z| f64::max(size, z.abs()));
            UNIT * size + ETA * (1.0 + scale.abs())
        }
    };
    let weight = |&z: &f64| {
        let d = z - most;
        let e = 2.0 * off + UNIT * d.abs();
        // Nothing is left of −∞.
        let relative = if d.is_finite() { e + (3.0 + 2.0 * d.abs() + 2.0 * e) * UNIT } else { 0.0 };
        (d.exp(), relative.exp_m1())
    };
    let weights: Vec<(f64, f64)> = z.iter().map(weight).collect();
    let sum: f64 = weights.iter().map(|(w, _)| w).sum();
    let own = weights.iter().map(|(w, r)| w * r).sum::<f64>() / sum;
    let sums = case.sums.max(1);
    let additions = case.k.div_ceil(sums) + sums.next_power_of_two().ilog2() as usize;
    let of_sum = own + gamma(additions) * (1.0 + own);
    for (w, r) in weights {
        let value = w / sum;
        let relative = if of_sum < 1.0 {
            (1.0 + r) * (1.0 + 2.5 * UNIT) / (1.0 - of_sum) - 1.0
        } else {
            f64::INFINITY
        };
        // A result is from 0 to 1 and a little more, whatever its error is.
        let bound = (value * relative).min(1.0 + 4.0 * UNIT);
        out.push(Expected::new(value, bound + 3.0 * ETA, output));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: &[f32], scale: f32, soft_cap: Option<f32>) -> Vec<f64> {
        let case = SoftmaxCase { x, k: x.len(), scale, soft_cap, sums: 4 };
        softmax(&case, OutputType::F32).unwrap().iter().map(|e| e.value).collect()
    }

    #[test]
    fn rows_by_hand() {
        let none = f32::NEG_INFINITY;
        assert_eq!(values(&[3.0, 3.0, none, 3.0, 3.0], 0.5, None), [0.25, 0.25, 0.0, 0.25, 0.25]);
        let got = values(&[0.0, 2.0], 1.0, None);
        assert!(
            (got[1] / got[0] - 2f64.exp()).abs() < 1e-12 && (got[0] + got[1] - 1.0).abs() < 1e-15
        );
        let capped = values(&[0.0, 1000.0, none], 1.0, Some(2.0));
        assert!((capped[1] / capped[0] - 2f64.exp()).abs() < 1e-9, "{capped:?}");
        assert!((capped[2] / capped[0] - (-2f64).exp()).abs() < 1e-9, "{capped:?}");
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(values(&[1.0, bad], 1.0, None).iter().all(|v| v.is_nan()));
        }
        assert!(values(&[none, none], 1.0, None).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn bounds_are_narrow() {
        let x: Vec<f32> = (0..4096).map(|i| (i * 37 % 101) as f32 / 10.0).collect();
        for soft_cap in [None, Some(30.0)] {
            let case = SoftmaxCase { x: &x, k: 4096, scale: 1.0, soft_cap, sums: 256 };
            for expected in softmax(&case, OutputType::F32).unwrap() {
                assert!(expected.bound < 2500.0 * UNIT * expected.value, "{expected:?}");
            }
        }
    }
}
