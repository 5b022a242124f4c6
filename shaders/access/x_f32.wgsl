// Loads X as f32. Any offset and stride are allowed.
// Requires: parameters.
// Implements: x.
// Provides: load_x4.
// Columns from k on read as 0, so that values between rows (a NaN, for example) never
// count. The code clamps and selects, because branches doubled the size of every load.

@group(0) @binding(3) var<storage, read> x: array<f32>;

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    let columns = vec4<u32>(k, k + 1u, k + 2u, k + 3u);
    let at = row_at + min(columns, vec4<u32>(p.k - 1u));
    let v = vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]);
    return select(vec4<f32>(0.0), v, columns < vec4<u32>(p.k));
}
