//! IEEE binary16 in integer arithmetic. It does not use the `half` crate, because the code under
//! test uses it.

/// Returns the exact value of the f16 with these bits.
pub fn f16_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match bits >> 10 & 0x1f {
        // Subnormals are multiples of 2⁻²⁴.
        0 => fraction * power_of_two(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * power_of_two(i32::from(exponent) - 25),
    };
    sign * magnitude
}

/// Returns the bits of the f16 nearest to `value`, with ties to even. From 65520 on, the result is
/// infinite. NaN becomes a quiet NaN.
pub fn f64_to_f16(value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    if value.is_nan() {
        return sign | 0x7e00;
    }
    let magnitude = value.abs();
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    // The value is scaled so that one f16 ulp is 1. The quotient is at most 2048 and exact, and so
    // is its difference from its floor, so the comparison with 0.5 decides correctly.
    let exponent = exponent_of(magnitude).max(-14);
    let scaled = magnitude * power_of_two(10 - exponent);
    let floor = scaled.floor();
    let rest = scaled - floor;
    let mut steps = floor as u16;
    if rest > 0.5 || (rest == 0.5 && steps % 2 == 1) {
        steps += 1;
    }
    // Consecutive f16 have consecutive bits, even across binades, so a carry is correct.
    let binade = ((exponent + 14) as u16) << 10;
    sign | (binade + steps)
}

/// Returns ⌊log₂ magnitude⌋ of a positive normal f64, or −1023 for zero and subnormals.
pub(super) fn exponent_of(magnitude: f64) -> i32 {
    (magnitude.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

/// Returns 2ᵉ for −1022 ≤ e ≤ 1023.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn widens_like_half() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f64(bits), f16::from_bits(bits).to_f64());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        }
    }

    /// Tests every f16, every midpoint between two, and the f64 neighbors of each midpoint.
    #[test]
    fn narrows_like_half() {
        for bits in 0..0x7c00u16 {
            let value = f16_to_f64(bits);
            let next = if bits == 0x7bff { 65536.0 } else { f16_to_f64(bits + 1) };
            let middle = (value + next) / 2.0;
            let (below, above) = (middle.next_down(), middle.next_up());
            for (value, need) in [
                (value, bits),
                (below, bits),
                (above, bits + 1),
                (middle, if bits % 2 == 0 { bits } else { bits + 1 }),
            ] {
                assert_eq!(f64_to_f16(value), need, "{value}");
                assert_eq!(f64_to_f16(-value), need | 0x8000, "{value}");
            }
        }
        let mut state = 1u32;
        for _ in 0..2_000_000 {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let value = f32::from_bits(state);
            let (ours, theirs) = (f64_to_f16(value.into()), f16::from_f32(value));
            assert!(
                ours == theirs.to_bits() || value.is_nan() && f16::from_bits(ours).is_nan(),
                "{value} {ours:x} {theirs}"
            );
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(f64_to_f16(65519.99), 0x7bff);
        assert_eq!(f64_to_f16(65520.0), 0x7c00);
        assert_eq!(f64_to_f16(f64::NEG_INFINITY), 0xfc00);
        assert_eq!(f64_to_f16(f64::from_bits(1)), 0);
        assert_eq!(f64_to_f16(-0.0), 0x8000);
        assert_eq!(f64_to_f16(power_of_two(-25)), 0);
        assert_eq!(f64_to_f16(power_of_two(-25) * 1.0001), 1);
    }
}
