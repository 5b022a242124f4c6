// IEEE binary16 without the f16 type.
//
// Requires: nothing.
// Provides, exact for every input (subnormals, infinities, NaN stays NaN):
//   half_to_f32(h) -> f32              of the low 16 bits
//   half2_to_f32(word) -> vec2<f32>    low half first
//   half4_to_f32(words) -> vec4<f32>
//   half_to_f32_bits(h) -> u32         the same by integers alone
// and rounded to nearest even, past the range to infinity, f32 subnormals to ±0:
//   f32_to_half(x) -> u32
//   f32x2_to_half2(x) -> u32           low half first
//   f32_bits_to_half(bits) -> u32      by integers alone
//
// Why: `unpack2x16float` may flush f16 subnormals, which are ordinary weights (below
// 6.1e-5), and out of range `pack2x16float` is indeterminate.

// 112 = 127 − 15, the distance of the two exponent biases.
const HALF_REBIAS: u32 = 0x38000000u;

// Widening a subnormal with integers takes a count of leading zeros; `2⁻¹⁴(1 + m/1024)
// − 2⁻¹⁴` gives the same m·2⁻²⁴ at the cost of a subtraction. All three are normal f32
// values, and an exact result is exact in WGSL too.
fn half2_parts_to_f32(h: vec2<u32>) -> vec2<f32> {
    let magnitude = h & vec2<u32>(0x7fffu);
    let shifted = magnitude << vec2<u32>(13u);
    let normal = shifted + HALF_REBIAS;
    let small = bitcast<vec2<u32>>(
        bitcast<vec2<f32>>(shifted + 0x38800000u) - vec2<f32>(6.103515625e-5),
    );
    // Exponent 31 moves by 112 twice: to 255.
    let special = normal + HALF_REBIAS;
    var bits = select(normal, small, magnitude < vec2<u32>(0x0400u));
    bits = select(bits, special, magnitude >= vec2<u32>(0x7c00u));
    let sign = (h & vec2<u32>(0x8000u)) << vec2<u32>(16u);
    return bitcast<vec2<f32>>(bits | sign);
}

fn half2_to_f32(word: u32) -> vec2<f32> {
    return half2_parts_to_f32(vec2<u32>(word & 0xffffu, word >> 16u));
}

fn half4_to_f32(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(half2_to_f32(words.x), half2_to_f32(words.y));
}

fn half_to_f32(h: u32) -> f32 {
    return half2_parts_to_f32(vec2<u32>(h & 0xffffu, 0u)).x;
}

fn half_to_f32_bits(h: u32) -> u32 {
    let sign = (h & 0x8000u) << 16u;
    let exponent = (h >> 10u) & 0x1fu;
    let fraction = h & 0x03ffu;
    if (exponent == 31u) {
        return sign | 0x7f800000u | (fraction << 13u);
    }
    if (exponent > 0u) {
        return sign | (((h & 0x7fffu) << 13u) + HALF_REBIAS);
    }
    if (fraction == 0u) {
        return sign;
    }
    // The leading one goes to bit 10, where it becomes the implicit bit.
    let shift = countLeadingZeros(fraction) - 21u;
    return sign | (((113u - shift) << 23u) + ((fraction << (shift + 13u)) & 0x007fffffu));
}

fn f32_bits_to_half(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x03ffu);
    }
    // 65520, half way from the largest half to the next, is a tie that goes to infinity.
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (magnitude >= 0x38800000u) {
        let rebiased = magnitude - HALF_REBIAS;
        return sign | ((rebiased + 0x0fffu + ((rebiased >> 13u) & 1u)) >> 13u);
    }
    // Half of the smallest subnormal half is a tie that goes to 0.
    if (magnitude <= 0x33000000u) {
        return sign;
    }
    let significand = (magnitude & 0x007fffffu) | 0x00800000u;
    let shift = 126u - (magnitude >> 23u);
    let odd = (significand >> shift) & 1u;
    return sign | ((significand + (1u << (shift - 1u)) - 1u + odd) >> shift);
}

fn f32_to_half(x: f32) -> u32 {
    return f32_bits_to_half(bitcast<u32>(x));
}

fn f32x2_to_half2(x: vec2<f32>) -> u32 {
    return f32_to_half(x.x) | (f32_to_half(x.y) << 16u);
}
