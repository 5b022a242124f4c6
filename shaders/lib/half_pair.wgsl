// Converts both halves of a word, exactly on every device.
// Requires: lib/half.
// Implements: half_pair.
// Provides: half2_to_f32.

// The low half, then the high half.
fn half2_to_f32(word: u32) -> vec2<f32> {
    return vec2<f32>(half_to_f32(word & 0xffffu), half_to_f32(word >> 16u));
}
