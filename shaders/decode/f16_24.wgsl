// Decodes 2:4 sparse f16 weights.
// Requires: lib/matmul, codes32, decode/two_four, decode/two_four_load, half_pair.
// Implements: sparse_decoder.
// Provides: PIECES, Block, load_stored, stored_pair.
// Layout: a block has 32 bytes, two f16 a word.

const PIECES = 1u;

struct Block {
    w: Words8,
    meta_word: u32,
}

fn load_stored(row: Row, b: u32, piece: u32, meta_word: u32) -> Block {
    return Block(load32(block_at(row, b)), meta_word);
}

// Stored codes 2i and 2i + 1 of a block; i is a literal wherever it is called.
fn stored_pair(block: Block, i: u32) -> vec2<f32> {
    return half2_to_f32(select(block.w.b, block.w.a, i < 4u)[i & 3u]);
}
