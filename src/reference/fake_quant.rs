//! What fake quantization and its gradients must be, from the definition and in f64.
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

use super::binary16::power_of_two;
use super::{
    ETA, Expected, Judgement, OutputType, ReferenceError, UNIT, check, check_length, f16_to_f64,
    f64_to_f16, gamma,
};
use crate::format::{CodeType, Granularity, ScaleType, WeightFormat};

/// D: 2.5 ulp, and the rounding of the quotient in f64.
const DIVISION: f64 = 2.5 * UNIT + 1e-15;

/// Relative error of a range's scale.
const SCALE: f64 = 6.0 * UNIT;

/// X, its scales and its zero points.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantCase<'a> {
    /// Codes, granularity, zero points and type of scales.
    pub format: &'a WeightFormat,
    /// `[m, k]`.
    pub x: &'a [f32],
    /// Columns.
    pub k: usize,
    /// `[m, ⌈k/g⌉]`, or one.
    pub scales: &'a [f32],
    /// As many where the format is asymmetric, else none.
    pub zeros: &'a [f32],
}

/// Gradients of Σ dy·y.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantGradients<T> {
    /// Of X, `[m, k]`.
    pub x: Vec<T>,
    /// Of the scales, as many as there are.
    pub scales: Vec<T>,
    /// Of the zero points, as many as there are.
    pub zeros: Vec<T>,
}

/// A scale and a zero point as they count, and the codes.
#[derive(Clone, Copy)]
struct Scheme {
    scale: f64,
    zero: f64,
    low: f64,
    high: f64,
}

/// What one x comes to: x/s, rne(x/s), the code before clamping.
#[derive(Clone, Copy)]
struct Point {
    ratio: f64,
    step: f64,
    code: f64,
}

impl Scheme {
    /// `None` where everything is NaN.
    fn new(case: &FakeQuantCase<'_>, group: usize) -> Option<Self> {
        let (low, high) = codes(case.format);
        let scale = scale_as_stored(case.format, case.scales[group])?;
        let zero = match case.format.is_symmetric() {
            true => 0.0,
            false => f64::from(case.zeros[group]),
        };
        let zero = zero.is_finite().then(|| zero.round_ties_even().clamp(low, high))?;
        Some(Self { scale, zero, low, high })
    }

    /// With a quotient that is off by a factor.
    fn point(&self, x: f64, off: f64) -> Point {
        let ratio = x / self.scale;
        let step = (ratio * off).round_ties_even();
        Point { ratio, step, code: step + self.zero }
    }

    fn candidates(&self, x: f64) -> [Point; 2] {
        [1.0 - DIVISION, 1.0 + DIVISION].map(|off| self.point(x, off))
    }

    fn value(&self, point: Point) -> f64 {
        (point.code.clamp(self.low, self.high) - self.zero) * self.scale
    }

    fn is_inside(&self, point: Point) -> bool {
        (self.low..=self.high).contains(&point.code)
    }

    /// ∂y/∂s of one element.
    fn scale_slope(&self, point: Point) -> f64 {
        match point.code {
            code if code < self.low => self.low - self.zero,
            code if code > self.high => self.high - self.zero,
            _ => point.step - point.ratio,
        }
    }
}

/// qmin and qmax where 0 is the code of zero of a symmetric format.
fn codes(format: &WeightFormat) -> (f64, f64) {
    match (format.code_type(), format.is_symmetric()) {
        (CodeType::Int8, true) => (-127.0, 127.0),
        (CodeType::Int8, false) => (-128.0, 127.0),
        (CodeType::Int4, true) => (-8.0, 7.0),
        (CodeType::Int4, false) => (0.0, 15.0),
        _ => (-32767.0, 32767.0),
    }
}

/// What a range is divided by; LSQ's largest code too.
fn steps(format: &WeightFormat) -> f64 {
    let (low, high) = codes(format);
    if format.is_symmetric() { high } else { high - low }
}

fn scale_as_stored(format: &WeightFormat, scale: f32) -> Option<f64> {
    let scale = f64::from(scale);
    if !(ETA..=power_of_two(126)).contains(&scale) {
        return None;
    }
    match format.scale_type() {
        ScaleType::F32 => Some(scale),
        ScaleType::F16 => {
            let half = f16_to_f64(f64_to_f16(scale)).max(power_of_two(-14));
            half.is_finite().then_some(half)
        }
    }
}

/// Subnormal x count as 0.
fn flushed(x: f32) -> f64 {
    if x.is_subnormal() { 0.0 } else { x.into() }
}

impl FakeQuantCase<'_> {
    fn columns(&self) -> usize {
        match self.format.granularity() {
            Granularity::Group(g) => (g.get() as usize).min(self.k.max(1)),
            _ => self.k.max(1),
        }
    }

    /// The scale of an element.
    fn group_of(&self, at: usize) -> usize {
        match self.format.granularity() {
            Granularity::Tensor => 0,
            _ => at / self.k * self.k.div_ceil(self.columns()) + at % self.k / self.columns(),
        }
    }

    fn check_lengths(&self) -> Result<(), ReferenceError> {
        let rows = self.x.len().checked_div(self.k).unwrap_or(0);
        check_length("x", rows * self.k, self.x.len())?;
        let groups = match self.format.granularity() {
            Granularity::Tensor => 1,
            _ => rows * self.k.div_ceil(self.columns()),
        };
        check_length("scales", groups, self.scales.len())?;
        let zeros = if self.format.is_symmetric() { 0 } else { groups };
        check_length("zeros", zeros, self.zeros.len())
    }

    fn schemes(&self) -> Vec<Option<Scheme>> {
        (0..self.scales.len()).map(|group| Scheme::new(self, group)).collect()
    }
}

/// `y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s`, `[m, k]`; NaN where x is, and where scale or
/// zero point allow nothing.
///
/// # Errors
/// [`ReferenceError::WrongLength`].
pub fn fake_quantize(case: &FakeQuantCase<'_>) -> Result<Vec<f64>, ReferenceError> {
    case.check_lengths()?;
    let schemes = case.schemes();
    let value = |(at, &x): (usize, &f32)| match schemes[case.group_of(at)] {
        Some(scheme) if !x.is_nan() => scheme.value(scheme.point(flushed(x), 1.0)),
        _ => f64::NAN,
    };
    Ok(case.x.iter().enumerate().map(value).collect())
}

/// The gradients by the straight-through rule, LSQ and LSQ+; `gradient_scale` multiplies those of
/// scales and zero points by 1/√(N·Q). Non-finite x and dy as the ops document them.
///
/// # Errors
/// [`ReferenceError::WrongLength`].
pub fn fake_quantize_gradients(
    case: &FakeQuantCase<'_>,
    dy: &[f32],
    gradient_scale: bool,
) -> Result<FakeQuantGradients<f64>, ReferenceError> {
    let groups = sums(case, dy, gradient_scale)?;
    let schemes = case.schemes();
    let x =
        case.x.iter().zip(dy).enumerate().map(|(at, (&x, &dy))| match schemes[case.group_of(at)] {
            Some(s) if !x.is_nan() && s.is_inside(s.point(flushed(x), 1.0)) => dy.into(),
            Some(_) if !x.is_nan() => 0.0,
            _ => f64::NAN,
        });
    let zeros = groups.iter().filter(|_| !case.format.is_symmetric()).map(|g| g.zero.value);
    Ok(FakeQuantGradients {
        x: x.collect(),
        zeros: zeros.collect(),
        scales: groups.iter().map(|group| group.scale.value).collect(),
    })
}

/// The gradients of one scale and zero point.
struct Group {
    scale: Expected,
    zero: Expected,
}

/// Sums over what shares a scale, as the bounds need them.
#[derive(Clone, Default)]
struct Sums {
    count: usize,
    /// Σ dy·t and Σ dy outside.
    value: [f64; 2],
    /// Σ|dy|·(|t| + τ), and Σ|dy| over what may be outside.
    magnitude: [f64; 2],
    /// Σ|dy|·τ, and Σ|dy| over ties.
    allowance: [f64; 2],
    broken: bool,
}

fn sums(
    case: &FakeQuantCase<'_>,
    dy: &[f32],
    gradient_scale: bool,
) -> Result<Vec<Group>, ReferenceError> {
    case.check_lengths()?;
    check_length("dy", case.x.len(), dy.len())?;
    let schemes = case.schemes();
    let mut all = vec![Sums::default(); schemes.len()];
    for (at, (&x, &dy)) in case.x.iter().zip(dy).enumerate() {
        let group = case.group_of(at);
        let sums = &mut all[group];
        sums.count += 1;
        let Some(scheme) = schemes[group].filter(|_| !x.is_nan() && dy.is_finite()) else {
            sums.broken = true;
            continue;
        };
        let (x, dy) = (flushed(x), f64::from(dy));
        let point = scheme.point(x, 1.0);
        let slopes = scheme.candidates(x).map(|point| scheme.scale_slope(point));
        let inside = scheme.candidates(x).map(|point| scheme.is_inside(point));
        let quotient = if inside[0] || inside[1] { DIVISION * point.ratio.abs() } else { 0.0 };
        let slope = scheme.scale_slope(point);
        let tau = quotient + (slopes[0] - slope).abs().max((slopes[1] - slope).abs());
        sums.value[0] += dy * slope;
        sums.magnitude[0] += dy.abs() * (slope.abs() + tau);
        sums.allowance[0] += dy.abs() * tau;
        if !scheme.is_inside(point) {
            sums.value[1] += dy;
        }
        if !(inside[0] && inside[1]) {
            sums.magnitude[1] += dy.abs();
        }
        if inside[0] != inside[1] {
            sums.allowance[1] += dy.abs();
        }
    }
    let group = |(sums, scheme): (&Sums, &Option<Scheme>)| {
        let Some(scheme) = scheme.filter(|_| !sums.broken) else {
            let broken = Expected { value: f64::NAN, bound: 0.0, overflow: false };
            return Group { scale: broken, zero: broken };
        };
        let n = sums.count;
        let (g, roundings) = match gradient_scale {
            true => (1.0 / (n.max(1) as f64 * steps(case.format)).sqrt(), n + 5),
            false => (1.0, n),
        };
        let bound = |i: usize| sums.allowance[i] + gamma(roundings) * sums.magnitude[i];
        let flushes = ETA * (2 * n + 3) as f64;
        let s = scheme.scale;
        Group {
            scale: Expected::new(g * sums.value[0], g * bound(0) + flushes, OutputType::F32),
            zero: Expected::new(
                -s * g * sums.value[1],
                s * g * bound(1) + flushes * s.max(1.0),
                OutputType::F32,
            ),
        }
    };
    Ok(all.iter().zip(&schemes).map(group).collect())
}

/// The error over the bound of the nearest of the expected values; NaN where NaN is expected.
fn ratio(expected: &[Expected], got: f32) -> f64 {
    let exact = |right| if right { 0.0 } else { f64::INFINITY };
    let ratios = expected.iter().map(|expected| match expected.value {
        value if value.is_nan() => exact(got.is_nan()),
        value if value.is_infinite() => exact(f64::from(got) == value),
        // Beyond f32 the overflow is the device's.
        value if value.abs() * (1.0 + 4.0 * UNIT) >= f32::MAX.into() => {
            let limit = match expected.overflow {
                true => 65504.0,
                false => f64::from(f32::MAX) * (1.0 - 4.0 * UNIT),
            };
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

/// Checks `[m, k]` fake-quantized values, written as `output`, f16 widened to f32. Next to a tie, x/s within 2.5 ulp of it, either code is right; a value is
/// within a rounding of (c − z)·s.
///
/// # Errors
/// [`ReferenceError::WrongLength`].
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
/// [`ReferenceError::WrongLength`].
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
        let want = match case.format.is_symmetric() {
            true => f64::max(high, low) / steps(case.format),
            false => (high + low) / steps(case.format),
        };
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

/// As its type holds it; for f16 at least the smallest normal one, infinite past the largest.
fn scale_near(format: &WeightFormat, scale: f64) -> f64 {
    match format.scale_type() {
        ScaleType::F32 => scale,
        ScaleType::F16 => f16_to_f64(f64_to_f16(scale)).max(power_of_two(-14)),
    }
}

/// Checks gradients, that of X written as `output`. The bounds are derived at the top of this file's source.
///
/// # Errors
/// [`ReferenceError::WrongLength`].
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
/// [`ReferenceError::WrongLength`].
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

#[cfg(test)]
mod tests {
    use super::*;

    fn format(name: &str) -> WeightFormat {
        name.parse().unwrap()
    }

    /// y as a function of x, s and z, with what rounding did at one point held fixed: what
    /// straight-through gradients are the gradients of.
    struct Surrogate {
        low: f64,
        high: f64,
        /// rne(x/s) − x/s, and rne(z) − z.
        rounding: [f64; 2],
    }

    impl Surrogate {
        fn value(&self, x: f64, s: f64, z: f64) -> f64 {
            let z = z + self.rounding[1];
            ((x / s + self.rounding[0] + z).clamp(self.low, self.high) - z) * s
        }
    }

    /// LSQ's formulas are the derivatives of the definition, by central differences.
    #[test]
    fn gradients_are_derivatives_of_the_surrogate() {
        let mut ends_met = 0;
        for (name, s, z) in [
            ("int4-tensor", 0.37f32, 0.0f32),
            ("int4-tensor-asym", 0.21, 6.3),
            ("int8-tensor-asym", 0.02, -41.6),
        ] {
            let format = format(name);
            let x: Vec<f32> = (-60..60).map(|i| i as f32 * 0.0613 + 0.057).collect();
            let dy: Vec<f32> = (0..120).map(|i| ((i * 37) % 23) as f32 / 7.0 - 1.3).collect();
            let zeros = if format.is_symmetric() { vec![] } else { vec![z] };
            let case =
                FakeQuantCase { format: &format, x: &x, k: 120, scales: &[s], zeros: &zeros };
            let got = fake_quantize_gradients(&case, &dy, false).unwrap();
            let (low, high) = codes(&format);
            let (s, z) = (f64::from(s), f64::from(z));
            let mut want = [0.0; 2];
            let mut outside = 0;
            for (i, (&x, &dy)) in x.iter().zip(&dy).enumerate() {
                let (x, dy) = (f64::from(x), f64::from(dy));
                let rounding = [x / s, z].map(|v| v.round_ties_even() - v);
                let surrogate = Surrogate { low, high, rounding };
                let h = 1e-6;
                let slope = |f: &dyn Fn(f64) -> f64| (f(h) - f(-h)) / (2.0 * h);
                want[0] += dy * slope(&|h| surrogate.value(x, s + h, z));
                want[1] += dy * slope(&|h| surrogate.value(x, s, z + h));
                let dx = dy * slope(&|h| surrogate.value(x + h, s, z));
                let code = (x / s).round_ties_even() + z.round_ties_even();
                let end = code == low || code == high;
                let dx = if end { 2.0 * dx } else { dx };
                assert!((got.x[i] - dx).abs() < 1e-6, "{name} {i}");
                ends_met += usize::from(end);
                outside += usize::from(got.x[i] == 0.0);
            }
            assert!(outside > 10 && outside < 110, "{name}: {outside}");
            // Codes at an end are inside; a central difference has half of each side.
            let ends = x.iter().zip(&dy).filter_map(|(&x, &dy)| {
                let code = (f64::from(x) / s).round_ties_even() + z.round_ties_even();
                (code == low || code == high).then_some((f64::from(x), f64::from(dy), code))
            });
            for (x, dy, code) in ends {
                let step = (x / s).round_ties_even();
                let (inside, outside) = (step - x / s, code - z.round_ties_even());
                want[0] += dy * (inside - (inside + outside) / 2.0);
                want[1] += dy * s / 2.0;
            }
            assert!((got.scales[0] - want[0]).abs() < 1e-5, "{name}: {:?} {want:?}", got.scales);
            if let Some(zero) = got.zeros.first() {
                assert!((zero - want[1]).abs() < 1e-5, "{name}: {zero} {want:?}");
            }
        }
        assert!(ends_met > 0);
    }

    #[test]
    fn values_by_hand() {
        fn case<'a>(
            format: &'a WeightFormat,
            x: &'a [f32],
            scales: &'a [f32],
            zeros: &'a [f32],
        ) -> FakeQuantCase<'a> {
            FakeQuantCase { format, x, k: 6, scales, zeros }
        }
        let int4 = format("int4-g4");
        let x = [0.5, 1.5, -4.25, 3.6, 2.0, f32::NAN];
        let y = fake_quantize(&case(&int4, &x, &[0.5, 2.0], &[])).unwrap();
        assert_eq!(y[..5], [0.5, 1.5, -4.0, 3.5, 2.0]);
        assert!(y[5].is_nan());
        // Ties go to even before the zero point is added: 2.6 counts as 3.
        let asym = format("int4-channel-asym");
        let x = [0.5, 1.5, 2.5, -3.5, 40.0, -40.0];
        let y = fake_quantize(&case(&asym, &x, &[1.0], &[2.6])).unwrap();
        assert_eq!(y, [0.0, 2.0, 2.0, -3.0, 12.0, -3.0]);
        let g = fake_quantize_gradients(&case(&asym, &x, &[1.0], &[2.6]), &[1.0; 6], true).unwrap();
        assert_eq!(g.x, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        let gain = 1.0 / (6.0f64 * 15.0).sqrt();
        assert!((g.scales[0] - gain * (-0.5 + 0.5 - 0.5 - 3.0 + 12.0 - 3.0)).abs() < 1e-12);
        assert!((g.zeros[0] + 3.0 * gain).abs() < 1e-12);
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40, f32::MAX] {
            let y = fake_quantize(&case(&asym, &x, &[bad], &[0.0])).unwrap();
            assert!(y.iter().all(|y| y.is_nan()), "{bad}");
        }
    }
}
