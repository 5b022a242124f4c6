// Stores Y as pairs of f16 in u32. Offset and strides must be even.
// Requires: lib/half.
// Implements: y.
// Provides: store_y2.
// One invocation owns both halves of a word. After an odd last column it keeps the other half,
// which belongs to the caller.
// Caller: offset and strides of Y are even.

@group(0) @binding(7) var<storage, read_write> y: array<u32>;

// Columns n and n + 1 of the row that starts at element row_at; n is even.
fn store_y2(row_at: u32, n: u32, end: u32, v: vec2<f32>) {
    let at = (row_at + n) >> 1u;
    if (n + 1u < end) {
        y[at] = f32_to_half(v.x) | (f32_to_half(v.y) << 16u);
    } else if (n < end) {
        y[at] = (y[at] & 0xffff0000u) | f32_to_half(v.x);
    }
}
