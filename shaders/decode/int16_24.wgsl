// 2:4 sparse int16 weights, symmetric.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, stored_codes.
// Layout: 2 vec4 a block, two codes a word.

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

fn shorts(pair: vec2<u32>) -> vec4<f32> {
    let word = bitcast<vec2<i32>>(pair);
    let low = vec2<f32>((word << vec2<u32>(16u)) >> vec2<u32>(16u));
    let high = vec2<f32>(word >> vec2<u32>(16u));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}

fn stored_codes(block: Block) -> Stored {
    return Stored(
        shorts(block.a.xy), shorts(block.a.zw), shorts(block.b.xy), shorts(block.b.zw),
    );
}
