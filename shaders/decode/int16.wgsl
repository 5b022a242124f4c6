// Dense int16 weights, symmetric.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, expand_f.
// Layout: 4 vec4 a block, two codes a word, low half = lowest k. z is 0.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

fn load_block(row: u32, b: u32) -> Block {
    let at = (row * p.blocks + b) * 4u;
    return Block(codes[at], codes[at + 1u], codes[at + 2u], codes[at + 3u]);
}

fn shorts(pair: vec2<u32>) -> vec4<f32> {
    let word = bitcast<vec2<i32>>(pair);
    let low = vec2<f32>((word << vec2<u32>(16u)) >> vec2<u32>(16u));
    let high = vec2<f32>(word >> vec2<u32>(16u));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return Quads(
        shorts(block.a.xy), shorts(block.a.zw), shorts(block.b.xy), shorts(block.b.zw),
        shorts(block.c.xy), shorts(block.c.zw), shorts(block.d.xy), shorts(block.d.zw),
    );
}
