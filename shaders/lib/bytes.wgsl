// Subtracts zero points from codes in the bytes of a word.
// Requires: const ZERO, const ZERO_BITS.
// Provides: signed_bytes, bytes_less_zero.

// The four codes of a word, which are below 128, less the fixed zero point, as signed bytes. It is
// subtracted from all bytes at once: adding 128 − ZERO carries into no other byte, and the other sign
// bit makes it a signed byte.
fn signed_bytes(word: u32) -> u32 {
    if (ZERO == 0u) {
        return word;
    }
    return (word + (128u - ZERO) * 0x01010101u) ^ 0x80808080u;
}

// The four codes of a word, which are below 128, less their zero points.
fn bytes_less_zero(word: u32, z: vec4<f32>) -> vec4<f32> {
    if (ZERO_BITS == 0u) {
        if (ZERO == 0u) {
            return vec4<f32>(unpack4xU8(word));
        }
        return vec4<f32>(unpack4xI8(signed_bytes(word)));
    }
    return vec4<f32>(unpack4xU8(word)) - z;
}
