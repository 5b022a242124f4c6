// Codes of W word by word.
// Requires: nothing. Provides: codes, code_at. Twin: access/words_texture.

@group(0) @binding(4) var<storage, read> codes: array<u32>;

fn code_at(word: u32) -> u32 {
    return codes[word];
}
