// Dense f16 weights.
// Requires: lib/matmul, lib/quads, lib/half. Provides: Block, load_block, expand_f.
// Layout: 4 vec4 a block, two halves a word, low half = lowest k. z is not used.

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

fn halves(low: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(half2_to_f32(low), half2_to_f32(high));
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return Quads(
        halves(block.a.x, block.a.y), halves(block.a.z, block.a.w),
        halves(block.b.x, block.b.y), halves(block.b.z, block.b.w),
        halves(block.c.x, block.c.y), halves(block.c.z, block.c.w),
        halves(block.d.x, block.d.y), halves(block.d.z, block.d.w),
    );
}
