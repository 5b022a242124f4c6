// Decodes 2:4 sparse int4 weights and loads two blocks at once, because one block has only 8 bytes
// of codes. PANEL is 1, TRIP is 2, and the number of blocks is even.
// Requires: lib/matmul, codes16, decode/two_four, schedule/gemv.
// Implements: sparse_decoder.
// Provides: PIECES, Block, load_block, stored_pair.
// Layout: as in decode/int4_24. Both blocks load the same 16 bytes, and compilers merge the loads.
// Caller: ⌈k/32⌉ is even.

const PIECES = 1u;

struct Block {
    a: vec2<u32>,
    meta_word: u32,
}

fn load_block(row: Row, trip: u32, piece: u32) -> Block {
    let both = load16((row.codes >> 1u) + trip);
    let meta_word = metadata_of(row, 2u * trip + trip_block);
    return Block(select(both.zw, both.xy, trip_block == 0u), meta_word);
}

// Stored codes 2i and 2i + 1 of a block; i is a literal wherever it is called.
fn stored_pair(block: Block, i: u32) -> vec2<f32> {
    let codes = unpack4xU8((block.a[i >> 2u] >> (4u * ((i >> 1u) & 1u))) & 0x0f0f0f0fu);
    return vec2<f32>(select(codes.zw, codes.xy, (i & 1u) == 0u));
}
