// Converts both halves of a word on devices whose built-in conversion keeps subnormals.
// Requires: nothing.
// Implements: half_pair.
// Provides: half2_to_f32.

// The low half, then the high half.
fn half2_to_f32(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
