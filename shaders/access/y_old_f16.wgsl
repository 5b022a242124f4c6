// Loads what Y holds as pairs of f16 in u32.
// Requires: lib/half, y.
// Implements: y_old.
// Provides: load_y2.

// Columns n and n + 1 of the row that starts at element row_at; n is even. Past the end 0.
fn load_y2(row_at: u32, n: u32, end: u32) -> vec2<f32> {
    if (n >= end) {
        return vec2<f32>(0.0);
    }
    let word = y[(row_at + n) >> 1u];
    return vec2<f32>(half_to_f32(word & 0xffffu), half_to_f32(word >> 16u));
}
