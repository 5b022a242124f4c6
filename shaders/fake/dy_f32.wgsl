// Loads the gradient of Y as f32. Any offset and stride are allowed.
// Requires: fake/code.
// Implements: dy.
// Provides: load_dy4. Columns from k on read as 0.

@group(0) @binding(4) var<storage, read> dy_in: array<f32>;

fn load_dy4(row_at: u32, k: u32) -> vec4<f32> {
    let columns = vec4<u32>(k, k + 1u, k + 2u, k + 3u);
    let at = row_at + min(columns, vec4<u32>(p.k - 1u));
    let v = vec4<f32>(dy_in[at.x], dy_in[at.y], dy_in[at.z], dy_in[at.w]);
    return select(vec4<f32>(0.0), v, columns < vec4<u32>(p.k));
}
