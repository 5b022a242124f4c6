// Loads codes of W from a buffer, 16 bytes at a time.
// Requires: nothing.
// Implements: codes16.
// Provides: codes, load16.

@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;

fn load16(at: u32) -> vec4<u32> {
    return codes[at];
}
