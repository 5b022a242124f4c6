//! Checks of quantized activations against their definition, in f64.

use super::{Expected, Judgement, OutputType, ReferenceError, check_length};
use crate::format::{ActivationFormat, ActivationGranularity, ActivationLayout};

/// The relative error of a scale: two divisions of 2.5 ulp and a sum of 1 ulp, where an ulp is at
/// most 2⁻²³.
const SCALE: f64 = 6.0 / (1 << 23) as f64;

/// The largest distance between a code and the exact quotient. `x / s` is at most 255, and division may
/// be off by 2.5 ulp; this adds to the half code of rounding. (A matmul multiplies its output with the
/// reciprocal of a static scale, which the host rounds correctly: 0.5 and 1 ulp.)
pub(super) const TIE: f64 = 0.5 + 255.0 * 2.5 / (1 << 23) as f64;

/// Scales below the smallest normal number may be flushed. Then s = 1 and all codes are the zero
/// point.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// Checks `[m, row_words]` words of quantized activations against the row-major `[m, k]` X that
/// they were made from. `static_scale` is the scale and zero point if they come from a calibration.
///
/// - A scale must be within 6 · 2⁻²³ of absmax/127 or (max−min)/255, relatively. If that is not a
///   normal number, then s = 1, z = 0 and all codes must be 0. If X is not finite, s must be NaN.
/// - A zero point must be an integer next to −min/s − 128.
/// - A code must be `clamp(x/s + z)` to within 0.5 + 2⁻¹³, with the stored s and z. If x is NaN and
///   the scale is static, any code is accepted. A subnormal x may count as 0, because WGSL lets a
///   device flush it and SwiftShader does so.
/// - Sums must be exact, and codes past column k must be 0.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`] if `words` is not a whole number of rows or `x` does not
/// have as many rows.
pub fn check_activations(
    format: ActivationFormat,
    layout: &ActivationLayout,
    x: &[f32],
    static_scale: Option<(f32, i32)>,
    words: &[u32],
) -> Result<Judgement, ReferenceError> {
    let expected = |&x: &f32| {
        let value = f64::from(x);
        // Anything from 0 to x.
        let (value, bound) =
            if x.is_subnormal() { (value / 2.0, value.abs() / 2.0) } else { (value, 0.0) };
        Expected::new(value, bound, OutputType::F32)
    };
    let x: Vec<_> = x.iter().map(expected).collect();
    check_quantized(format, layout, &x, static_scale, words)
}

/// Checks `[m, row_words]` words of codes that a kernel makes in the same pass as the floats that they
/// stand for, of which `expected` `[m, k]` has the exact values and the largest errors. What is not
/// finite has NaN as its value.
///
/// What [`check_activations`] states of x holds for some x̂ within the bound of x: the largest
/// magnitude may be any between the largest |x| − bound and the largest |x| + bound, and a code is off
/// by bound/s more.
///
/// # Errors
/// Returns the errors of [`check_activations`].
pub fn check_quantized(
    format: ActivationFormat,
    layout: &ActivationLayout,
    expected: &[Expected],
    static_scale: Option<(f32, i32)>,
    words: &[u32],
) -> Result<Judgement, ReferenceError> {
    let x = expected;
    let m = words.len() / layout.row_words.max(1);
    check_length("words", m * layout.row_words, words.len())?;
    check_length("x", m * layout.k, x.len())?;
    let mut judged = Judgement::default();
    if layout.k == 0 {
        return Ok(judged);
    }
    for (row, (x_row, packed_row)) in
        x.chunks(layout.k).zip(words.chunks(layout.row_words)).enumerate()
    {
        let group_columns = layout.group_blocks * 32;
        for group in 0..layout.groups {
            let first = group * group_columns;
            let columns = first..(first + group_columns).min(layout.k);
            let shared = match format.granularity() {
                ActivationGranularity::Tensor => x,
                _ => &x_row[columns.clone()],
            };
            let scale = f32::from_bits(packed_row[layout.scale_at + group]);
            let zero = packed_row[layout.zero_at + group] as i32;
            match static_scale {
                Some(fixed) if (scale, zero) == fixed => {}
                Some((s, z)) => judged.refuse(format!(
                    "the stored scale {scale} and zero point {zero} are not the static {s} and {z}"
                )),
                None => check_scheme(format, shared, scale, zero, &mut judged),
            }
            if let Some(fault) = judged.fault.take() {
                judged.fault = Some(format!("row {row}, group {group}: {fault}"));
                return Ok(judged);
            }
            if scale.is_nan() {
                continue;
            }
            // If the scale was flushed, every small value must have the code 0.
            let dead = static_scale.is_none() && scale == 1.0 && zero == 0 && largest(shared) < 0.5;
            let least = if format.is_symmetric() { -127.0 } else { -128.0 };
            for column in columns {
                let code = code(packed_row, column);
                let Expected { value, bound, .. } = x_row[column];
                let real = if dead { 0.0 } else { value / f64::from(scale) + f64::from(zero) };
                if real.is_nan() {
                    continue;
                }
                let off = (f64::from(code) - real.clamp(least, 127.0)).abs();
                let off = (off - bound / f64::from(scale)).max(0.0);
                let fault = || {
                    format!(
                        "row {row}, column {column}: the code is {code}, but must be near {real}"
                    )
                };
                if !judged.see(off / TIE, fault) {
                    return Ok(judged);
                }
            }
        }
        for block in 0..layout.blocks {
            let codes = (32 * block..32 * block + 32).map(|column| code(packed_row, column));
            let padding = codes.clone().skip((layout.k - 32 * block).min(32)).any(|code| code != 0);
            let sum = packed_row[layout.sum_at + block] as i32;
            if padding || codes.map(i32::from).sum::<i32>() != sum {
                judged.refuse(format!(
                    "row {row}, block {block}: the sum {sum} does not match the codes, or the padding is not 0"
                ));
                return Ok(judged);
            }
        }
    }
    Ok(judged)
}

fn code(packed_row: &[u32], column: usize) -> i8 {
    packed_row[column / 4].to_le_bytes()[column % 4] as i8
}

fn largest(x: &[Expected]) -> f64 {
    x.iter().fold(0.0, |largest, x| f64::max(largest, x.value.abs() - x.bound))
}

fn check_scheme(
    format: ActivationFormat,
    x: &[Expected],
    scale: f32,
    zero: i32,
    judged: &mut Judgement,
) {
    if x.iter().any(|x| !x.value.is_finite()) {
        if !scale.is_nan() {
            judged.refuse(format!("the scale is {scale}, but must be NaN: X is not finite"));
        }
        return;
    }
    // The least and the largest that the maxima of x and of −x may be.
    let most = |side: &dyn Fn(&Expected) -> f64| {
        x.iter().fold([0.0f64; 2], |[least, most], x| {
            [least.max(side(x) - x.bound), most.max(side(x) + x.bound)]
        })
    };
    let (high, low) = (most(&|x| x.value), most(&|x| -x.value));
    let want = |i: usize| {
        if format.is_symmetric() {
            f64::max(high[i], low[i]) / 127.0
        } else {
            (high[i] + low[i]) / 255.0
        }
    };
    let (least, most) = (want(0), want(1));
    let flushed = (scale, zero) == (1.0, 0);
    // The two terms of the sum are flushed independently, so both may be lost.
    if least < 2.0 * SMALLEST && flushed {
        return;
    }
    if most < (1.0 - SCALE) * SMALLEST {
        judged.refuse(format!(
            "the scale is {scale} and the zero point {zero}, but must be 1 and 0 for a range of zeros"
        ));
        return;
    }
    let scale = f64::from(scale);
    let off = (scale - scale.clamp(least, most)).abs() / (SCALE * most);
    if !judged.see(off, || format!("the scale is {scale}, but must be near {most}")) {
        return;
    }
    let real = |low: f64| {
        if format.is_symmetric() { 0.0 } else { (low / scale).clamp(0.0, 255.0) - 128.0 }
    };
    let (zero, low) = (f64::from(zero), low.map(real));
    let off = (zero - zero.clamp(low[0], low[1])).abs() / TIE;
    judged.see(off, || format!("the zero point is {zero}, but must be near {}", low[1]));
}
