// Scales and zero points out of a row's record of side data.
// Requires: lib/matmul, lib/half; consts F16_SCALES, ASYMMETRIC, SIGNED_ZERO, ZERO.
// Provides: scale_of, zero_of.
// Layout: scales a word each, or two f16 a word; zero points four bytes a word.

fn scale_of(row: Row, group: u32) -> f32 {
    if (F16_SCALES) {
        let word = side_word(row, p.scale_at + (group >> 1u));
        return half_to_f32((word >> (16u * (group & 1u))) & 0xffffu);
    }
    return bitcast<f32>(side_word(row, p.scale_at + group));
}

fn zero_of(row: Row, group: u32) -> f32 {
    if (!ASYMMETRIC) {
        return f32(ZERO);
    }
    let word = side_word(row, p.zero_at + (group >> 2u));
    let byte = (word >> (8u * (group & 3u))) & 0xffu;
    if (SIGNED_ZERO) {
        return f32(i32(byte << 24u) >> 24u);
    }
    return f32(byte);
}
