// Stores the codes of a block, 16 bytes at a time.
// Requires: nothing.
// Implements: made_codes.
// Provides: codes, store4(word, value).

@group(0) @binding(4) var<storage, read_write> codes: array<vec4<u32>>;

fn store4(word: u32, value: vec4<u32>) {
    codes[word >> 2u] = value;
}
