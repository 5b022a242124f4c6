// Decodes dense integer weights of BITS bits (16, 8 or 4), a quad at a time, for groups that do
// not align with blocks of 32 columns.
// Requires: lib/matmul, const BITS.
// Implements: column_decoder.
// Provides: codes, PIECES, quad_codes.
// Layout: as in decode/int16, decode/int8 and decode/int4, read word by word.

const PIECES = 1u;

@group(0) @binding(4) var<storage, read> codes: array<u32>;

fn shorts(word: u32) -> vec2<f32> {
    let word_i = bitcast<i32>(word);
    return vec2<f32>(f32((word_i << 16u) >> 16u), f32(word_i >> 16u));
}

// Columns 4q to 4q + 3 of a row, less their zero points. A block has BITS words.
fn quad_codes(row: Row, quad: u32, z: vec4<f32>) -> vec4<f32> {
    let at = block_at(row, quad >> 3u) * BITS + (quad & 7u) * BITS / 8u;
    if (BITS == 16u) {
        return vec4<f32>(shorts(codes[at]), shorts(codes[at + 1u])) - z;
    }
    if (BITS == 8u) {
        return vec4<f32>(unpack4xI8(codes[at])) - z;
    }
    let word = codes[at] >> (4u * (quad & 1u));
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - z;
}
