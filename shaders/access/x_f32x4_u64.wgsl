// Loads X as f32, 16 bytes at a time as two 64-bit words. K, offset and strides must be multiples
// of 4.
// Requires: parameters.
// Implements: x.
// Features: int64.
// Provides: load_x4.
// Columns from k on read as 0.
// Why u64: software adapters load one component of one lane at a time; see access/codes16_u64.
// Caller: k, offset and strides of X are multiples of 4.

@group(0) @binding(3) var<storage, read> x: array<vec2<u64>>;

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    let words = x[(row_at + min(k, p.k - 4u)) >> 2u];
    let bits = vec4<u32>(
        u32(words.x), u32(words.x >> 32u), u32(words.y), u32(words.y >> 32u),
    );
    return select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), k < p.k);
}
