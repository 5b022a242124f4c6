//! What a compressed weight is: its scheme, its layouts and its exact sizes.
//!
//! Nothing here knows of a GPU. Notation, used across the crate: weights `W` are
//! `[N, K]` row-major (N output channels, K input channels), a *group* is `g`
//! consecutive k of one row, and `G = ⌈K/g⌉`.
//!
//! A weight's real value is `(c − z) · s`: `c` the stored code, `z` its zero point
//! in the same domain, `s` the scale as stored.
//!
//! | element | code `c` | symmetric `z` | asymmetric `z` | symmetric scale | asymmetric scale |
//! |---|---|---|---|---|---|
//! | int16 | −32767…32767 | 0 | – | absmax/32767 | – |
//! | int8 | −127…127 (asymmetric −128…127) | 0 | −128…127 | absmax/127 | (max−min)/255 |
//! | int4 | 0…15 | 8 | 0…15 | absmax/7 | (max−min)/15 |
//!
//! Asymmetric int8 is the field's 0…255 stored minus 128, since WGSL's packed
//! dot product has no mixed signs.

mod activations;
mod device;
mod function;
mod geometry;
mod packed;
mod sparsity;

pub use activations::{
    ActivationError, ActivationFormat, ActivationGranularity, ActivationLayout, StaticScale,
};
pub use device::{BLOCK_K, DeviceImage, DeviceLayout, RowOrder};
pub use function::ActivationFunction;
pub use geometry::{Geometry, Sizes};
pub use packed::{PackedWeights, Scales};
pub use sparsity::{BitMask, EnumerativeMask, META_FILL, Mask24};

use std::num::NonZeroU32;

/// What one weight is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CodeType {
    /// IEEE binary32, unscaled: the baseline.
    F32,
    /// IEEE binary16, unscaled.
    F16,
    /// 16-bit integer codes with scales; symmetric only, f32 scales only.
    Int16,
    /// 8-bit integer codes with scales.
    Int8,
    /// 4-bit integer codes with scales.
    Int4,
}

impl CodeType {
    /// Every element, widest first.
    pub const ALL: [CodeType; 5] = [Self::F32, Self::F16, Self::Int16, Self::Int8, Self::Int4];

    /// Bits of one stored code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Int16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Codes in one `u32`.
    pub const fn per_word(self) -> u32 {
        32 / self.bits()
    }

    /// Whether codes are integers that need a scale.
    pub const fn is_integer(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// The field's name: `f32`, `f16`, `int16`, `int8`, `int4`.
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

/// Over which weights one scale is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// One scale for the whole matrix.
    Tensor,
    /// One scale an output channel (a row of `W`): `g = K`.
    Channel,
    /// One scale for every `g` consecutive k of a row; the last group of a row may
    /// be shorter.
    Group(NonZeroU32),
}

impl Granularity {
    /// Groups of `g` weights.
    ///
    /// # Errors
    /// [`FormatError::ZeroGroup`] for `g = 0`.
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

/// What a zero point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ZeroPoint {
    /// Symmetric: the same fixed code for every group, not stored.
    Symmetric,
    /// Asymmetric: an integer zero point a group, stored as one byte.
    Integer,
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScaleType {
    /// Four bytes a scale.
    F32,
    /// Two bytes a scale; codes are computed with the rounded scale.
    F16,
}

/// Which weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Sparsity {
    /// All of them.
    Dense,
    /// Two of every four consecutive k (2:4 structured sparsity).
    TwoFour,
}

impl Sparsity {
    /// `dense` or `2:4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::TwoFour => "2:4",
        }
    }
}

/// A weight format: element, granularity, zero point, scale type and sparsity.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightFormat {
    element: CodeType,
    granularity: Granularity,
    zero_point: ZeroPoint,
    scale_type: ScaleType,
    sparsity: Sparsity,
}

impl WeightFormat {
    const fn new(element: CodeType, granularity: Granularity) -> Self {
        Self {
            element,
            granularity,
            zero_point: ZeroPoint::Symmetric,
            scale_type: ScaleType::F32,
            sparsity: Sparsity::Dense,
        }
    }

    /// Unquantized f32 weights.
    pub const fn f32() -> Self {
        Self::new(CodeType::F32, Granularity::Channel)
    }

    /// Weights rounded to f16.
    pub const fn f16() -> Self {
        Self::new(CodeType::F16, Granularity::Channel)
    }

    /// Symmetric 16-bit codes with f32 scales.
    pub const fn int16(granularity: Granularity) -> Self {
        Self::new(CodeType::Int16, granularity)
    }

    /// Symmetric 8-bit codes with f32 scales.
    pub const fn int8(granularity: Granularity) -> Self {
        Self::new(CodeType::Int8, granularity)
    }

    /// Symmetric 4-bit codes with f32 scales.
    pub const fn int4(granularity: Granularity) -> Self {
        Self::new(CodeType::Int4, granularity)
    }

    /// The same with a stored zero point a group. Checked by
    /// [`geometry`](Self::geometry): int8 and int4 have one.
    pub const fn asymmetric(mut self) -> Self {
        self.zero_point = ZeroPoint::Integer;
        self
    }

    /// The same with another type of scale. Checked by [`geometry`](Self::geometry):
    /// int8 and int4 may have f16 scales.
    pub const fn with_scales(mut self, scale_type: ScaleType) -> Self {
        self.scale_type = scale_type;
        self
    }

    /// The same with 2:4 structured sparsity.
    pub const fn two_four(mut self) -> Self {
        self.sparsity = Sparsity::TwoFour;
        self
    }

    /// What one weight is stored as.
    pub const fn code_type(&self) -> CodeType {
        self.element
    }

    /// Over which weights a scale is shared.
    pub const fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Whether there are stored zero points.
    pub const fn zero_point(&self) -> ZeroPoint {
        self.zero_point
    }

    /// Whether the zero point is fixed: true for f32 and f16 as well.
    pub const fn is_symmetric(&self) -> bool {
        matches!(self.zero_point, ZeroPoint::Symmetric)
    }

    /// How scales are stored.
    pub const fn scale_type(&self) -> ScaleType {
        self.scale_type
    }

    /// Which weights are kept.
    pub const fn sparsity(&self) -> Sparsity {
        self.sparsity
    }

    /// Whether the weights are 2:4 sparse.
    pub const fn is_sparse(&self) -> bool {
        matches!(self.sparsity, Sparsity::TwoFour)
    }

    /// The lowest and highest code that quantizing gives, and the zero point's
    /// range in the same domain; `None` for floats.
    pub const fn code_range(&self) -> Option<(i32, i32)> {
        match (self.element, self.zero_point) {
            (CodeType::F32 | CodeType::F16, _) => None,
            (CodeType::Int16, _) => Some((-32767, 32767)),
            (CodeType::Int8, ZeroPoint::Symmetric) => Some((-127, 127)),
            (CodeType::Int8, ZeroPoint::Integer) => Some((-128, 127)),
            (CodeType::Int4, _) => Some((0, 15)),
        }
    }

    /// The code of zero where the format is symmetric: 8 for int4, else 0.
    pub const fn symmetric_zero(&self) -> i32 {
        match self.element {
            CodeType::Int4 => 8,
            _ => 0,
        }
    }

    /// Refuses combinations that do not exist.
    ///
    /// # Errors
    /// [`FormatError::NoAsymmetric`] for a zero point on f32, f16 or int16;
    /// [`FormatError::NoF16Scales`] for f16 scales on anything but int8 and int4.
    pub const fn check(&self) -> Result<(), FormatError> {
        if !self.is_symmetric() && !matches!(self.element, CodeType::Int8 | CodeType::Int4) {
            return Err(FormatError::NoAsymmetric(self.element));
        }
        if matches!(self.scale_type, ScaleType::F16)
            && !matches!(self.element, CodeType::Int8 | CodeType::Int4)
        {
            return Err(FormatError::NoF16Scales(self.element));
        }
        Ok(())
    }

    /// Every format there is: with scales for a tensor, for a channel, and for groups of the two
    /// sizes.
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

    /// The format of a code type whose three bits say, from the lowest: 2:4 sparse, asymmetric, f16
    /// scales. `None` if there is no such format.
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

    /// The canonical layout and exact sizes of an `[n, k]` matrix in this format.
    ///
    /// # Errors
    /// What [`check`](Self::check) refuses, and [`FormatError::TooLarge`] where a
    /// size overflows.
    pub fn geometry(&self, n: usize, k: usize) -> Result<Geometry, FormatError> {
        Geometry::new(*self, n, k)
    }
}

/// `int4-g64-asym`, `2:4+int8-channel`, `f16`; f16 scales add `-f16s`.
impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_sparse() {
            f.write_str("2:4+")?;
        }
        f.write_str(self.element.name())?;
        if self.element.is_integer() {
            match self.granularity {
                Granularity::Group(g) => write!(f, "-g{g}")?,
                other => write!(f, "-{other}")?,
            }
        }
        if !self.is_symmetric() {
            f.write_str("-asym")?;
        }
        if self.element.is_integer() && self.scale_type == ScaleType::F16 {
            f.write_str("-f16s")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for WeightFormat {
    type Err = FormatError;

    /// Reads what [`Display`](std::fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let unknown = || FormatError::Unknown(text.chars().take(64).collect());
        let (sparse, rest) = match text.strip_prefix("2:4+") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut parts = rest.split('-');
        let name = parts.next().ok_or_else(unknown)?;
        let element = CodeType::ALL.into_iter().find(|e| e.name() == name).ok_or_else(unknown)?;
        let mut format = Self::new(element, Granularity::Channel);
        if element.is_integer() {
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

/// Why a format, a shape or a buffer of packed weights is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A group needs at least one weight.
    #[error("a group size of 0; use 1 or more, or per-channel granularity")]
    ZeroGroup,
    /// Only int8 and int4 have zero points.
    #[error("{} weights have no zero point; only int8 and int4 can be asymmetric", .0.name())]
    NoAsymmetric(CodeType),
    /// Only int8 and int4 have f16 scales.
    #[error("{} weights have no f16 scales; only int8 and int4 do", .0.name())]
    NoF16Scales(CodeType),
    /// A size in bytes does not fit the address space.
    #[error("a {n}×{k} matrix of {format} overflows the address space")]
    TooLarge {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
        /// The format.
        format: WeightFormat,
    },
    /// A part of a packed matrix has the wrong length.
    #[error("{part} holds {have} elements where {need} are needed")]
    WrongLength {
        /// Which part: `codes`, `metadata`, `scales` or `zeros`.
        part: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements given.
        have: usize,
    },
    /// Scales are of another type than the format says.
    #[error("scales are {have:?} where the format says {need:?}")]
    WrongScaleType {
        /// What the format says.
        need: ScaleType,
        /// What was given.
        have: ScaleType,
    },
    /// A scale is negative, zero, subnormal, infinite or NaN.
    #[error(
        "the scale of row {row}, group {group} is {value}: it must be a positive normal number"
    )]
    BadScale {
        /// Row of `W` (0 for per-tensor scales).
        row: usize,
        /// Group of that row.
        group: usize,
        /// The scale found.
        value: f32,
    },
    /// A zero point is outside the code range.
    #[error("the zero point of row {row}, group {group} is {value}, outside {low}…{high}")]
    BadZeroPoint {
        /// Row of `W` (0 for per-tensor scales).
        row: usize,
        /// Group of that row.
        group: usize,
        /// The zero point found.
        value: i32,
        /// Lowest allowed.
        low: i32,
        /// Highest allowed.
        high: i32,
    },
    /// 2:4 metadata that does not name two ascending positions.
    #[error("2:4 metadata of row {row}, quad {quad} is {nibble:04b}: its two indices must ascend")]
    BadMetadata {
        /// Row of `W`.
        row: usize,
        /// Group of four in that row.
        quad: usize,
        /// The offending four bits.
        nibble: u32,
    },
    /// A mask keeps more than two of four.
    #[error("the mask keeps {kept} of 4 in row {row}, quad {quad}; 2:4 keeps two")]
    TooManyKept {
        /// Row of `W`.
        row: usize,
        /// Group of four in that row.
        quad: usize,
        /// How many it keeps.
        kept: u32,
    },
    /// An enumerative word of 6¹² or more.
    #[error("word {index} of the enumerative metadata is {value}, not below 6^12")]
    BadEnumerative {
        /// Which word.
        index: usize,
        /// Its value.
        value: u32,
    },
    /// A format's name that cannot be read.
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
        for element in CodeType::ALL {
            for granularity in [Granularity::Tensor, Granularity::Channel, g(1), g(7), g(128)] {
                for sparse in [false, true] {
                    for asymmetric in [false, true] {
                        for scale in [ScaleType::F32, ScaleType::F16] {
                            let mut format = WeightFormat::new(element, granularity);
                            if !element.is_integer() {
                                format.granularity = Granularity::Channel;
                            }
                            format = format.with_scales(if element.is_integer() {
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
