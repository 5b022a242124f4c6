// Codes whose high bits are in planes in the side buffer, PLANE_BITS bits each. `params` must have
// plane_at.
//
// Requires: dequantize/code_bits, const PANEL, const ELEMENT_BITS, const PLANE_BITS.
// Implements: stored_codes.
// Provides: stored_code(row, record, position) -> u32.
// Layout: a block of 32 columns has PLANE_BITS words. Byte j of a word holds the high bits of columns j,
// 4 + j and so on, from its lowest bits on.

fn stored_code(row: u32, record: u32, position: u32) -> u32 {
    const QUADS: u32 = 8u / PLANE_BITS;
    let quad = position % 32u / 4u;
    let word = params.plane_at + position / 32u * PLANE_BITS + quad / QUADS;
    let shift = 8u * (position % 4u) + PLANE_BITS * (quad % QUADS);
    let high = extractBits(side[record + word * PANEL], shift, PLANE_BITS);
    return code_bits(row, position) | (high << ELEMENT_BITS);
}
