// Codes of W, 8 bytes a load.
// Requires: nothing.
// Implements: codes8.
// Provides: codes, load8.

@group(0) @binding(4) var<storage, read> codes: array<vec2<u32>>;

fn load8(at: u32) -> vec2<u32> {
    return codes[at];
}
