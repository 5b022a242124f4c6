// X as f32 where k, offset and strides are multiples of 4: 16-byte loads.
// Requires: lib/matmul. Provides: load_x4, load_inner4 (the four
// columns are below k).

@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;

fn load_inner4(row_at: u32, k: u32) -> vec4<f32> {
    return x[(row_at + k) >> 2u];
}

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    if (k < p.k) {
        return load_inner4(row_at, k);
    }
    return vec4<f32>(0.0);
}
