// 2:4 sparse int4 weights.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, stored_codes.
// Layout: one vec2 a block, eight codes a word; byte j holds stored code j low and
// 4 + j high.

@group(0) @binding(4) var<storage, read> codes: array<vec2<u32>>;

struct Block {
    a: vec2<u32>,
    meta_word: u32,
}

fn load_block(row: u32, b: u32) -> Block {
    return Block(codes[row * p.blocks + b], metadata_of(row, b));
}

fn stored_codes(block: Block) -> Stored {
    return Stored(
        vec4<f32>(unpack4xU8(block.a.x & 0x0f0f0f0fu)),
        vec4<f32>(unpack4xU8((block.a.x >> 4u) & 0x0f0f0f0fu)),
        vec4<f32>(unpack4xU8(block.a.y & 0x0f0f0f0fu)),
        vec4<f32>(unpack4xU8((block.a.y >> 4u) & 0x0f0f0f0fu)),
    );
}
