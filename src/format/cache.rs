use super::FormatError;

/// How the keys and values of attention are stored in their cache.
///
/// Quantized rows are symmetric: `x ≈ c · s` with one scale for each head and token.
///
/// | | codes | scale |
/// |---|---|---|
/// | int8 | −127…127 | absmax/127 |
/// | int4 | −7…7, stored with 8 added | absmax/7 |
///
/// The scale of a row of zeros, or of one whose scale would be subnormal, is 1, and its codes are 0.
/// A row with NaN or an infinity has the scale NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CacheFormat {
    /// Four bytes a number.
    F32,
    /// Two bytes a number.
    F16,
    /// A byte a number and a scale, f32, for each head and token.
    Int8,
    /// Four bits a number and a scale, f32, for each head and token.
    Int4,
}

impl CacheFormat {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// `f32`, `f16`, `int8` or `int4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Returns the bits of one number.
    pub const fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Returns whether numbers are codes that a scale multiplies.
    pub const fn has_scales(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4)
    }

    /// Returns the layout of a cache for `heads` heads of `head_dim` columns with room for `slots`
    /// tokens.
    ///
    /// # Errors
    /// Returns [`FormatError::CacheTooLarge`] if the cache has 2³¹ words or more.
    pub fn layout(
        self,
        heads: usize,
        slots: usize,
        head_dim: usize,
    ) -> Result<CacheLayout, FormatError> {
        // Rows are whole quads of words, so that a kernel can load 16 bytes at once.
        let row_words = (head_dim.checked_mul(self.bits()))
            .map(|bits| bits.div_ceil(32))
            .and_then(|words| words.checked_next_multiple_of(4));
        let rows = heads.checked_mul(slots);
        let scales_at = row_words.and_then(|words| words.checked_mul(rows?));
        let scales = if self.has_scales() { rows } else { Some(0) };
        // A kernel may read four scales at once, the last ones too.
        let words = scales_at
            .and_then(|at| at.checked_add(scales?))
            .and_then(|words| words.checked_next_multiple_of(4));
        match (row_words, scales_at, words) {
            (Some(row_words), Some(scales_at), Some(words)) if words <= i32::MAX as usize => {
                Ok(CacheLayout {
                    format: self,
                    heads,
                    slots,
                    head_dim,
                    row_words,
                    scales_at,
                    words,
                })
            }
            _ => Err(FormatError::CacheTooLarge { heads, slots, head_dim }),
        }
    }
}

impl std::fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The layout of a cache of keys, or of values: rows of numbers `[heads, slots, row_words]`, then scales
/// `[heads, slots]`, all in words.
///
/// f16 numbers lie in pairs, int8 codes four to a word, low byte first. int4 codes are interleaved as
/// those of weights on the device are: of eight columns, byte j of the word holds column j in its low
/// half and column 4 + j in its high half. Rows end with padding, whose content does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CacheLayout {
    /// How numbers are stored.
    pub format: CacheFormat,
    /// Heads of keys and values.
    pub heads: usize,
    /// Tokens that there is room for.
    pub slots: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Words of one head of one token, a multiple of 4.
    pub row_words: usize,
    /// The first word of the scales.
    pub scales_at: usize,
    /// All words, a multiple of 4.
    pub words: usize,
}

impl CacheLayout {
    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        4 * self.words as u64
    }

    /// Returns the first word of the numbers of a head of a slot.
    pub fn row_at(&self, head: usize, slot: usize) -> usize {
        (head * self.slots + slot) * self.row_words
    }

    /// Returns the word of the scale of a head of a slot.
    pub fn scale_at(&self, head: usize, slot: usize) -> usize {
        self.scales_at + head * self.slots + slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_whole_quads_of_words() {
        let layout = |format: CacheFormat| format.layout(3, 10, 80).map(|l| (l.row_words, l.words));
        assert_eq!(layout(CacheFormat::F32), Ok((80, 2400)));
        assert_eq!(layout(CacheFormat::F16), Ok((40, 1200)));
        assert_eq!(layout(CacheFormat::Int8), Ok((20, 632)));
        assert_eq!(layout(CacheFormat::Int4), Ok((12, 392)));
        let int8 = CacheFormat::Int8.layout(3, 10, 80).unwrap();
        assert_eq!((int8.row_at(2, 9), int8.scale_at(2, 9)), (29 * 20, 629));
        assert!(CacheFormat::Int4.layout(usize::MAX, 2, 64).is_err());
        assert!(CacheFormat::F32.layout(1 << 20, 1 << 10, 128).is_err());
    }
}
