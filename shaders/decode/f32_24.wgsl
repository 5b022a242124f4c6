// 2:4 sparse f32 weights.
// Requires: lib/matmul, access/codes32, decode/two_four. Provides: Block, load_block, stored_pair.
// Layout: 64 bytes of f32 a block.

struct Block {
    low: Words8,
    high: Words8,
    meta_word: u32,
}

fn load_block(row: Row, b: u32) -> Block {
    let at = block_at(row, b) * 2u;
    return Block(load32(at), load32(at + 1u), metadata_of(row, b));
}

// Stored codes 2i and 2i + 1 of a block; i is a literal wherever it is called.
fn stored_pair(block: Block, i: u32) -> vec2<f32> {
    let first = select(block.high.a, block.low.a, i < 4u);
    let second = select(block.high.b, block.low.b, i < 4u);
    let words = select(second, first, (i & 2u) == 0u);
    return bitcast<vec2<f32>>(select(words.zw, words.xy, (i & 1u) == 0u));
}
