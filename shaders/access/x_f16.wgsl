// X as pairs of f16 in u32; offset and strides are even.
// Requires: lib/matmul, lib/half. Provides: load_x4, load_inner4 (all four columns
// are below k).
// Columns from k on read as 0, so that what lies between rows, NaN say, never counts.

@group(0) @binding(3) var<storage, read> x: array<u32>;

fn load_inner4(row_at: u32, k: u32) -> vec4<f32> {
    let at = (row_at + k) >> 1u;
    return vec4<f32>(half2_to_f32(x[at]), half2_to_f32(x[at + 1u]));
}

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    let at = (row_at + k) >> 1u;
    var v = vec4<f32>(0.0);
    if (k < p.k) {
        let pair = half2_to_f32(x[at]);
        v.x = pair.x;
        v.y = select(0.0, pair.y, k + 1u < p.k);
    }
    if (k + 2u < p.k) {
        let pair = half2_to_f32(x[at + 1u]);
        v.z = pair.x;
        v.w = select(0.0, pair.y, k + 3u < p.k);
    }
    return v;
}
