// Quantizes many weights with one scale: the quotient that div_f32 of lib/softfloat gives, without
// a division for each weight.
//
// Requires: lib/softfloat.
// Provides:
//   Divisor, divisor_of(b)         what is computed once for a scale; `b` must be normal
//   steps_by(a, divisor) -> u32    min(rne_to_int(div_f32(a, b)), 65536), of magnitudes
//
// Why it is exact. Let d in [2^23, 2^24) be the significand of b, n in [d, 2d) that of a
// (doubled where it is below d), and Q = floor(2^24 n / d), which div_f32 rounds to f32.
// R = floor((2^55 - 1) / d) fits a u32, and 2^55 / d - R = e with 0 < e < 1 + 1/d. Then
//   2n R / 2^32 = 2^24 n / d - n e / 2^31,
// and n < 2^25 makes the last term less than 1/63. So the high word of 2n · R is Q or
// Q - 1, and the remainder 2^24 n - Q d, below 2d < 2^25 and thus exact in arithmetic
// modulo 2^32, tells which. Q and whether the remainder is 0 decide the rounding to f32,
// which must come before that to an integer: rne(fl(x)) is not rne(x) next to a tie.

struct Divisor {
    significand: u32,
    exponent: u32,
    // R, in halves.
    high: u32,
    low: u32,
}

fn divisor_of(b: u32) -> Divisor {
    let significand = significand_of(b);
    // 2^55 - 1 is 23 ones, less than any significand, and four more digits to base 256.
    var remainder = 0x007fffffu;
    var quotient = 0u;
    for (var digit = 0u; digit < 4u; digit++) {
        remainder = (remainder << 8u) | 0xffu;
        let next = remainder / significand;
        remainder -= next * significand;
        quotient = (quotient << 8u) | next;
    }
    return Divisor(significand, b >> 23u, quotient >> 16u, quotient & 0xffffu);
}

fn steps_by(a: u32, by: Divisor) -> u32 {
    let significand = significand_of(a);
    let below = select(0u, 1u, significand < by.significand);
    let numerator = significand << below;
    // The exponent of the quotient, biased by 127 more than f32's so that it stays positive.
    let exponent = (a >> 23u) + 254u - by.exponent - below;

    // The high word of 2n · R, from halves; 2n has 26 bits.
    let left = numerator >> 15u;
    let right = (numerator << 1u) & 0xffffu;
    let cross = right * by.high;
    let other = left * by.low;
    let middle = ((right * by.low) >> 16u) + (cross & 0xffffu) + (other & 0xffffu);
    var quotient = left * by.high + (cross >> 16u) + (other >> 16u) + (middle >> 16u);
    let remainder = (numerator << 24u) - quotient * by.significand;
    quotient += select(0u, 1u, remainder >= by.significand);
    let exact = remainder == 0u || remainder == by.significand;

    // To the 24 bits of f32: a tie is an odd quotient of no remainder.
    let rounded = (quotient >> 1u) + (quotient & 1u & ((quotient >> 1u) | select(1u, 0u, exact)));
    // To an integer: from 0.5 on the exponent is at least 253, from 65536 on 270.
    let shift = 277u - clamp(exponent, 253u, 269u);
    let kept = rounded >> shift;
    let tie = 1u << (shift - 1u);
    let lost = rounded & (2u * tie - 1u);
    let steps = kept + select(0u, 1u, lost > tie || (lost == tie && (kept & 1u) == 1u));
    let small = exponent < 253u || a < F32_SMALLEST_NORMAL;
    return select(select(steps, 0x10000u, exponent > 269u), 0u, small);
}
