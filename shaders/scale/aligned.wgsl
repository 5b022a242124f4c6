// Groups that are multiples of 32 columns, or the row: a run of steps has one scale and one
// zero point.
// Requires: lib/matmul, a decoder, scale/side. Provides: runs, run_steps, run_scale,
// run_zero, load_step.
// The scale is applied to the sum of a run, or of as much of one as a lane has, not to
// each weight.

fn runs() -> u32 {
    return p.groups;
}

fn run_steps() -> u32 {
    return select(p.group_size / 32u, p.blocks, p.groups == 1u);
}

fn run_scale(row: Row, run: u32) -> f32 {
    return scale_of(row, run);
}

fn run_zero(row: Row, run: u32) -> f32 {
    return zero_of(row, run);
}

fn load_step(row: Row, b: u32) -> Block {
    return load_block(row, b);
}
