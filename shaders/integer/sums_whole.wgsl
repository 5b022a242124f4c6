// The share that a lane has of a row of one slice: integers, which are added over lanes as
// integers.
// Requires: add_slice.
// Implements: integer_sums, lane_sum.
// Provides: Sum, add_block, add_block_minima, finished.
// Caller: k is one slice: at most 1024 blocks of 32 columns.
// Caller: W has no minima.

alias Sum = vec4<i32>;

fn add_block(sum: Sum, t: vec4<i32>, sw: vec4<f32>, sx: f32, spot: Spot) -> Sum {
    return sum + t;
}

fn add_block_minima(sum: Sum, minima: vec4<f32>, sx: f32, total: i32) -> Sum {
    return sum;
}

fn finished(sum: Sum, sw: vec4<f32>, sx: f32, spot: Spot) -> vec4<f32> {
    return add_slice(vec4<f32>(0.0), sum, sw, sx, spot);
}
