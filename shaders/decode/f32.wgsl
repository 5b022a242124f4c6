// Dense f32 weights.
// Requires: lib/matmul, access/codes32. Provides: Block, load_block, quad_f.
// Layout: 128 bytes of f32 a block. z is not used: floats have no zero point.

struct Block {
    q01: Words8,
    q23: Words8,
    q45: Words8,
    q67: Words8,
}

fn load_block(row: Row, b: u32) -> Block {
    let at = block_at(row, b) * 4u;
    return Block(load32(at), load32(at + 1u), load32(at + 2u), load32(at + 3u));
}

// Columns 4i to 4i + 3 of a block, less their zero points; i is a literal wherever it is called.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let even = (i & 1u) == 0u;
    switch (i >> 1u) {
        case 0u: { return bitcast<vec4<f32>>(select(block.q01.b, block.q01.a, even)); }
        case 1u: { return bitcast<vec4<f32>>(select(block.q23.b, block.q23.a, even)); }
        case 2u: { return bitcast<vec4<f32>>(select(block.q45.b, block.q45.a, even)); }
        default: { return bitcast<vec4<f32>>(select(block.q67.b, block.q67.a, even)); }
    }
}
