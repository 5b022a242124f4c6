// Loads scales and zero points from a side row. ZERO is the zero point of symmetric
// codes.
// Requires: lib/matmul, lib/half, side, const F16_SCALES, const ASYMMETRIC, const SIGNED_ZERO,
// const ZERO.
// Provides: scale_of, zero_of, scales_of, zeros_of.
// Layout: a scale takes a word, or two f16 scales share one; four zero points share a word.

fn scale_word(group: u32) -> u32 {
    if (F16_SCALES) {
        return p.scale_at + (group >> 1u);
    }
    return p.scale_at + group;
}

fn scale_in(word: u32, group: u32) -> f32 {
    if (F16_SCALES) {
        return half_to_f32((word >> (16u * (group & 1u))) & 0xffffu);
    }
    return bitcast<f32>(word);
}

fn zero_word(group: u32) -> u32 {
    return p.zero_at + (group >> 2u);
}

fn zero_in(word: u32, group: u32) -> f32 {
    let byte = (word >> (8u * (group & 3u))) & 0xffu;
    if (SIGNED_ZERO) {
        return f32(i32(byte << 24u) >> 24u);
    }
    return f32(byte);
}

fn scale_of(row: Row, group: u32) -> f32 {
    return scale_in(side_word(row, scale_word(group)), group);
}

fn zero_of(row: Row, group: u32) -> f32 {
    if (!ASYMMETRIC) {
        return f32(ZERO);
    }
    return zero_in(side_word(row, zero_word(group)), group);
}

// Returns the scales of two neighbouring rows, as side_pair.
fn scales_of(r0: Row, r1: Row, group: u32) -> vec2<f32> {
    let words = side_pair(r0, r1, scale_word(group));
    return vec2<f32>(scale_in(words.x, group), scale_in(words.y, group));
}

fn zeros_of(r0: Row, r1: Row, group: u32) -> vec2<f32> {
    if (!ASYMMETRIC) {
        return vec2<f32>(f32(ZERO));
    }
    let words = side_pair(r0, r1, zero_word(group));
    return vec2<f32>(zero_in(words.x, group), zero_in(words.y, group));
}
