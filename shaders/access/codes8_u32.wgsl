// Codes of W, 8 bytes a load.
// Requires: nothing. Provides: codes, load8. Twin: access/codes8_u64.

@group(0) @binding(4) var<storage, read> codes: array<vec2<u32>>;

fn load8(at: u32) -> vec2<u32> {
    return codes[at];
}
