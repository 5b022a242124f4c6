// Decodes dense int4 weights.
// Requires: lib/matmul, decode/raws, codes16.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: a block has 16 bytes, eight codes a word. Byte j holds column j in its low half and
// column 4 + j in its high half, so that one mask gives four columns in order.

const PIECES = 1u;

struct Raw {
    a: vec4<u32>,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load16(block_at(row, b)));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    let word = block.a[i >> 1u] >> (4u * (i & 1u));
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - z;
}
