// Loads codes of W from a buffer, 8 bytes at a time.
// Requires: nothing.
// Implements: codes8.
// Provides: codes, load8.

@group(0) @binding(4) var<storage, read> codes: array<vec2<u32>>;

fn load8(at: u32) -> vec2<u32> {
    return codes[at];
}
