use super::{CalibrateError, Method};
use crate::format::{ActivationFormat, ActivationGranularity, StaticScale};

/// The range of activations that codes are to cover; it holds 0. In the units of X.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationRange {
    min: f32,
    max: f32,
}

impl ActivationRange {
    /// From `min ≤ 0` to `max ≥ 0`.
    ///
    /// # Errors
    /// [`CalibrateError::Range`]: ends that are not finite, or do not hold 0.
    pub fn new(min: f32, max: f32) -> Result<Self, CalibrateError> {
        match min <= 0.0 && max >= 0.0 && min.is_finite() && max.is_finite() {
            // + 0: of −0 and +0 the same is kept.
            true => Ok(Self { min: min + 0.0, max: max + 0.0 }),
            false => Err(CalibrateError::Range { min, max }),
        }
    }

    /// The range of finite values, widened to hold 0.
    pub(crate) fn of(min: f32, max: f32) -> Self {
        Self { min: min.min(0.0) + 0.0, max: max.max(0.0) + 0.0 }
    }

    /// Its lower end, at most 0.
    pub fn min(&self) -> f32 {
        self.min
    }

    /// Its upper end, at least 0.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// The larger end's magnitude.
    pub fn absmax(&self) -> f32 {
        self.max.max(-self.min)
    }

    /// The least range that holds both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Cut to ±`threshold`; what is not cut keeps its bits.
    pub(super) fn within(self, low: f64, high: f64) -> Self {
        Self { min: self.min.max(-low as f32) + 0.0, max: self.max.min(high as f32) + 0.0 }
    }

    /// Scale and zero point, as [`ActivationFormat`] has them:
    ///
    /// | | scale `s` | zero point |
    /// |---|---|---|
    /// | symmetric | absmax/127 | 0 |
    /// | asymmetric | (max − min)/255 | clamp(rne(−min/s), 0, 255) − 128 |
    ///
    /// A range of zeros, and one whose scale would be subnormal, gets s = 1 and z = 0. Differences
    /// are taken in f64, so that no range overflows.
    pub fn scheme(&self, symmetric: bool) -> StaticScale {
        let scale = match symmetric {
            true => self.absmax() / 127.0,
            false => ((f64::from(self.max) - f64::from(self.min)) / 255.0) as f32,
        };
        if scale < f32::MIN_POSITIVE {
            return StaticScale { scale: 1.0, zero_point: 0 };
        }
        let zero_point = match symmetric {
            true => 0,
            false => (-self.min / scale).round_ties_even().clamp(0.0, 255.0) as i32 - 128,
        };
        StaticScale { scale, zero_point }
    }
}

/// A static scale and zero point for all of X, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    format: ActivationFormat,
    method: Method,
    range: ActivationRange,
    scheme: StaticScale,
}

impl Calibration {
    /// What a range gives.
    ///
    /// # Errors
    /// [`CalibrateError::NotStatic`] for formats whose scales are not for all of X.
    pub fn new(
        format: ActivationFormat,
        method: Method,
        range: ActivationRange,
    ) -> Result<Self, CalibrateError> {
        if format.granularity() != ActivationGranularity::Tensor {
            return Err(CalibrateError::NotStatic { format });
        }
        Ok(Self { format, method, range, scheme: range.scheme(format.is_symmetric()) })
    }

    /// The format that the scale is for.
    pub fn format(&self) -> ActivationFormat {
        self.format
    }

    /// How the range was chosen.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The range.
    pub fn range(&self) -> ActivationRange {
        self.range
    }

    /// Scale and zero point.
    pub fn scheme(&self) -> StaticScale {
        self.scheme
    }
}
