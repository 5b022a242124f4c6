use super::bound::{scalings, small_numbers};
use super::row::{Weight, decode_row};
use super::{ETA, Expected, OutputType, ReferenceError, UNIT, gamma, room_for};
use crate::format::{PackedWeights, WeightFormat};

/// Returns all weights as an exact dense `[N, K]` matrix. Pruned weights are 0.
///
/// # Errors
/// Returns [`ReferenceError::TooLarge`] if the result does not fit in memory.
pub fn dequantize_f64(weights: &PackedWeights) -> Result<Vec<f64>, ReferenceError> {
    let (n, k) = (weights.n(), weights.k());
    let mut out = room_for(n, k)?;
    out.resize(n * k, 0.0);
    let mut kept = Vec::new();
    // A file may claim any number of rows without columns, so they must not be looped over.
    for row in 0..if k == 0 { 0 } else { n } {
        decode_row(weights, row, &mut kept)?;
        for weight in &kept {
            out[row * k + weight.column] = weight.value;
        }
    }
    Ok(out)
}

/// Returns the expected results `[N, K]` of a dequantizing kernel; see [`gather`] for the bounds.
///
/// # Errors
/// Returns the errors of [`gather`].
pub fn dequantize(
    weights: &PackedWeights,
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    rows(weights, weights.n(), 0..weights.n(), output)
}

/// Returns the expected results `[rows.len(), K]` of a kernel that looks up rows of `W` (an
/// embedding).
///
/// A result is `(c−z)·s` within one f32 rounding, u·|w|. This product is never flushed, because
/// scales are normal and the difference is an integer. A weight that is pruned or equal to its zero
/// point must be exactly 0. Floats are copied, and only an f32 subnormal may become 0. f16 outputs
/// add their rounding.
///
/// # Errors
/// Returns a [`ReferenceError`] if a row index is not less than N, or if a weight is not finite.
pub fn gather(
    weights: &PackedWeights,
    rows: &[u32],
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    self::rows(weights, rows.len(), rows.iter().map(|&row| row as usize), output)
}

fn rows(
    weights: &PackedWeights,
    count: usize,
    rows: impl Iterator<Item = usize>,
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    let k = weights.k();
    let mut out = room_for(count, k)?;
    let mut kept = Vec::new();
    for row in rows {
        decode_row(weights, row, &mut kept)?;
        let start = out.len();
        out.resize(start + k, Expected { value: 0.0, bound: 0.0, overflow: false });
        for weight in &kept {
            let column = weight.column;
            if !weight.value.is_finite() {
                return Err(ReferenceError::NonFinite { role: "weights", row, column });
            }
            let bound = rounding(weights.format(), weight);
            out[start + column] = Expected::new(weight.value, bound, output);
        }
    }
    Ok(out)
}

/// Returns the bound for one weight in f32.
fn rounding(format: WeightFormat, weight: &Weight) -> f64 {
    let magnitude = weight.value.abs();
    let small = ETA * small_numbers(weight);
    if format.has_minima() {
        // The product, the sum, and for zero points that are floats their product.
        gamma(3) * ((weight.number * weight.scale).abs() + weight.minimum.abs()) + small
    } else if scalings(&format) == 2 {
        gamma(2) * magnitude + small
    } else if format.code_type().has_scales() {
        UNIT * magnitude + small
    } else if magnitude < ETA {
        magnitude
    } else {
        0.0
    }
}
