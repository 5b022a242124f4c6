// Stores the codes of a block that takes two words, as 2:4 int4 does.
// Requires: nothing.
// Implements: made_codes.
// Provides: codes, and store4(word, value), which writes value.xy.

@group(0) @binding(4) var<storage, read_write> codes: array<vec2<u32>>;

fn store4(word: u32, value: vec4<u32>) {
    codes[word >> 1u] = value.xy;
}
