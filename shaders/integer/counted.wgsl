// Adds the sum of a slice to integers that tests read.
// Requires: lib/matmul.
// Implements: add_slice, finish.
// Provides: Spot, add_slice, finish, y.
// Layout of Y: i32 [m, slices, N], which starts as zeros.
// Caller: Y holds zeros, or sums to add to.

@group(0) @binding(7) var<storage, read_write> y: array<atomic<i32>>;

struct Spot {
    y_at: u32,
    slice: u32,
    column: u32,
    live: bool, // whether the row exists
}

fn add_slice(sum: vec4<f32>, t: vec4<i32>, sw: vec4<f32>, sx: f32, spot: Spot) -> vec4<f32> {
    let end = p.n0 + p.rows;
    for (var i = 0u; i < 4u; i += 1u) {
        if (spot.live && spot.column + i < end) {
            atomicAdd(&y[spot.y_at + spot.slice * p.y_slice + spot.column + i], t[i]);
        }
    }
    return sum;
}

fn finish(y_at: u32, column: u32, v: vec4<f32>) {
}
