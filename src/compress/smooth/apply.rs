//! Applies factors: to columns of weights, to what produces X, and to ranges of X.

use super::{SmoothError, check_factors, check_length, check_matrix};
use crate::compress::calibrate::ActivationRange;

/// Returns the largest `|X_j| / s_j`, from which a symmetric static scale of the smoothed X follows.
///
/// # Errors
/// Returns [`SmoothError`] if the lengths differ, a factor is not a positive normal number, or a
/// quotient is not finite.
pub fn smoothed_absmax(x_absmax: &[f32], factors: &[f32]) -> Result<f32, SmoothError> {
    check_length("max|X|", factors.len(), x_absmax.len())?;
    check_factors(factors)?;
    let mut most = 0.0f32;
    for (col, (&x, &s)) in x_absmax.iter().zip(factors).enumerate() {
        let value = x / s;
        if !value.is_finite() {
            return Err(SmoothError::NonFinite { what: "max|X| / s", row: 0, col, value });
        }
        most = most.max(value.abs());
    }
    Ok(most)
}

/// Returns the range that all channels of the smoothed X cover together, given the range of each
/// channel before smoothing. An asymmetric static scale of the smoothed X follows from it.
///
/// # Errors
/// Returns the same errors as [`smoothed_absmax`].
pub fn smoothed_range(
    channels: &[ActivationRange],
    factors: &[f32],
) -> Result<ActivationRange, SmoothError> {
    let absmax: Vec<f32> = channels.iter().map(ActivationRange::absmax).collect();
    smoothed_absmax(&absmax, factors)?;
    let (mut min, mut max) = (0.0f32, 0.0f32);
    for (range, s) in channels.iter().zip(factors) {
        (min, max) = (min.min(range.min() / s), max.max(range.max() / s));
    }
    Ok(ActivationRange::of(min, max))
}

/// Returns `W' = W · diag(s)`: the row-major weights of a linear layer whose X is divided by `s`.
///
/// # Errors
/// Returns [`SmoothError`] if `weights` does not consist of whole rows, if a factor is not a
/// positive normal number, or if a product is not finite.
pub fn scale_columns(weights: &[f32], factors: &[f32]) -> Result<Vec<f32>, SmoothError> {
    let k = check_factors(factors)?;
    check_matrix("W", weights, weights.len() / k.max(1), k)?;
    let scaled: Vec<f32> = weights
        .chunks_exact(k.max(1))
        .flat_map(|row| row.iter().zip(factors))
        .map(|(w, s)| w * s)
        .collect();
    check_matrix("W · s", &scaled, scaled.len() / k.max(1), k)?;
    Ok(scaled)
}

/// Folds `1/s` into the LayerNorm or RMSNorm that produces X: `γ_j` becomes `γ_j / s_j`, and `β_j`,
/// if there is a bias, becomes `β_j / s_j`. Everything else that reads the norm's output must be
/// smoothed by the same factors.
///
/// # Errors
/// Returns [`SmoothError`] if the lengths differ, a factor is not a positive normal number, or a
/// quotient is not finite. Neither slice is changed in that case.
pub fn fold_into_norm(
    weight: &mut [f32],
    bias: Option<&mut [f32]>,
    factors: &[f32],
) -> Result<(), SmoothError> {
    fold(("the norm's weight", weight), ("the norm's bias", bias), 1, factors)
}

/// Folds `1/s` into the linear layer `[K, columns]` whose output is X: row j of its weights and
/// element j of its bias are divided by `s_j` (Nagel, van Baalen, Blankevoort and Welling 2019,
/// "Data-Free Quantization Through Weight Equalization and Bias Correction").
///
/// The operation between the two layers must commute with a positive factor for each channel. This
/// holds if there is none, and for a ReLU or a product with another branch.
///
/// # Errors
/// Returns the same errors as [`fold_into_norm`].
pub fn fold_into_rows(
    weights: &mut [f32],
    bias: Option<&mut [f32]>,
    columns: usize,
    factors: &[f32],
) -> Result<(), SmoothError> {
    fold(("the linear's weights", weights), ("the linear's bias", bias), columns, factors)
}

fn fold(
    (weights_name, weights): (&'static str, &mut [f32]),
    (bias_name, bias): (&'static str, Option<&mut [f32]>),
    columns: usize,
    factors: &[f32],
) -> Result<(), SmoothError> {
    check_factors(factors)?;
    let divided = divide(weights_name, weights, columns, factors)?;
    if let Some(bias) = bias {
        bias.copy_from_slice(&divide(bias_name, bias, 1, factors)?);
    }
    weights.copy_from_slice(&divided);
    Ok(())
}

/// Divides row j by factor j. This divides instead of multiplying with `1/s`, because the quotient is
/// rounded once and `1/s` would be rounded first.
fn divide(
    what: &'static str,
    matrix: &[f32],
    columns: usize,
    factors: &[f32],
) -> Result<Vec<f32>, SmoothError> {
    check_matrix(what, matrix, factors.len(), columns)?;
    let rows = matrix.chunks_exact(columns.max(1)).zip(factors);
    let divided: Vec<f32> = rows.flat_map(|(row, s)| row.iter().map(move |w| w / s)).collect();
    check_matrix(what, &divided, factors.len(), columns)?;
    Ok(divided)
}
