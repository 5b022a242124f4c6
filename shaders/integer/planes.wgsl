// Dense codes of 2, 3, 5 and 6 bits as signed bytes.
// Requires: decode/dense, plane_decoder, integer/bytes, lib/bytes.
// Implements: quad_word.
// Provides: quad_word.
// Codes with zero points or minima stay as they are stored, below 64. Others are less their fixed zero
// point.

// Codes 4i to 4i + 3 of a block; i is a literal wherever it is called.
fn quad_word(block: Block, i: u32, fill: u32) -> u32 {
    return signed_bytes(quad_bytes(block.raw, i));
}
