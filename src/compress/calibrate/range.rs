use super::{CalibrateError, Method};
use crate::format::{ActivationFormat, ActivationGranularity, StaticScale};

/// The range of activations that codes should cover, in the units of X. It includes 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationRange {
    min: f32,
    max: f32,
}

impl ActivationRange {
    /// Creates a range from `min ≤ 0` to `max ≥ 0`.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Range`] if an end is not finite or the range does not include 0.
    pub fn new(min: f32, max: f32) -> Result<Self, CalibrateError> {
        if min <= 0.0 && max >= 0.0 && min.is_finite() && max.is_finite() {
            // Adding 0 turns −0 into +0.
            Ok(Self { min: min + 0.0, max: max + 0.0 })
        } else {
            Err(CalibrateError::Range { min, max })
        }
    }

    /// Returns the range of finite values, extended to include 0.
    pub(crate) fn of(min: f32, max: f32) -> Self {
        Self { min: min.min(0.0) + 0.0, max: max.max(0.0) + 0.0 }
    }

    /// Returns the lower end, which is at most 0.
    pub fn min(&self) -> f32 {
        self.min
    }

    /// Returns the upper end, which is at least 0.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// Returns the larger magnitude of the two ends.
    pub fn absmax(&self) -> f32 {
        self.max.max(-self.min)
    }

    /// Returns the smallest range that includes both ranges.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Limits the range to −`low`…`high`. An end within these limits keeps its bits.
    pub(super) fn within(self, low: f64, high: f64) -> Self {
        Self { min: self.min.max(-low as f32) + 0.0, max: self.max.min(high as f32) + 0.0 }
    }

    /// Returns the scale and zero point by the formulas of [`ActivationFormat`]:
    ///
    /// | | scale `s` | zero point |
    /// |---|---|---|
    /// | symmetric | absmax/127 | 0 |
    /// | asymmetric | (max − min)/255 | clamp(rne(−min/s), 0, 255) − 128 |
    ///
    /// A range of zeros, and a range whose scale would be subnormal, gets s = 1 and z = 0. The
    /// difference is computed in f64, so that it does not overflow.
    pub fn scheme(&self, symmetric: bool) -> StaticScale {
        let scale = if symmetric {
            self.absmax() / 127.0
        } else {
            ((f64::from(self.max) - f64::from(self.min)) / 255.0) as f32
        };
        if scale < f32::MIN_POSITIVE {
            return StaticScale { scale: 1.0, zero_point: 0 };
        }
        let zero_point = if symmetric {
            0
        } else {
            (-self.min / scale).round_ties_even().clamp(0.0, 255.0) as i32 - 128
        };
        StaticScale { scale, zero_point }
    }
}

/// A static scale and zero point for all of X, together with the range and the method that they
/// were computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    format: ActivationFormat,
    method: Method,
    range: ActivationRange,
    scheme: StaticScale,
}

impl Calibration {
    /// Computes the scale and zero point of a range.
    ///
    /// # Errors
    /// Returns [`CalibrateError::NotStatic`] if the format has more than one scale for all of X.
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

    /// Returns the format that the scale is for.
    pub fn format(&self) -> ActivationFormat {
        self.format
    }

    /// Returns the method that chose the range.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the range.
    pub fn range(&self) -> ActivationRange {
        self.range
    }

    /// Returns the scale and zero point.
    pub fn scheme(&self) -> StaticScale {
        self.scheme
    }
}
