//! What quantized activations must be, from the definition and in f64.

use super::{Judgement, ReferenceError, check_length};
use crate::format::{ActivationFormat, ActivationGranularity, ActivationLayout};

/// Relative errors of a scale: two divisions of 2.5 ulp and a sum of one, of 2⁻²³ each at most.
const SCALE: f64 = 6.0 / (1 << 23) as f64;

/// How far beyond a half a code may be rounded from: `x / s` is at most 255 and goes through a
/// reciprocal and a product, 3.5 ulp together.
pub(super) const TIE: f64 = 0.5 + 255.0 * 4.0 / (1 << 23) as f64;

/// Scales below the smallest normal may be flushed: then s = 1 and codes are of zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// Checks `[m, row_words]` words of quantized activations against the X they come from, row-major
/// `[m, k]`; `given` is the scale and the zero point of a calibration.
///
/// - A scale is within 6 · 2⁻²³ of absmax/127 or (max−min)/255. Where that is not a normal
///   number, s = 1, z = 0 and all codes are 0. Where X is not finite, s is NaN.
/// - A zero point is an integer next to −min/s, less 128.
/// - A code is `clamp(x/s + z)` to within 0.5 + 2⁻¹³, with the s and z stored; any where a NaN
///   meets an s that is given. A subnormal x may count as 0: WGSL lets a device flush it, and
///   SwiftShader does.
/// - Sums are exact; codes past column k are 0.
///
/// # Errors
/// [`ReferenceError::WrongLength`].
pub fn check_activations(
    format: ActivationFormat,
    layout: &ActivationLayout,
    x: &[f32],
    given: Option<(f32, i32)>,
    words: &[u32],
) -> Result<Judgement, ReferenceError> {
    let m = words.len() / layout.row_words.max(1);
    check_length("words", m * layout.row_words, words.len())?;
    check_length("x", m * layout.k, x.len())?;
    let mut judged = Judgement::default();
    if layout.k == 0 {
        return Ok(judged);
    }
    for (row, (x_row, record)) in x.chunks(layout.k).zip(words.chunks(layout.row_words)).enumerate()
    {
        let group_columns = layout.group_blocks * 32;
        for group in 0..layout.groups {
            let first = group * group_columns;
            let columns = first..(first + group_columns).min(layout.k);
            let shared = match format.granularity() {
                ActivationGranularity::Tensor => x,
                _ => &x_row[columns.clone()],
            };
            let scale = f32::from_bits(record[layout.scale_at + group]);
            let zero = record[layout.zero_at + group] as i32;
            match given {
                Some(given) if (scale, zero) == given => {}
                Some(_) => judged.refuse(format!("{scale}, {zero} are not as given")),
                None => check_scheme(format, shared, scale, zero, &mut judged),
            }
            if let Some(fault) = judged.fault.take() {
                judged.fault = Some(format!("row {row}, group {group}: {fault}"));
                return Ok(judged);
            }
            if scale.is_nan() {
                continue;
            }
            // Where the scale was flushed, anything small is a code of zero.
            let dead = given.is_none() && scale == 1.0 && zero == 0 && largest(shared) < 0.5;
            let least = if format.is_symmetric() { -127.0 } else { -128.0 };
            for column in columns {
                let code = code(record, column);
                let real = match dead {
                    true => 0.0,
                    false => f64::from(x_row[column]) / f64::from(scale) + f64::from(zero),
                };
                if real.is_nan() {
                    continue;
                }
                let mut off = (f64::from(code) - real.clamp(least, 127.0)).abs();
                if x_row[column].is_subnormal() {
                    off = off.min((f64::from(code) - f64::from(zero)).abs());
                }
                let fault = || format!("row {row}, column {column}: code {code}, not {real}");
                if !judged.see(off / TIE, fault) {
                    return Ok(judged);
                }
            }
        }
        for block in 0..layout.blocks {
            let codes = (32 * block..32 * block + 32).map(|column| code(record, column));
            let padding = codes.clone().skip((layout.k - 32 * block).min(32)).any(|code| code != 0);
            let sum = record[layout.sum_at + block] as i32;
            if padding || codes.map(i32::from).sum::<i32>() != sum {
                judged.refuse(format!("row {row}, block {block}: sum {sum} or its padding"));
                return Ok(judged);
            }
        }
    }
    Ok(judged)
}

fn code(record: &[u32], column: usize) -> i8 {
    record[column / 4].to_le_bytes()[column % 4] as i8
}

fn largest(x: &[f32]) -> f64 {
    x.iter().fold(0.0, |largest, x| f64::max(largest, f64::from(x.abs())))
}

fn check_scheme(
    format: ActivationFormat,
    x: &[f32],
    scale: f32,
    zero: i32,
    judged: &mut Judgement,
) {
    if x.iter().any(|x| !x.is_finite()) {
        if !scale.is_nan() {
            judged.refuse(format!("scale {scale} hides what is not finite"));
        }
        return;
    }
    let high = x.iter().fold(0.0, |high, &x| f64::max(high, x.into()));
    let low = x.iter().fold(0.0, |low, &x| f64::max(low, -f64::from(x)));
    let want = match format.is_symmetric() {
        true => f64::max(high, low) / 127.0,
        false => (high + low) / 255.0,
    };
    let flushed = (scale, zero) == (1.0, 0);
    // Parts of a sum are flushed apart: each of two may go.
    if want < 2.0 * SMALLEST && flushed {
        return;
    }
    if want < (1.0 - SCALE) * SMALLEST {
        judged.refuse(format!("scale {scale}, zero point {zero} of a range of zeros"));
        return;
    }
    let off = (f64::from(scale) - want).abs() / (SCALE * want);
    if !judged.see(off, || format!("scale {scale}, not {want}")) {
        return;
    }
    let real = match format.is_symmetric() {
        true => 0.0,
        false => (low / f64::from(scale)).clamp(0.0, 255.0) - 128.0,
    };
    let off = (f64::from(zero) - real).abs() / TIE;
    judged.see(off, || format!("zero point {zero}, not {real}"));
}
