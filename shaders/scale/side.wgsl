// Loads scales, minima and zero points from a side row.
// Requires: lib/matmul, side, scale_field, const SCALES, const MINIMA, const ZERO_BITS,
// const SIGNED_ZERO, const ZERO.
// Provides: scale_of, minimum_of, affine_of, zero_of, scales_of, zeros_of, AffineWords,
// affine_words, affine_in, AffinesWords, affines_words, affines_under.
// Constants: SCALES is 0 for f32, 1 for f16, 2 for powers of two (e8m0), 3 for an 8-bit integer times an
// f16 a super-block of 256 columns, 4 for an e4m3 times an f32 a tensor. MINIMA is 0 without minima, 1
// with them, 2 if they are float zero points z, which stand for −z · s. ZERO_BITS is 0 where no zero
// point is stored: then it is ZERO.
// Layout: scales of 32, 16 or 8 bits, from the lowest bits of a word on. A minimum follows its scale.
// The upper level, and zero points of 8 or 4 bits, lie likewise.

const SCALE_BITS = select(select(8u, 16u, SCALES == 1u), 32u, SCALES == 0u);
const FIELDS = select(2u, 1u, MINIMA == 0u);
const ENTRY_BITS = SCALE_BITS * FIELDS;

// The word of a side row that has the scale of a group, and that which has its minimum.
fn scale_word(group: u32) -> u32 {
    return p.scale_at + group * ENTRY_BITS / 32u;
}

fn minimum_word(group: u32) -> u32 {
    return p.scale_at + (group * ENTRY_BITS + SCALE_BITS) / 32u;
}

// The word that has the upper level of a group, with that of its minimum.
fn upper_word(group: u32) -> u32 {
    if (SCALES == 3u) {
        return p.upper_at + super_block(group) * FIELDS / 2u;
    }
    return p.upper_at;
}

// Groups divide 256 columns.
fn super_block(group: u32) -> u32 {
    return (group * p.group_size) >> 8u;
}

// The words that scale and minimum of a group are in, and the upper level of both as numbers: it is
// converted once for all groups that share it.
struct AffineWords {
    scale: u32,
    minimum: u32,
    upper: vec2<f32>,
}

fn affine_words(row: Row, group: u32) -> AffineWords {
    var words = AffineWords(side_word(row, scale_word(group)), 0u, vec2<f32>(0.0));
    if (MINIMA != 0u) {
        words.minimum = words.scale;
        if (SCALES == 0u) {
            words.minimum = side_word(row, minimum_word(group));
        }
    }
    if (SCALES >= 3u) {
        words.upper = upper_in(side_word(row, upper_word(group)), group);
    }
    return words;
}

// Scale and minimum of a group.
fn affine_in(words: AffineWords, group: u32) -> vec2<f32> {
    let scale = field_in(words.scale, words.upper.x, group, 0u);
    if (MINIMA == 0u) {
        return vec2<f32>(scale, 0.0);
    }
    let minimum = field_in(words.minimum, words.upper.y, group, 1u);
    if (MINIMA == 2u) {
        return vec2<f32>(scale, -(minimum * scale));
    }
    return vec2<f32>(scale, minimum);
}

// The words of a group of two neighbouring rows, as side_pair.
struct AffinesWords {
    a: AffineWords,
    b: AffineWords,
}

fn affines_words(r0: Row, r1: Row, group: u32) -> AffinesWords {
    var a = vec2<f32>(0.0);
    var b = vec2<f32>(0.0);
    if (SCALES >= 3u) {
        let words = side_pair(r0, r1, upper_word(group));
        a = upper_in(words.x, group);
        b = upper_in(words.y, group);
    }
    return affines_under(r0, r1, group, a, b);
}

// The words of scales and minima of a group, given the upper level of both rows.
fn affines_under(r0: Row, r1: Row, group: u32, a: vec2<f32>, b: vec2<f32>) -> AffinesWords {
    let scale = side_pair(r0, r1, scale_word(group));
    var minimum = scale;
    if (MINIMA != 0u && SCALES == 0u) {
        minimum = side_pair(r0, r1, minimum_word(group));
    }
    return AffinesWords(AffineWords(scale.x, minimum.x, a), AffineWords(scale.y, minimum.y, b));
}

fn affine_of(row: Row, group: u32) -> vec2<f32> {
    return affine_in(affine_words(row, group), group);
}

fn scale_of(row: Row, group: u32) -> f32 {
    return affine_of(row, group).x;
}

fn minimum_of(row: Row, group: u32) -> f32 {
    return affine_of(row, group).y;
}

fn zero_word(group: u32) -> u32 {
    return p.zero_at + group * ZERO_BITS / 32u;
}

fn zero_in(word: u32, group: u32) -> f32 {
    if (ZERO_BITS == 4u) {
        return f32((word >> (4u * (group & 7u))) & 15u);
    }
    let byte = (word >> (8u * (group & 3u))) & 0xffu;
    if (SIGNED_ZERO) {
        return f32(i32(byte << 24u) >> 24u);
    }
    return f32(byte);
}

fn zero_of(row: Row, group: u32) -> f32 {
    if (ZERO_BITS == 0u) {
        return f32(ZERO);
    }
    return zero_in(side_word(row, zero_word(group)), group);
}

// Returns the scales of two neighbouring rows, as side_pair.
fn scales_of(r0: Row, r1: Row, group: u32) -> vec2<f32> {
    let words = side_pair(r0, r1, scale_word(group));
    var upper = vec2<f32>(0.0);
    if (SCALES >= 3u) {
        let uppers = side_pair(r0, r1, upper_word(group));
        upper = vec2<f32>(upper_in(uppers.x, group).x, upper_in(uppers.y, group).x);
    }
    return vec2<f32>(
        field_in(words.x, upper.x, group, 0u), field_in(words.y, upper.y, group, 0u),
    );
}

fn zeros_of(r0: Row, r1: Row, group: u32) -> vec2<f32> {
    if (ZERO_BITS == 0u) {
        return vec2<f32>(f32(ZERO));
    }
    let words = side_pair(r0, r1, zero_word(group));
    return vec2<f32>(zero_in(words.x, group), zero_in(words.y, group));
}
