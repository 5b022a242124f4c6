// For weights that need no scale: f32 and f16. The whole row is one run.
// Requires: lib/matmul.
// Implements: scale, run_steps.
// Provides: run_steps, run_scale, run_zero, run_scales, run_zeros.

fn run_steps() -> u32 {
    return p.blocks;
}

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
