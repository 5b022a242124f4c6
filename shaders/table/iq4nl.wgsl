// The table of GGUF's IQ4_NL and IQ4_XS: 16 integers of 8 bits.
// Requires: lib/matmul.
// Implements: table.
// Provides: table4.

// The numbers of the codes in the low halves of the bytes of a word. Four entries share a word of constants.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let code = unpack4xU8(codes & 0x0f0f0f0fu);
    // -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113.
    let low = select(vec4<u32>(0xbfad9881u), vec4<u32>(0xf6eaddcfu), (code & vec4<u32>(4u)) != vec4<u32>(0u));
    let high = select(vec4<u32>(0x26190d01u), vec4<u32>(0x71594535u), (code & vec4<u32>(4u)) != vec4<u32>(0u));
    let words = select(low, high, code >= vec4<u32>(8u));
    let shift = vec4<u32>(24u) - 8u * (code & vec4<u32>(3u));
    return vec4<f32>(bitcast<vec4<i32>>(words << shift) >> vec4<u32>(24u));
}
