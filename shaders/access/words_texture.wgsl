// Codes of W word by word, out of a texture.
// Requires: access/texel. Provides: code_at. Twin: access/words_u32.

fn code_at(word: u32) -> u32 {
    return texel(word >> 2u)[word & 3u];
}
