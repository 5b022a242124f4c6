// Decodes 2:4 sparse int8 weights.
// Requires: lib/matmul, codes16, decode/two_four, decode/two_four_load.
// Implements: sparse_decoder.
// Provides: PIECES, Block, load_stored, stored_pair.
// Layout: a block has 16 bytes, four codes a word.

const PIECES = 1u;

struct Block {
    a: vec4<u32>,
    meta_word: u32,
}

fn load_stored(row: Row, b: u32, piece: u32, meta_word: u32) -> Block {
    return Block(load16(block_at(row, b)), meta_word);
}

// Stored codes 2i and 2i + 1 of a block; i is a literal wherever it is called.
fn stored_pair(block: Block, i: u32) -> vec2<f32> {
    return vec2<f32>(unpack4xI8(block.a[i >> 1u] >> (16u * (i & 1u))).xy);
}
