// The table of 4-bit floats with 2 exponent bits and 1 mantissa bit.
// Requires: lib/matmul.
// Implements: table.
// Provides: table4.

// The numbers of the codes in the low halves of the bytes of a word. Twice the magnitude is an integer below 16: nibble c
// of the constant for code c.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let code = unpack4xU8(codes & 0x0f0f0f0fu);
    let doubled = (vec4<u32>(0xc8643210u) >> ((code & vec4<u32>(7u)) * 4u)) & vec4<u32>(15u);
    let sign = (code & vec4<u32>(8u)) << vec4<u32>(28u);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(vec4<f32>(doubled) * 0.5) | sign);
}
