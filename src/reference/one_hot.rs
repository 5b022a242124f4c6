use super::bound::Sum;
use super::matmul::flushes;
use super::row::decode_row;
use super::{Expected, OutputType, ReferenceError, check_finite, check_length, room_for};
use crate::format::PackedWeights;

/// The outputs, `[hot.len(), N]`, of a matmul whose X has in row m nothing but
/// `hot[m] = (column, x)`: each weight alone, within the roundings of w·x (two; one for
/// floats; two more where the zero point is folded and the group's sums are added
/// separately) and, with a bias, of one addition. The sums over zeros are exact, so a
/// weight that is 0 or pruned must give exactly 0 (unfolded, without bias).
///
/// Folded, the bound is still relative to `s(|c| + |z|)|x|`.
///
/// # Errors
/// [`ReferenceError`]: a column past K, a bias of the wrong length, non-finite values.
pub fn one_hot(
    weights: &PackedWeights,
    hot: &[(usize, f32)],
    bias: Option<&[f32]>,
    output: OutputType,
    zero_folded: bool,
) -> Result<Vec<Expected>, ReferenceError> {
    let (n, k) = (weights.n(), weights.k());
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
            // Flushes of the bias, if there is one: read, and written.
            let mut sum = Sum {
                terms: 0,
                scaled: weights.format().code_type().is_integer(),
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
                    sum.flushes += flushes(weight, zero_folded) + x.abs() + 3.0;
                }
            }
            out[m * n + row] = Expected::new(value, sum.bound()?, output);
        }
    }
    Ok(out)
}
