//! This module describes compressed weights: their formats, their memory layouts and their exact
//! sizes.
//!
//! Nothing here depends on a GPU. The whole crate uses this notation: weights `W` are `[N, K]` in
//! row-major order, with N output channels and K input channels. A *group* is `g` consecutive
//! columns of one row, and a row has `G = ⌈K/g⌉` groups.
//!
//! The value of a weight is `(c − z) · s`, where `c` is the stored code, `z` is the zero point
//! (itself a code) and `s` is the scale as it is stored.
//!
//! | code type | code `c` | symmetric `z` | asymmetric `z` | symmetric scale | asymmetric scale |
//! |---|---|---|---|---|---|
//! | int16 | −32767…32767 | 0 | – | absmax/32767 | – |
//! | int8 | −127…127 (asymmetric −128…127) | 0 | −128…127 | absmax/127 | (max−min)/255 |
//! | int4 | 0…15 | 8 | 0…15 | absmax/7 | (max−min)/15 |
//!
//! Other libraries store asymmetric int8 codes as 0…255. Here 128 is subtracted from them, because
//! WGSL's packed dot product cannot multiply signed by unsigned bytes.

mod activations;
mod device;
mod function;
mod geometry;
mod packed;
mod sparsity;

pub use activations::{
    ActivationError, ActivationFormat, ActivationGranularity, ActivationLayout, Quantization,
    StaticScale,
};
pub use device::{BLOCK_K, DeviceImage, DeviceLayout, RowOrder};
pub use function::ActivationFunction;
pub use geometry::{Geometry, Sizes};
pub use packed::{PackedWeights, Scales};
pub use sparsity::{BitMask, EnumerativeMask, META_FILL, Mask24};

use std::num::NonZeroU32;

/// The type that each weight is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CodeType {
    /// IEEE binary32 without scales. It is the baseline.
    F32,
    /// IEEE binary16 without scales.
    F16,
    /// 16-bit integer codes with scales. They are always symmetric, with f32 scales.
    Int16,
    /// 8-bit integer codes with scales.
    Int8,
    /// 4-bit integer codes with scales.
    Int4,
}

impl CodeType {
    /// Every code type, from the widest to the narrowest.
    pub const ALL: [CodeType; 5] = [Self::F32, Self::F16, Self::Int16, Self::Int8, Self::Int4];

    /// Returns the number of bits of one stored code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Int16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Returns the number of codes in one `u32`.
    pub const fn per_word(self) -> u32 {
        32 / self.bits()
    }

    /// Returns whether the codes are integers that need a scale.
    pub const fn is_integer(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// Returns the usual name: `f32`, `f16`, `int16`, `int8` or `int4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int16 => "int16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

/// The set of weights that share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// One scale for the whole matrix.
    Tensor,
    /// One scale per output channel (a row of `W`), so `g = K`.
    Channel,
    /// One scale for every `g` consecutive columns of a row. The last group of a row may be
    /// shorter.
    Group(NonZeroU32),
}

impl Granularity {
    /// Creates a granularity with groups of `g` weights.
    ///
    /// # Errors
    /// Returns [`FormatError::ZeroGroup`] if `g` is 0.
    pub fn group(g: u32) -> Result<Self, FormatError> {
        NonZeroU32::new(g).map(Self::Group).ok_or(FormatError::ZeroGroup)
    }
}

impl std::fmt::Display for Granularity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Channel => f.write_str("channel"),
            Self::Group(g) => write!(f, "{g}"),
        }
    }
}

/// Whether codes have a stored zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ZeroPoint {
    /// Symmetric: every group uses the same fixed zero point, which is not stored.
    Symmetric,
    /// Asymmetric: each group has an integer zero point, which is stored in one byte.
    Integer,
}

/// The type that scales are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScaleType {
    /// Four bytes per scale.
    F32,
    /// Two bytes per scale. Codes are computed with the rounded scale.
    F16,
}

/// The set of weights that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Sparsity {
    /// All weights are kept.
    Dense,
    /// Two of every four consecutive columns are kept (2:4 structured sparsity).
    TwoFour,
}

impl Sparsity {
    /// Returns `dense` or `2:4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::TwoFour => "2:4",
        }
    }
}

/// A weight format: code type, granularity, zero point, scale type and sparsity.
///
/// A format starts with a constructor for its code type; the other methods return a changed copy.
/// [`geometry`](Self::geometry) checks the combination and gives exact sizes. Formats have names,
/// which [`Display`](std::fmt::Display) writes and [`FromStr`](std::str::FromStr) reads.
///
/// ```
/// use lowbit::format::{Granularity, WeightFormat};
/// let int4 = WeightFormat::int4(Granularity::group(64)?).asymmetric();
/// assert_eq!(int4.to_string(), "int4-g64-asym");
/// let sizes = int4.geometry(4096, 4096)?.sizes();
/// assert_eq!(sizes.codes, 4096 * 4096 / 2);
/// assert_eq!(sizes.bits_per_weight(), 4.0 + (32.0 + 8.0) / 64.0);
/// # Ok::<(), lowbit::format::FormatError>(())
/// ```
///
/// A format with f16 scales and 2:4 sparsity:
///
/// ```
/// use lowbit::format::{Granularity, ScaleType, WeightFormat};
/// let format = WeightFormat::int8(Granularity::Channel).with_scales(ScaleType::F16).two_four();
/// assert_eq!(format, "2:4+int8-channel-f16s".parse()?);
/// // Half of the codes, 4 bits of metadata per 4 weights, and one scale per row.
/// let bits = format.geometry(4096, 4096)?.sizes().bits_per_weight();
/// assert_eq!(bits, 8.0 / 2.0 + 1.0 + 16.0 / 4096.0);
/// # Ok::<(), lowbit::format::FormatError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightFormat {
    code_type: CodeType,
    granularity: Granularity,
    zero_point: ZeroPoint,
    scale_type: ScaleType,
    sparsity: Sparsity,
}

impl WeightFormat {
    const fn new(code_type: CodeType, granularity: Granularity) -> Self {
        Self {
            code_type,
            granularity,
            zero_point: ZeroPoint::Symmetric,
            scale_type: ScaleType::F32,
            sparsity: Sparsity::Dense,
        }
    }

    /// Returns the format of unquantized f32 weights.
    pub const fn f32() -> Self {
        Self::new(CodeType::F32, Granularity::Channel)
    }

    /// Returns the format of weights that are rounded to f16.
    pub const fn f16() -> Self {
        Self::new(CodeType::F16, Granularity::Channel)
    }

    /// Returns the format of symmetric 16-bit codes with f32 scales.
    pub const fn int16(granularity: Granularity) -> Self {
        Self::new(CodeType::Int16, granularity)
    }

    /// Returns the format of symmetric 8-bit codes with f32 scales.
    pub const fn int8(granularity: Granularity) -> Self {
        Self::new(CodeType::Int8, granularity)
    }

    /// Returns the format of symmetric 4-bit codes with f32 scales.
    pub const fn int4(granularity: Granularity) -> Self {
        Self::new(CodeType::Int4, granularity)
    }

    /// Returns this format with a stored zero point per group. Only int8 and int4 can have one;
    /// [`geometry`](Self::geometry) checks this.
    pub const fn asymmetric(mut self) -> Self {
        self.zero_point = ZeroPoint::Integer;
        self
    }

    /// Returns this format with another type of scale. Only int8 and int4 can have f16 scales;
    /// [`geometry`](Self::geometry) checks this.
    pub const fn with_scales(mut self, scale_type: ScaleType) -> Self {
        self.scale_type = scale_type;
        self
    }

    /// Returns this format with 2:4 structured sparsity.
    pub const fn two_four(mut self) -> Self {
        self.sparsity = Sparsity::TwoFour;
        self
    }

    /// Returns the type that each weight is stored as.
    pub const fn code_type(&self) -> CodeType {
        self.code_type
    }

    /// Returns the set of weights that share one scale.
    pub const fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Returns whether the format has stored zero points.
    pub const fn zero_point(&self) -> ZeroPoint {
        self.zero_point
    }

    /// Returns whether the zero point is fixed. This is true for f32 and f16 as well.
    pub const fn is_symmetric(&self) -> bool {
        matches!(self.zero_point, ZeroPoint::Symmetric)
    }

    /// Returns the type that scales are stored as.
    pub const fn scale_type(&self) -> ScaleType {
        self.scale_type
    }

    /// Returns which weights are kept.
    pub const fn sparsity(&self) -> Sparsity {
        self.sparsity
    }

    /// Returns whether the weights are 2:4 sparse.
    pub const fn is_sparse(&self) -> bool {
        matches!(self.sparsity, Sparsity::TwoFour)
    }

    /// Returns the lowest and the highest code that quantization produces, or `None` for floats. A
    /// stored zero point lies in the same range.
    pub const fn code_range(&self) -> Option<(i32, i32)> {
        match (self.code_type, self.zero_point) {
            (CodeType::F32 | CodeType::F16, _) => None,
            (CodeType::Int16, _) => Some((-32767, 32767)),
            (CodeType::Int8, ZeroPoint::Symmetric) => Some((-127, 127)),
            (CodeType::Int8, ZeroPoint::Integer) => Some((-128, 127)),
            (CodeType::Int4, _) => Some((0, 15)),
        }
    }

    /// Returns the zero point of a symmetric format: 8 for int4 and 0 for all others.
    pub const fn symmetric_zero(&self) -> i32 {
        match self.code_type {
            CodeType::Int4 => 8,
            _ => 0,
        }
    }

    /// Checks that the combination of code type, zero point and scale type exists.
    ///
    /// # Errors
    /// Returns [`FormatError::NoAsymmetric`] for a stored zero point on f32, f16 or int16, and
    /// [`FormatError::NoF16Scales`] for f16 scales on anything but int8 and int4.
    pub const fn check(&self) -> Result<(), FormatError> {
        if !self.is_symmetric() && !matches!(self.code_type, CodeType::Int8 | CodeType::Int4) {
            return Err(FormatError::NoAsymmetric(self.code_type));
        }
        if matches!(self.scale_type, ScaleType::F16)
            && !matches!(self.code_type, CodeType::Int8 | CodeType::Int4)
        {
            return Err(FormatError::NoF16Scales(self.code_type));
        }
        Ok(())
    }

    /// Returns every format there is: with scales for a tensor, for a channel, and for groups of
    /// the two sizes.
    #[doc(hidden)]
    pub fn all(groups: [u32; 2]) -> Vec<Self> {
        let group = |g| NonZeroU32::new(g).map_or(Granularity::Channel, Granularity::Group);
        let scaled =
            [Granularity::Tensor, Granularity::Channel, group(groups[0]), group(groups[1])];
        let mut formats = Vec::new();
        for element in CodeType::ALL {
            let float = !element.is_integer();
            for granularity in if float { &scaled[1..2] } else { &scaled[..] } {
                let bits = 0..if float { 2 } else { 8 };
                formats.extend(bits.filter_map(|bits| Self::of_bits(element, *granularity, bits)));
            }
        }
        formats
    }

    /// Returns the format of a code type whose three bits say, from the lowest: 2:4 sparse,
    /// asymmetric, f16 scales. `None` if there is no such format.
    #[doc(hidden)]
    pub fn of_bits(element: CodeType, granularity: Granularity, bits: usize) -> Option<Self> {
        let mut format = match element {
            CodeType::F32 => Self::f32(),
            CodeType::F16 => Self::f16(),
            CodeType::Int16 => Self::int16(granularity),
            CodeType::Int8 => Self::int8(granularity),
            CodeType::Int4 => Self::int4(granularity),
        };
        format = if bits & 1 != 0 { format.two_four() } else { format };
        format = if bits & 2 != 0 { format.asymmetric() } else { format };
        format = if bits & 4 != 0 { format.with_scales(ScaleType::F16) } else { format };
        format.check().ok().map(|()| format)
    }

    /// Returns the canonical layout and the exact sizes of an `[n, k]` matrix in this format.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check), and [`FormatError::TooLarge`] if a size
    /// overflows.
    pub fn geometry(&self, n: usize, k: usize) -> Result<Geometry, FormatError> {
        Geometry::new(*self, n, k)
    }
}

/// Writes names such as `int4-g64-asym`, `2:4+int8-channel` and `f16`. A format with f16 scales
/// ends in `-f16s`.
impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_sparse() {
            f.write_str("2:4+")?;
        }
        f.write_str(self.code_type.name())?;
        if self.code_type.is_integer() {
            match self.granularity {
                Granularity::Group(g) => write!(f, "-g{g}")?,
                other => write!(f, "-{other}")?,
            }
        }
        if !self.is_symmetric() {
            f.write_str("-asym")?;
        }
        if self.code_type.is_integer() && self.scale_type == ScaleType::F16 {
            f.write_str("-f16s")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for WeightFormat {
    type Err = FormatError;

    /// Reads a name that [`Display`](std::fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let unknown = || FormatError::Unknown(text.chars().take(64).collect());
        let (sparse, rest) = match text.strip_prefix("2:4+") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut parts = rest.split('-');
        let name = parts.next().ok_or_else(unknown)?;
        let code_type = CodeType::ALL.into_iter().find(|e| e.name() == name).ok_or_else(unknown)?;
        let mut format = Self::new(code_type, Granularity::Channel);
        if code_type.is_integer() {
            format.granularity = match parts.next().ok_or_else(unknown)? {
                "tensor" => Granularity::Tensor,
                "channel" => Granularity::Channel,
                group => {
                    let g = group.strip_prefix('g').and_then(|g| g.parse().ok());
                    Granularity::group(g.ok_or_else(unknown)?)?
                }
            };
        }
        let mut part = parts.next();
        if part == Some("asym") {
            format = format.asymmetric();
            part = parts.next();
        }
        if part == Some("f16s") {
            format = format.with_scales(ScaleType::F16);
            part = parts.next();
        }
        if part.is_some() {
            return Err(unknown());
        }
        if sparse {
            format = format.two_four();
        }
        format.check()?;
        Ok(format)
    }
}

/// The reason why a format, a shape or a buffer of packed weights was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The group size is 0.
    #[error("the group size is 0; use at least 1, or per-channel granularity")]
    ZeroGroup,
    /// The format is asymmetric, but its code type has no zero points.
    #[error("{} weights have no zero point; only int8 and int4 can be asymmetric", .0.name())]
    NoAsymmetric(CodeType),
    /// The format has f16 scales, but its code type allows only f32 scales or none.
    #[error("{} weights have no f16 scales; only int8 and int4 do", .0.name())]
    NoF16Scales(CodeType),
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
    /// The scales have another type than the format.
    #[error("the scales are {have:?}, but the format has {need:?} scales")]
    WrongScaleType {
        /// The type in the format.
        need: ScaleType,
        /// The type that was passed.
        have: ScaleType,
    },
    /// A scale is negative, zero, subnormal, infinite or NaN.
    #[error(
        "the scale of row {row}, group {group} is {value}: it must be a positive normal number"
    )]
    BadScale {
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
        "unknown weight format `{0}`; examples: f16, int8-channel, int4-g64-asym, 2:4+int8-channel"
    )]
    Unknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let g = |g| Granularity::group(g).unwrap();
        for code_type in CodeType::ALL {
            for granularity in [Granularity::Tensor, Granularity::Channel, g(1), g(7), g(128)] {
                for sparse in [false, true] {
                    for asymmetric in [false, true] {
                        for scale in [ScaleType::F32, ScaleType::F16] {
                            let mut format = WeightFormat::new(code_type, granularity);
                            if !code_type.is_integer() {
                                format.granularity = Granularity::Channel;
                            }
                            format = format.with_scales(if code_type.is_integer() {
                                scale
                            } else {
                                ScaleType::F32
                            });
                            if sparse {
                                format = format.two_four();
                            }
                            if asymmetric {
                                format = format.asymmetric();
                            }
                            let parsed = format.to_string().parse::<WeightFormat>();
                            assert_eq!(parsed, format.check().map(|()| format));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nonsense_names_are_refused() {
        for name in [
            "",
            "int8",
            "int8-",
            "int8-g0",
            "int8-gx",
            "int4-g64-sym",
            "f16-asym",
            "2:4+",
            "int8-channel-f16s-asym",
        ] {
            assert!(name.parse::<WeightFormat>().is_err(), "{name}");
        }
    }
}
