// f32 arithmetic on bit patterns, correctly rounded (to nearest, ties to even).
//
// Requires: nothing.
// Provides:
//   div_f32(a, b) -> u32    a / b of magnitudes; subnormal quotients are rounded too
//   add_f32(a, b) -> u32    a + b of magnitudes
//   rne_to_int(a) -> u32    a magnitude to the nearest integer, 0xffffffff from 2³² on
// A magnitude is the bits of a non-negative finite f32: 0 or a normal number. Subnormal
// operands count as 0. A result past the largest f32 is the bits of infinity.
//
// Why: weights must come out the same on every GPU, and as on the host. WGSL lets `/`
// be 2.5 ULP off, lets `+` and `*` give either neighbour, and lets all of them flush
// subnormals. Its u32 arithmetic is exact everywhere.

const F32_INFINITY: u32 = 0x7f800000u;
const F32_SMALLEST_NORMAL: u32 = 0x00800000u;

// Magnitude bits, with subnormals as 0: what every weight counts as.
fn magnitude_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    return select(magnitude, 0u, magnitude < F32_SMALLEST_NORMAL);
}

fn magnitudes_of(bits: vec4<u32>) -> vec4<u32> {
    let magnitudes = bits & vec4<u32>(0x7fffffffu);
    let small = magnitudes < vec4<u32>(F32_SMALLEST_NORMAL);
    return select(magnitudes, vec4<u32>(0u), small);
}

fn significand_of(magnitude: u32) -> u32 {
    return (magnitude & 0x007fffffu) | 0x00800000u;
}

// `value` shifted right by 1 to 31, rounded half to even; `sticky` says that more bits
// below those of `value` are not all 0.
fn shift_right_rne(value: u32, shift: u32, sticky: bool) -> u32 {
    let kept = value >> shift;
    let lost = value & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    let up = lost > tie || (lost == tie && (sticky || (kept & 1u) == 1u));
    return kept + select(0u, 1u, up);
}

// `b` must be normal.
fn div_f32(a: u32, b: u32) -> u32 {
    if (a < F32_SMALLEST_NORMAL) {
        return 0u;
    }
    var numerator = significand_of(a);
    let denominator = significand_of(b);
    // Biased exponent of the quotient; below 1 it is subnormal.
    var exponent = i32(a >> 23u) - i32(b >> 23u) + 127;
    if (numerator < denominator) {
        numerator <<= 1u;
        exponent -= 1;
    }
    // The quotient is in [1, 2): long division with base-256 digits gives it 24
    // fraction bits, one more than f32 keeps. The remainder stays below 2²⁴, so a digit
    // never overflows a u32.
    var quotient = 1u;
    var remainder = numerator - denominator;
    for (var digit = 0u; digit < 3u; digit++) {
        remainder <<= 8u;
        let next = remainder / denominator;
        remainder -= next * denominator;
        quotient = (quotient << 8u) | next;
    }
    let sticky = remainder != 0u;
    if (exponent >= 255) {
        return F32_INFINITY;
    }
    if (exponent >= 1) {
        // The leading bit of the significand adds the last 1 to the exponent, and a
        // carry out of it doubles the result, up to infinity.
        return (u32(exponent - 1) << 23u) + shift_right_rne(quotient, 1u, sticky);
    }
    // From a shift of 26 on the quotient is under half of the smallest subnormal.
    if (exponent < -23) {
        return 0u;
    }
    return shift_right_rne(quotient, u32(2 - exponent), sticky);
}

fn add_f32(a: u32, b: u32) -> u32 {
    let high = max(a, b);
    let low = min(a, b);
    if (low < F32_SMALLEST_NORMAL) {
        return select(high, 0u, high < F32_SMALLEST_NORMAL);
    }
    // Three more bits than f32 keeps, the lowest of them sticky.
    let distance = (high >> 23u) - (low >> 23u);
    var addend = significand_of(low) << 3u;
    if (distance >= 27u) {
        addend = 1u;
    } else {
        let lost = addend & ((1u << distance) - 1u);
        addend = (addend >> distance) | select(0u, 1u, lost != 0u);
    }
    var sum = (significand_of(high) << 3u) + addend;
    var exponent = high >> 23u;
    if (sum >= 0x08000000u) {
        sum = (sum >> 1u) | (sum & 1u);
        exponent += 1u;
    }
    let rounded = ((exponent - 1u) << 23u) + shift_right_rne(sum, 3u, false);
    return min(rounded, F32_INFINITY);
}

fn rne_to_int(a: u32) -> u32 {
    let exponent = a >> 23u;
    if (exponent < 126u) {
        return 0u;
    }
    if (exponent > 158u) {
        return 0xffffffffu;
    }
    if (exponent >= 150u) {
        return significand_of(a) << (exponent - 150u);
    }
    return shift_right_rne(significand_of(a), 150u - exponent, false);
}
