// Reads scales and minima of one byte: powers of two, and those of two levels.
// Requires: scale/side, lib/half, lib/fp8, const SCALES.
// Implements: scale_field.
// Provides: field_in.

// Field `which` of a group, 0 for the scale and 1 for the minimum, from the word that it is in and the
// word of the upper level.
fn field_in(word: u32, upper: u32, group: u32, which: u32) -> f32 {
    let shift = (group * ENTRY_BITS + which * SCALE_BITS) & 31u;
    let byte = (word >> shift) & 0xffu;
    if (SCALES == 2u) {
        return e8m0_to_f32(byte);
    }
    if (SCALES == 3u) {
        let half = upper >> (16u * ((super_block(group) * FIELDS + which) & 1u));
        return f32(i32(byte << 24u) >> 24u) * half_to_f32(half & 0xffffu);
    }
    return fp8_to_f32(vec4<u32>(byte), 3u).x * bitcast<f32>(upper);
}
