// Decodes dense int8 weights.
// Requires: lib/matmul, decode/raws, codes32.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: a block has 32 bytes, four codes a word, the lowest column in the low byte.

const PIECES = 1u;

struct Raw {
    w: Words8,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load32(block_at(row, b)));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    let half = select(block.w.b, block.w.a, i < 4u);
    return vec4<f32>(unpack4xI8(half[i & 3u])) - z;
}
