// Scales weights as they are decoded, by whole blocks of 32 columns: for groups of 16 columns, and for
// minima. The whole row is one run.
// Requires: lib/matmul, dense_decoder, scale/side, const MINIMA, const BLOCK_GROUPS.
// Implements: scale, run_steps, decoder.
// Provides: Block, load_block, Blocks, load_blocks, quad_f, dot_quad, add_quad, tile_quad, run_steps,
// run_scale, run_zero, run_scales, run_zeros.
// BLOCK_GROUPS is the number of groups of a block: 2 of 16 columns, 1 of 32, or 0 if a group is some
// other multiple of 16 columns or the whole row.

struct Block {
    raw: Raw,
    low: vec3<f32>,  // scale, minimum and zero point of the first 16 columns
    high: vec3<f32>, // and of the others
}

struct Blocks {
    a: Block,
    b: Block,
}

// The group of half a block.
fn half_group(half_block: u32) -> u32 {
    if (BLOCK_GROUPS == 2u) {
        return min(half_block, p.groups - 1u);
    }
    if (BLOCK_GROUPS == 1u) {
        return half_block >> 1u;
    }
    return min(half_block * 16u / p.group_size, p.groups - 1u);
}

fn half_affine(row: Row, half_block: u32) -> vec3<f32> {
    let group = half_group(half_block);
    return vec3<f32>(affine_of(row, group), zero_of(row, group));
}

fn load_block(row: Row, b: u32, piece: u32) -> Block {
    let low = half_affine(row, 2u * b);
    if (BLOCK_GROUPS == 1u) {
        return Block(load_raw(row, b, piece), low, low);
    }
    return Block(load_raw(row, b, piece), low, half_affine(row, 2u * b + 1u));
}

fn load_blocks(r0: Row, r1: Row, b: u32, piece: u32) -> Blocks {
    return Blocks(load_block(r0, b, piece), load_block(r1, b, piece));
}

// Columns 4i to 4i + 3 of a block.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let affine = select(block.high, block.low, i < 4u);
    let values = raw_quad(block.raw, i, vec4<f32>(affine.z));
    if (MINIMA == 0u) {
        return values * affine.x;
    }
    return fma(values, vec4<f32>(affine.x), vec4<f32>(affine.y));
}

fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    return dot(quad_f(block, i, vec4<f32>(z)), xq);
}

fn add_quad(block: Block, i: u32, z: f32, xq: vec4<f32>, sum: f32) -> f32 {
    let w = quad_f(block, i, vec4<f32>(z));
    return fma(w.w, xq.w, fma(w.z, xq.z, fma(w.y, xq.y, fma(w.x, xq.x, sum))));
}

fn tile_quad(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return quad_f(block, i, z);
}

fn run_steps() -> u32 {
    return p.blocks;
}

fn run_scale(row: Row, run: u32) -> f32 {
    return 1.0;
}

fn run_zero(row: Row, run: u32) -> f32 {
    return 0.0;
}

fn run_scales(r0: Row, r1: Row, run: u32) -> vec2<f32> {
    return vec2<f32>(1.0);
}

fn run_zeros(r0: Row, r1: Row, run: u32) -> vec2<f32> {
    return vec2<f32>(0.0);
}
