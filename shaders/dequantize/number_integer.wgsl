// The number of an integer code: the code less its zero point.
//
// Requires: quantize/record, const ELEMENT_BITS.
// Implements: number.
// Provides: number_of(code, record, group) -> f32.

fn number_of(code: u32, record: u32, group: u32) -> f32 {
    var integer = bitcast<i32>(code);
    if (ELEMENT_BITS >= 8u) {
        integer = extractBits(integer, 0u, ELEMENT_BITS);
    }
    return f32(integer - group_zero(record, group));
}
