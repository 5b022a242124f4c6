// Decodes 2:4 sparse int4 weights.
// Requires: lib/matmul, codes8, decode/two_four, decode/two_four_load.
// Implements: sparse_decoder.
// Provides: PIECES, Block, load_stored, stored_pair.
// Layout: a block has 8 bytes, eight codes a word. Byte j holds stored code j in its low half and
// stored code 4 + j in its high half.

const PIECES = 1u;

struct Block {
    a: vec2<u32>,
    meta_word: u32,
}

fn load_stored(row: Row, b: u32, piece: u32, meta_word: u32) -> Block {
    return Block(load8(block_at(row, b)), meta_word);
}

// Stored codes 2i and 2i + 1 of a block; i is a literal wherever it is called.
fn stored_pair(block: Block, i: u32) -> vec2<f32> {
    let codes = unpack4xU8((block.a[i >> 2u] >> (4u * ((i >> 1u) & 1u))) & 0x0f0f0f0fu);
    return vec2<f32>(select(codes.zw, codes.xy, (i & 1u) == 0u));
}
