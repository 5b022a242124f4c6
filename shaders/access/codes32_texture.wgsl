// Loads codes of W from a texture, 32 bytes at a time as two texels.
// Requires: access/texel.
// Implements: codes32.
// Provides: Words8, load32.

struct Words8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load32(at: u32) -> Words8 {
    return Words8(texel(2u * at), texel(2u * at + 1u));
}
