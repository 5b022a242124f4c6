//! How to make compressed weights on the host: prune, quantize, compress.
//!
//! Every function here is the definition that the kernels are held to bit for bit. A
//! weight's code and value are
//!
//! ```text
//! c = clamp(rne(w / s) + z)        ŵ = (c − z) · s
//! ```
//!
//! with `rne` round half to even and `w / s` one correctly rounded f32 division. Over a
//! group, its range widened to hold 0, `hi = max(w, 0)` and `lo = max(−w, 0)`:
//!
//! | | scale `s` | zero point `z` |
//! |---|---|---|
//! | symmetric | max(lo, hi) / (32767, 127 or 7) | fixed |
//! | asymmetric | (hi + lo) / (255 or 15) | clamp(rne(lo / s)), counted from the lowest code |
//!
//! f16 scales are rounded first; zero points and codes follow from the rounded scale.
//! A group of zeros gets `s = 1`. f32 subnormals count as 0, since GPUs may flush them;
//! only f32 elements, which are copied, keep their bits.
//!
//! Why a division: `w · (1/s)` rounds twice and differs from it near ties.
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
mod prune;
mod quantize;
mod range;
mod rows;
pub mod smooth;

pub use error::CompressError;
pub use prune::{compress24, expand24, prune_magnitude};
pub use quantize::{dequantize, quantize, quantize_masked};

/// The value that counts for `x`: GPUs may flush f32 subnormals, so both sides do.
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

fn check_length(need: usize, have: usize) -> Result<(), CompressError> {
    if need == have { Ok(()) } else { Err(CompressError::WrongLength { need, have }) }
}

/// Checks the length and that every weight is finite. `n · k` must not overflow: have
/// made a geometry of it.
fn check_weights(w: &[f32], n: usize, k: usize) -> Result<(), CompressError> {
    check_length(n * k, w.len())?;
    match w.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(CompressError::NonFinite { row: at / k, col: at % k, value: w[at] }),
    }
}

/// How far `restored` is from `original`: `‖a − b‖₂ / ‖a‖₂`, summed in f64.
///
/// 0 where both are all zeros (or empty), infinite where only `original` is, NaN where
/// either holds a NaN or their lengths differ.
pub fn relative_error(original: &[f32], restored: &[f32]) -> f64 {
    if original.len() != restored.len() {
        return f64::NAN;
    }
    // f64 holds the square of every f32, the smallest subnormal's too.
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
