// 2:4 sparse int8 weights.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, stored_codes.
// Layout: one vec4 a block, four codes a word.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    a: vec4<u32>,
    meta_word: u32,
}

fn load_block(row: u32, b: u32) -> Block {
    return Block(codes[row * p.blocks + b], metadata_of(row, b));
}

fn stored_codes(block: Block) -> Stored {
    return Stored(
        vec4<f32>(unpack4xI8(block.a.x)), vec4<f32>(unpack4xI8(block.a.y)),
        vec4<f32>(unpack4xI8(block.a.z)), vec4<f32>(unpack4xI8(block.a.w)),
    );
}
