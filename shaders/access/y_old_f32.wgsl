// Loads what Y holds as f32.
// Requires: y.
// Implements: y_old.
// Provides: load_y2.

// Columns n and n + 1 of the row that starts at element row_at; past the end 0.
fn load_y2(row_at: u32, n: u32, end: u32) -> vec2<f32> {
    var v = vec2<f32>(0.0);
    if (n < end) {
        v.x = y[row_at + n];
    }
    if (n + 1u < end) {
        v.y = y[row_at + n + 1u];
    }
    return v;
}
