// Writes rows of floats to `y`, an array of words, as f32 or f16.
// Requires: parameters, lib/half, const Y_F16.
// Provides: bits4, nan4, put4.
// Offset and strides of f16 are even. One invocation owns both halves of a word; with an odd number of
// columns the last upper half is preserved.
// Caller: offset and strides of an f16 output are even.

// Four columns as bits of f32, or as two words of f16.
fn bits4(v: vec4<f32>) -> vec4<u32> {
    if (Y_F16) {
        let low = f32_to_half(v.x) | (f32_to_half(v.y) << 16u);
        let high = f32_to_half(v.z) | (f32_to_half(v.w) << 16u);
        return vec4<u32>(low, high, 0u, 0u);
    }
    return bitcast<vec4<u32>>(v);
}

// The bits of four NaN. A compiler may assume that no float is NaN, so they are never floats.
fn nan4() -> vec4<u32> {
    return vec4<u32>(select(0x7fc00000u, 0x7e007e00u, Y_F16));
}

// Writes the columns from `column` on, a multiple of 4, that are below `end`, of the row at element row_at.
fn put4(row_at: u32, column: u32, end: u32, bits: vec4<u32>) {
    let left = end - column;
    if (Y_F16) {
        let at = (row_at + column) >> 1u;
        if (left == 1u) {
            y[at] = (y[at] & 0xffff0000u) | (bits.x & 0xffffu);
        } else {
            y[at] = bits.x;
        }
        if (left == 3u) {
            y[at + 1u] = (y[at + 1u] & 0xffff0000u) | (bits.y & 0xffffu);
        } else if (left > 3u) {
            y[at + 1u] = bits.y;
        }
        return;
    }
    let at = row_at + column;
    y[at] = bits.x;
    if (left > 1u) {
        y[at + 1u] = bits.y;
    }
    if (left > 2u) {
        y[at + 2u] = bits.z;
    }
    if (left > 3u) {
        y[at + 3u] = bits.w;
    }
}
