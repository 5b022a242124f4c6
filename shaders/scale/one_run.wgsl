// The whole row is one run of steps, whose sum needs no scale: there is none, or weights are scaled as
// they are decoded.
// Requires: lib/matmul.
// Provides: run_scale, run_zero, run_scales, run_zeros.

fn run_scale(row: Row, run: u32) -> f32 {
    return 1.0;
}

fn run_zero(row: Row, run: u32) -> f32 {
    return 0.0;
}

fn run_scales(r0: Row, r1: Row, run: u32) -> vec2<f32> {
    return vec2<f32>(1.0);
}

fn run_zeros(r0: Row, r1: Row, run: u32) -> vec2<f32> {
    return vec2<f32>(0.0);
}
