// Weights that are f32 or f16 without scales.
//
// Requires: dequantize/code_bits, lib/half, const ELEMENT_BITS.
// Implements: values.
// Provides: stored_value(row, record, position, place) -> u32, bits of the f32;
//   stored_half(row, record, position, place) -> u32, bits of the f16.

fn stored_value(row: u32, record: u32, position: u32, place: u32) -> u32 {
    let bits = code_bits(row, position);
    if (ELEMENT_BITS == 32u) {
        return bits;
    }
    return half_to_f32_bits(bits);
}

// Widening an f16 and rounding it back would make a signaling NaN quiet.
fn stored_half(row: u32, record: u32, position: u32, place: u32) -> u32 {
    let bits = code_bits(row, position);
    if (ELEMENT_BITS == 16u) {
        return bits;
    }
    return f32_bits_to_half(bits);
}
