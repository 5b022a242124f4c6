// Decodes 2:4 sparse integer weights of BITS bits (16, 8 or 4), a quad at a time, for groups that
// do not align with blocks of 32 columns.
// Requires: lib/matmul, decode/scatter, side, const BITS.
// Implements: column_decoder.
// Provides: codes, PIECES, quad_codes.
// Layout: as in decode/int16_24, decode/int8_24 and decode/int4_24, read word by word.

const PIECES = 1u;

@group(0) @binding(4) var<storage, read> codes: array<u32>;

// Quad q of the eight of a block that starts at word `at`.
fn stored_pair(at: u32, q: u32) -> vec2<f32> {
    if (BITS == 16u) {
        let word = bitcast<i32>(codes[at + q]);
        return vec2<f32>(f32((word << 16u) >> 16u), f32(word >> 16u));
    }
    if (BITS == 8u) {
        return vec2<f32>(unpack4xI8(codes[at + (q >> 1u)] >> (16u * (q & 1u))).xy);
    }
    // Codes 2q and 2q + 1 of eight: neighbouring bytes, low nibbles first.
    let word = codes[at + (q >> 2u)] >> (16u * (q & 1u) + 4u * ((q >> 1u) & 1u));
    return vec2<f32>(f32(word & 0xfu), f32((word >> 8u) & 0xfu));
}

// Columns 4q to 4q + 3 of a row, less their zero points; dropped ones are 0.
fn quad_codes(row: Row, quad: u32, z: vec4<f32>) -> vec4<f32> {
    let b = quad >> 3u;
    let nibble = side_word(row, b) >> (4u * (quad & 7u));
    return scatter(stored_pair(block_at(row, b) * (BITS / 2u), quad & 7u), nibble, z);
}
