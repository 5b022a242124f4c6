// X as f32, any offset and stride.
// Requires: lib/matmul. Provides: load_x4, load_inner4 (all four columns are below k).
// Columns from k on read as 0, so that what lies between rows, NaN say, never counts.

@group(0) @binding(3) var<storage, read> x: array<f32>;

fn load_inner4(row_at: u32, k: u32) -> vec4<f32> {
    let at = row_at + k;
    return vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
}

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    let at = row_at + k;
    if (k + 4u <= p.k) {
        return load_inner4(row_at, k);
    }
    var v = vec4<f32>(0.0);
    if (k < p.k) {
        v.x = x[at];
    }
    if (k + 1u < p.k) {
        v.y = x[at + 1u];
    }
    if (k + 2u < p.k) {
        v.z = x[at + 2u];
    }
    return v;
}
