// Dense int8 weights.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, expand_f.
// Layout: 2 vec4 a block, four codes a word, low byte = lowest k.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load_block(row: u32, b: u32) -> Block {
    let at = (row * p.blocks + b) * 2u;
    return Block(codes[at], codes[at + 1u]);
}

fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return Quads(
        bytes(block.a.x) - z.q0, bytes(block.a.y) - z.q1,
        bytes(block.a.z) - z.q2, bytes(block.a.w) - z.q3,
        bytes(block.b.x) - z.q4, bytes(block.b.y) - z.q5,
        bytes(block.b.z) - z.q6, bytes(block.b.w) - z.q7,
    );
}
