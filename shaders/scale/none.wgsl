// For weights that need no scale: f32 and f16. The whole row is one run.
// Requires: lib/matmul, scale/one_run.
// Implements: scale, run_steps.
// Provides: run_steps.

fn run_steps() -> u32 {
    return p.blocks;
}
