// Codes that are whole in the codes' buffer.
//
// Requires: dequantize/code_bits.
// Implements: stored_codes.
// Provides: stored_code(row, record, position) -> u32.

fn stored_code(row: u32, record: u32, position: u32) -> u32 {
    return code_bits(row, position);
}
