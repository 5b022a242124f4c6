// The share that a lane has of a row of several slices: each block is scaled by itself.
// Requires: add_slice, integer/slices.
// Implements: integer_sums, lane_sum.
// Provides: Sum, add_block, add_block_minima, finished.

alias Sum = vec4<f32>;

fn add_block(sum: Sum, t: vec4<i32>, sw: vec4<f32>, sx: f32, spot: Spot) -> Sum {
    return add_slice(sum, t, sw, sx, spot);
}

fn add_block_minima(sum: Sum, minima: vec4<f32>, sx: f32, total: i32) -> Sum {
    return add_minima(sum, minima, sx, total);
}

fn finished(sum: Sum, sw: vec4<f32>, sx: f32, spot: Spot) -> vec4<f32> {
    return sum;
}
