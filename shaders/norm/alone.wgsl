// Normalizes X alone.
// Requires: nothing.
// Implements: residual.
// Provides: with_residual, put_total.

fn with_residual(x: vec4<f32>, row_at: u32, column: u32) -> vec4<f32> {
    return x;
}

fn put_total(row_at: u32, column: u32, v: vec4<f32>) {}
