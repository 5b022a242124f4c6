// 2:4 sparse f32 weights.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, stored_codes.
// Layout: 4 vec4 of f32 bits a block.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
    meta_word: u32,
}

fn load_block(row: u32, b: u32) -> Block {
    let at = (row * p.blocks + b) * 4u;
    return Block(codes[at], codes[at + 1u], codes[at + 2u], codes[at + 3u], metadata_of(row, b));
}

fn stored_codes(block: Block) -> Stored {
    return Stored(
        bitcast<vec4<f32>>(block.a), bitcast<vec4<f32>>(block.b),
        bitcast<vec4<f32>>(block.c), bitcast<vec4<f32>>(block.d),
    );
}
