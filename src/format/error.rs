use super::{CodeType, ScaleType, WeightFormat};

/// The reason why a format, a shape or a buffer of packed weights was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The group size is 0.
    #[error("the group size is 0; use at least 1, or per-channel granularity")]
    ZeroGroup,
    /// The format is asymmetric, but its code type has no zero points.
    #[error("{} weights have no zero point or minimum; only integers of at most 8 bits do", .0.name())]
    NoAsymmetric(CodeType),
    /// The format has scales of two bytes or one, but its code type allows only f32 scales or none.
    #[error("{} weights have no scales of two bytes or one; only codes of at most 8 bits do", .0.name())]
    NoF16Scales(CodeType),
    /// The format is 2:4 sparse, but some other part of it exists for dense weights only.
    #[error(
        "2:4 sparsity goes with f32, f16, int16, int8 and int4, with f32 or f16 scales and a fixed or one-byte zero point"
    )]
    NoTwoFour,
    /// Two parts of the format do not go together.
    #[error("{0}")]
    Combination(&'static str),
    /// A size in bytes does not fit into the address space.
    #[error("a {n}×{k} matrix of {format} does not fit into the address space; split it by rows")]
    TooLarge {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
        /// The format.
        format: WeightFormat,
    },
    /// A cache of keys and values has 2³¹ words or more.
    #[error(
        "a cache of {heads} heads of {head_dim} columns for {slots} tokens is too large: 2^31 words are the limit"
    )]
    CacheTooLarge {
        /// Heads of keys and values.
        heads: usize,
        /// Tokens.
        slots: usize,
        /// Columns of a head.
        head_dim: usize,
    },
    /// A number that describes a rotary embedding is not what it must be.
    #[error("{what} of a rotary embedding is {value}, but it must be {need}")]
    Rotary {
        /// The number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        need: &'static str,
    },
    /// The table of a rotary embedding does not fit in memory.
    #[error(
        "the table of a rotary embedding of {rotary_dim} columns for {positions} positions does not fit in memory"
    )]
    RotaryTooLarge {
        /// Positions.
        positions: usize,
        /// Columns that are rotated.
        rotary_dim: usize,
    },
    /// A part of a packed matrix has the wrong length.
    #[error("the length of {part} is {have}, but it must be {need}")]
    WrongLength {
        /// The part: `codes`, `metadata`, `scales`, `zeros`, or the name of another buffer.
        part: &'static str,
        /// The number of entries that the shape and the format need.
        need: usize,
        /// The number of entries that were passed.
        have: usize,
    },
    /// A matrix is to be made of the rows of no matrices.
    #[error("there are no matrices to make one of")]
    NoMatrices,
    /// Matrices that are to become one have different formats.
    #[error(
        "matrix {index} is {have}, but the first is {need}; matrices of one format can become one"
    )]
    MixedFormats {
        /// The format of the first matrix.
        need: WeightFormat,
        /// The format of the other.
        have: WeightFormat,
        /// The number of the other, from 0.
        index: usize,
    },
    /// Matrices that are to become one differ in what all rows of a matrix share.
    #[error(
        "matrix {index} has another {part} than the first, and one matrix has only one; multiply with each by itself"
    )]
    Differs {
        /// The number of the matrix, from 0.
        index: usize,
        /// What differs.
        part: &'static str,
    },
    /// The scales have another type than the format.
    #[error("the scales are {have:?}, but the format has {need:?} scales")]
    WrongScaleType {
        /// The type in the format.
        need: ScaleType,
        /// The type that was passed.
        have: ScaleType,
    },
    /// A scale, a minimum or a level of one is infinite or NaN.
    #[error("the {part} of row {row}, group {group} is {value}: it must be finite")]
    BadScale {
        /// `scale` or `minimum`.
        part: &'static str,
        /// Row of `W`, or 0 for a per-tensor scale.
        row: usize,
        /// Group within that row.
        group: usize,
        /// The scale that was found.
        value: f32,
    },
    /// A zero point is outside the code range.
    #[error("the zero point of row {row}, group {group} is {value}, outside {low}…{high}")]
    BadZeroPoint {
        /// Row of `W`, or 0 for a per-tensor zero point.
        row: usize,
        /// Group within that row.
        group: usize,
        /// The zero point that was found.
        value: i32,
        /// The lowest valid zero point.
        low: i32,
        /// The highest valid zero point.
        high: i32,
    },
    /// A nibble of 2:4 metadata does not name two ascending positions.
    #[error(
        "the 2:4 metadata of row {row}, group of four {quad} is {nibble:04b}: its two indices must ascend"
    )]
    BadMetadata {
        /// Row of `W`.
        row: usize,
        /// Group of four within that row.
        quad: usize,
        /// The four bits that are wrong.
        nibble: u32,
    },
    /// A mask keeps more than two weights of a group of four.
    #[error(
        "the mask keeps {kept} of 4 weights in row {row}, group of four {quad}; 2:4 sparsity keeps two"
    )]
    TooManyKept {
        /// Row of `W`.
        row: usize,
        /// Group of four within that row.
        quad: usize,
        /// The number of weights that it keeps.
        kept: u32,
    },
    /// The order of columns does not name each column once.
    #[error(
        "entry {index} of the order of columns is {value}; each column below {k} must occur once"
    )]
    BadOrder {
        /// Index of the entry.
        index: usize,
        /// The entry: it is K or more, or an earlier entry has it too.
        value: u32,
        /// K.
        k: usize,
    },
    /// An entry of a codebook is infinite or NaN.
    #[error("entry {index} of the codebook is {value}: it must be finite")]
    BadCodebook {
        /// Index of the entry.
        index: usize,
        /// The entry.
        value: f32,
    },
    /// A word of an enumerative mask is 6¹² or more.
    #[error("word {index} of the enumerative metadata is {value}; it must be less than 6^12")]
    BadEnumerative {
        /// Index of the word.
        index: usize,
        /// Value of the word.
        value: u32,
    },
    /// The name does not belong to any weight format.
    #[error(
        "unknown weight format `{0}`; examples: f16, int8-channel, int4-g64-asym, 2:4+int8-channel, q4_k, nf4"
    )]
    Unknown(String),
}
