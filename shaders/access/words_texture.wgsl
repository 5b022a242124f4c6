// Codes of W word by word, out of a texture.
// Requires: access/texel.
// Implements: words.
// Provides: code_at.

fn code_at(word: u32) -> u32 {
    return texel(word >> 2u)[word & 3u];
}
