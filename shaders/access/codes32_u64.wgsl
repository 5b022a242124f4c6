// Loads codes of W from a buffer, 32 bytes at a time as 64-bit words.
// Requires: nothing.
// Implements: codes32.
// Features: int64.
// Provides: codes, Words8, load32.
// Why u64: software adapters load one component of one lane at a time, and 64 bits cost no more
// than 32.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u64>>;

struct Words8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load32(at: u32) -> Words8 {
    let v = codes[at];
    return Words8(
        vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u)),
        vec4<u32>(u32(v.z), u32(v.z >> 32u), u32(v.w), u32(v.w >> 32u)),
    );
}
