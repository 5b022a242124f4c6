// 2:4 sparse f16 weights.
// Requires: lib/matmul, lib/quads, lib/half. Provides: Block, load_block, stored_codes.
// Layout: 2 vec4 a block, two halves a word.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    a: vec4<u32>,
    b: vec4<u32>,
    meta_word: u32,
}

fn load_block(row: u32, b: u32) -> Block {
    let at = (row * p.blocks + b) * 2u;
    return Block(codes[at], codes[at + 1u], metadata_of(row, b));
}

fn halves(low: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(half2_to_f32(low), half2_to_f32(high));
}

fn stored_codes(block: Block) -> Stored {
    return Stored(
        halves(block.a.x, block.a.y), halves(block.a.z, block.a.w),
        halves(block.b.x, block.b.y), halves(block.b.z, block.b.w),
    );
}
