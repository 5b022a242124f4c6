//! Integers with a minimum: the range of a group need not contain 0.

use super::super::range::{Range, finite_quotient, stored};
use super::Group;
use crate::compress::flushed;
use crate::format::{ScaleType, WeightFormat};
use half::f16;

/// The integer codes of a format with minima. For weights from `min` to `max`:
///
/// ```text
/// s = (max − min) / (high − low)     m = min − low · s     c = clamp(rne((w − m) / s), low, high)
/// ```
///
/// Both are rounded to their type before codes are computed. If all weights are equal, s is 1.
#[derive(Clone, Copy, Debug)]
pub(in crate::compress) struct MinimumGrid {
    low: i32,
    high: i32,
    scale_type: ScaleType,
}

impl MinimumGrid {
    /// Returns `None` for codes that are no integers.
    pub fn of(format: &WeightFormat) -> Option<Self> {
        let (low, high) = format.code_range()?;
        Some(Self { low, high, scale_type: format.scale_type() })
    }

    /// Returns the scale and the minimum of a group, or `None` if their type cannot represent them
    /// or if a weight would become infinite.
    pub fn group(&self, range: Range) -> Option<Group> {
        let (min, extent) = (0.0 - range.lo, range.hi + range.lo);
        let scale = if extent == 0.0 {
            1.0
        } else {
            stored(finite_quotient(extent, (self.high - self.low) as f32), self.scale_type)?
        };
        let minimum = min - self.low as f32 * scale;
        let minimum = match self.scale_type {
            ScaleType::F16 => f16::from_f32(minimum).to_f32(),
            _ => minimum,
        };
        let value = |code: i32| code as f32 * scale + minimum;
        let finite = value(self.low).is_finite() && value(self.high).is_finite();
        finite.then_some(Group { minimum, ..Group::of(scale) })
    }

    pub fn code(&self, group: Group, x: f32) -> i32 {
        let steps = ((flushed(x) - group.minimum) / group.scale).round_ties_even() as i32;
        steps.clamp(self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{CompressError, dequantize, quantize};
    use crate::format::Scales;

    fn made(name: &str, w: &[f32]) -> Result<(Scales, Scales, Vec<i32>, Vec<f32>), CompressError> {
        let packed = quantize(w, 1, w.len(), &name.parse().unwrap())?;
        let codes = (0..w.len()).map(|at| packed.code(0, at)).collect();
        Ok((packed.scales().clone(), packed.minima().clone(), codes, dequantize(&packed)))
    }

    #[test]
    fn by_hand() {
        let w = [10.0, 25.0, 11.5, 12.5, 13.4];
        let (scales, minima, codes, restored) = made("int4-channel-min", &w).unwrap();
        assert_eq!((scales, minima), (Scales::F32(vec![1.0]), Scales::F32(vec![10.0])));
        assert_eq!(codes, [0, 15, 2, 2, 3]);
        assert_eq!(restored, [10.0, 25.0, 12.0, 12.0, 13.0]);
        // Codes of int8 start at −128.
        let (scales, minima, codes, restored) = made("int8-channel-min", &[-3.0, 252.0]).unwrap();
        assert_eq!((scales, minima), (Scales::F32(vec![1.0]), Scales::F32(vec![125.0])));
        assert_eq!((codes, restored), (vec![-128, 127], vec![-3.0, 252.0]));
        // A group of equal weights, and one of zeros.
        let (scales, minima, codes, restored) =
            made("int2-g2-min-f16s", &[0.3, 0.3, 0.0, -0.0]).unwrap();
        let third = f16::from_f32(0.3);
        assert_eq!(scales, Scales::F16(vec![f16::ONE; 2]));
        assert_eq!(minima, Scales::F16(vec![third, f16::ZERO]));
        assert_eq!((codes, restored[0], restored[2].to_bits()), (vec![0; 4], third.to_f32(), 0));
    }

    /// The minimum is rounded first, and codes are computed with what is stored.
    #[test]
    fn codes_use_what_is_stored() {
        // 2049 is no f16: the minimum becomes 2048.
        let (_, minima, codes, restored) =
            made("int2-channel-min-f16s", &[2049.0, 2052.0]).unwrap();
        assert_eq!(minima, Scales::F16(vec![f16::from_f32(2048.0)]));
        assert_eq!((codes, restored), (vec![1, 3], vec![2049.0, 2051.0]));
    }

    #[test]
    fn extremes() {
        let max = f32::MAX;
        for bits in [2, 3, 4, 5, 6, 8] {
            for w in [[0.0, max], [-max, 0.0], [-max, -max], [-max / 2.0, max / 2.0]] {
                let (_, _, _, restored) = made(&format!("int{bits}-channel-min"), &w).unwrap();
                assert!(restored.iter().all(|w| w.is_finite()), "{bits} {w:?} {restored:?}");
            }
            let refused = made(&format!("int{bits}-tensor-min"), &[-max, max]);
            assert!(matches!(refused, Err(CompressError::ScaleRange { .. })));
        }
        for w in [[0.0, 1e-6], [1e5, 1e5], [0.0, 1e6]] {
            let refused = made("int4-channel-min-f16s", &w);
            assert!(matches!(refused, Err(CompressError::ScaleRange { .. })), "{w:?}");
        }
    }
}
