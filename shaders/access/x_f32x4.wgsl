// X as f32 where k, offset and strides are multiples of 4: 16-byte loads.
// Requires: lib/matmul. Provides: load_x4. Columns from k on read as 0.

@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    let v = x[(row_at + min(k, p.k - 4u)) >> 2u];
    return select(vec4<f32>(0.0), v, k < p.k);
}
