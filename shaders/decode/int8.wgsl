// Decodes dense int8 weights.
// Requires: lib/matmul, codes32, decode/dense.
// Implements: dense_decoder.
// Provides: PIECES, Block, load_block, quad_f.
// Layout: a block has 32 bytes, four codes a word, the lowest column in the low byte.

const PIECES = 1u;

struct Block {
    w: Words8,
}

fn load_block(row: Row, b: u32, piece: u32) -> Block {
    return Block(load32(block_at(row, b)));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let half = select(block.w.b, block.w.a, i < 4u);
    return vec4<f32>(unpack4xI8(half[i & 3u])) - z;
}
