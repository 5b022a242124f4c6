// Loads rows of an uncompressed W, 32 bytes at a time. Offset, stride and K must be multiples of
// 8.
// Requires: quantize/make.
// Implements: source_weights.
// Features: int64.
// Provides: weights, W8, load8.
// Why u64: software adapters load one component of one lane at a time; see access/codes16_u64.
// Caller: k, weight_at and weight_stride are multiples of 8.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u64>>;

struct W8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load8(source: u32, column: u32) -> W8 {
    let v = weights[(source + min(column, params.k - 8u)) >> 3u];
    let a = vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u));
    let b = vec4<u32>(u32(v.z), u32(v.z >> 32u), u32(v.w), u32(v.w >> 32u));
    let inside = column < params.k;
    return W8(select(vec4<u32>(0u), a, inside), select(vec4<u32>(0u), b, inside));
}
