// Loads codes of W from a buffer, 8 bytes at a time as 64-bit words.
// Requires: nothing.
// Implements: codes8.
// Features: int64.
// Provides: codes, load8.
// Why u64: software adapters load one component of one lane at a time, and 64 bits cost no more
// than 32.

@group(0) @binding(4) var<storage, read> codes: array<u64>;

fn load8(at: u32) -> vec2<u32> {
    let v = codes[at];
    return vec2<u32>(u32(v), u32(v >> 32u));
}
