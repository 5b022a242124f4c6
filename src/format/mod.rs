//! This module describes compressed weights: their formats, their memory layouts and their exact
//! sizes.
//!
//! Nothing here depends on a GPU. The whole crate uses this notation: weights `W` are `[N, K]` in
//! row-major order, with N output channels and K input channels. A *group* is `g` consecutive
//! columns of one row, and a row has `G = ⌈K/g⌉` groups.
//!
//! A format is a combination of five choices: how a code is stored ([`CodeType`]), how scales are
//! stored ([`ScaleType`], [`Granularity`]), what is subtracted or added ([`Offset`]), which weights are
//! kept ([`Sparsity`]), and whether columns are permuted. The value of a weight is
//!
//! ```text
//! v(c) · s + m        v(c) = c − z for integers, an entry of a table for codebooks
//! ```
//!
//! where `c` is the stored code, `z` the zero point, `s` the scale as it is stored, and `m` the minimum
//! of formats that have one.
//!
//! | code type | code `c` | symmetric `z` | asymmetric `z` | symmetric scale | asymmetric scale |
//! |---|---|---|---|---|---|
//! | int16 | −32767…32767 | 0 | – | absmax/32767 | – |
//! | int8 | −127…127 (asymmetric −128…127) | 0 | −128…127 | absmax/127 | (max−min)/255 |
//! | int`b`, b = 2…6 | 0…2ᵇ−1 | 2ᵇ⁻¹ | 0…2ᵇ−1 | absmax/(2ᵇ⁻¹−1) | (max−min)/(2ᵇ−1) |
//!
//! Other libraries store asymmetric int8 codes as 0…255. Here 128 is subtracted from them, because
//! WGSL's packed dot product cannot multiply signed by unsigned bytes.

mod activations;
mod cache;
mod code;
mod combine;
mod device;
mod error;
mod function;
mod geometry;
mod name;
mod packed;
mod powers;
mod random;
mod rotary;
mod scales;
mod sparsity;

pub use activations::{
    ActivationError, ActivationFormat, ActivationGranularity, ActivationLayout, Quantization,
    StaticScale,
};
pub use cache::{CacheFormat, CacheLayout};
pub use code::CodeType;
pub(crate) use code::{CodeKind, fp8_to_f32};
pub use device::{BLOCK_K, DeviceImage, DeviceLayout, RowOrder};
pub use error::FormatError;
pub use function::ActivationFunction;
pub use geometry::{Geometry, Sizes};
pub use packed::{PackedWeights, Parts};
pub(crate) use packed::{inverse_order, put_bits};
#[doc(hidden)]
pub use random::{other_formats, random_weights, sample_formats};
pub use rotary::{RotaryScaling, RotaryTable};
pub use scales::Scales;
pub use sparsity::{BitMask, EnumerativeMask, META_FILL, Mask24};

use std::num::NonZeroU32;

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

/// The zero point that is subtracted from codes, or the minimum that is added to weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Offset {
    /// Symmetric: every group uses the same fixed zero point, which is not stored.
    Fixed,
    /// Asymmetric: each group has an integer zero point, which is stored in one byte.
    ZeroPoint,
    /// Asymmetric with codes of at most 4 bits: each group has an integer zero point, which is
    /// stored in 4 bits.
    ZeroPoint4,
    /// Each group has a zero point that is a float of the type of its scale: `(c − z) · s`.
    FloatZeroPoint,
    /// Each group has a minimum m that is stored like its scale: `c · s + m`.
    Minimum,
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScaleType {
    /// Four bytes per scale.
    F32,
    /// Two bytes per scale. Codes are computed with the rounded scale.
    F16,
    /// One byte per scale, which is a power of two: 2^(byte − 127).
    E8m0,
    /// Two levels: a signed 8-bit integer per group, times an f16 per super-block of 256 columns.
    Int8Super,
    /// Two levels: an e4m3 float per group, times an f32 per tensor.
    E4m3Tensor,
}

/// The number of columns that share the upper level of [`ScaleType::Int8Super`].
pub const SUPER_K: usize = 256;

impl ScaleType {
    /// Every type of scale.
    pub const ALL: [ScaleType; 5] =
        [Self::F32, Self::F16, Self::E8m0, Self::Int8Super, Self::E4m3Tensor];

    /// Returns the number of bits that are stored per group, without the upper level.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 => 16,
            Self::E8m0 | Self::Int8Super | Self::E4m3Tensor => 8,
        }
    }

    /// Returns whether a scale is a product of two levels.
    pub const fn is_two_level(self) -> bool {
        matches!(self, Self::Int8Super | Self::E4m3Tensor)
    }

    /// Returns how names of formats end: `f16s`, `e8m0s`, `i8s` or `e4m3s`, and nothing for f32.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "",
            Self::F16 => "f16s",
            Self::E8m0 => "e8m0s",
            Self::Int8Super => "i8s",
            Self::E4m3Tensor => "e4m3s",
        }
    }
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
    offset: Offset,
    scale_type: ScaleType,
    sparsity: Sparsity,
    permuted: bool,
}

impl WeightFormat {
    /// Creates the format of a code type with f32 scales (if it has scales), a fixed zero point and
    /// all weights in their order. The granularity of f32 and f16 is always a channel.
    pub const fn new(code_type: CodeType, granularity: Granularity) -> Self {
        Self {
            code_type,
            granularity: if code_type.has_scales() { granularity } else { Granularity::Channel },
            offset: Offset::Fixed,
            scale_type: ScaleType::F32,
            sparsity: Sparsity::Dense,
            permuted: false,
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

    /// Returns this format with another set of weights that share one scale.
    pub(crate) const fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// Returns this format with a stored zero point per group, of one byte.
    /// [`check`](Self::check) says which code types can have one.
    pub const fn asymmetric(self) -> Self {
        self.with_offset(Offset::ZeroPoint)
    }

    /// Returns this format with another offset. [`check`](Self::check) says which combinations
    /// exist.
    pub const fn with_offset(mut self, offset: Offset) -> Self {
        self.offset = offset;
        self
    }

    /// Returns this format with another type of scale. [`check`](Self::check) says which
    /// combinations exist.
    pub const fn with_scales(mut self, scale_type: ScaleType) -> Self {
        self.scale_type = scale_type;
        self
    }

    /// Returns this format with columns in an order that each matrix states, as GPTQ stores them
    /// with act-order: the columns of a group are then not neighbors in W.
    pub const fn permuted(mut self) -> Self {
        self.permuted = true;
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

    /// Returns what is subtracted from codes or added to weights.
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// Returns whether nothing is stored beside codes and scales: the zero point is fixed. This is
    /// true for floats, codebooks and 8-bit floats as well.
    pub const fn is_symmetric(&self) -> bool {
        matches!(self.offset, Offset::Fixed)
    }

    /// Returns whether each group has a stored integer zero point.
    pub const fn has_zeros(&self) -> bool {
        matches!(self.offset, Offset::ZeroPoint | Offset::ZeroPoint4)
    }

    /// Returns whether each group has a minimum, or a zero point that is a float.
    pub const fn has_minima(&self) -> bool {
        matches!(self.offset, Offset::Minimum | Offset::FloatZeroPoint)
    }

    /// Returns whether the columns have an order that each matrix states.
    pub const fn is_permuted(&self) -> bool {
        self.permuted
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

    /// Returns the lowest and the highest code that quantization to nearest produces, or `None` if
    /// codes are no integers. A stored zero point lies in the same range.
    pub const fn code_range(&self) -> Option<(i32, i32)> {
        match (self.code_type, self.code_type.kind()) {
            (CodeType::Int16, _) => Some((-32767, 32767)),
            (CodeType::Int8, _) if self.is_symmetric() => Some((-127, 127)),
            (_, CodeKind::Integer { low, high, .. }) => Some((low, high)),
            _ => None,
        }
    }

    /// Returns the zero point of groups that store none: that of the code type
    /// ([`CodeType::fixed_zero`]), or 0 if there is a minimum or a float zero point instead.
    pub const fn symmetric_zero(&self) -> i32 {
        if self.has_minima() { 0 } else { self.code_type.fixed_zero() }
    }

    /// Checks that the combination of code type, offset, scales, granularity and sparsity exists:
    ///
    /// - f32 and f16 have neither scales nor an offset; int16 has f32 scales and no offset;
    /// - only integers of at most 8 bits have an offset, and only those of at most 4 bits a zero
    ///   point of 4 bits;
    /// - minima have f32, f16 or [`Int8Super`](ScaleType::Int8Super) scales, float zero points f32 or
    ///   f16 ones;
    /// - scales of one byte go with groups; those of two levels with 256 columns have groups that
    ///   divide 256; they have no integer zero points;
    /// - 2:4 sparsity goes with f32, f16, int16, int8 and int4, with f32 or f16 scales and a fixed
    ///   zero point or one of a byte.
    ///
    /// # Errors
    /// Returns [`FormatError::NoAsymmetric`], [`FormatError::NoF16Scales`],
    /// [`FormatError::NoTwoFour`] or [`FormatError::Combination`].
    pub const fn check(&self) -> Result<(), FormatError> {
        let code_type = self.code_type;
        let small = code_type.is_integer() && code_type.bits() <= 8;
        if !self.is_symmetric() && !small {
            return Err(FormatError::NoAsymmetric(code_type));
        }
        let plain = matches!(self.scale_type, ScaleType::F32);
        if !plain && (!code_type.has_scales() || code_type.bits() > 8) {
            return Err(FormatError::NoF16Scales(code_type));
        }
        let one_level = matches!(self.scale_type, ScaleType::F32 | ScaleType::F16);
        if matches!(self.offset, Offset::ZeroPoint4) && code_type.bits() > 4 {
            return Err(FormatError::Combination(
                "a zero point of 4 bits needs codes of at most 4",
            ));
        }
        if self.has_zeros() && !one_level {
            return Err(FormatError::Combination(
                "integer zero points go with f32 and f16 scales only",
            ));
        }
        if matches!(self.offset, Offset::FloatZeroPoint) && !one_level {
            return Err(FormatError::Combination(
                "float zero points go with f32 and f16 scales only",
            ));
        }
        if matches!(self.offset, Offset::Minimum)
            && !one_level
            && !matches!(self.scale_type, ScaleType::Int8Super)
        {
            return Err(FormatError::Combination("minima go with f32, f16 and i8 scales only"));
        }
        if !one_level {
            match self.granularity {
                Granularity::Group(g) => {
                    let divides = (SUPER_K as u32).is_multiple_of(g.get());
                    if matches!(self.scale_type, ScaleType::Int8Super) && !divides {
                        return Err(FormatError::Combination(
                            "groups of i8 scales must divide 256 columns",
                        ));
                    }
                }
                _ => return Err(FormatError::Combination("scales of one byte need groups")),
            }
        }
        if self.is_sparse() {
            let wide = matches!(
                code_type,
                CodeType::F32 | CodeType::F16 | CodeType::Int16 | CodeType::Int8 | CodeType::Int4
            );
            let offset = matches!(self.offset, Offset::Fixed | Offset::ZeroPoint);
            if !wide || !one_level || !offset {
                return Err(FormatError::NoTwoFour);
            }
        }
        Ok(())
    }

    /// Returns every format of f32, f16, int16, int8 and int4 with scales of one float and integer
    /// zero points of a byte: with scales for a tensor, for a channel, and for groups of the two sizes.
    #[doc(hidden)]
    pub fn all(groups: [u32; 2]) -> Vec<Self> {
        let group = |g| NonZeroU32::new(g).map_or(Granularity::Channel, Granularity::Group);
        let scaled =
            [Granularity::Tensor, Granularity::Channel, group(groups[0]), group(groups[1])];
        let mut formats = Vec::new();
        for element in CodeType::WIDE {
            let float = !element.has_scales();
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
        let mut format = Self::new(element, granularity);
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
