// Loads X as pairs of f16 in u32. Offset and strides must be even.
// Requires: parameters, half_pair, const RAGGED.
// Implements: x.
// Provides: load_x4.
// Columns from k on read as 0, so that values between rows (a NaN, for example) never
// count. If RAGGED is false, no load reaches past k, because k is whole blocks or because the
// loops end at k.
// Caller: offset and strides of X are even.

@group(0) @binding(3) var<storage, read> x: array<u32>;

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    let pair = k >> 1u;
    if (!RAGGED) {
        let at = (row_at >> 1u) + pair;
        return vec4<f32>(half2_to_f32(x[at]), half2_to_f32(x[at + 1u]));
    }
    let at = (row_at >> 1u) + min(vec2<u32>(pair, pair + 1u), vec2<u32>((p.k - 1u) >> 1u));
    let v = vec4<f32>(half2_to_f32(x[at.x]), half2_to_f32(x[at.y]));
    return select(vec4<f32>(0.0), v, vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(p.k));
}
