// What all dense decoders share.
// Requires: a dense decoder. Provides: dot_quad.

// Σ (c − z) · x over quad i of a block.
fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    return dot(quad_f(block, i, vec4<f32>(z)), xq);
}
