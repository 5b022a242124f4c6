// Loads codes of W from a buffer, one word at a time.
// Requires: nothing.
// Implements: words.
// Provides: codes, code_at.

@group(0) @binding(4) var<storage, read> codes: array<u32>;

fn code_at(word: u32) -> u32 {
    return codes[word];
}
