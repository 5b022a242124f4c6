// Reads scales and minima that are f32 or f16.
// Requires: scale/side, lib/half, const SCALES.
// Implements: scale_field.
// Provides: field_in, upper_in.

// There is no upper level.
fn upper_in(word: u32, group: u32) -> vec2<f32> {
    return vec2<f32>(0.0);
}

// Field `which` of a group, 0 for the scale and 1 for the minimum, from the word that it is in.
fn field_in(word: u32, upper: f32, group: u32, which: u32) -> f32 {
    if (SCALES == 0u) {
        return bitcast<f32>(word);
    }
    let shift = (group * ENTRY_BITS + which * SCALE_BITS) & 31u;
    return half_to_f32((word >> shift) & 0xffffu);
}
