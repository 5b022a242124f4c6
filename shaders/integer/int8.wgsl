// Dense int8 codes, unchanged.
// Requires: decode/int8, decode/dense, integer/bytes.
// Implements: quad_word.
// Provides: quad_word.

// Codes 4i to 4i + 3 of a block as signed bytes; i is a literal wherever it is called.
fn quad_word(block: Block, i: u32, fill: u32) -> u32 {
    return select(block.raw.w.b, block.raw.w.a, i < 4u)[i & 3u];
}
