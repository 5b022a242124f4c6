// What all 2:4 decoders share. 16 stored codes stand for 32 columns, and one word of metadata says
// which columns they are.
// Requires: lib/matmul, decode/scatter, side, sparse_decoder.
// Implements: decoder.
// Provides: metadata_of, quad_f, dot_quad, add_quad, tile_quad.
// Layout: stored codes 2i and 2i + 1 belong to quad i, whose nibble of the metadata is idx0 | idx1
// << 2.

fn metadata_of(row: Row, b: u32) -> u32 {
    return side_word(row, b);
}

// Columns 4i to 4i + 3 of a block, less their zero points; dropped ones are 0.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return scatter(stored_pair(block, i), block.meta_word >> (4u * i), z);
}

// Bit `at` of the metadata. Signs of shifted words: they cost one operation where a mask and a
// comparison would cost two.
fn bit(block: Block, at: u32) -> bool {
    return bitcast<i32>(block.meta_word << (31u - at)) < 0;
}

// Σ (c − z) · x over the kept columns of quad i: half the multiplications. The first index is
// below the second: so it is no 3, and the second is no 0, and each takes two choices, not three.
fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    let at = 4u * i;
    let first = select(select(xq.x, xq.y, bit(block, at)), xq.z, bit(block, at + 1u));
    let second = select(xq.y, select(xq.z, xq.w, bit(block, at + 2u)), bit(block, at + 3u));
    let pair = stored_pair(block, i) - z;
    return pair.x * first + pair.y * second;
}

// Bit `at` of the metadata as a mask of all bits.
fn mask_of(block: Block, at: u32) -> u32 {
    return bitcast<u32>(extractBits(bitcast<i32>(block.meta_word), at, 1u));
}

// By the bits of a mask `a`, else `b`: no condition to make of it.
fn choose(mask: u32, a: u32, b: u32) -> u32 {
    return (mask & a) | (~mask & b);
}

// Adds dot_quad to a sum, for GPUs: with masks instead of conditions.
fn add_quad(block: Block, i: u32, z: f32, xq: vec4<f32>, sum: f32) -> f32 {
    let x = bitcast<vec4<u32>>(xq);
    let at = 4u * i;
    let first = choose(mask_of(block, at + 1u), x.z, choose(mask_of(block, at), x.y, x.x));
    let odd = choose(mask_of(block, at + 2u), x.w, x.z);
    let second = choose(mask_of(block, at + 3u), odd, x.y);
    let pair = stored_pair(block, i) - z;
    return fma(pair.y, bitcast<f32>(second), fma(pair.x, bitcast<f32>(first), sum));
}

// Does the same as quad_f, for GPUs: with masks instead of comparisons, by the same order of indices.
fn tile_quad(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let pair = bitcast<vec2<u32>>(stored_pair(block, i) - z.xy);
    let at = 4u * i;
    let is_1 = mask_of(block, at);
    let is_2 = mask_of(block, at + 1u);
    let odd = mask_of(block, at + 2u);
    let high = mask_of(block, at + 3u);
    return bitcast<vec4<f32>>(vec4<u32>(
        pair.x & ~(is_1 | is_2),
        choose(is_1, pair.x, pair.y & ~high),
        choose(is_2, pair.x, pair.y & (high & ~odd)),
        pair.y & (high & odd),
    ));
}
