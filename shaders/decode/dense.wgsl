// What all dense decoders share.
// Requires: lib/quads, a dense decoder. Provides: dot_block.

// Σ (c − z) · x over one block.
fn dot_block(block: Block, z: f32, xq: Quads) -> f32 {
    return dot_quads(expand_f(block, splat_quads(z)), xq);
}
