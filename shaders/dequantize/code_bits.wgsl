// Reads what the codes' buffer holds of a code.
//
// Requires: words, lib/panel_codes, quantize/record, const ELEMENT_BITS.
// Provides: code_bits(row, position) -> u32.

fn code_bits(row: u32, position: u32) -> u32 {
    let word = code_at(code_word(row, position / CODES_PER_WORD));
    return extractBits(word, code_shift(position), ELEMENT_BITS);
}
