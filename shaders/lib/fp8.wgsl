// Numbers of one byte: 8-bit floats, and powers of two.
// Requires: nothing.
// Provides: fp8_to_f32, e8m0_to_f32.

// Four 8-bit floats with `mantissa` bits of mantissa, 3 or 2. Both steps of a subnormal are exact, and
// every result is an f32. e4m3 has one NaN and no infinities, e5m2 has those of IEEE.
fn fp8_to_f32(code: vec4<u32>, mantissa: u32) -> vec4<f32> {
    let magnitude = code & vec4<u32>(0x7fu);
    let sign = (code & vec4<u32>(0x80u)) << vec4<u32>(24u);
    // The difference of the exponents' biases, and 2 to the exponent of the last subnormal bit.
    let bias = select(112u, 120u, mantissa == 3u) << 23u;
    let least = select(0x37800000u, 0x3b000000u, mantissa == 3u);
    let normal = (magnitude << vec4<u32>(23u - mantissa)) + vec4<u32>(bias);
    let subnormal = bitcast<vec4<u32>>(vec4<f32>(magnitude) * bitcast<f32>(least));
    var bits = select(normal, subnormal, magnitude < vec4<u32>(1u << mantissa));
    let special = select(vec4<u32>(0x7fc00000u), vec4<u32>(0x7f800000u), magnitude == vec4<u32>(0x7cu));
    let first_special = select(0x7cu, 0x7fu, mantissa == 3u);
    bits = select(bits, special, magnitude >= vec4<u32>(first_special));
    return bitcast<vec4<f32>>(bits | sign);
}

// 2 to the power of byte − 127. The least of them is subnormal and becomes 0.
fn e8m0_to_f32(code: u32) -> f32 {
    return bitcast<f32>(code << 23u);
}
