// 2:4 sparse int8 codes, unchanged.
// Requires: decode/int8_24, integer/bytes, integer/two_four.
// Implements: stored_word.
// Provides: stored_word.

// Stored codes 4w to 4w + 3 of a block as signed bytes; w is a literal wherever it is called.
fn stored_word(block: Block, w: u32) -> u32 {
    return block.a[w];
}
