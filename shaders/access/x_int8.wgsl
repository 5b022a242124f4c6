// Loads X as 8-bit codes in rows of words (format::ActivationLayout), 16 bytes at a time. Offset
// and strides must be multiples of 4 words.
// Requires: nothing.
// Implements: x_codes.
// Provides: x_quad, x_at.
// Caller: offset and strides of X are multiples of 4 words.

@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;

// Words 4i to 4i + 3 of the row that starts at word row_at.
fn x_quad(row_at: u32, i: u32) -> vec4<u32> {
    return x[(row_at >> 2u) + i];
}

// Word i of that row.
fn x_at(row_at: u32, i: u32) -> u32 {
    return x[(row_at + i) >> 2u][i & 3u];
}
