// Loads codes of W from a buffer, 16 bytes at a time as 64-bit words.
// Requires: nothing.
// Implements: codes16.
// Features: int64.
// Provides: codes, load16.
// Why u64: software adapters load one component of one lane at a time, and 64 bits cost no more
// than 32.

@group(0) @binding(4) var<storage, read> codes: array<vec2<u64>>;

fn load16(at: u32) -> vec4<u32> {
    let v = codes[at];
    return vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u));
}
