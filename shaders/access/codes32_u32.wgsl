// Loads codes of W from a buffer, 32 bytes at a time.
// Requires: nothing.
// Implements: codes32.
// Provides: codes, Words8, load32.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Words8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load32(at: u32) -> Words8 {
    return Words8(codes[2u * at], codes[2u * at + 1u]);
}
