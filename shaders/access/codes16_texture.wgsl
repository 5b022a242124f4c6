// Codes of W out of a texture, 16 bytes a texel.
// Requires: access/texel. Provides: load16. Twins: access/codes16_u32, access/codes16_u64.

fn load16(at: u32) -> vec4<u32> {
    return texel(at);
}
