// Loads codes of W from a texture, one word at a time.
// Requires: access/texel.
// Implements: words.
// Provides: code_at.

fn code_at(word: u32) -> u32 {
    return texel(word >> 2u)[word & 3u];
}
