use super::{FormatError, WeightFormat};

/// The metadata nibble of a group of four that keeps its first two weights. It also fills the rest
/// of the last word of a row, so that every nibble in a buffer names two positions.
pub const META_FILL: u32 = 0b0100;

/// The six valid nibbles `idx0 | idx1 << 2`, in the order of their enumerative digits.
const NIBBLES: [u32; 6] = [0b0100, 0b1000, 0b1100, 0b1001, 0b1101, 0b1110];

/// Number of groups of four in one word of an [`EnumerativeMask`]: 6¹² < 2³².
const PER_ENUMERATIVE: usize = 12;
const ENUMERATIVE_LIMIT: u32 = 6u32.pow(PER_ENUMERATIVE as u32);

/// A 2:4 mask: it says which two of every four consecutive columns are kept.
///
/// It is stored as canonical metadata: 4 bits per group of four (*quad*), `idx0 | idx1 << 2` with
/// `idx0 < idx1`, in the encoding of the vendor libraries. A `u32` holds 8 groups of four, the one
/// with the lowest columns in the low nibble, and each row is padded to a whole word. If K is not a
/// multiple of 4, an index in the last group of four may point past K.
///
/// A mask of one's own, for example from a pruning method that this crate does not have:
///
/// ```
/// use lowbit::compress::{dequantize, quantize_masked};
/// use lowbit::format::{Granularity, Mask24, WeightFormat};
/// let w = [1.0, -4.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0];
/// // Keep the even columns.
/// let mask = Mask24::from_fn(2, 4, |_row, column| column % 2 == 0)?;
/// assert_eq!(mask.kept(0, 0), [0, 2]);
/// let format = WeightFormat::f16().two_four();
/// let packed = quantize_masked(&w, &mask, &format)?;
/// assert_eq!(dequantize(&packed), [1.0, 0.0, 2.0, 0.0, 5.0, 0.0, 7.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask24 {
    n: usize,
    k: usize,
    words: Vec<u32>,
}

/// A [`Mask24`] as numbers in base 6, which needs 2⅔ bits per group of four instead of 4. A `u32`
/// holds 12 groups of four. The one with the lowest columns is the least significant digit, and
/// each row is padded with the digit 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumerativeMask {
    /// Number of rows.
    pub n: usize,
    /// Number of columns.
    pub k: usize,
    /// The words, `[n, ⌈⌈K/4⌉/12⌉]`.
    pub words: Vec<u32>,
}

/// A mask with one bit per weight, least significant bit first, each row padded to a whole byte.
/// This is the `bitmask` of the format `sparse-24-bitmask` in compressed-tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitMask {
    /// Number of rows.
    pub n: usize,
    /// Number of columns.
    pub k: usize,
    /// The bytes, `[n, ⌈K/8⌉]`.
    pub bytes: Vec<u8>,
}

fn check_length(part: &'static str, need: usize, have: usize) -> Result<(), FormatError> {
    if need == have { Ok(()) } else { Err(FormatError::WrongLength { part, need, have }) }
}

impl Mask24 {
    /// Creates a mask from a function that says which weights to keep. It may keep at most two of
    /// every four. If it keeps fewer, the lowest free positions are added, so that equal choices
    /// give equal masks. `keep(row, column)` is called only with columns below K.
    ///
    /// # Errors
    /// Returns [`FormatError::TooManyKept`] if three or four weights of a group of four are kept,
    /// and [`FormatError::TooLarge`] if a size overflows.
    pub fn from_fn(
        n: usize,
        k: usize,
        keep: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, FormatError> {
        let mut mask = Self::first_two(n, k)?;
        let row_words = mask.row_words();
        for row in mask.filled_rows() {
            for quad in 0..k.div_ceil(4) {
                let mut bits = 0u32;
                for i in 0..4.min(k - 4 * quad) {
                    bits |= u32::from(keep(row, 4 * quad + i)) << i;
                }
                let kept = bits.count_ones();
                if kept > 2 {
                    return Err(FormatError::TooManyKept { row, quad, kept });
                }
                while bits.count_ones() < 2 {
                    bits |= 1 << bits.trailing_ones();
                }
                let first = bits.trailing_zeros();
                let nibble = first | (31 - bits.leading_zeros()) << 2;
                let word = &mut mask.words[row * row_words + quad / 8];
                *word = *word & !(0xf << (quad % 8 * 4)) | nibble << (quad % 8 * 4);
            }
        }
        Ok(mask)
    }

    /// Creates the mask that keeps the first two of every four columns.
    ///
    /// # Errors
    /// Returns [`FormatError::TooLarge`] if a size overflows.
    pub fn first_two(n: usize, k: usize) -> Result<Self, FormatError> {
        let words = WeightFormat::f32().two_four().geometry(n, k)?.meta_words * n;
        Ok(Self { n, k, words: vec![META_FILL * 0x1111_1111; words] })
    }

    /// Creates a mask from canonical metadata, `[n, ⌈⌈K/4⌉/8⌉]` words.
    ///
    /// # Errors
    /// Returns [`FormatError::WrongLength`], [`FormatError::TooLarge`] if a size overflows, and
    /// [`FormatError::BadMetadata`] for a nibble that is not one of the six valid ones.
    pub fn from_words(n: usize, k: usize, words: Vec<u32>) -> Result<Self, FormatError> {
        let geometry = WeightFormat::f32().two_four().geometry(n, k)?;
        check_length("metadata", geometry.meta_words * n, words.len())?;
        let mask = Self { n, k, words };
        for row in mask.filled_rows() {
            for quad in 0..geometry.meta_words * 8 {
                let nibble = mask.nibble(row, quad);
                if !NIBBLES.contains(&nibble) {
                    return Err(FormatError::BadMetadata { row, quad, nibble });
                }
            }
        }
        Ok(mask)
    }

    /// Returns the rows that hold data: none if there are no columns.
    fn filled_rows(&self) -> std::ops::Range<usize> {
        0..if self.k == 0 { 0 } else { self.n }
    }

    fn row_words(&self) -> usize {
        self.k.div_ceil(4).div_ceil(8)
    }

    fn nibble(&self, row: usize, quad: usize) -> u32 {
        self.words[row * self.row_words() + quad / 8] >> (quad % 8 * 4) & 0xf
    }

    /// Returns the number of rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Returns the number of columns of the uncompressed matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Returns the words of canonical metadata.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Converts the mask into its words of canonical metadata.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Returns the columns of the two kept positions of a group of four. In the last group of four
    /// of a row, either may be K or more.
    pub fn kept(&self, row: usize, quad: usize) -> [usize; 2] {
        let nibble = self.nibble(row, quad) as usize;
        [4 * quad + (nibble & 3), 4 * quad + (nibble >> 2)]
    }

    /// Returns whether the weight at `(row, k)` is kept.
    pub fn keeps(&self, row: usize, k: usize) -> bool {
        self.kept(row, k / 4).contains(&k)
    }

    /// Converts the mask to base 6, without loss.
    pub fn to_enumerative(&self) -> EnumerativeMask {
        let quads = self.k.div_ceil(4);
        let mut words = Vec::with_capacity(self.n * quads.div_ceil(PER_ENUMERATIVE));
        for row in self.filled_rows() {
            for start in (0..quads).step_by(PER_ENUMERATIVE) {
                let end = quads.min(start + PER_ENUMERATIVE);
                words.push((start..end).rev().fold(0, |word, quad| {
                    let nibble = self.nibble(row, quad);
                    let digit = NIBBLES.iter().position(|&n| n == nibble).unwrap_or(0);
                    word * 6 + digit as u32
                }));
            }
        }
        EnumerativeMask { n: self.n, k: self.k, words }
    }

    /// Converts the mask to one bit per weight. Positions past K are not stored. The conversion is
    /// lossless for masks whose free positions are the lowest, as [`from_fn`](Self::from_fn) makes
    /// them.
    pub fn to_bitmask(&self) -> BitMask {
        let row_bytes = self.k.div_ceil(8);
        let mut bytes = vec![0; self.n * row_bytes];
        for row in self.filled_rows() {
            for k in (0..self.k.div_ceil(4)).flat_map(|quad| self.kept(row, quad)) {
                if k < self.k {
                    bytes[row * row_bytes + k / 8] |= 1 << (k % 8);
                }
            }
        }
        BitMask { n: self.n, k: self.k, bytes }
    }
}

impl EnumerativeMask {
    /// Converts the mask back to canonical metadata.
    ///
    /// # Errors
    /// Returns [`FormatError::WrongLength`], [`FormatError::TooLarge`] if a size overflows, and
    /// [`FormatError::BadEnumerative`] for a word of 6¹² or more.
    pub fn to_mask(&self) -> Result<Mask24, FormatError> {
        let mut mask = Mask24::first_two(self.n, self.k)?;
        let quads = self.k.div_ceil(4);
        let row_words = quads.div_ceil(PER_ENUMERATIVE);
        check_length("enumerative metadata", self.n * row_words, self.words.len())?;
        let meta_words = mask.row_words();
        for (index, &value) in self.words.iter().enumerate() {
            if value >= ENUMERATIVE_LIMIT {
                return Err(FormatError::BadEnumerative { index, value });
            }
            let (row, start) = (index / row_words, index % row_words * PER_ENUMERATIVE);
            let mut rest = value;
            for quad in start..quads.min(start + PER_ENUMERATIVE) {
                let word = &mut mask.words[row * meta_words + quad / 8];
                let shift = quad % 8 * 4;
                *word = *word & !(0xf << shift) | NIBBLES[(rest % 6) as usize] << shift;
                rest /= 6;
            }
        }
        Ok(mask)
    }
}

impl BitMask {
    /// Converts the mask to canonical metadata, with the lowest free positions added as in
    /// [`Mask24::from_fn`].
    ///
    /// # Errors
    /// Returns the errors of [`Mask24::from_fn`], and [`FormatError::WrongLength`].
    pub fn to_mask(&self) -> Result<Mask24, FormatError> {
        let row_bytes = self.k.div_ceil(8);
        let need = self.n.checked_mul(row_bytes).ok_or(FormatError::TooLarge {
            n: self.n,
            k: self.k,
            format: WeightFormat::f32().two_four(),
        })?;
        check_length("bitmask", need, self.bytes.len())?;
        Mask24::from_fn(self.n, self.k, |row, k| {
            self.bytes[row * row_bytes + k / 8] >> (k % 8) & 1 == 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers all 11 subsets of at most two of four, in every width that is not a multiple of 4.
    #[test]
    fn normalises_and_round_trips() {
        for k in 0..=70 {
            for seed in 0..8u32 {
                let mut state = seed.wrapping_mul(0x9e37_79b9) ^ k as u32;
                let keep: Vec<bool> = (0..3 * k)
                    .map(|i| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        // Only the positions of one random pair may be set, so at most two of four
                        // are.
                        let pair = NIBBLES[(state >> 8) as usize % 6] * u32::from(seed > 0);
                        let at = i % k.max(1) % 4;
                        (at == pair as usize & 3 && state >> 31 == 1) || (at == 3 && seed > 4)
                    })
                    .collect();
                let Ok(mask) = Mask24::from_fn(3, k, |row, col| keep[row * k + col]) else {
                    continue;
                };
                for row in 0..3 {
                    for quad in 0..k.div_ceil(4) {
                        let [a, b] = mask.kept(row, quad);
                        assert!(a < b && b < 4 * quad + 4);
                    }
                    for col in 0..k {
                        assert!(!keep[row * k + col] || mask.keeps(row, col));
                    }
                }
                assert_eq!(mask.to_enumerative().to_mask().unwrap(), mask);
                assert_eq!(mask.to_bitmask().to_mask().unwrap(), mask);
                assert_eq!(Mask24::from_words(3, k, mask.words().to_vec()).unwrap(), mask);
            }
        }
    }

    #[test]
    fn nibbles_are_the_vendors() {
        let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
        for ((a, b), nibble) in
            pairs.into_iter().zip([0b0100, 0b1000, 0b1100, 0b1001, 0b1101, 0b1110])
        {
            let mask = Mask24::from_fn(1, 4, |_, k| k == a || k == b).unwrap();
            assert_eq!(mask.words()[0] & 0xf, nibble);
            assert_eq!(mask.words()[0] >> 4, 0x444_4444);
        }
    }

    #[test]
    fn fewer_take_the_lowest_free() {
        for (bits, kept) in [
            (0b0000, [0, 1]),
            (0b0001, [0, 1]),
            (0b0010, [0, 1]),
            (0b0100, [0, 2]),
            (0b1000, [0, 3]),
        ] {
            let mask = Mask24::from_fn(1, 4, |_, k| bits >> k & 1 == 1).unwrap();
            assert_eq!(mask.kept(0, 0), kept);
        }
    }

    #[test]
    fn bad_input_is_refused() {
        let three = Mask24::from_fn(1, 8, |_, k| k >= 5);
        assert_eq!(three, Err(FormatError::TooManyKept { row: 0, quad: 1, kept: 3 }));
        let bad = Mask24::from_words(1, 8, vec![0x4444_4414]);
        assert_eq!(bad, Err(FormatError::BadMetadata { row: 0, quad: 1, nibble: 1 }));
        assert!(Mask24::from_words(1, 8, vec![]).is_err());
        let word = EnumerativeMask { n: 1, k: 48, words: vec![ENUMERATIVE_LIMIT] };
        assert!(matches!(word.to_mask(), Err(FormatError::BadEnumerative { .. })));
        assert!(EnumerativeMask { n: 1, k: 52, words: vec![0] }.to_mask().is_err());
        assert!(BitMask { n: 2, k: 9, bytes: vec![0; 3] }.to_mask().is_err());
        assert!(BitMask { n: usize::MAX, k: usize::MAX, bytes: vec![] }.to_mask().is_err());
    }
}
