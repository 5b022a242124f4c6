use super::{FormatError, WeightFormat};

/// The metadata nibble of a quad that keeps its first two: it also fills the rest of
/// the last word of a row, so that every nibble in a buffer names two positions.
pub const META_FILL: u32 = 0b0100;

/// The six nibbles `idx0 | idx1 << 2`, in the order of their enumerative digits.
const NIBBLES: [u32; 6] = [0b0100, 0b1000, 0b1100, 0b1001, 0b1101, 0b1110];

/// Quads in one enumerative word: 6¹² < 2³².
const PER_ENUMERATIVE: usize = 12;
const ENUMERATIVE_LIMIT: u32 = 6u32.pow(PER_ENUMERATIVE as u32);

/// Which two of every four consecutive k are kept, as canonical metadata: 4 bits a
/// quad, `idx0 | idx1 << 2` with `idx0 < idx1`, 8 quads a `u32`, low nibble = lowest k,
/// each row padded to a whole word. The nibbles are those of the vendor libraries.
///
/// Where K is no multiple of 4, an index of the last quad may point past K.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask24 {
    n: usize,
    k: usize,
    words: Vec<u32>,
}

/// A [`Mask24`] in base 6: 12 quads a `u32`, least significant digit = lowest k, each
/// row padded with digit 0. 2⅔ bits a quad instead of 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumerativeMask {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub k: usize,
    /// `[n, ⌈⌈K/4⌉/12⌉]` words.
    pub words: Vec<u32>,
}

/// A mask as one bit a weight, least significant first, each row padded to a byte: the
/// `bitmask` of compressed-tensors' `sparse-24-bitmask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitMask {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub k: usize,
    /// `[n, ⌈K/8⌉]` bytes.
    pub bytes: Vec<u8>,
}

fn check_length(part: &'static str, need: usize, have: usize) -> Result<(), FormatError> {
    if need == have { Ok(()) } else { Err(FormatError::WrongLength { part, need, have }) }
}

impl Mask24 {
    /// Normalises any mask with at most two of four kept: a quad with fewer takes its
    /// lowest free indices. `keep(row, k)` is asked for k below K only.
    ///
    /// # Errors
    /// [`FormatError::TooManyKept`] where a quad keeps three or four,
    /// [`FormatError::TooLarge`] where a size overflows.
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

    /// The mask that keeps the first two of every four.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] where a size overflows.
    pub fn first_two(n: usize, k: usize) -> Result<Self, FormatError> {
        let words = WeightFormat::f32().two_four().geometry(n, k)?.meta_words * n;
        Ok(Self { n, k, words: vec![META_FILL * 0x1111_1111; words] })
    }

    /// Takes canonical metadata, `[n, ⌈⌈K/4⌉/8⌉]` words.
    ///
    /// # Errors
    /// [`FormatError::WrongLength`], [`FormatError::TooLarge`], and
    /// [`FormatError::BadMetadata`] for a nibble that is not one of the six.
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

    /// Rows that hold anything: none where there are no columns.
    fn filled_rows(&self) -> std::ops::Range<usize> {
        0..if self.k == 0 { 0 } else { self.n }
    }

    fn row_words(&self) -> usize {
        self.k.div_ceil(4).div_ceil(8)
    }

    fn nibble(&self, row: usize, quad: usize) -> u32 {
        self.words[row * self.row_words() + quad / 8] >> (quad % 8 * 4) & 0xf
    }

    /// Rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of the uncompressed matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Canonical metadata words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Gives up the canonical metadata words.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// The k of the two kept positions of a quad; either may be K or more in the last
    /// quad of a ragged row.
    pub fn kept(&self, row: usize, quad: usize) -> [usize; 2] {
        let nibble = self.nibble(row, quad) as usize;
        [4 * quad + (nibble & 3), 4 * quad + (nibble >> 2)]
    }

    /// Whether the weight at `(row, k)` is kept.
    pub fn keeps(&self, row: usize, k: usize) -> bool {
        self.kept(row, k / 4).contains(&k)
    }

    /// The same mask in base 6. Lossless.
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

    /// The same mask as one bit a weight. Lossless for a normalised mask; indices past K
    /// are not stored.
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
    /// Back to canonical metadata.
    ///
    /// # Errors
    /// [`FormatError::WrongLength`], [`FormatError::TooLarge`], and
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
    /// Back to canonical metadata, normalised.
    ///
    /// # Errors
    /// As [`Mask24::from_fn`], and [`FormatError::WrongLength`].
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

    /// All 11 subsets of at most two of four, in every ragged width.
    #[test]
    fn normalises_and_round_trips() {
        for k in 0..=70 {
            for seed in 0..8u32 {
                let mut state = seed.wrapping_mul(0x9e37_79b9) ^ k as u32;
                let keep: Vec<bool> = (0..3 * k)
                    .map(|i| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        // at most two of four: only positions of one random pair may be set
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
