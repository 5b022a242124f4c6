// Codes of W, 32 bytes a load.
// Requires: nothing. Provides: codes, Words8, load32. Twin: access/codes32_u64.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

struct Words8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load32(at: u32) -> Words8 {
    return Words8(codes[2u * at], codes[2u * at + 1u]);
}
