// Writes a Gram matrix as f32 above and on the diagonal, with its rows and columns in another order.
// Requires: lib/dispatch, factor/matrix.
// Provides: main, one lane an integer.
//
// Memory:
//   sums   tiles of integers of four words, as gram/sums has them, from tile0 on
//   order  [2, k]: the column at each place, then the place of each column
//   h      [k, k], row by row

@group(0) @binding(3) var<storage, read> sums: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read_write> h: array<f32>;

// A complement is negated first, because its words would cancel.
fn number_of(words: vec4<u32>) -> f32 {
    var x = words;
    let negative = x.w >> 31u;
    x = x ^ vec4<u32>(0u - negative);
    let c0 = select(0u, 1u, negative == 1u && x.x == 0xffffffffu);
    let c1 = select(0u, 1u, c0 == 1u && x.y == 0xffffffffu);
    let c2 = select(0u, 1u, c1 == 1u && x.z == 0xffffffffu);
    x = x + vec4<u32>(negative, c0, c1, c2);
    // Units of 2⁻⁷².
    let low = f32(x.x) * 2.1175824e-22 + f32(x.y) * 9.094947e-13;
    let high = f32(x.z) * 0.00390625 + f32(x.w) * 16777216.0;
    return select(high + low, -(high + low), negative == 1u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = workgroup_index(group, count);
    let tile = index / 64u;
    if (tile >= p.tiles) {
        return;
    }
    let at = p.tile0 + tile;
    // The root of an f32 may be off by one.
    var b = u32((sqrt(8.0 * f32(at) + 1.0) - 1.0) * 0.5);
    b = select(b, b - 1u, b > 0u && b * (b + 1u) / 2u > at);
    b = select(b, b + 1u, (b + 1u) * (b + 2u) / 2u <= at);
    let a = at - b * (b + 1u) / 2u;
    let i = 64u * a + index % 64u;
    let j = 64u * b + local;
    if (i > j || j >= p.k) {
        return;
    }
    let words = sums[p.sums_at + 4096u * tile + 64u * (index % 64u) + local];
    let place_i = order[p.order_at + p.k + i];
    let place_j = order[p.order_at + p.k + j];
    h[min(place_i, place_j) * p.k + max(place_i, place_j)] = number_of(words);
}
