// Dense int4 codes as signed bytes.
// Requires: decode/int4, decode/dense, integer/nibbles.
// Implements: quad_word.
// Provides: quad_word.

// Codes 4i to 4i + 3 of a block; i is a literal wherever it is called.
fn quad_word(block: Block, i: u32, fill: u32) -> u32 {
    return nibbles(block.raw.a[i >> 1u], i & 1u);
}
