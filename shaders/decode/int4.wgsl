// Decodes dense int4 weights.
// Requires: lib/matmul, codes16, decode/dense.
// Implements: dense_decoder.
// Provides: PIECES, Block, load_block, quad_f.
// Layout: a block has 16 bytes, eight codes a word. Byte j holds column j in its low half and
// column 4 + j in its high half, so that one mask gives four columns in order.

const PIECES = 1u;

struct Block {
    a: vec4<u32>,
}

fn load_block(row: Row, b: u32, piece: u32) -> Block {
    return Block(load16(block_at(row, b)));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let word = block.a[i >> 1u] >> (4u * (i & 1u));
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - z;
}
