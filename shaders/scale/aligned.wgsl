// Scales groups that are multiples of 32 columns, or rows: a run of steps has one scale and one
// zero point.
// Requires: lib/matmul, scale/side.
// Implements: scale, run_steps.
// Provides: run_steps, run_scale, run_zero, run_scales, run_zeros.
// The scale is applied to the sum of a run, or of the part of it that a lane has, and not to each
// weight.

fn run_steps() -> u32 {
    return select(p.group_size / 32u, p.blocks, p.groups == 1u);
}

fn run_scale(row: Row, run: u32) -> f32 {
    return scale_of(row, run);
}

fn run_zero(row: Row, run: u32) -> f32 {
    return zero_of(row, run);
}

// Return the scales, and the zero points, of two neighbouring rows.
fn run_scales(r0: Row, r1: Row, run: u32) -> vec2<f32> {
    return scales_of(r0, r1, run);
}

fn run_zeros(r0: Row, r1: Row, run: u32) -> vec2<f32> {
    return zeros_of(r0, r1, run);
}
