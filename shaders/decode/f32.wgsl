// Dense f32 weights.
// Requires: lib/matmul, lib/quads. Provides: Block, load_block, expand_f.
// Layout: 8 vec4 of f32 bits a block. z is not used: floats have no zero point.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    w: Quads,
}

fn load_block(row: u32, b: u32) -> Block {
    let at = (row * p.blocks + b) * 8u;
    return Block(Quads(
        bitcast<vec4<f32>>(codes[at]),
        bitcast<vec4<f32>>(codes[at + 1u]),
        bitcast<vec4<f32>>(codes[at + 2u]),
        bitcast<vec4<f32>>(codes[at + 3u]),
        bitcast<vec4<f32>>(codes[at + 4u]),
        bitcast<vec4<f32>>(codes[at + 5u]),
        bitcast<vec4<f32>>(codes[at + 6u]),
        bitcast<vec4<f32>>(codes[at + 7u]),
    ));
}

fn expand_f(block: Block, z: Quads) -> Quads {
    return block.w;
}
