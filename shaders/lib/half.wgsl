// IEEE binary16 values in the halves of a u32.
// Requires: nothing.
// Provides: half_to_f32, f32_to_half, and with integer arithmetic alone half_to_f32_bits,
// f32_bits_to_half.
// Why not unpack2x16float and pack2x16float: the first may flush f16 subnormals, which are
// ordinary weights below 6.1e-5, and the result of the second is indeterminate out of range.

// Exact for every f16: subnormals, infinities and NaN included.
fn half_to_f32(half: u32) -> f32 {
    let magnitude = half & 0x7fffu;
    // A subnormal is an integer times 2^-24: both steps are exact.
    let subnormal = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    let normal = (magnitude << 13u) + 0x38000000u;
    let special = (magnitude << 13u) | 0x7f800000u;
    let finite = select(normal, subnormal, magnitude < 0x0400u);
    let bits = select(finite, special, magnitude >= 0x7c00u);
    return bitcast<f32>(bits | ((half & 0x8000u) << 16u));
}

// Round to nearest, ties to even; out of range becomes infinity, NaN stays NaN.
fn f32_to_half(value: f32) -> u32 {
    return f32_bits_to_half(bitcast<u32>(value));
}

fn f32_bits_to_half(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    // Normal results: move the exponent, add half an ulp less one, plus the odd bit.
    let normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13u) & 1u)) >> 13u;
    // Subnormal results: the significand shifted right by 126 - exponent, at most 25.
    let exponent = magnitude >> 23u;
    let shift = min(126u - min(exponent, 126u), 25u);
    let significand = (magnitude & 0x007fffffu) | 0x00800000u;
    let kept = significand >> shift;
    let rest = significand & ((1u << shift) - 1u);
    let half = (1u << shift) >> 1u;
    let up = rest > half || (rest == half && (kept & 1u) == 1u);
    let subnormal = select(0u, kept + select(0u, 1u, up), exponent >= 101u);
    var out = select(subnormal, normal, magnitude >= 0x38800000u);
    out = select(out, 0x7c00u, magnitude >= 0x477ff000u);
    out = select(out, 0x7e00u, magnitude > 0x7f800000u);
    return sign | out;
}

// Does the same as half_to_f32 without float arithmetic, so that every GPU gives the same bits.
fn half_to_f32_bits(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) {
        return sign | (magnitude << 13u) | 0x7f800000u;
    }
    if (magnitude >= 0x0400u) {
        return sign | ((magnitude << 13u) + 0x38000000u);
    }
    if (magnitude == 0u) {
        return sign;
    }
    // The leading one of a subnormal goes to bit 23, where it adds the last 1 to the
    // exponent.
    let shift = countLeadingZeros(magnitude) - 8u;
    return sign | (((125u - shift) << 23u) + (magnitude << shift));
}
