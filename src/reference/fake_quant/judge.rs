//! Checks the results of fake quantization kernels against their bounds.
//!
//! # What a kernel may do
//!
//! With u = 2⁻²³ and η as in the bound of matmuls: +, − and × are within u of the result, WGSL's
//! division within 2.5 ulp (at most D = 2.5u of it), for divisors from 2⁻¹²⁶ to 2¹²⁶.
//!
//! *Codes.* v = rne(x/s) is that of some quotient r̂ with |r̂ − r| ≤ D|r|. Codes are below 2¹⁶, so
//! that D|r| < ½ where no end of the range is passed: there are two candidates at most, those of
//! r(1 − D) and r(1 + D), and they differ only next to a tie. Adding an integer zero point and
//! clamping are exact.
//!
//! *y* is (c − z)·s with c of either candidate, one rounding and a flush: |ŷ − y| ≤ u|y| + η, and
//! what writing f16 adds ([`Expected::new`]).
//!
//! *dx* is dy or 0 as either candidate is inside: both where they disagree, exact but for a dy
//! that is subnormal and for f16.
//!
//! *ds* = g · Σ dy·t. Inside, t = v − r, which the kernel has as v̂ − r̂. That subtraction is exact:
//! |v̂ − r̂| ≤ ½, and either v̂ = 0, or r̂ is within a factor of 2 of v̂ (Sterbenz). So it is off by D|r|
//! from that of the same candidate. Outside, t = e − z is exact. Where candidates disagree (in v, or
//! in being inside), t may be either: |t₁ − t₂| more. With τ the sum of both allowances, n elements,
//! and every term going through one product, at most n − 1 additions in any order (others are of
//! zeros) and, with a gradient scale, one product more by a ĝ that is good to 4u (two conversions
//! and two products under a root, u each and halved, and 2 ulp of `inverseSqrt`):
//!
//! ```text
//! |d̂s − ds| ≤ g · [Σ|dy|τ + γ_R · Σ|dy|(|t| + τ)] + η · (2n + 2),    R = n, or n + 5
//! ```
//!
//! since each product and each addition may be flushed, g ≤ 1, and so may be the result.
//!
//! *dz* = −s·g·Σ dy over what is outside, with |dy| as allowance where candidates disagree; the
//! product by s comes before or after the sum, so that η counts max(1, s):
//!
//! ```text
//! |d̂z − dz| ≤ s·g · [Σ_tie|dy| + γ_R · Σ_outside or tie|dy|] + η · (2n + 3)·max(1, s)
//! ```
//!
//! *Scales of a range* go through two divisions of 2.5u and a sum of u at most, of positive
//! numbers: 6u with second-order terms. A zero point has the candidates of low/s, as codes have.

use super::{DIVISION, FakeQuantCase, FakeQuantGradients, SCALE, codes, flushed, steps, sums};
use crate::format::{ScaleType, WeightFormat};
use crate::reference::binary16::power_of_two;
use crate::reference::{
    ETA, Expected, Judgement, OutputType, ReferenceError, UNIT, check, check_length, f16_to_f64,
    f64_to_f16,
};

/// Returns the error over the bound of the nearest of the expected values; NaN where NaN is
/// expected.
fn ratio(expected: &[Expected], got: f32) -> f64 {
    let exact = |right| if right { 0.0 } else { f64::INFINITY };
    let ratios = expected.iter().map(|expected| match expected.value {
        value if value.is_nan() => exact(got.is_nan()),
        value if value.is_infinite() => exact(f64::from(got) == value),
        // Beyond f32 the overflow is the device's.
        value if value.abs() * (1.0 + 4.0 * UNIT) >= f32::MAX.into() => {
            let largest = f64::from(f32::MAX) * (1.0 - 4.0 * UNIT);
            let limit = if expected.overflow { 65504.0 } else { largest };
            exact(f64::from(got) * value.signum() >= limit)
        }
        _ => check(expected, got).error_over_bound,
    });
    ratios.fold(f64::INFINITY, f64::min)
}

fn wrong(what: &str, case: &FakeQuantCase<'_>, at: usize, got: f32, of: &[Expected]) -> String {
    let (row, column) = (at / case.k.max(1), at % case.k.max(1));
    let values: Vec<_> = of.iter().map(|of| of.value).collect();
    format!("{what}: row {row}, column {column}: {got}, not {values:?} of x = {}", case.x[at])
}

/// Checks `[m, k]` fake-quantized values, written as `output` and converted from f16 to f32. If x/s is
/// within 2.5 ulp of a tie, either code is right; a value is within one rounding of (c − z)·s.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn check_fake_quantize(
    case: &FakeQuantCase<'_>,
    output: OutputType,
    y: &[f32],
) -> Result<Judgement, ReferenceError> {
    case.check_lengths()?;
    check_length("y", case.x.len(), y.len())?;
    let schemes = case.schemes();
    let mut judged = Judgement::default();
    for (at, (&x, &got)) in case.x.iter().zip(y).enumerate() {
        let expected = match schemes[case.group_of(at)] {
            Some(scheme) if !x.is_nan() => scheme.candidates(flushed(x)).map(|point| {
                let value = scheme.value(point);
                let bound = if value == 0.0 { 0.0 } else { UNIT * value.abs() + ETA };
                Expected::new(value, bound, output)
            }),
            _ => [Expected { value: f64::NAN, bound: 0.0, overflow: false }; 2],
        };
        if !judged.see(ratio(&expected, got), || wrong("y", case, at, got, &expected)) {
            break;
        }
    }
    Ok(judged)
}

/// Checks scales and zero points that were taken from X.
/// A scale is within 6 · 2⁻²³ of absmax/qmax or (max−min)/(qmax−qmin), as f16 where the format says
/// so; 1 where that is no normal number; NaN where X is not finite. A zero point is of the scale
/// that is stored.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn check_fake_ranges(case: &FakeQuantCase<'_>) -> Result<Judgement, ReferenceError> {
    case.check_lengths()?;
    let mut ranges = vec![(0.0f64, 0.0f64, true); case.scales.len()];
    for (at, &x) in case.x.iter().enumerate() {
        let (high, low, finite) = &mut ranges[case.group_of(at)];
        *high = high.max(flushed(x));
        *low = low.max(-flushed(x));
        *finite &= x.is_finite();
    }
    let mut judged = Judgement::default();
    for (group, &(high, low, finite)) in ranges.iter().enumerate() {
        let scale = case.scales[group];
        let span = if case.format.is_symmetric() { f64::max(high, low) } else { high + low };
        let want = span / steps(case.format);
        let fault = format!("group {group}: scale {scale}, not {want}");
        if !finite {
            if !scale.is_nan() {
                judged.refuse(format!("{fault}, hides what is not finite"));
                return Ok(judged);
            }
            continue;
        }
        // Parts of a sum are flushed apart: each of two may go.
        let dead = want < 2.0 * ETA && scale == 1.0;
        if !dead {
            let near = |off: f64| scale_near(case.format, want * off);
            let least = near(1.0 - SCALE);
            let most = near(1.0 + SCALE);
            if scale.is_nan() && most.is_infinite() {
                continue;
            }
            if want < (1.0 - SCALE) * ETA || !(least..=most).contains(&scale.into()) {
                judged.refuse(fault);
                return Ok(judged);
            }
        }
        if !case.format.is_symmetric() {
            let (qmin, _) = codes(case.format);
            let zero = f64::from(case.zeros[group]);
            let at = |off: f64| {
                let steps = (low / f64::from(scale) * off).round_ties_even();
                steps.min(self::steps(case.format)) + qmin
            };
            let right = [1.0 - DIVISION, 1.0 + DIVISION].into_iter().any(|off| at(off) == zero);
            if !right {
                judged.refuse(format!("group {group}: zero point {zero}, not {}", at(1.0)));
                return Ok(judged);
            }
        }
    }
    Ok(judged)
}

/// Returns the scale as its type holds it; for f16 at least the smallest normal one, infinite past the largest.
fn scale_near(format: &WeightFormat, scale: f64) -> f64 {
    match format.scale_type() {
        ScaleType::F32 => scale,
        _ => f16_to_f64(f64_to_f16(scale)).max(power_of_two(-14)),
    }
}

/// Checks gradients, with that of X written as `output`. The bounds are derived at the top of this
/// file's source.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn check_fake_gradients(
    case: &FakeQuantCase<'_>,
    dy: &[f32],
    gradient_scale: bool,
    output: OutputType,
    got: &FakeQuantGradients<f32>,
) -> Result<Judgement, ReferenceError> {
    let mut judged = check_fake_straight_through(case, dy, output, &got.x)?;
    if judged.fault.is_some() {
        return Ok(judged);
    }
    let groups = sums(case, dy, gradient_scale)?;
    check_length("gradients of scales", groups.len(), got.scales.len())?;
    check_length("gradients of zeros", case.zeros.len(), got.zeros.len())?;
    for (group, want) in groups.iter().enumerate() {
        let zero = got.zeros.get(group).map(|&got| (got, want.zero));
        for (what, (got, want)) in
            [("scale", Some((got.scales[group], want.scale))), ("zero point", zero)]
                .into_iter()
                .filter_map(|(what, pair)| Some((what, pair?)))
        {
            let fault = || format!("group {group}: gradient of the {what} is {got}, not {want:?}");
            if !judged.see(ratio(&[want], got), fault) {
                return Ok(judged);
            }
        }
    }
    Ok(judged)
}

/// Checks the gradient of X alone, written as `output`: dy inside, 0 outside.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn check_fake_straight_through(
    case: &FakeQuantCase<'_>,
    dy: &[f32],
    output: OutputType,
    dx: &[f32],
) -> Result<Judgement, ReferenceError> {
    case.check_lengths()?;
    check_length("dy", case.x.len(), dy.len())?;
    check_length("dx", case.x.len(), dx.len())?;
    let schemes = case.schemes();
    let mut judged = Judgement::default();
    for (at, ((&x, &dy), &got)) in case.x.iter().zip(dy).zip(dx).enumerate() {
        let expected = match schemes[case.group_of(at)] {
            Some(scheme) if !x.is_nan() => scheme.candidates(flushed(x)).map(|point| {
                let value = if scheme.is_inside(point) { f64::from(dy) } else { 0.0 };
                // f16 that are written as f16 are as they were.
                let exact = f16_to_f64(f64_to_f16(value)) == value || !value.is_finite();
                let output = if exact { OutputType::F32 } else { output };
                Expected::new(value, if value.abs() < ETA { value.abs() } else { 0.0 }, output)
            }),
            _ => [Expected { value: f64::NAN, bound: 0.0, overflow: false }; 2],
        };
        if !judged.see(ratio(&expected, got), || wrong("dx", case, at, got, &expected)) {
            break;
        }
    }
    Ok(judged)
}
