// Decodes dense int5 and int6 weights: four bits of each code in the codes' buffer, and one or two
// more in planes in the side buffer.
// Requires: lib/matmul, codes16, side, lib/bytes, const PLANE_WORDS.
// Implements: dense_decoder, raws, plane_decoder.
// Provides: PIECES, Raw, Raws, load_raw, load_raws, quad_bytes, raw_quad.
// Layout: a block has 16 bytes of codes as in decode/int4. Its plane of one bit is one word: bit i of
// byte j belongs to column 4i + j. Its plane of two bits is two words: byte j of a word holds columns
// j, 4 + j, 8 + j and 12 + j of 16 from its lowest bits on.

const PIECES = 1u;

struct Raw {
    a: vec4<u32>,
    plane: vec2<u32>,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    var plane = vec2<u32>(0u);
    if (PLANE_WORDS == 1u) {
        plane.x = side_word(row, b);
    } else {
        plane = vec2<u32>(side_word(row, 2u * b), side_word(row, 2u * b + 1u));
    }
    return Raw(load16(block_at(row, b)), plane);
}

struct Raws {
    a: Raw,
    b: Raw,
}

// Loads a block of two neighbouring rows each.
fn load_raws(r0: Row, r1: Row, b: u32, piece: u32) -> Raws {
    let first = side_pair(r0, r1, b * PLANE_WORDS);
    var second = first;
    if (PLANE_WORDS == 2u) {
        second = side_pair(r0, r1, b * PLANE_WORDS + 1u);
    }
    return Raws(
        Raw(load16(block_at(r0, b)), vec2<u32>(first.x, second.x)),
        Raw(load16(block_at(r1, b)), vec2<u32>(first.y, second.y)),
    );
}

// The codes of columns 4i to 4i + 3 of a block, in the bytes of a word.
fn quad_bytes(block: Raw, i: u32) -> u32 {
    let low = (block.a[i >> 1u] >> (4u * (i & 1u))) & 0x0f0f0f0fu;
    var high = 0u;
    if (PLANE_WORDS == 1u) {
        high = ((block.plane.x >> i) & 0x01010101u) << 4u;
    } else {
        let word = select(block.plane.y, block.plane.x, i < 4u);
        high = ((word >> (2u * (i & 3u))) & 0x03030303u) << 4u;
    }
    return low | high;
}

// These are the same codes, less their zero points.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    return bytes_less_zero(quad_bytes(block, i), z);
}
