// Reads scales and minima of one byte: powers of two, and those of two levels.
// Requires: scale/side, lib/half, lib/fp8, const SCALES.
// Implements: scale_field.
// Provides: field_in, upper_in.

// The upper level of scale and minimum of a group, from the word that has both. An f32 is that of both.
fn upper_in(word: u32, group: u32) -> vec2<f32> {
    if (SCALES == 4u) {
        return vec2<f32>(bitcast<f32>(word));
    }
    if (MINIMA != 0u) {
        return vec2<f32>(half_to_f32(word & 0xffffu), half_to_f32(word >> 16u));
    }
    return vec2<f32>(half_to_f32((word >> (16u * (super_block(group) & 1u))) & 0xffffu), 0.0);
}

// Field `which` of a group, 0 for the scale and 1 for the minimum, from the word that it is in and its
// upper level.
fn field_in(word: u32, upper: f32, group: u32, which: u32) -> f32 {
    let shift = (group * ENTRY_BITS + which * SCALE_BITS) & 31u;
    let byte = (word >> shift) & 0xffu;
    if (SCALES == 2u) {
        return e8m0_to_f32(byte);
    }
    if (SCALES == 3u) {
        return f32(i32(byte << 24u) >> 24u) * upper;
    }
    return fp8_to_f32(vec4<u32>(byte), 3u).x * upper;
}
