// Reads fields of a side row, and finds the place of a code in its word. `params` must have zero_at.
//
// Requires: weight_parameters, const PANEL, const ELEMENT_BITS, const ZERO_BITS, const CODE_ZERO.
// Provides:
//   side_field(record, at, bits, index) -> u32   field `index` of `bits` bits, from word `at` on
//   group_zero(record, group) -> i32             a zero point as stored, or the fixed one
//   code_shift(position) -> u32                  the first bit of a code in its word
//   CODES_PER_WORD
//
// Memory: a side row is the parts that `format::DeviceLayout` lists; in each, fields of 32, 16, 8 or 4
// bits follow each other from the lowest bits of a word on. `record` is the index of the side row's
// first word (lib/panel).

const CODES_PER_WORD: u32 = 32u / ELEMENT_BITS;

fn side_field(record: u32, at: u32, bits: u32, index: u32) -> u32 {
    let per_word = 32u / bits;
    let word = side[record + (at + index / per_word) * PANEL];
    return extractBits(word, bits * (index % per_word), bits);
}

fn group_zero(record: u32, group: u32) -> i32 {
    if (ZERO_BITS == 0u) {
        return CODE_ZERO;
    }
    // Only the zero points of int8 have the highest bit of a byte set, and they are signed.
    let zero = bitcast<i32>(side_field(record, params.zero_at, max(ZERO_BITS, 4u), group));
    return extractBits(zero, 0u, 8u);
}

// Codes of 4 and 2 bits interleave: byte j of a word holds code j in its lowest bits, then code 4 + j,
// and so on.
fn code_shift(position: u32) -> u32 {
    let at = position % CODES_PER_WORD;
    if (ELEMENT_BITS < 8u) {
        return 8u * (at % 4u) + ELEMENT_BITS * (at / 4u);
    }
    return ELEMENT_BITS * at;
}
