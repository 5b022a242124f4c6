// The sums of one row of X with two or four rows of W, two blocks of 32 columns at a time, which share
// the words of their scales.
// Requires: lib/matmul, lib/quads, lib/quad_step, part, scale/block, const COLUMNS.
// Implements: row_sums.
// Provides: row_sums.
// Why: where scales have two levels, loading them takes as long as loading codes.

fn block_sums(
    sums: vec4<f32>, part: Part, r0: Row, r1: Row, r2: Row, r3: Row, b: u32,
    low: AffinesWords, high: AffinesWords,
) -> vec4<f32> {
    let w = load_blocks_of(r0, r1, b, low);
    var v = w;
    if (COLUMNS == 4u) {
        v = load_blocks_of(r2, r3, b, high);
    }
    let z = vec4<f32>(0.0);
    var all = quad_step(sums, part, 0u, z, w, v);
    all = quad_step(all, part, 1u, z, w, v);
    all = quad_step(all, part, 2u, z, w, v);
    all = quad_step(all, part, 3u, z, w, v);
    all = quad_step(all, part, 4u, z, w, v);
    all = quad_step(all, part, 5u, z, w, v);
    all = quad_step(all, part, 6u, z, w, v);
    return quad_step(all, part, 7u, z, w, v);
}

fn row_sums(r0: Row, r1: Row, r2: Row, r3: Row, x_at: u32, lane: u32) -> vec4<f32> {
    var sums = vec4<f32>(0.0);
    for (var b = 0u; b < p.blocks; b += 2u) {
        var low = first_words(r0, r1, b);
        var high = low;
        if (COLUMNS == 4u) {
            high = first_words(r2, r3, b);
        }
        sums = block_sums(sums, load_part(x_at, b, lane), r0, r1, r2, r3, b, low, high);
        let next = b + 1u;
        if (next < p.blocks) {
            low = second_words(r0, r1, next, low);
            if (COLUMNS == 4u) {
                high = second_words(r2, r3, next, high);
            }
            sums = block_sums(sums, load_part(x_at, next, lane), r0, r1, r2, r3, next, low, high);
        }
    }
    return sums;
}
