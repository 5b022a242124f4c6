// Decodes dense f32 weights.
// Requires: lib/matmul, decode/raws, codes32.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: a block has 128 bytes of f32. z is not used, because floats have no zero point.

// Quarters of a block, each loaded where it is used.
const PIECES = 4u;

struct Raw {
    w: Words8,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load32(block_at(row, b) * PIECES + piece));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(block.w.b, block.w.a, (i & 1u) == 0u));
}
