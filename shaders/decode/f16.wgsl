// Dense f16 weights.
// Requires: lib/matmul, lib/half_pair, access/codes32. Provides: Block, load_block, quad_f.
// Layout: 64 bytes a block, two halves a word, low half = lowest k. z is not used.

struct Block {
    low: Words8,
    high: Words8,
}

fn load_block(row: Row, b: u32) -> Block {
    let at = block_at(row, b) * 2u;
    return Block(load32(at), load32(at + 1u));
}

fn halves(pair: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(half2_to_f32(pair.x), half2_to_f32(pair.y));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let half = select(block.high.a, block.low.a, i < 4u);
    let rest = select(block.high.b, block.low.b, i < 4u);
    let words = select(rest, half, (i & 2u) == 0u);
    return halves(select(words.zw, words.xy, (i & 1u) == 0u));
}
