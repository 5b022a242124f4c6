// Loads X as f32, 16 bytes at a time. K, offset and strides must be multiples of 4.
// Requires: parameters, const RAGGED.
// Implements: x.
// Provides: load_x4.
// Columns from k on read as 0. If RAGGED is false, no load reaches past k, because k is whole
// blocks or because the loops end at k.
// Caller: k, offset and strides of X are multiples of 4.

@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    if (!RAGGED) {
        return x[(row_at >> 2u) + (k >> 2u)];
    }
    let v = x[(row_at + min(k, p.k - 4u)) >> 2u];
    return select(vec4<f32>(0.0), v, k < p.k);
}
