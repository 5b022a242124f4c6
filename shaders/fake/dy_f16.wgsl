// Loads the gradient of Y as pairs of f16 in u32. Offset and stride must be even.
// Requires: fake/code, half_pair.
// Implements: dy.
// Provides: load_dy4. Columns from k on read as 0.
// Caller: offset and stride of the gradient of Y are even.

@group(0) @binding(4) var<storage, read> dy_in: array<u32>;

fn load_dy4(row_at: u32, k: u32) -> vec4<f32> {
    let pair = k >> 1u;
    let at = (row_at >> 1u) + min(vec2<u32>(pair, pair + 1u), vec2<u32>((p.k - 1u) >> 1u));
    let v = vec4<f32>(half2_to_f32(dy_in[at.x]), half2_to_f32(dy_in[at.y]));
    return select(vec4<f32>(0.0), v, vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(p.k));
}
