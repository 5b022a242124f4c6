// Codes of W, 16 bytes a load.
// Requires: nothing. Provides: codes, load16. Twin: access/codes16_u64.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

fn load16(at: u32) -> vec4<u32> {
    return codes[at];
}
