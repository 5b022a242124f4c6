// Dense int16 weights, symmetric.
// Requires: lib/matmul, access/codes32. Provides: Block, load_block, quad_f.
// Layout: 64 bytes a block, two codes a word, low half = lowest k. z is 0.

struct Block {
    low: Words8,
    high: Words8,
}

fn load_block(row: Row, b: u32) -> Block {
    let at = block_at(row, b) * 2u;
    return Block(load32(at), load32(at + 1u));
}

fn shorts(pair: vec2<u32>) -> vec4<f32> {
    let word = bitcast<vec2<i32>>(pair);
    let low = vec2<f32>((word << vec2<u32>(16u)) >> vec2<u32>(16u));
    let high = vec2<f32>(word >> vec2<u32>(16u));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let half = select(block.high.a, block.low.a, i < 4u);
    let rest = select(block.high.b, block.low.b, i < 4u);
    let words = select(rest, half, (i & 2u) == 0u);
    return shorts(select(words.zw, words.xy, (i & 1u) == 0u));
}
