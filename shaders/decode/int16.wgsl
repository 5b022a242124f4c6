// Decodes dense, symmetric int16 weights.
// Requires: lib/matmul, decode/raws, codes32.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: a block has 64 bytes, two codes a word, the lowest column in the low half. z is 0.

// Halves of a block, each loaded where it is used.
const PIECES = 2u;

struct Raw {
    w: Words8,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load32(block_at(row, b) * PIECES + piece));
}

fn shorts(pair: vec2<u32>) -> vec4<f32> {
    let word = bitcast<vec2<i32>>(pair);
    let low = vec2<f32>((word << vec2<u32>(16u)) >> vec2<u32>(16u));
    let high = vec2<f32>(word >> vec2<u32>(16u));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    let words = select(block.w.b, block.w.a, (i & 2u) == 0u);
    return shorts(select(words.zw, words.xy, (i & 1u) == 0u));
}
