// Stores the codes of a block, 16 bytes at a time as two 64-bit words.
// Requires: nothing.
// Implements: made_codes.
// Features: int64.
// Provides: codes, store4(word, value).
// Why u64: software adapters store one component of one lane at a time.

@group(0) @binding(4) var<storage, read_write> codes: array<vec2<u64>>;

fn store4(word: u32, value: vec4<u32>) {
    codes[word >> 2u] = vec2<u64>(
        u64(value.x) | (u64(value.y) << 32u),
        u64(value.z) | (u64(value.w) << 32u),
    );
}
