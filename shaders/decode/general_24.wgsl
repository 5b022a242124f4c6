// 2:4 sparse integer weights of any width, a quad at a time, for groups that blocks of 32
// columns do not align with.
// Requires: lib/matmul, lib/quad, decode/scatter; const BITS (16, 8 or 4). Provides: Block,
// load_block, expand_f.
// Layout: as decode/int16_24, decode/int8_24, decode/int4_24, read by words.

@group(0) @binding(4) var<storage, read> codes: array<u32>;

struct Block {
    pair: vec2<f32>,
    nibble: u32,
}

fn stored_pair(row_at: u32, quad: u32) -> vec2<f32> {
    if (BITS == 16u) {
        let word = bitcast<i32>(codes[row_at + quad]);
        return vec2<f32>(f32((word << 16u) >> 16u), f32(word >> 16u));
    }
    if (BITS == 8u) {
        return vec2<f32>(unpack4xI8(codes[row_at + (quad >> 1u)] >> (16u * (quad & 1u))).xy);
    }
    // Codes 2q and 2q + 1 of eight: neighbouring bytes, low nibbles first.
    let shift = 16u * (quad & 1u) + 4u * ((quad >> 1u) & 1u);
    let word = codes[row_at + (quad >> 2u)] >> shift;
    return vec2<f32>(f32(word & 0xfu), f32((word >> 8u) & 0xfu));
}

fn load_block(row: u32, quad: u32) -> Block {
    let word = side[row * p.side_stride + (quad >> 3u)];
    let nibble = (word >> (4u * (quad & 7u))) & 0xfu;
    return Block(stored_pair(row * p.blocks * (BITS / 2u), quad), nibble);
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return Quads(scatter(block.pair, block.nibble, z.q0));
}
