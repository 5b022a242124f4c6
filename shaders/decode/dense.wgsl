// Dense blocks whose weights are scaled after they are summed, or not at all.
// Requires: lib/matmul, dense_decoder, raws.
// Implements: decoder.
// Provides: Block, load_block, Blocks, load_blocks, quad_f, dot_quad, add_quad, tile_quad.

struct Block {
    raw: Raw,
}

struct Blocks {
    a: Block,
    b: Block,
}

fn load_block(row: Row, b: u32, piece: u32) -> Block {
    return Block(load_raw(row, b, piece));
}

// Loads a block of two neighbouring rows each.
fn load_blocks(r0: Row, r1: Row, b: u32, piece: u32) -> Blocks {
    let raws = load_raws(r0, r1, b, piece);
    return Blocks(Block(raws.a), Block(raws.b));
}

// Columns 4i to 4i + 3 of a block, less their zero points.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return raw_quad(block.raw, i, z);
}

// Σ (c − z) · x over quad i of a block.
fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    return dot(quad_f(block, i, vec4<f32>(z)), xq);
}

// Adds dot_quad to a sum, by four multiply-adds. A dot product would need one more addition.
fn add_quad(block: Block, i: u32, z: f32, xq: vec4<f32>, sum: f32) -> f32 {
    let w = quad_f(block, i, vec4<f32>(z));
    return fma(w.w, xq.w, fma(w.z, xq.z, fma(w.y, xq.y, fma(w.x, xq.x, sum))));
}

// Does the same as quad_f, for schedules of GPUs.
fn tile_quad(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return quad_f(block, i, z);
}
