//! RMSNorm and LayerNorm of rows in f64, and the error bounds of kernels that compute them.

use super::bound::{ETA, UNIT, gamma};
use super::{Expected, OutputType, ReferenceError, check_length, room_for};

/// One normalization of rows.
#[derive(Clone, Copy, Debug)]
pub struct NormCase<'a> {
    /// X, `[m, k]`.
    pub x: &'a [f32],
    /// The residual that is added to X, `[m, k]`, if there is one.
    pub residual: Option<&'a [f32]>,
    /// The number of columns.
    pub k: usize,
    /// Whether the mean is subtracted (LayerNorm) or not (RMSNorm).
    pub centered: bool,
    /// ε. It must be a positive normal number.
    pub epsilon: f32,
    /// The weight, `[k]`, or `None` for ones.
    pub weight: Option<&'a [f32]>,
    /// The number that is added to each weight.
    pub offset: f32,
    /// The bias, `[k]`, if there is one.
    pub bias: Option<&'a [f32]>,
    /// The number of partial sums that the sum of a row is divided into. Kernels may have more.
    pub sums: usize,
}

impl NormCase<'_> {
    /// Checks the lengths and returns the number of rows.
    fn check(&self) -> Result<usize, ReferenceError> {
        let m = self.x.len() / self.k.max(1);
        check_length("x", m * self.k, self.x.len())?;
        if let Some(residual) = self.residual {
            check_length("residual", m * self.k, residual.len())?;
        }
        for (role, vector) in [("weight", self.weight), ("bias", self.bias)] {
            vector.map_or(Ok(()), |vector| check_length(role, self.k, vector.len()))?;
        }
        Ok(m)
    }

    /// Returns the additions that a term of a sum goes through: those of its partial sum, and those of
    /// a tree over the partial sums.
    fn additions(&self) -> usize {
        let sums = self.sums.max(1);
        self.k.div_ceil(sums) + sums.next_power_of_two().ilog2() as usize
    }
}

/// Returns the expected results `[m, k]`. A row with a NaN or an infinity, or one whose mean square
/// exceeds f32, has NaN as its value: every result of a correct kernel is NaN.
///
/// With the model of `bound.rs` (u = 2⁻²³ for each operation, and η where a result may be flushed),
/// let v = x + r, μ the mean, d = v − μ, q = Σd²/k + ε, and y = d·q^(−½)·(w + o) + b. Without a
/// residual v is x, and for RMSNorm μ = 0.
///
/// **Sums.** A term goes through n = ⌈k/sums⌉ + log₂(sums) additions: those of its partial sum, and a
/// tree over the partial sums. The division by k is a product with 1/k, which is itself rounded.
///
/// **v.** The sum of x and r is rounded once: |v̂ − v| ≤ e_v = u|v| + η, or 0 without a residual. A
/// subnormal x may count as 0, which is another η.
///
/// **μ.** |μ̂ − μ| ≤ e_μ = γ_{n+3}·Σ|v|/k + 4η: an addition for v, n additions, the product and 1/k. For
/// RMSNorm it is 0.
///
/// **d.** One more rounding: |d̂ − d| ≤ e = (e_v + e_μ)(1 + u) + u|d| + 2η.
///
/// **q.** Σd̂² differs from Σd² by at most D = Σ(2|d|e + e²). Its terms are not negative, so that rounding
/// is relative to their sum: a square, n additions, the product with 1/k and 1/k itself, and the
/// addition of ε make n + 4 roundings. Products below η may be flushed: at most η a term and 2η after.
/// So |q̂ − q| ≤ Δ = D/k + γ_{n+4}·(q + D/k) + 3η. Also q̂ ≥ ε(1 − u), since squares are not negative.
///
/// **q^(−½).** WGSL's inverseSqrt is accurate to 2 ulp, so that the result is between (1 − 2u)/√(q + Δ)
/// and (1 + 2u)/√max(q − Δ, ε(1 − u)). Let ρ be the larger distance of these from s = q^(−½).
///
/// **y.** With t = w + o, rounded once (|t̂ − t| ≤ u|t| + η, and 0 if o is 0 or there is no weight), the
/// two products and the sum are rounded once each. In whatever order the products are taken,
///
/// ```text
/// |ŷ − y| ≤ ((|d| + e)(s + ρ)(|t| + e_t)(1 + u)² − |d|·s·|t|)(1 + u) + u·(|y| + |b|)
///           + η·((s + ρ)|t| + |t| + |d|·s + 4)
/// ```
///
/// where the last line has what is lost if d, a product, the bias or the result is flushed.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn normalize(case: &NormCase, output: OutputType) -> Result<Vec<Expected>, ReferenceError> {
    let m = case.check()?;
    let mut out = room_for(m, case.k)?;
    for row in 0..m {
        let at = row * case.k..(row + 1) * case.k;
        let residual = case.residual.and_then(|residual| residual.get(at.clone()));
        let x = case.x.get(at).unwrap_or_default();
        let v: Vec<f64> = match residual {
            None => x.iter().map(|&x| x.into()).collect(),
            Some(r) => x.iter().zip(r).map(|(&x, &r)| f64::from(x) + f64::from(r)).collect(),
        };
        normalize_row(case, &v, output, &mut out);
    }
    Ok(out)
}

/// Returns the expected sums of X and a residual, written as `output`: x + r within u|x + r|, and η if
/// an input or the sum may be flushed.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn residual_sum(
    x: &[f32],
    residual: &[f32],
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    check_length("residual", x.len(), residual.len())?;
    let sum = |(&x, &r): (&f32, &f32)| {
        let sum = f64::from(x) + f64::from(r);
        let small = [f64::from(x), f64::from(r), sum].iter().any(|v| *v != 0.0 && v.abs() < ETA);
        let bound = UNIT * sum.abs() + if small { 2.0 * ETA } else { 0.0 };
        Expected::new(sum, bound, output)
    };
    Ok(x.iter().zip(residual).map(sum).collect())
}

fn normalize_row(case: &NormCase, v: &[f64], output: OutputType, out: &mut Vec<Expected>) {
    let (k, n) = (case.k as f64, case.additions());
    let mean = if case.centered { v.iter().sum::<f64>() / k } else { 0.0 };
    let square = v.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / k;
    let epsilon = f64::from(case.epsilon);
    let q = square + epsilon;
    if !q.is_finite() || square * k > f64::from(f32::MAX) {
        let none = Expected { value: f64::NAN, bound: 0.0, overflow: false };
        out.extend(v.iter().map(|_| none));
        return;
    }
    let e_v = |v: f64| if case.residual.is_some() { UNIT * v.abs() + 2.0 * ETA } else { ETA };
    let sizes = v.iter().map(|v| v.abs()).sum::<f64>();
    let e_mean = if case.centered { gamma(n + 3) * sizes / k + 4.0 * ETA } else { 0.0 };
    let e = |v: f64| (e_v(v) + e_mean) * (1.0 + UNIT) + UNIT * (v - mean).abs() + 2.0 * ETA;
    // Nothing is subtracted from x alone, so that it is exact, and flushed at most.
    let exact = !case.centered && case.residual.is_none();
    let e = |v: f64| if exact { ETA } else { e(v) };
    let moved = v.iter().map(|&v| 2.0 * (v - mean).abs() * e(v) + e(v) * e(v)).sum::<f64>() / k;
    let delta = moved + gamma(n + 4) * (q + moved) + 3.0 * ETA;
    let inverse = 1.0 / q.sqrt();
    let least = (q - delta).max(epsilon * (1.0 - UNIT));
    let high = (1.0 + 2.0 * UNIT) / least.sqrt();
    let low = (1.0 - 2.0 * UNIT) / (q + delta).sqrt();
    let rho = (high - inverse).max(inverse - low);
    for (column, &v) in v.iter().enumerate() {
        let at = |vector: Option<&[f32]>| vector.and_then(|vector| vector.get(column).copied());
        let offset = f64::from(case.offset);
        let (factor, e_factor) = match at(case.weight) {
            None => (1.0, 0.0),
            Some(w) if case.offset == 0.0 => (f64::from(w), 0.0),
            Some(w) => {
                let factor = f64::from(w) + offset;
                (factor, UNIT * factor.abs() + ETA)
            }
        };
        let bias = f64::from(at(case.bias).unwrap_or(0.0));
        let d = v - mean;
        let product = d.abs() * inverse * factor.abs();
        let value = d * inverse * factor + bias;
        let reach = (d.abs() + e(v)) * (inverse + rho) * (factor.abs() + e_factor);
        let off = (reach * (1.0 + UNIT) * (1.0 + UNIT) - product) * (1.0 + UNIT);
        let last = if case.bias.is_some() { UNIT * (value.abs() + bias.abs()) } else { 0.0 };
        let flushed = (inverse + rho) * factor.abs() + factor.abs() + d.abs() * inverse + 4.0;
        out.push(Expected::new(value, off + last + ETA * flushed, output));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case<'a>(x: &'a [f32], k: usize) -> NormCase<'a> {
        NormCase {
            x,
            residual: None,
            k,
            centered: false,
            epsilon: 1e-6,
            weight: None,
            offset: 0.0,
            bias: None,
            sums: 4,
        }
    }

    fn values(case: &NormCase) -> Vec<f64> {
        normalize(case, OutputType::F32).unwrap().iter().map(|e| e.value).collect()
    }

    #[test]
    fn norms_by_hand() {
        let x = [3.0, 4.0, 3.0, 4.0];
        let rms = (12.5f64 + f64::from(1e-6f32)).sqrt();
        assert_eq!(values(&case(&x, 4)), [3.0 / rms, 4.0 / rms, 3.0 / rms, 4.0 / rms]);
        let weighted = NormCase { weight: Some(&[1.0, -2.0]), offset: 1.0, ..case(&x, 2) };
        assert_eq!(values(&weighted)[..2], [6.0 * (1.0 / rms), -4.0 * (1.0 / rms)]);
        let layer = NormCase { centered: true, bias: Some(&[10.0; 4]), ..case(&x, 4) };
        let deviation = (0.25f64 + f64::from(1e-6f32)).sqrt();
        assert_eq!(values(&layer)[..2], [-0.5 / deviation + 10.0, 0.5 / deviation + 10.0]);
        let residual = NormCase { residual: Some(&[-3.0, 0.0, 1.0, 0.0]), ..case(&x, 4) };
        assert_eq!(values(&residual)[0], 0.0);
        for bad in [f32::NAN, f32::INFINITY, 3e38] {
            let rows = [3.0, 4.0, bad, 4.0];
            let got = values(&case(&rows, 2));
            assert!(got[0].is_finite() && got[2].is_nan() && got[3].is_nan());
        }
        let bad = NormCase { bias: Some(&[1.0]), ..case(&x, 4) };
        let error = ReferenceError::WrongLength { role: "bias", need: 4, have: 1 };
        assert_eq!(normalize(&bad, OutputType::F32), Err(error));
    }

    /// A bound is far below a rounding for each of the columns: their sums have a depth of 24.
    #[test]
    fn bounds_are_narrow() {
        let x: Vec<f32> = (0..4096).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for centered in [false, true] {
            let case = NormCase { centered, sums: 256, ..case(&x, 4096) };
            for expected in normalize(&case, OutputType::F32).unwrap() {
                assert!(expected.bound < 128.0 * UNIT, "{expected:?}");
            }
        }
    }
}
