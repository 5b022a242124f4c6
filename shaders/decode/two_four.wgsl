// What all 2:4 decoders share: 16 stored codes stand for 32 columns, and one word of
// metadata says which.
// Requires: lib/matmul, decode/scatter, a 2:4 decoder (Block with `meta_word`, stored_pair).
// Provides: metadata_of, quad_f, dot_quad.
// Layout: stored codes 2i and 2i + 1 belong to quad i, whose nibble of the metadata is
// idx0 | idx1 << 2.

fn metadata_of(row: Row, b: u32) -> u32 {
    return side_word(row, b);
}

// Columns 4i to 4i + 3 of a block, less their zero points; dropped ones are 0.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return scatter(stored_pair(block, i), block.meta_word >> (4u * i), z);
}

// One of four by the lowest two bits of an index. Signs of shifted words choose: they cost
// one operation where a mask and a comparison would cost two.
fn pick(v: vec4<f32>, index: u32) -> f32 {
    let pair = select(v.xy, v.zw, bitcast<i32>(index << 30u) < 0);
    return select(pair.x, pair.y, bitcast<i32>(index << 31u) < 0);
}

// Σ (c − z) · x over the kept columns of quad i: half the multiplications.
fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    let nibble = block.meta_word >> (4u * i);
    let pair = stored_pair(block, i) - z;
    return pair.x * pick(xq, nibble) + pair.y * pick(xq, nibble >> 2u);
}
