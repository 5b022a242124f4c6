// Loads X as 8-bit codes in rows of words (format::ActivationLayout), 16 bytes at a time as two
// 64-bit words. Offset and strides must be multiples of 4 words.
// Requires: nothing.
// Implements: x_codes.
// Features: int64.
// Provides: x_quad, x_at.
// Why u64: software adapters load one component of one lane at a time; see access/codes16_u64.
// Caller: offset and strides of X are multiples of 4 words.

@group(0) @binding(3) var<storage, read> x: array<vec2<u64>>;

// Words 4i to 4i + 3 of the row that starts at word row_at.
fn x_quad(row_at: u32, i: u32) -> vec4<u32> {
    let v = x[(row_at >> 2u) + i];
    return vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u));
}

// Word i of that row.
fn x_at(row_at: u32, i: u32) -> u32 {
    return u32(x[(row_at + i) >> 2u][(i >> 1u) & 1u] >> ((i & 1u) * 32u));
}
