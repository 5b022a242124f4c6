// 2:4 sparse int4 codes as signed bytes.
// Requires: decode/int4_24, integer/nibbles, integer/two_four.
// Implements: stored_word.
// Provides: stored_word.

// Stored codes 4w to 4w + 3 of a block; w is a literal wherever it is called.
fn stored_word(block: Block, w: u32) -> u32 {
    return nibbles(block.a[w >> 1u], w & 1u);
}
