//! Floats of 4 and 8 bits: e2m1, e4m3 and e5m2, with or without the powers of two of OCP's
//! Microscaling formats.

use crate::compress::range::{power_of_two, shared_scale};
use crate::format::{CodeType, fp8_to_f32};

/// A float of few bits: a sign, an exponent and a mantissa.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SmallFloat {
    mantissa: u32,
    /// The exponent of 1.
    bias: i32,
    /// The code of the greatest finite number.
    most: u32,
    sign: u32,
}

impl SmallFloat {
    pub const E2M1: Self = Self { mantissa: 1, bias: 1, most: 7, sign: 8 };
    pub const E4M3: Self = Self { mantissa: 3, bias: 7, most: 0x7e, sign: 0x80 };
    pub const E5M2: Self = Self { mantissa: 2, bias: 15, most: 0x7b, sign: 0x80 };

    /// Returns the code of the nearest number, with ties to even. Beyond the greatest finite number
    /// this is its code, also where IEEE rounding would give infinity. `x` is no NaN.
    pub fn code(&self, x: f32) -> u32 {
        let magnitude = x.abs();
        let steps = 1 << self.mantissa;
        let code = if magnitude < power_of_two(1 - self.bias) {
            // The subnormal numbers are multiples of the least one. The product is exact.
            let per_unit = power_of_two(self.bias - 1) * steps as f32;
            (magnitude * per_unit).round_ties_even() as u32
        } else {
            let (bits, drop) = (magnitude.min(f32::MAX).to_bits(), 23 - self.mantissa);
            let odd = bits >> drop & 1;
            let rounded = (bits + (1 << (drop - 1)) - 1 + odd) >> drop;
            rounded - ((127 - self.bias) as u32) * steps
        };
        let sign = if x.is_sign_negative() { self.sign } else { 0 };
        code.min(self.most) | sign
    }

    /// Returns the number of a finite code.
    pub fn value(&self, code: u32) -> f32 {
        match CodeType::E2m1.table() {
            Some(table) if self.mantissa == 1 => table[code as usize & 15],
            _ => fp8_to_f32(code as u8, self.mantissa),
        }
    }

    /// Returns the greatest finite number.
    pub fn most(&self) -> f32 {
        self.value(self.most)
    }

    /// Returns the scale that OCP's Microscaling formats give a group of this greatest magnitude.
    pub fn shared_scale(&self, extent: f32) -> f32 {
        shared_scale(extent, self.most())
    }
}

/// Returns the byte of a scale that is a power of two.
pub(super) fn e8m0(scale: f32) -> u8 {
    (scale.to_bits() >> 23) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [SmallFloat; 3] = [SmallFloat::E2M1, SmallFloat::E4M3, SmallFloat::E5M2];

    #[test]
    fn by_hand() {
        for (x, code) in [
            (0.0, 0),
            (-0.0, 8),
            (0.25, 0),
            (0.26, 1),
            (0.75, 2),
            (1.25, 2),
            (-1.75, 12),
            (2.5, 4),
            (3.5, 6),
            (5.0, 6),
            (5.1, 7),
            (1e30, 7),
            (-7.0, 15),
        ] {
            assert_eq!(SmallFloat::E2M1.code(x), code, "{x}");
        }
        for (x, code) in [
            (1.0, 0x38),
            (1.0625, 0x38),
            (1.1875, 0x3a),
            (-448.0, 0xfe),
            (464.0, 0x7e),
            (1e9, 0x7e),
            (1.0 / 1024.0, 0),
            (1.5 / 512.0, 2),
            (7.5 / 512.0, 8),
        ] {
            assert_eq!(SmallFloat::E4M3.code(x), code, "{x}");
        }
        assert_eq!(SmallFloat::E5M2.code(61440.0), 0x7b);
        assert_eq!(SmallFloat::E5M2.code(f32::MAX), 0x7b);
        assert_eq!(SmallFloat::E5M2.code(1.125), 0x3c);
        assert_eq!(ALL.map(|float| float.most()), [6.0, 448.0, 57344.0]);
    }

    /// Every number is its own code, and every point between two neighbors rounds as IEEE says.
    #[test]
    fn every_code() {
        for float in ALL {
            for code in 0..=float.most {
                let (x, next) = (float.value(code), float.value(code + 1));
                assert_eq!(float.code(x), code);
                assert_eq!(float.code(-x), code | float.sign);
                if code == float.most {
                    continue;
                }
                let tie = (x + next) / 2.0;
                assert_eq!(float.code(tie.next_down()), code, "{float:?} {code}");
                assert_eq!(float.code(tie.next_up()), code + 1, "{float:?} {code}");
                assert_eq!(float.code(tie), code + (code & 1), "{float:?} {code}");
            }
        }
    }

    #[test]
    fn shared_scales() {
        let scale = |x| SmallFloat::E2M1.shared_scale(x);
        assert_eq!((scale(1.0), scale(7.9), scale(8.0)), (0.25, 1.0, 2.0));
        assert_eq!(SmallFloat::E4M3.shared_scale(256.0), 1.0);
        assert_eq!(SmallFloat::E5M2.shared_scale(65535.0), 1.0);
        assert_eq!(
            (scale(f32::MIN_POSITIVE), scale(f32::MIN_POSITIVE * 4.0)),
            (0.0, 2f32.powi(-126))
        );
        assert_eq!((e8m0(1.0), e8m0(scale(f32::MAX))), (127, 252));
    }
}
