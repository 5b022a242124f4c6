// The bits of four codes in the low halves of the bytes of a word, as conditions of selects.
// Requires: nothing.
// Provides: code_bit, code_sign, pick.
// Why signs: a shift moves a bit of all codes to the sign, and a test of signs costs nothing more.

fn code_sign(codes: u32) -> vec4<i32> {
    return bitcast<vec4<i32>>(vec4<u32>(codes) << vec4<u32>(28u, 20u, 12u, 4u));
}

// Whether bit `at` of each code is set; `at` is a literal.
fn code_bit(codes: u32, at: u32) -> vec4<bool> {
    let shift = vec4<u32>(31u, 23u, 15u, 7u) - vec4<u32>(at);
    return bitcast<vec4<i32>>(vec4<u32>(codes) << shift) < vec4<i32>(0);
}

fn pick(low: u32, high: u32, bit: vec4<bool>) -> vec4<u32> {
    return select(vec4<u32>(low), vec4<u32>(high), bit);
}
