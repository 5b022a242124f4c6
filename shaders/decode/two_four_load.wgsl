// Loads blocks of 2:4 weights with their metadata.
// Requires: lib/matmul, side, sparse_decoder, decode/two_four.
// Provides: load_block, Blocks, load_blocks.

struct Blocks {
    a: Block,
    b: Block,
}

fn load_block(row: Row, b: u32, piece: u32) -> Block {
    return load_stored(row, b, piece, metadata_of(row, b));
}

// Loads a block of two neighbouring rows each.
fn load_blocks(r0: Row, r1: Row, b: u32, piece: u32) -> Blocks {
    let meta_words = side_pair(r0, r1, b);
    return Blocks(
        load_stored(r0, b, piece, meta_words.x), load_stored(r1, b, piece, meta_words.y),
    );
}
