// Scales columns one by one, for groups of any size. Weights are scaled as they are decoded, a
// quad at a time, and the whole row is one run.
// Requires: lib/matmul, scale/one_run, column_decoder, scale/side, const MINIMA.
// Implements: scale, run_steps, decoder.
// Provides: Block, load_block, load_blocks, quad_f, dot_quad, add_quad, tile_quad,
// run_steps.
// Padding columns take the last group, so that no index leaves the side row.

struct Block {
    w: vec4<f32>,
}

struct Blocks {
    a: Block,
    b: Block,
}

fn load_block(row: Row, quad: u32, piece: u32) -> Block {
    let k = quad * 4u;
    let g = min(vec4<u32>(k, k + 1u, k + 2u, k + 3u) / p.group_size, vec4<u32>(p.groups - 1u));
    let zeros = vec4<f32>(
        zero_of(row, g.x), zero_of(row, g.y), zero_of(row, g.z), zero_of(row, g.w),
    );
    let scales = vec4<f32>(
        scale_of(row, g.x), scale_of(row, g.y), scale_of(row, g.z), scale_of(row, g.w),
    );
    let values = quad_codes(row, quad, zeros) * scales;
    if (MINIMA == 0u) {
        return Block(values);
    }
    return Block(values + vec4<f32>(
        minimum_of(row, g.x), minimum_of(row, g.y), minimum_of(row, g.z), minimum_of(row, g.w),
    ));
}

fn load_blocks(r0: Row, r1: Row, quad: u32, piece: u32) -> Blocks {
    return Blocks(load_block(r0, quad, piece), load_block(r1, quad, piece));
}

fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return block.w;
}

fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    return dot(block.w, xq);
}

fn add_quad(block: Block, i: u32, z: f32, xq: vec4<f32>, sum: f32) -> f32 {
    return sum + dot(block.w, xq);
}

fn tile_quad(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return block.w;
}

fn run_steps() -> u32 {
    return p.blocks * 8u;
}
