// Decodes dense f16 weights.
// Requires: lib/matmul, decode/raws, codes32, half_pair.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: a block has 64 bytes, two f16 a word, the lowest column in the low half. z is not
// used.

// Halves of a block, each loaded where it is used.
const PIECES = 2u;

struct Raw {
    w: Words8,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load32(block_at(row, b) * PIECES + piece));
}

fn halves(pair: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(half2_to_f32(pair.x), half2_to_f32(pair.y));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    let words = select(block.w.b, block.w.a, (i & 2u) == 0u);
    return halves(select(words.zw, words.xy, (i & 1u) == 0u));
}
