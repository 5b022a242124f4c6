// Stores Y as f32.
// Requires: nothing.
// Implements: y.
// Provides: store_y2.

@group(0) @binding(7) var<storage, read_write> y: array<f32>;

// Columns n and n + 1 of the row that starts at element row_at; n is even.
fn store_y2(row_at: u32, n: u32, end: u32, v: vec2<f32>) {
    if (n < end) {
        y[row_at + n] = v.x;
    }
    if (n + 1u < end) {
        y[row_at + n + 1u] = v.y;
    }
}
