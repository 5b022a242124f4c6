use super::row::{Weight, decode_row};
use super::{ETA, Expected, OutputType, ReferenceError, UNIT, room_for};
use crate::format::{PackedWeights, WeightFormat};

/// All weights, dense `[N, K]`, exact; pruned ones are 0.
///
/// # Errors
/// [`ReferenceError::TooLarge`] where the result does not fit in memory.
pub fn dequantize_f64(weights: &PackedWeights) -> Result<Vec<f64>, ReferenceError> {
    let (n, k) = (weights.n(), weights.k());
    let mut out = room_for(n, k)?;
    out.resize(n * k, 0.0);
    let mut kept = Vec::new();
    // Rows without columns are no work, however many.
    for row in 0..if k == 0 { 0 } else { n } {
        decode_row(weights, row, &mut kept)?;
        for weight in &kept {
            out[row * k + weight.column] = weight.value;
        }
    }
    Ok(out)
}

/// What a dequantizing kernel may write, `[N, K]`: see [`gather`].
///
/// # Errors
/// As [`gather`].
pub fn dequantize(
    weights: &PackedWeights,
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    rows(weights, weights.n(), 0..weights.n(), output)
}

/// What a kernel that looks up rows of `W` (an embedding) may write, `[rows.len(), K]`:
/// `(c−z)·s` within one f32 rounding, u·|w|. That product is never flushed, since scales
/// are normal and the difference is an integer. A weight equal to its zero point, or
/// pruned, must be exactly 0. Floats are copied: only an f32 subnormal may become 0.
/// f16 outputs add their rounding.
///
/// # Errors
/// [`ReferenceError`]: a row that is not below N, non-finite weights.
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

/// The bound of one weight in f32.
fn rounding(format: WeightFormat, weight: &Weight) -> f64 {
    let magnitude = weight.value.abs();
    if format.code_type().is_integer() {
        UNIT * magnitude
    } else if magnitude < ETA {
        magnitude
    } else {
        0.0
    }
}
