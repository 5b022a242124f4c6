//! The values and gradients of fake quantization, from the definition and in f64. `judge.rs` derives
//! the bounds of what a kernel may give instead.

mod judge;
#[cfg(test)]
mod tests;

pub use judge::{
    check_fake_gradients, check_fake_quantize, check_fake_ranges, check_fake_straight_through,
};

use super::binary16::power_of_two;
use super::{
    ETA, Expected, OutputType, ReferenceError, UNIT, check_length, f16_to_f64, f64_to_f16, gamma,
};
use crate::format::{Granularity, ScaleType, WeightFormat};

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
    /// The zero points, one for each scale. Empty if the format is symmetric.
    pub zeros: &'a [f32],
}

/// Gradients of Σ dy·y.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantGradients<T> {
    /// The gradient of X, `[m, k]`.
    pub x: Vec<T>,
    /// The gradient of each scale.
    pub scales: Vec<T>,
    /// The gradient of each zero point.
    pub zeros: Vec<T>,
}

/// The scale and zero point of a group after rounding, and the least and greatest code.
#[derive(Clone, Copy)]
struct Scheme {
    scale: f64,
    zero: f64,
    low: f64,
    high: f64,
}

/// The quantization of one x: x/s, x/s rounded to nearest even, and the code before clamping.
#[derive(Clone, Copy)]
struct Point {
    ratio: f64,
    step: f64,
    code: f64,
}

impl Scheme {
    /// Returns the scheme of a group, or `None` if its scale or zero point makes all results NaN.
    fn new(case: &FakeQuantCase<'_>, group: usize) -> Option<Self> {
        let (low, high) = codes(case.format);
        let scale = scale_as_stored(case.format, case.scales[group])?;
        let symmetric = case.format.is_symmetric();
        let zero = if symmetric { 0.0 } else { f64::from(case.zeros[group]) };
        let zero = zero.is_finite().then(|| zero.round_ties_even().clamp(low, high))?;
        Some(Self { scale, zero, low, high })
    }

    /// Quantizes `x` with a quotient that is wrong by the factor `off`.
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

    /// Returns ∂y/∂s of one element.
    fn scale_slope(&self, point: Point) -> f64 {
        match point.code {
            code if code < self.low => self.low - self.zero,
            code if code > self.high => self.high - self.zero,
            _ => point.step - point.ratio,
        }
    }
}

/// Returns the least and greatest code. For symmetric formats 0 is the code of zero.
fn codes(format: &WeightFormat) -> (f64, f64) {
    let (low, high) = format.code_range().unwrap_or((-32767, 32767));
    let zero = if format.is_symmetric() { format.symmetric_zero() } else { 0 };
    (f64::from(low - zero), f64::from(high - zero))
}

/// Returns what a range is divided by; LSQ's largest code too.
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
        _ => {
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

    /// Returns the scale of an element.
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
/// Returns [`ReferenceError::WrongLength`].
pub fn fake_quantize(case: &FakeQuantCase<'_>) -> Result<Vec<f64>, ReferenceError> {
    case.check_lengths()?;
    let schemes = case.schemes();
    let value = |(at, &x): (usize, &f32)| match schemes[case.group_of(at)] {
        Some(scheme) if !x.is_nan() => scheme.value(scheme.point(flushed(x), 1.0)),
        _ => f64::NAN,
    };
    Ok(case.x.iter().enumerate().map(value).collect())
}

/// Returns the gradients by the straight-through rule, LSQ and LSQ+; `gradient_scale` multiplies
/// those of scales and zero points by 1/√(N·Q). Non-finite x and dy as the ops document them.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
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
        let (g, roundings) = if gradient_scale {
            (1.0 / (n.max(1) as f64 * steps(case.format)).sqrt(), n + 5)
        } else {
            (1.0, n)
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
