// The number of a code that is an 8-bit float with MANTISSA bits of mantissa.
//
// Requires: lib/fp8, const MANTISSA.
// Implements: number.
// Provides: number_of(code, record, group) -> f32.

fn number_of(code: u32, record: u32, group: u32) -> f32 {
    return fp8_to_f32(vec4<u32>(code), MANTISSA).x;
}
