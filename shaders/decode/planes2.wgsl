// Decodes dense int2 and int3 weights: two bits of each code in the codes' buffer, and the third one
// in a plane in the side buffer.
// Requires: lib/matmul, codes8, side, lib/bytes, const PLANE_WORDS.
// Implements: dense_decoder, raws, plane_decoder.
// Provides: PIECES, Raw, Raws, load_raw, load_raws, quad_bytes, raw_quad.
// Layout: a block has 8 bytes of codes. Byte j of a word holds columns j, 4 + j, 8 + j and 12 + j from
// its lowest bits on. The plane is one word: bit i of byte j belongs to column 4i + j.

const PIECES = 1u;

struct Raw {
    a: vec2<u32>,
    plane: u32,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    if (PLANE_WORDS == 0u) {
        return Raw(load8(block_at(row, b)), 0u);
    }
    return Raw(load8(block_at(row, b)), side_word(row, b));
}

struct Raws {
    a: Raw,
    b: Raw,
}

// Loads a block of two neighbouring rows each.
fn load_raws(r0: Row, r1: Row, b: u32, piece: u32) -> Raws {
    var plane = vec2<u32>(0u);
    if (PLANE_WORDS == 1u) {
        plane = side_pair(r0, r1, b);
    }
    return Raws(
        Raw(load8(block_at(r0, b)), plane.x), Raw(load8(block_at(r1, b)), plane.y),
    );
}

// The codes of columns 4i to 4i + 3 of a block, in the bytes of a word.
fn quad_bytes(block: Raw, i: u32) -> u32 {
    var word = (select(block.a.y, block.a.x, i < 4u) >> (2u * (i & 3u))) & 0x03030303u;
    if (PLANE_WORDS == 1u) {
        word |= ((block.plane >> i) & 0x01010101u) << 2u;
    }
    return word;
}

// These are the same codes, less their zero points.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    return bytes_less_zero(quad_bytes(block, i), z);
}
