// X as f32 where k, offset and strides are multiples of 4: 16-byte loads.
// Requires: lib/matmul. Provides: load_x4.

@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    if (k < p.k) {
        return x[(row_at + k) >> 2u];
    }
    return vec4<f32>(0.0);
}
