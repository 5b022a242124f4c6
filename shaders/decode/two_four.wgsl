// What all 2:4 decoders share: 16 stored codes stand for 32 columns, and one word of
// metadata says which.
// Requires: lib/matmul, lib/quads, decode/scatter, a 2:4 decoder (Block with `meta_word`, stored_codes).
// Provides: expand_f, dot_block.
// Layout: stored codes 2q and 2q + 1 belong to quad q, whose nibble of the metadata is
// idx0 | idx1 << 2.

// Sixteen stored codes of one block; each vec4 belongs to two quads.
struct Stored {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

fn metadata_of(row: u32, b: u32) -> u32 {
    return side[row * p.side_stride + b];
}

fn expand_f(block: Block, z: Quads) -> Quads {
    let s = stored_codes(block);
    let m = block.meta_word;
    return Quads(
        scatter(s.a.xy, m, z.q0), scatter(s.a.zw, m >> 4u, z.q1),
        scatter(s.b.xy, m >> 8u, z.q2), scatter(s.b.zw, m >> 12u, z.q3),
        scatter(s.c.xy, m >> 16u, z.q4), scatter(s.c.zw, m >> 20u, z.q5),
        scatter(s.d.xy, m >> 24u, z.q6), scatter(s.d.zw, m >> 28u, z.q7),
    );
}

fn pick(v: vec4<f32>, index: u32) -> f32 {
    let pair = select(v.xy, v.zw, (index & 2u) != 0u);
    return select(pair.x, pair.y, (index & 1u) != 0u);
}

// The kept columns of two quads of X.
fn gather(low: vec4<f32>, high: vec4<f32>, m: u32) -> vec4<f32> {
    return vec4<f32>(pick(low, m), pick(low, m >> 2u), pick(high, m >> 4u), pick(high, m >> 6u));
}

// Σ (c − z) · x over the kept columns of one block: half the multiplications.
fn dot_block(block: Block, z: f32, xq: Quads) -> f32 {
    let s = stored_codes(block);
    let m = block.meta_word;
    var sum = (s.a - z) * gather(xq.q0, xq.q1, m);
    sum = fma(s.b - z, gather(xq.q2, xq.q3, m >> 8u), sum);
    sum = fma(s.c - z, gather(xq.q4, xq.q5, m >> 16u), sum);
    sum = fma(s.d - z, gather(xq.q6, xq.q7, m >> 24u), sum);
    return (sum.x + sum.y) + (sum.z + sum.w);
}
