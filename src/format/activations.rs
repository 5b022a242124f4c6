use super::BLOCK_K;
use std::num::NonZeroU32;

/// The set of quantized activations that share one scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActivationGranularity {
    /// All of X.
    Tensor,
    /// One row of X, that is, one token.
    Token,
    /// The given number of consecutive columns of a row. It must be a multiple of 32.
    Group(NonZeroU32),
}

/// A format of 8-bit activations: `x ≈ (c − z) · s`.
///
/// | | codes `c` | scale | zero point |
/// |---|---|---|---|
/// | symmetric | −127…127 | absmax/127 | 0 |
/// | asymmetric | −128…127 | (max−min)/255, over the range extended to include 0 | clamp(rne(−min/s), 0, 255) − 128 |
///
/// The codes are `clamp(rne(x / s) + z)`. Kernels divide, as other implementations do, because
/// x · (1/s) rounds twice; where a device's division is off by an ulp or two, a code next to a tie
/// may be either neighbor. If all values of a range are 0, or if its scale would be subnormal, then
/// s = 1, z = 0 and all codes are 0. If a range contains NaN or an
/// infinity, then s = NaN, so that products with it are NaN as well.
///
/// Names are `int8-token`, `int8-tensor-asym` and `int8-g128`, for example.
///
/// ```
/// use lowbit::format::{ActivationFormat, ActivationGranularity};
/// let format = ActivationFormat::int8(ActivationGranularity::Token).asymmetric();
/// assert_eq!(format.to_string(), "int8-token-asym");
/// let layout = format.layout(100)?;
/// assert_eq!((layout.blocks, layout.groups), (4, 1));
/// # Ok::<(), lowbit::format::ActivationError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActivationFormat {
    granularity: ActivationGranularity,
    symmetric: bool,
}

impl ActivationFormat {
    /// Returns the format of symmetric codes.
    pub const fn int8(granularity: ActivationGranularity) -> Self {
        Self { granularity, symmetric: true }
    }

    /// Returns this format with zero points.
    #[must_use]
    pub const fn asymmetric(self) -> Self {
        Self { symmetric: false, ..self }
    }

    /// Returns the set of activations that share a scale.
    pub const fn granularity(&self) -> ActivationGranularity {
        self.granularity
    }

    /// Returns whether the zero point is always 0.
    pub const fn is_symmetric(&self) -> bool {
        self.symmetric
    }

    /// Returns the layout of rows of `k` columns.
    ///
    /// # Errors
    /// Returns an [`ActivationError`] if the group size is not a multiple of 32, or if the size of
    /// a row overflows.
    pub fn layout(&self, k: usize) -> Result<ActivationLayout, ActivationError> {
        let blocks = k.div_ceil(BLOCK_K);
        let group_blocks = match self.granularity {
            ActivationGranularity::Group(g) if !(g.get() as usize).is_multiple_of(BLOCK_K) => {
                return Err(ActivationError::Group { group: g.get() });
            }
            ActivationGranularity::Group(g) => (g.get() as usize / BLOCK_K).min(blocks.max(1)),
            _ => blocks.max(1),
        };
        let groups = blocks.div_ceil(group_blocks);
        let scale_at = blocks.checked_mul(BLOCK_K / 4);
        let words = scale_at.and_then(|codes| codes.checked_add(2 * groups)?.checked_add(blocks));
        let row_words = words.and_then(|words| words.checked_next_multiple_of(4));
        match (scale_at, row_words) {
            (Some(scale_at), Some(row_words)) if row_words <= i32::MAX as usize => {
                let zero_at = scale_at + groups;
                let sum_at = zero_at + groups;
                Ok(ActivationLayout {
                    k,
                    blocks,
                    group_blocks,
                    groups,
                    scale_at,
                    zero_at,
                    sum_at,
                    row_words,
                })
            }
            _ => Err(ActivationError::TooLarge { k }),
        }
    }
}

/// A scale and a zero point for all of X that are fixed in advance, from calibration data: `x ≈ (c
/// − z) · s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StaticScale {
    /// The scale s. Both s and 1/s must be positive normal f32 numbers.
    pub scale: f32,
    /// The zero point z. It must be within −128…127, and 0 if the format is symmetric.
    pub zero_point: i32,
}

impl StaticScale {
    /// Checks that kernels can quantize with this scale and zero point.
    ///
    /// # Errors
    /// Returns [`ActivationError::Static`] if they cannot.
    pub fn check(&self, format: ActivationFormat) -> Result<(), ActivationError> {
        let Self { scale, zero_point } = *self;
        let zeros = if format.is_symmetric() { 0..=0 } else { -128..=127 };
        let kept = scale > 0.0 && scale.is_normal() && (1.0 / scale).is_normal();
        if kept && zeros.contains(&zero_point) {
            Ok(())
        } else {
            Err(ActivationError::Static { scale, zero_point, format })
        }
    }
}

/// How X is quantized to 8-bit codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantization {
    /// With ranges taken from X itself in every call.
    Dynamic(ActivationFormat),
    /// With a fixed scale and zero point. The codes are `int8-tensor`, or `int8-tensor-asym` if the
    /// zero point is not 0; a zero point of 0 leaves code −128 unused. A NaN becomes an arbitrary
    /// code and does not reach the result.
    Static(StaticScale),
}

impl Quantization {
    /// Returns the format of the codes.
    pub fn format(&self) -> ActivationFormat {
        let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
        match self {
            Self::Dynamic(format) => *format,
            Self::Static(StaticScale { zero_point: 0, .. }) => tensor,
            Self::Static(_) => tensor.asymmetric(),
        }
    }
}

/// The reason why an activation format, a layout or a static scale was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ActivationError {
    /// The group size is not a multiple of 32. Kernels scale blocks of 32 columns.
    #[error("the activation group size is {group}; it must be a multiple of 32")]
    Group {
        /// The group size.
        group: u32,
    },
    /// A row is too long to be indexed with 32 bits.
    #[error("rows of {k} activations are longer than kernels can index")]
    TooLarge {
        /// Columns.
        k: usize,
    },
    /// The static scale or zero point is invalid for the format.
    #[error(
        "scale {scale} and zero point {zero_point} are invalid for {format}: the scale and its reciprocal must be positive normal numbers, and the zero point must be within −128…127, or 0 if the format is symmetric"
    )]
    Static {
        /// The scale.
        scale: f32,
        /// The zero point.
        zero_point: i32,
        /// The format.
        format: ActivationFormat,
    },
    /// The name does not belong to any activation format.
    #[error(
        "unknown activation format `{0}`; examples: int8-token, int8-tensor, int8-g128, each also with -asym"
    )]
    Unknown(String),
}

/// The positions of the parts of a row of quantized activations, in `u32` words. The parts follow
/// each other: codes, four per word with the first in the low byte, in whole blocks of 32 columns;
/// scales as f32; zero points as i32; and for each block the sum of its 32 codes as i32. Codes past
/// the last column are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ActivationLayout {
    /// Number of columns.
    pub k: usize,
    /// Number of blocks of 32 columns.
    pub blocks: usize,
    /// Number of blocks that share a scale.
    pub group_blocks: usize,
    /// Number of scales per row.
    pub groups: usize,
    /// Index of the first word of the scales.
    pub scale_at: usize,
    /// Index of the first word of the zero points.
    pub zero_at: usize,
    /// Index of the first word of the sums of codes.
    pub sum_at: usize,
    /// Number of words from one row to the next. It is a multiple of 4.
    pub row_words: usize,
}

impl std::fmt::Display for ActivationFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.granularity {
            ActivationGranularity::Tensor => f.write_str("int8-tensor")?,
            ActivationGranularity::Token => f.write_str("int8-token")?,
            ActivationGranularity::Group(g) => write!(f, "int8-g{g}")?,
        }
        f.write_str(if self.symmetric { "" } else { "-asym" })
    }
}

impl std::str::FromStr for ActivationFormat {
    type Err = ActivationError;

    fn from_str(text: &str) -> Result<Self, ActivationError> {
        let unknown = || ActivationError::Unknown(text.into());
        let (name, symmetric) = match text.strip_suffix("-asym") {
            Some(name) => (name, false),
            None => (text, true),
        };
        let granularity = match name.strip_prefix("int8-") {
            Some("tensor") => ActivationGranularity::Tensor,
            Some("token") => ActivationGranularity::Token,
            Some(group) => {
                let size = group.strip_prefix('g').and_then(|size| size.parse().ok());
                ActivationGranularity::Group(size.ok_or_else(unknown)?)
            }
            None => return Err(unknown()),
        };
        let format = Self { granularity, symmetric };
        // A name has no leading zeros or signs.
        if format.to_string() == text { Ok(format) } else { Err(unknown()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["int8-token", "int8-tensor-asym", "int8-g32", "int8-g128-asym"] {
            assert_eq!(name.parse::<ActivationFormat>().unwrap().to_string(), name);
        }
        for bad in
            ["", "int8", "int8-g", "int8-g0", "int8-g032", "int4-token", "int8-token-asym-asym"]
        {
            assert!(bad.parse::<ActivationFormat>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_do_not_overlap() {
        for name in ["int8-token", "int8-tensor", "int8-g32-asym", "int8-g64", "int8-g4096"] {
            let format: ActivationFormat = name.parse().unwrap();
            for k in [0, 1, 31, 32, 33, 64, 100, 4096] {
                let l = format.layout(k).unwrap();
                assert_eq!(l.blocks, k.div_ceil(32));
                assert!(l.groups * l.group_blocks >= l.blocks && l.groups <= l.blocks.max(1));
                assert_eq!((l.scale_at, l.zero_at), (8 * l.blocks, 8 * l.blocks + l.groups));
                assert_eq!(l.sum_at, l.zero_at + l.groups);
                assert!(l.row_words >= l.sum_at + l.blocks && l.row_words.is_multiple_of(4));
            }
        }
        let odd: ActivationFormat = "int8-g48".parse().unwrap();
        assert_eq!(odd.layout(96), Err(ActivationError::Group { group: 48 }));
        let token: ActivationFormat = "int8-token".parse().unwrap();
        assert!(token.layout(usize::MAX).is_err() && token.layout(1 << 34).is_err());
    }
}
