use super::bound::{Sum, scalings, small_numbers};
use super::matmul::{flushes, is_folded};
use super::row::decode_row;
use super::{Expected, OutputType, ReferenceError, check_finite, check_length, room_for};
use crate::format::PackedWeights;

/// Returns the expected outputs `[hot.len(), N]` of a matmul with one-hot X: row m of X is 0 except
/// for `hot[m] = (column, x)`.
///
/// Each output is then a single product w·x, and its bound is that of the roundings of this
/// product: two, or one for floats, and two more if the zero point is folded and the sums of the
/// group are added separately. With a bias, one addition follows. Sums of zeros are exact, so a
/// weight that is 0 or pruned must give exactly 0 (if the zero point is not folded and there is no
/// bias).
///
/// If the zero point is folded, the bound is still relative to `s(|c| + |z|)|x|`.
///
/// # Errors
/// Returns a [`ReferenceError`] if a column is not less than K, the bias has the wrong length, or a
/// value is not finite.
pub fn one_hot(
    weights: &PackedWeights,
    hot: &[(usize, f32)],
    bias: Option<&[f32]>,
    output: OutputType,
    zero_folded: bool,
) -> Result<Vec<Expected>, ReferenceError> {
    let (n, k) = (weights.n(), weights.k());
    let zero_folded = is_folded(weights, zero_folded);
    for (row, &(column, x)) in hot.iter().enumerate() {
        if column >= k {
            return Err(ReferenceError::OutOfRange { role: "column", index: column, limit: k });
        }
        if !x.is_finite() {
            return Err(ReferenceError::NonFinite { role: "x", row, column });
        }
    }
    if let Some(bias) = bias {
        check_length("bias", n, bias.len())?;
        check_finite("bias", n, bias)?;
    }
    let mut out = room_for(hot.len(), n)?;
    out.resize(hot.len() * n, Expected { value: 0.0, bound: 0.0, overflow: false });
    let mut kept = Vec::new();
    for row in 0..n {
        decode_row(weights, row, &mut kept)?;
        let bias = bias.map(|bias| f64::from(bias[row]));
        for (m, &(column, x)) in hot.iter().enumerate() {
            let x = f64::from(x);
            // The bias, if there is one, may be flushed when it is read and when it is written.
            let mut sum = Sum {
                terms: 0,
                scalings: scalings(&weights.format()),
                bias: bias.is_some(),
                folded_groups: zero_folded.then_some(1),
                magnitude: 0.0,
                flushes: if bias.is_some() { 2.0 } else { 0.0 },
            };
            let mut value = bias.unwrap_or(0.0);
            if let Ok(at) = kept.binary_search_by_key(&column, |weight| weight.column) {
                let weight = &kept[at];
                if !weight.value.is_finite() {
                    return Err(ReferenceError::NonFinite { role: "weights", row, column });
                }
                value += weight.value * x;
                let magnitude = if zero_folded { weight.folded } else { weight.value.abs() };
                if magnitude != 0.0 && x != 0.0 {
                    sum.terms = 1;
                    sum.magnitude = magnitude * x.abs() + bias.unwrap_or(0.0).abs();
                    sum.flushes += flushes(weight, zero_folded) + 3.0;
                    sum.flushes += (1.0 + small_numbers(weight)) * x.abs();
                }
            }
            out[m * n + row] = Expected::new(value, sum.bound()?, output);
        }
    }
    Ok(out)
}
