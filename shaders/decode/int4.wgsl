// Dense int4 weights.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, expand_f.
// Layout: one vec4 a block, eight codes a word; byte j holds column j low and column
// 4 + j high, so that one mask gives four columns in order.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    a: vec4<u32>,
}

fn load_block(row: u32, b: u32) -> Block {
    return Block(codes[row * p.blocks + b]);
}

fn low_nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}

fn high_nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return Quads(
        low_nibbles(block.a.x) - z.q0, high_nibbles(block.a.x) - z.q1,
        low_nibbles(block.a.y) - z.q2, high_nibbles(block.a.y) - z.q3,
        low_nibbles(block.a.z) - z.q4, high_nibbles(block.a.z) - z.q5,
        low_nibbles(block.a.w) - z.q6, high_nibbles(block.a.w) - z.q7,
    );
}
