// Weights that need no scale: f32 and f16.
// Requires: a decoder. Provides: scaled_dot, scaled_weights.

fn scaled_dot(row: u32, b: u32, xq: Quads) -> f32 {
    return dot_block(load_block(row, b), 0.0, xq);
}

fn scaled_weights(row: u32, b: u32) -> Quads {
    return expand_f(load_block(row, b), splat_quads(0.0));
}
