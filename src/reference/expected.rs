use super::binary16::{exponent_of, power_of_two};

/// What a kernel writes its results as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputType {
    /// f32: the accumulator as it is.
    F32,
    /// f16: the f32 result rounded to nearest even by integer arithmetic, 65520 and
    /// more to infinity.
    F16,
}

/// The right answer for one output, and how far off a correct kernel may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The exact value, in f64.
    pub value: f64,
    /// The largest |result − value| of a correct kernel.
    pub bound: f64,
    /// Whether an infinity may be right: an f16 output within reach of 65520.
    pub overflow: bool,
}

impl Expected {
    /// Adds to `bound`, which holds for the f32 result ŷ, what writing it as `output`
    /// adds: nothing for f32. For f16 half an ulp at |ŷ| ≤ |value| + bound. That is at
    /// least 2⁻²⁵ (f16 subnormals are 2⁻²⁴ apart; f32 subnormals round to 0) and at most
    /// 16, since from 65520 on the result is infinite. A result known to be 0 stays 0.
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

/// How one output compares with what is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// |got − value|.
    pub error: f64,
    /// The error as a fraction of the bound: 0 where both are 0, infinite where the
    /// output is NaN or an infinity that is not allowed.
    pub error_over_bound: f64,
}

impl Verdict {
    /// Whether the output is within its bound.
    pub fn passes(&self) -> bool {
        self.error_over_bound <= 1.0
    }
}

/// How many results compare with what they must be.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Judgement {
    /// The first fault, if there is one.
    pub fault: Option<String>,
    /// The worst error as a fraction of its bound, of what came up to the first fault.
    pub error_over_bound: f64,
}

impl Judgement {
    /// Takes an error over its bound into account; `fault` says what is wrong where it is over 1.
    pub(super) fn see(&mut self, error_over_bound: f64, fault: impl FnOnce() -> String) -> bool {
        // NaN is no result either.
        let fine = error_over_bound <= 1.0;
        self.error_over_bound = match fine {
            true => self.error_over_bound.max(error_over_bound),
            false => f64::INFINITY,
        };
        if !fine {
            self.fault = Some(fault());
        }
        fine
    }

    /// The same with a fault that has no size.
    pub(super) fn refuse(&mut self, fault: String) {
        self.see(f64::INFINITY, || fault);
    }

    /// Both, in order.
    pub fn and(self, next: Self) -> Self {
        let error_over_bound = self.error_over_bound.max(next.error_over_bound);
        Self { fault: self.fault.or(next.fault), error_over_bound }
    }
}

/// Judges one output, an f16 one widened to f32.
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
