// Weights that need no scale: f32 and f16. The whole row is one run.
// Requires: lib/matmul, a decoder. Provides: runs, run_steps, run_scale, run_zero, load_step.

fn runs() -> u32 {
    return 1u;
}

fn run_steps() -> u32 {
    return p.blocks;
}

fn run_scale(row: Row, run: u32) -> f32 {
    return 1.0;
}

fn run_zero(row: Row, run: u32) -> f32 {
    return 0.0;
}

fn load_step(row: Row, b: u32) -> Block {
    return load_block(row, b);
}
