// Puts 2:4 codes back among four columns, so that one dot product serves a quad.
// Requires: decode/two_four, stored_word.
// Implements: quad_word.
// Provides: quad_word.

// Columns 4i to 4i + 3 of a block as signed bytes; `fill`, the zero point in every byte, stands
// where a column was dropped. i is a literal wherever it is called.
fn quad_word(block: Block, i: u32, fill: u32) -> u32 {
    let pair = (stored_word(block, i >> 1u) ^ fill) >> (16u * (i & 1u));
    let first = extractBits(block.meta_word, 4u * i, 2u) * 8u;
    let second = extractBits(block.meta_word, 4u * i + 2u, 2u) * 8u;
    return fill ^ ((pair & 0xffu) << first) ^ (((pair >> 8u) & 0xffu) << second);
}
