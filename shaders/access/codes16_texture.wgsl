// Loads codes of W from a texture, 16 bytes at a time.
// Requires: access/texel.
// Implements: codes16.
// Provides: load16.

fn load16(at: u32) -> vec4<u32> {
    return texel(at);
}
