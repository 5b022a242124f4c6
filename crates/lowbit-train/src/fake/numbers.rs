//! Values and gradients on the host, in f32.
//!
//! Sums of gradients are in f64, in the order of columns; kernels sum in f32, within the bound of
//! [`lowbit::reference::check_fake_gradients`].

use super::FakeFormat;
use crate::flushed;
use half::f16;

/// Scales and zero points, one for each part that shares them. Symmetric formats ignore zero points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given<'a> {
    /// The scales.
    pub scales: &'a [f32],
    /// The zero points; the nearest integer within the range of codes is used.
    pub zeros: &'a [f32],
}

/// Gradients of a fake quantization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients {
    /// The gradient of the values.
    pub x: Vec<f32>,
    /// The gradient of each scale.
    pub scales: Vec<f32>,
    /// The gradient of each zero point; zeros if the format is symmetric.
    pub zeros: Vec<f32>,
}

/// The numbers that a part is quantized with.
#[derive(Clone, Copy, Debug)]
struct Part {
    scale: f32,
    zero: f32,
    low: f32,
    high: f32,
}

/// Adding and subtracting 1.5 · 2²³ rounds a number of at most 2²² to the nearest integer, ties to even.
/// Unlike `round_ties_even`, it needs no instruction beyond SSE2.
const ROUND: f32 = 12_582_912.0;

/// Steps beyond all codes, where rounding needs no care.
const FAR: f32 = 1_048_576.0;

impl Part {
    /// Returns x/s rounded to the nearest integer; NaN stays NaN.
    #[inline(always)]
    fn step(&self, x: f32) -> f32 {
        (((x / self.scale).clamp(-FAR, FAR)) + ROUND) - ROUND
    }

    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        let code = (self.step(x) + self.zero).clamp(self.low, self.high);
        (code - self.zero) * self.scale
    }
}

impl FakeFormat {
    fn part(&self, given: Given<'_>, at: usize) -> Part {
        let (low, high) = (self.low as f32, self.high as f32);
        let zero = match given.zeros.get(at) {
            Some(&zero) if !self.is_symmetric() && zero.is_finite() => {
                zero.round_ties_even().clamp(low, high)
            }
            Some(_) if !self.is_symmetric() => f32::NAN,
            _ => 0.0,
        };
        Part { scale: self.stored(given.scales[at]), zero, low, high }
    }

    /// Returns a scale as its type holds it, or NaN if that is outside 2⁻¹²⁶…2¹²⁶.
    pub(super) fn stored(&self, scale: f32) -> f32 {
        const GREATEST: f32 = f32::from_bits((126 + 127) << 23);
        if !(f32::MIN_POSITIVE..=GREATEST).contains(&scale) {
            return f32::NAN;
        }
        if !self.has_half_scales() {
            return scale;
        }
        let half = f16::from_f32(scale).to_f32().max(f16::MIN_POSITIVE.to_f32());
        if half.is_finite() { half } else { f32::NAN }
    }

    /// Returns the values fake-quantized.
    ///
    /// # Panics
    /// Panics if there are too few scales or zero points, which callers that check shapes exclude.
    pub fn forward(&self, x: &[f32], columns: usize, given: Given<'_>) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len());
        for (at, range) in self.parts(rows(x, columns), columns).enumerate() {
            let part = self.part(given, at);
            // Every operation with the NaN of a bad scale or zero point is NaN, but `clamp` refuses
            // only bounds of NaN.
            y.extend(x[range].iter().map(|&x| part.value(flushed(x))));
        }
        y
    }

    /// Returns one value fake-quantized by the scale and zero point at `at`.
    pub(super) fn single(&self, x: f32, given: Given<'_>, at: usize) -> f32 {
        self.part(given, at).value(flushed(x))
    }

    /// Returns the gradients for the gradient `dy` of the result. With `gradient_scale`, those of scales
    /// and zero points are multiplied by LSQ's 1/√(count · steps).
    ///
    /// # Panics
    /// Panics if there are too few scales, zero points or gradients.
    pub fn backward(
        &self,
        x: &[f32],
        dy: &[f32],
        columns: usize,
        given: Given<'_>,
        gradient_scale: bool,
    ) -> Gradients {
        let mut gradients = Gradients { x: Vec::with_capacity(x.len()), ..Gradients::default() };
        for (at, range) in self.parts(rows(x, columns), columns).enumerate() {
            let part = self.part(given, at);
            let count = range.len();
            let (x, dy) = (&x[range.clone()], &dy[range]);
            gradients.x.extend(x.iter().zip(dy).map(|(&x, &dy)| part.straight_through(x, dy)));
            let factor = if gradient_scale {
                1.0 / (count as f64 * f64::from(self.steps())).sqrt()
            } else {
                1.0
            };
            let (scale, zero) = part.sums(x, dy);
            gradients.scales.push((scale * factor) as f32);
            let zero = if self.is_symmetric() { 0.0 } else { zero * factor };
            gradients.zeros.push(zero as f32);
        }
        gradients
    }

    /// Returns scales and zero points from the ranges of the values, which are widened to contain 0.
    pub fn ranges(&self, x: &[f32], columns: usize) -> (Vec<f32>, Vec<f32>) {
        self.shrunk_ranges(x, columns, 1.0)
    }

    fn shrunk_ranges(&self, x: &[f32], columns: usize, factor: f32) -> (Vec<f32>, Vec<f32>) {
        let parts = self.parts(rows(x, columns), columns);
        parts.map(|range| self.range(&x[range], factor)).unzip()
    }

    /// Returns the scale and zero point of one part.
    fn range(&self, x: &[f32], factor: f32) -> (f32, f32) {
        let (mut below, mut above, mut finite) = (0.0f32, 0.0f32, true);
        for &x in x {
            let x = flushed(x);
            finite &= x.is_finite();
            (below, above) = (below.max(-x), above.max(x));
        }
        let (below, above) = (below * factor, above * factor);
        let low = self.low as f32;
        if !finite {
            return (f32::NAN, low);
        }
        let span = if self.is_symmetric() { below.max(above) } else { below + above };
        let scale = span / self.steps();
        let scale = if scale < f32::MIN_POSITIVE { 1.0 } else { self.stored(scale) };
        if self.is_symmetric() {
            return (scale, 0.0);
        }
        (scale, (below / scale).round_ties_even().min(self.steps()) + low)
    }

    /// Returns the scales and zero points, of those from ranges shrunk in steps of 1/20 down to 1/5, with
    /// the least sum of squared errors in each part: what learning starts from. At 2 bits, a range that
    /// holds the greatest magnitude rounds nearly everything to 0.
    pub fn fitted(&self, x: &[f32], columns: usize) -> (Vec<f32>, Vec<f32>) {
        let mut best: Vec<(f64, f32, f32)> = Vec::new();
        for shrink in (4..=20).rev() {
            let (scales, zeros) = self.shrunk_ranges(x, columns, shrink as f32 / 20.0);
            let y = self.forward(x, columns, Given { scales: &scales, zeros: &zeros });
            for (at, range) in self.parts(rows(x, columns), columns).enumerate() {
                let errors = x[range.clone()].iter().zip(&y[range]);
                let error: f64 = errors.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
                match best.get_mut(at) {
                    None => best.push((error, scales[at], zeros[at])),
                    Some(best) if error < best.0 => *best = (error, scales[at], zeros[at]),
                    Some(_) => {}
                }
            }
        }
        best.into_iter().map(|(_, scale, zero)| (scale, zero)).unzip()
    }
}

impl Part {
    /// Returns dy if no code was clamped, otherwise 0.
    #[inline(always)]
    fn straight_through(&self, x: f32, dy: f32) -> f32 {
        let code = self.step(flushed(x)) + self.zero;
        if code.is_nan() {
            f32::NAN
        } else if self.low <= code && code <= self.high {
            dy
        } else {
            0.0
        }
    }

    /// Returns the sums of the gradients of the scale and of the zero point.
    fn sums(&self, x: &[f32], dy: &[f32]) -> (f64, f64) {
        if dy.iter().any(|dy| !dy.is_finite()) {
            return (f64::NAN, f64::NAN);
        }
        let (mut scale, mut zero) = (0.0f64, 0.0f64);
        for (&x, &dy) in x.iter().zip(dy) {
            let x = flushed(x);
            let (step, ratio) = (self.step(x), x / self.scale);
            let code = step + self.zero;
            let outside = code < self.low || code > self.high;
            let end = if code < self.low { self.low } else { self.high };
            let slope = if outside { end - self.zero } else { step - ratio };
            scale += f64::from(dy) * f64::from(slope);
            if outside {
                zero -= f64::from(dy) * f64::from(self.scale);
            }
        }
        (scale, if scale.is_nan() { f64::NAN } else { zero })
    }
}

/// Returns the rows of a row-major matrix.
fn rows(x: &[f32], columns: usize) -> usize {
    x.len() / columns.max(1)
}
