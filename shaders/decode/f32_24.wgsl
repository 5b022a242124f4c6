// Decodes 2:4 sparse f32 weights.
// Requires: lib/matmul, codes32, decode/two_four, decode/two_four_load.
// Implements: sparse_decoder.
// Provides: PIECES, Block, load_stored, stored_pair.
// Layout: a block has 64 bytes of f32.

// Halves of a block, each loaded where it is used.
const PIECES = 2u;

struct Block {
    w: Words8,
    meta_word: u32,
}

fn load_stored(row: Row, b: u32, piece: u32, meta_word: u32) -> Block {
    return Block(load32(block_at(row, b) * PIECES + piece), meta_word);
}

// Stored codes 2i and 2i + 1 of a block; i is a literal wherever it is called.
fn stored_pair(block: Block, i: u32) -> vec2<f32> {
    let words = select(block.w.b, block.w.a, (i & 2u) == 0u);
    return bitcast<vec2<f32>>(select(words.zw, words.xy, (i & 1u) == 0u));
}
