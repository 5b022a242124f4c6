//! Functions that make compressed weights on the host: they prune, quantize and pack.
//!
//! Kernels that make weights agree with these functions bit for bit. A weight's code and value are
//!
//! ```text
//! c = clamp(rne(w / s) + z)        ŵ = (c − z) · s
//! ```
//!
//! where `rne` rounds to the nearest integer, with ties to even, and `w / s` is one correctly
//! rounded f32 division. The range of a group is extended to include 0, so that it is given by two
//! magnitudes over its weights: `hi = max(w, 0)` and `lo = max(−w, 0)`.
//!
//! | | scale `s` | zero point `z` |
//! |---|---|---|
//! | symmetric | max(lo, hi) / (32767, 127, 31, 15, 7, 3 or 1) | fixed |
//! | asymmetric | (hi + lo) / (2ᵇ − 1) for codes of b bits | clamp(rne(lo / s)), counted from the lowest code |
//!
//! f16 scales are rounded first, and zero points and codes are then computed with the rounded
//! scale. Where the greatest code times the quotient would be infinite, the scale is the next lower
//! f32, so that finite weights stay finite. A group of zeros gets `s = 1`. f32 subnormals count as 0,
//! because GPUs may flush them; only f32 weights, which are copied, keep their bits.
//!
//! Other formats follow the same pattern, with a scale that maps the greatest magnitude to the greatest
//! number of their codes:
//!
//! | | scale `s` | code |
//! |---|---|---|
//! | minima | (max − min) / (2ᵇ − 1) | clamp(rne((w − m) / s)) with m = min − low · s, both as stored |
//! | e2m1, e4m3, e5m2 | absmax / (6, 448 or 57344) | the nearest float to w / s, ties to even, at most the greatest |
//! | the same with e8m0 scales | 2^(⌊log₂ absmax⌋ − (2, 8 or 15)) | the same |
//! | symmetric integers with e8m0 scales (MXINT8) | 2^(⌊log₂ absmax⌋ − ⌊log₂ of the greatest number⌋) | clamp(rne(w / s)) |
//! | nvfp4 | tensor: absmax / 2688; group: e4m3(absmax / 6 / tensor), at least 2⁻⁹ | the same |
//! | nf4, fp4 | absmax | the nearest entry to w · (1 / s); a tie goes to the lower one, of fp4 to the one nearer to 0 |
//!
//! [`quantize_scheme`] makes ggml's block types by ggml's rules as well ([`Scheme`]). What has no rule
//! is refused with [`CompressError::NoRule`].
//!
//! The formula divides because `w · (1/s)` rounds twice, which gives other codes near ties.
//!
//! ```
//! use lowbit::compress::{dequantize, relative_error};
//! use lowbit::format::{Granularity, PackedWeights, WeightFormat};
//! let w = [0.5, -1.0, 0.25, 0.75, -0.5, 1.0];
//! let int4 = WeightFormat::int4(Granularity::group(2)?).asymmetric();
//! let packed = PackedWeights::quantize(&w, 2, 3, &int4)?;
//! assert!(relative_error(&w, &dequantize(&packed)) < 0.05);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod calibrate;
mod error;
#[cfg(feature = "layerwise")]
pub mod layerwise;
mod prune;
mod quantize;
mod range;
mod rows;
mod rules;
pub mod smooth;

pub use error::CompressError;
pub use prune::{compress24, expand24, prune_magnitude};
pub use quantize::{dequantize, quantize, quantize_masked, quantize_scheme};
pub use rules::{Rule, Scheme};

/// Returns `x`, or 0 if it is subnormal. GPUs may flush f32 subnormals, so the host does as well.
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

fn check_length(need: usize, have: usize) -> Result<(), CompressError> {
    if need == have { Ok(()) } else { Err(CompressError::WrongLength { need, have }) }
}

/// Checks that `w` has `n · k` weights and that all of them are finite. `n · k` must not overflow,
/// which a [`Geometry`](crate::format::Geometry) of that shape ensures.
fn check_weights(w: &[f32], n: usize, k: usize) -> Result<(), CompressError> {
    check_length(n * k, w.len())?;
    match w.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(CompressError::NonFinite { row: at / k, col: at % k, value: w[at] }),
    }
}

/// Returns the relative error of `restored`: `‖a − b‖₂ / ‖a‖₂`, summed in f64.
///
/// The result is 0 if both are all zeros (or empty), infinite if only `original` is all zeros, and
/// NaN if either contains a NaN or their lengths differ.
pub fn relative_error(original: &[f32], restored: &[f32]) -> f64 {
    if original.len() != restored.len() {
        return f64::NAN;
    }
    // f64 represents the square of every f32, even of the smallest subnormal.
    let (mut error, mut norm) = (0.0, 0.0);
    for (&a, &b) in original.iter().zip(restored) {
        let (a, b) = (f64::from(a), f64::from(b));
        error += (a - b) * (a - b);
        norm += a * a;
    }
    if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_error_by_hand() {
        assert_eq!(relative_error(&[3.0, -4.0], &[3.0, -4.0]), 0.0);
        assert_eq!(relative_error(&[3.0, -4.0], &[3.0, 1.0]), 1.0);
        assert_eq!(relative_error(&[f32::MAX, 0.0], &[0.0, 0.0]), 1.0);
        assert_eq!(relative_error(&[f32::from_bits(2)], &[f32::from_bits(1)]), 0.5);
        assert_eq!(relative_error(&[], &[]), 0.0);
        assert_eq!(relative_error(&[0.0], &[-0.0]), 0.0);
        assert_eq!(relative_error(&[0.0], &[1.0]), f64::INFINITY);
        assert!(relative_error(&[0.0], &[f32::NAN]).is_nan());
        assert!(relative_error(&[f32::NAN], &[1.0]).is_nan());
        assert!(relative_error(&[1.0], &[1.0, 0.0]).is_nan());
    }

    #[test]
    fn subnormals_flush() {
        assert_eq!(flushed(f32::MIN_POSITIVE), f32::MIN_POSITIVE);
        assert_eq!(flushed(-f32::MIN_POSITIVE), -f32::MIN_POSITIVE);
        for x in [f32::MIN_POSITIVE.next_down(), -f32::MIN_POSITIVE.next_down(), -0.0] {
            assert_eq!(flushed(x).to_bits(), 0);
        }
    }
}
