// Reads a side row, and finds the place of a code in its word. `params` must have scale_at,
// zero_at and group_size.
//
// Requires: lib/half, weight_parameters, const PANEL, const F16_SCALES, const ASYMMETRIC,
// const ELEMENT_BITS, const CODE_ZERO.
// Provides:
//   group_scale(record, group) -> u32     bits of a scale, widened to f32
//   group_zero(record, group) -> i32      a zero point as stored
//   code_shift(position) -> u32           the first bit of a code in its word
//   CODES_PER_WORD
//
// Memory: a side row is 2:4 metadata (a word for 32 columns), scales (a word each, or two
// f16 a word, low half first), zero points (four bytes a word, low byte first); `record`
// is the index of its first word (lib/panel).

const CODES_PER_WORD: u32 = 32u / ELEMENT_BITS;

fn group_scale(record: u32, group: u32) -> u32 {
    if (F16_SCALES) {
        let word = side[record + (params.scale_at + group / 2u) * PANEL];
        return half_to_f32_bits((word >> (16u * (group % 2u))) & 0xffffu);
    }
    return side[record + (params.scale_at + group) * PANEL];
}

fn group_zero(record: u32, group: u32) -> i32 {
    if (!ASYMMETRIC) {
        return CODE_ZERO;
    }
    let word = side[record + (params.zero_at + group / 4u) * PANEL];
    // int4's 0…15 come out the same signed or not.
    return extractBits(bitcast<i32>(word), 8u * (group % 4u), 8u);
}

// int4 interleaves: byte j of a word holds code j low and code 4 + j high.
fn code_shift(position: u32) -> u32 {
    let at = position % CODES_PER_WORD;
    if (ELEMENT_BITS == 4u) {
        return 8u * (at % 4u) + 4u * (at / 4u);
    }
    return ELEMENT_BITS * at;
}
