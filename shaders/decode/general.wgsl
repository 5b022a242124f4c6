// Dense integer weights of any width, a quad at a time, for groups that blocks of 32
// columns do not align with.
// Requires: lib/matmul, lib/quad; const BITS (16, 8 or 4). Provides: Block, load_block,
// expand_f.
// Layout: as decode/int16, decode/int8, decode/int4, read by words.

@group(0) @binding(4) var<storage, read> codes: array<u32>;

struct Block {
    c: vec4<f32>,
}

fn shorts(word: u32) -> vec2<f32> {
    let word_i = bitcast<i32>(word);
    return vec2<f32>(f32((word_i << 16u) >> 16u), f32(word_i >> 16u));
}

fn load_block(row: u32, quad: u32) -> Block {
    let row_at = row * p.blocks * BITS;
    if (BITS == 16u) {
        let at = row_at + 2u * quad;
        return Block(vec4<f32>(shorts(codes[at]), shorts(codes[at + 1u])));
    }
    if (BITS == 8u) {
        return Block(vec4<f32>(unpack4xI8(codes[row_at + quad])));
    }
    let word = codes[row_at + (quad >> 1u)] >> (4u * (quad & 1u));
    return Block(vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)));
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return Quads(block.c - z.q0);
}
