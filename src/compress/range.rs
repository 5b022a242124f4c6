use super::flushed;
use crate::format::{ScaleType, WeightFormat};
use half::f16;

/// The range of a group's weights, extended to include 0, as two magnitudes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Range {
    /// How far the range extends below 0.
    pub lo: f32,
    /// How far the range extends above 0.
    pub hi: f32,
}

impl Range {
    /// Extends the range to include `x`.
    pub fn widen(&mut self, x: f32) {
        let x = flushed(x);
        // `max` may return either zero of +0 and −0, so the code compares instead.
        if x > self.hi {
            self.hi = x;
        }
        if -x > self.lo {
            self.lo = -x;
        }
    }

    /// Extends the range to include another range.
    pub fn merge(&mut self, other: Self) {
        self.widen(other.hi);
        self.widen(-other.lo);
    }

    /// Returns whether no weight differs from 0.
    pub fn is_dead(&self) -> bool {
        self.lo == 0.0 && self.hi == 0.0
    }
}

/// The scale of a group as it is stored (widened to f32), and its zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine {
    pub scale: f32,
    pub zero: i32,
}

/// The integer codes of a format: everything besides its weights that a group's scale, zero point
/// and codes depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodeGrid {
    low: i32,
    high: i32,
    /// The zero point if it is the same for every group.
    fixed_zero: Option<i32>,
    scale_type: ScaleType,
}

impl CodeGrid {
    /// Returns `None` for floats.
    pub fn of(format: &WeightFormat) -> Option<Self> {
        let (low, high) = format.code_range()?;
        let fixed_zero = format.is_symmetric().then(|| format.symmetric_zero());
        let scale_type = format.scale_type();
        // A power of two does not map the greatest magnitude to the greatest number. What lies beyond that
        // becomes it on both sides, so that no finite weight becomes infinite.
        let low = match (scale_type, fixed_zero) {
            (ScaleType::E8m0, Some(zero)) => low.max(2 * zero - high),
            _ => low,
        };
        Some(Self { low, high, fixed_zero, scale_type })
    }

    /// Returns the scale and zero point of a group, or `None` if the scale type cannot represent
    /// the scale.
    pub fn affine(&self, range: Range) -> Option<Affine> {
        if range.is_dead() {
            return Some(Affine { scale: 1.0, zero: self.fixed_zero.unwrap_or(self.low) });
        }
        let (extent, steps) = match self.fixed_zero {
            Some(zero) => (range.lo.max(range.hi), (self.high - zero) as f32),
            // A sum that overflows is infinite, and the scale is then refused.
            None => (range.lo + range.hi, (self.high - self.low) as f32),
        };
        let scale = match self.scale_type {
            ScaleType::E8m0 => shared_scale(extent, steps),
            _ => finite_quotient(extent, steps),
        };
        let scale = stored(scale, self.scale_type)?;
        let zero = self.fixed_zero.unwrap_or_else(|| {
            let steps = (range.lo / scale).round_ties_even() as i32;
            steps.clamp(0, self.high - self.low) + self.low
        });
        Some(Affine { scale, zero })
    }

    /// Returns the code of a weight. It need not be one that `affine` was computed for: second-order
    /// methods update weights after the scale of their group was found.
    pub fn code(&self, affine: Affine, x: f32) -> i32 {
        let steps = (flushed(x) / affine.scale).round_ties_even() as i32;
        steps.saturating_add(affine.zero).clamp(self.low, self.high)
    }
}

/// Returns the scale that OCP's Microscaling formats give a group: the greatest power of two in its greatest
/// magnitude (a normal f32), divided by the greatest power of two in that of the numbers. Below the normal
/// numbers of f32 it is 0.
pub(super) fn shared_scale(extent: f32, most: f32) -> f32 {
    let exponent = |x: f32| (x.to_bits() >> 23) as i32 - 127;
    power_of_two(exponent(extent) - exponent(most))
}

/// Returns a power of two that is a normal f32, or 0 below them.
pub(super) fn power_of_two(exponent: i32) -> f32 {
    if exponent < -126 { 0.0 } else { f32::from_bits(((exponent + 127) as u32) << 23) }
}

/// Returns `extent / steps`, or the next lower number if `steps` times the rounded quotient would be
/// infinite though `extent` is not: the greatest weights of all would then become infinite.
pub(super) fn finite_quotient(extent: f32, steps: f32) -> f32 {
    let exact = extent / steps;
    let overflows = extent.is_finite() && (exact * steps).is_infinite();
    if overflows { exact.next_down() } else { exact }
}

/// Returns the scale rounded to its type, or `None` if it is not a normal number there. What f32
/// holds of a scale of one byte is exact already.
pub(super) fn stored(scale: f32, scale_type: ScaleType) -> Option<f32> {
    match scale_type {
        ScaleType::F16 => {
            let scale = f16::from_f32(scale);
            scale.is_normal().then(|| scale.to_f32())
        }
        _ => scale.is_normal().then_some(scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Granularity;

    const INT8: WeightFormat = WeightFormat::int8(Granularity::Channel);
    const INT4: WeightFormat = WeightFormat::int4(Granularity::Channel);

    fn affine(format: WeightFormat, weights: &[f32]) -> Option<Affine> {
        let mut range = Range::default();
        weights.iter().for_each(|&x| range.widen(x));
        CodeGrid::of(&format).unwrap().affine(range)
    }

    fn codes(format: WeightFormat, weights: &[f32]) -> Vec<i32> {
        let affine = affine(format, weights).unwrap();
        let grid = CodeGrid::of(&format).unwrap();
        weights.iter().map(|&x| grid.code(affine, x)).collect()
    }

    #[test]
    fn ranges_hold_zero_and_flush() {
        let mut range = Range::default();
        range.widen(-0.0);
        range.widen(1e-39);
        range.widen(-1e-39);
        assert!(range.is_dead());
        range.widen(3.0);
        range.widen(2.0);
        assert_eq!(range, Range { lo: 0.0, hi: 3.0 });
        range.widen(-5.0);
        assert_eq!(range, Range { lo: 5.0, hi: 3.0 });
    }

    #[test]
    fn floats_have_no_grid() {
        assert!(CodeGrid::of(&WeightFormat::f32()).is_none());
        assert!(CodeGrid::of(&WeightFormat::f16()).is_none());
    }

    /// The scale is 1 throughout, so that ties are visible. They go to the even code, counted from
    /// the zero point, on both sides of it.
    #[test]
    fn ties_go_to_even() {
        let w = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -63.5, -2.5, -0.0];
        assert_eq!(codes(INT8, &w), [127, 0, 2, 2, 0, -2, -64, -2, 0]);
        let int16 = WeightFormat::int16(Granularity::Channel);
        assert_eq!(codes(int16, &[-32767.0, 0.5, 1.5, 32766.5]), [-32767, 0, 2, 32766]);
        assert_eq!(codes(INT4, &[7.0, -3.5, 2.5, 1.5, -7.0, 0.0]), [15, 4, 10, 10, 1, 8]);
        let w = [-5.0, 10.0, 0.5, 1.5, -0.5, -1.5, 0.0];
        assert_eq!(codes(INT4.asymmetric(), &w), [0, 15, 5, 7, 5, 3, 5]);
        let w = [-100.0, 155.0, 0.5, 1.5, 0.0];
        assert_eq!(codes(INT8.asymmetric(), &w), [-128, 127, -28, -26, -28]);
    }

    /// Half the maximum is within one ulp of a tie. `x · (1/s)` gives 63 for the first group and 64
    /// for the second.
    #[test]
    fn codes_divide_by_the_scale() {
        assert_eq!(codes(INT8, &[7.5, 3.75, -3.75]), [127, 64, -64]);
        assert_eq!(codes(INT8, &[4.5, 2.25, -2.25]), [127, 63, -63]);
    }

    #[test]
    fn zero_points_tie_to_even() {
        let zero = |lo: f32, hi: f32| affine(INT4.asymmetric(), &[lo, hi]).map(|a| a.zero);
        assert_eq!((zero(-6.5, 8.5), zero(-7.5, 7.5)), (Some(6), Some(8)));
        let zero = |lo: f32, hi: f32| affine(INT8.asymmetric(), &[lo, hi]).map(|a| a.zero);
        assert_eq!((zero(-100.5, 154.5), zero(-101.5, 153.5)), (Some(-28), Some(-26)));
    }

    /// A subnormal counts as 0 even if it is most of a step.
    #[test]
    fn subnormals_take_the_code_of_zero() {
        let tiny = f32::MIN_POSITIVE;
        let below = tiny.next_down();
        assert_eq!(codes(INT4, &[7.0 * tiny, tiny, below, -below]), [15, 9, 8, 8]);
        let w = [-5.0 * tiny, 10.0 * tiny, tiny, below, -below];
        assert_eq!(codes(INT4.asymmetric(), &w), [0, 15, 6, 5, 5]);
    }

    #[test]
    fn one_sided_ranges_reach_zero() {
        assert_eq!(codes(INT4.asymmetric(), &[15.0, 4.0, 9.0]), [15, 4, 9]);
        assert_eq!(codes(INT4.asymmetric(), &[-15.0, -4.0]), [0, 11]);
        assert_eq!(affine(INT4.asymmetric(), &[-15.0]), Some(Affine { scale: 1.0, zero: 15 }));
        assert_eq!(affine(INT8.asymmetric(), &[51.0]), Some(Affine { scale: 0.2, zero: -128 }));
        assert_eq!(affine(INT8.asymmetric(), &[-51.0]), Some(Affine { scale: 0.2, zero: 127 }));
    }

    /// Both ends are at x.5 and round away from each other, so together they need one code too
    /// many.
    #[test]
    fn clamps_at_the_top() {
        let format = INT8.asymmetric();
        assert_eq!(affine(format, &[-127.5, 127.5]), Some(Affine { scale: 1.0, zero: 0 }));
        assert_eq!(codes(format, &[-127.5, 127.5, 127.25]), [-128, 127, 127]);
    }

    /// Weights beyond the range of their group take the outermost codes, however far they are.
    #[test]
    fn far_beyond_the_range() {
        let int8 = WeightFormat::int8(Granularity::Channel).asymmetric();
        for format in [INT8, INT4, INT4.asymmetric(), int8] {
            let grid = CodeGrid::of(&format).unwrap();
            let affine = affine(format, &[-f32::MIN_POSITIVE * 200.0, 3e-36]).unwrap();
            let (low, high) = format.code_range().unwrap();
            for x in [1.0, f32::MAX] {
                assert_eq!((grid.code(affine, x), grid.code(affine, -x)), (high, low), "{format}");
            }
        }
    }

    #[test]
    fn dead_groups() {
        for dead in [&[][..], &[0.0, -0.0], &[1e-39, -1e-45]] {
            assert_eq!(affine(INT8, dead), Some(Affine { scale: 1.0, zero: 0 }));
            assert_eq!(affine(INT4, dead), Some(Affine { scale: 1.0, zero: 8 }));
            let low = affine(INT8.asymmetric(), dead);
            assert_eq!(low, Some(Affine { scale: 1.0, zero: -128 }));
            let low = affine(INT4.asymmetric().with_scales(ScaleType::F16), dead);
            assert_eq!(low, Some(Affine { scale: 1.0, zero: 0 }));
        }
        assert_eq!(codes(INT8.asymmetric(), &[0.0, 1e-39]), [-128, -128]);
    }

    /// A scale of 1 + 2⁻¹² rounds to 1 in f16. What was 2.4995 steps is then 2.5001 steps.
    #[test]
    fn codes_use_the_rounded_scale() {
        let w = [127.0 * (1.0 + 1.0 / 4096.0), 2.5001];
        assert_eq!(codes(INT8, &w), [127, 2]);
        assert_eq!(codes(INT8.with_scales(ScaleType::F16), &w), [127, 3]);
        // The zero point uses the rounded scale too: lo/s is 7.4999 steps before rounding and
        // 7.5018 after it.
        let unit = 1.0 + 1.0 / 4096.0;
        let w = [-7.4999 * unit, 7.5001 * unit];
        let zero = |f: WeightFormat| affine(f, &w).unwrap().zero;
        assert_eq!(zero(INT4.asymmetric()), 7);
        assert_eq!(zero(INT4.asymmetric().with_scales(ScaleType::F16)), 8);
    }

    /// Tests both sides of the limits of normal numbers.
    #[test]
    fn scales_out_of_range() {
        let tiny = f32::MIN_POSITIVE;
        assert_eq!(affine(INT4, &[7.0 * tiny]), Some(Affine { scale: tiny, zero: 8 }));
        assert_eq!(affine(INT4, &[(7.0 * tiny).next_down()]), None);
        assert_eq!(affine(INT4.asymmetric(), &[tiny]), None);

        let half = |x: f32| affine(INT4.with_scales(ScaleType::F16), &[7.0 * x]).map(|a| a.scale);
        let tiny = f16::MIN_POSITIVE.to_f32();
        assert_eq!(half(tiny), Some(tiny));
        // Half a subnormal step below the least normal number still rounds up to it.
        let step = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
        assert_eq!(half(tiny - step / 2.0), Some(tiny));
        assert_eq!(half(tiny - 0.75 * step), None);
        assert_eq!(half(1e-9), None);
        assert_eq!(half(65519.0), Some(65504.0));
        assert_eq!(half(65520.0), None);
    }

    #[test]
    fn extreme_weights() {
        let max = f32::MAX;
        assert_eq!(codes(INT8, &[max, -max, max / 4.0]), [127, -127, 32]);
        // The quotient was rounded up for 127 and 32767, and not for the others.
        let int16 = WeightFormat::int16(Granularity::Channel);
        for (format, steps, below) in [
            (INT8, 127.0, true),
            (int16, 32767.0, true),
            (INT4, 7.0, false),
            (INT4.asymmetric(), 15.0, false),
            (INT8.asymmetric(), 255.0, false),
        ] {
            let quotient = max / steps;
            assert_eq!((quotient * steps).is_infinite(), below);
            let scale = affine(format, &[-max]).unwrap().scale;
            assert_eq!(scale, if below { quotient.next_down() } else { quotient });
            assert!((scale * steps).is_finite());
            // Any smaller range has the quotient itself.
            assert_eq!(affine(format, &[max / 2.0]).unwrap().scale, max / 2.0 / steps);
        }
        assert_eq!(codes(INT4.asymmetric(), &[max, max / 15.0]), [15, 1]);
        assert_eq!(codes(INT4.asymmetric(), &[-max]), [0]);
        assert_eq!(affine(INT4.asymmetric(), &[max, -max]), None);
        assert_eq!(affine(INT8.asymmetric(), &[max, -max / 1e6]), None);
    }
}
