use super::binary16::{exponent_of, power_of_two};

/// The type that a kernel writes its results as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputType {
    /// f32: the accumulator is written unchanged.
    F32,
    /// f16: the f32 result is rounded to the nearest f16 in integer arithmetic, with ties to even,
    /// and becomes infinite from 65520 on.
    F16,
}

/// The correct result for one output, and the largest error of a correct kernel.
///
/// ```
/// use lowbit::reference::{Expected, OutputType, check};
/// // An f32 sum of 1.5 with an error of at most 2⁻²⁰, written as f16.
/// let expected = Expected::new(1.5, 1.0 / 1048576.0, OutputType::F16);
/// assert!(check(&expected, 1.5).passes());
/// assert!(check(&expected, 1.5004883).passes()); // half an f16 ulp higher
/// assert!(!check(&expected, 1.5009766).passes()); // one f16 ulp higher
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The exact value, in f64.
    pub value: f64,
    /// The largest |result − value| of a correct kernel.
    pub bound: f64,
    /// Whether an infinity may be correct: an f16 output may reach 65520.
    pub overflow: bool,
}

impl Expected {
    /// Adds the error of writing the result as `output` to `bound`, which holds for the f32 result
    /// ŷ. For f32 this is nothing. For f16 it is half an ulp at |ŷ| ≤ |value| + bound. That is at
    /// least 2⁻²⁵ (f16 subnormals are 2⁻²⁴ apart, and f32 subnormals round to 0) and at most 16,
    /// because the result is infinite from 65520 on. A result that is known to be 0 stays 0.
    pub fn new(value: f64, bound: f64, output: OutputType) -> Self {
        let reach = value.abs() + bound;
        match output {
            OutputType::F32 => Self { value, bound, overflow: false },
            OutputType::F16 if reach == 0.0 => Self { value, bound, overflow: false },
            OutputType::F16 => {
                let half_ulp = power_of_two(exponent_of(reach).clamp(-14, 15) - 11);
                Self { value, bound: bound + half_ulp, overflow: reach >= 65520.0 }
            }
        }
    }
}

/// The comparison of one output with its expected value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// |got − value|.
    pub error: f64,
    /// The error as a fraction of the bound. It is 0 if both are 0, and infinite if the output is
    /// NaN or an infinity that is not allowed.
    pub error_over_bound: f64,
}

impl Verdict {
    /// Returns whether the output is within its bound.
    pub fn passes(&self) -> bool {
        self.error_over_bound <= 1.0
    }
}

/// The comparison of many results with their definition.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Judgement {
    /// The first fault, if there is one.
    pub fault: Option<String>,
    /// The largest error as a fraction of its bound, among all results up to the first fault. It is
    /// infinite if there is a fault.
    pub error_over_bound: f64,
}

impl Judgement {
    /// Records an error as a fraction of its bound and returns whether it is at most 1. If it is
    /// not, `fault` describes what is wrong.
    pub(crate) fn see(&mut self, error_over_bound: f64, fault: impl FnOnce() -> String) -> bool {
        // NaN fails this comparison too.
        let fine = error_over_bound <= 1.0;
        self.error_over_bound =
            if fine { self.error_over_bound.max(error_over_bound) } else { f64::INFINITY };
        if !fine {
            self.fault = Some(fault());
        }
        fine
    }

    /// Records a fault that has no size.
    pub(super) fn refuse(&mut self, fault: String) {
        self.see(f64::INFINITY, || fault);
    }

    /// Combines two judgements. If both have a fault, the first one is kept.
    pub fn and(self, next: Self) -> Self {
        let error_over_bound = self.error_over_bound.max(next.error_over_bound);
        Self { fault: self.fault.or(next.fault), error_over_bound }
    }
}

/// Compares one output with its expected value. An f16 output must be widened to f32 first.
///
/// ```
/// use lowbit::compress::quantize;
/// use lowbit::format::{Granularity, WeightFormat};
/// use lowbit::reference::{MatmulCase, OutputType, check, matmul};
/// let w: Vec<f32> = (0..2 * 64).map(|i| (i as f32 * 0.7).sin()).collect();
/// let weights = quantize(&w, 2, 64, &WeightFormat::int4(Granularity::group(32)?))?;
/// let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.3).cos()).collect();
/// let expected = matmul(&MatmulCase {
///     x: &x,
///     m: 1,
///     weights: &weights,
///     bias: None,
///     output: OutputType::F32,
///     zero_folded: false,
/// })?;
/// // A kernel's results; here the exact ones, rounded to f32.
/// let y: Vec<f32> = expected.iter().map(|e| e.value as f32).collect();
/// assert!(expected.iter().zip(&y).all(|(e, &y)| check(e, y).passes()));
/// assert!(!check(&expected[0], y[0] + 0.01).passes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check(expected: &Expected, got: f32) -> Verdict {
    let got = f64::from(got);
    let error = (got - expected.value).abs();
    let error_over_bound = if got.is_infinite() {
        let toward = expected.value * got.signum() + expected.bound;
        if expected.overflow && toward >= 65520.0 { 0.0 } else { f64::INFINITY }
    } else if error == 0.0 {
        0.0
    } else if error.is_nan() {
        f64::INFINITY
    } else {
        error / expected.bound
    };
    Verdict { error, error_over_bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_terms() {
        let bound = |value, bound| Expected::new(value, bound, OutputType::F16).bound;
        assert_eq!(bound(1.0, 0.0), power_of_two(-11));
        assert_eq!(bound(-1.9, 0.0), power_of_two(-11));
        assert_eq!(bound(1.9, 0.25), 0.25 + power_of_two(-10));
        assert_eq!(bound(1e-9, 0.0), power_of_two(-25));
        assert_eq!(bound(0.0, 0.0), 0.0);
        assert_eq!(bound(60000.0, 0.0), 16.0);
        assert_eq!(bound(1e9, 0.0), 16.0);
    }

    #[test]
    fn verdicts() {
        let ratio = |e: &Expected, got| check(e, got).error_over_bound;
        let f32s = Expected::new(2.0, 0.5, OutputType::F32);
        assert_eq!(ratio(&f32s, 2.25), 0.5);
        assert_eq!(ratio(&f32s, 2.0), 0.0);
        assert!(check(&f32s, 1.5).passes() && !check(&f32s, 1.4).passes());
        for got in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(ratio(&f32s, got), f64::INFINITY);
            assert!(!check(&f32s, got).passes());
        }
        let zero = Expected::new(0.0, 0.0, OutputType::F32);
        assert_eq!((ratio(&zero, 0.0), ratio(&zero, -0.0)), (0.0, 0.0));
        assert_eq!(ratio(&zero, 1e-45), f64::INFINITY);
        let near = Expected::new(65519.0, 1.0, OutputType::F16);
        assert!(check(&near, f32::INFINITY).passes() && check(&near, 65504.0).passes());
        assert!(!check(&near, f32::NEG_INFINITY).passes());
        let below = Expected::new(-65519.0, 0.5, OutputType::F16);
        assert!(!check(&below, f32::NEG_INFINITY).passes());
        let past = Expected::new(-65530.0, 1.0, OutputType::F16);
        assert!(check(&past, f32::NEG_INFINITY).passes() && !check(&past, -65504.0).passes());
        let huge = Expected::new(f64::from(f32::MAX), 1.0, OutputType::F32);
        assert!(!check(&huge, f32::INFINITY).passes());
    }
}
