use super::LayerwiseError;
use crate::format::{BitMask, Mask24, WeightFormat};

/// Which weights of a matrix `[n, k]` are kept: one bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    n: usize,
    k: usize,
    /// `[n, ⌈k/64⌉]`, the lowest column in the lowest bit. Bits past K are 0.
    words: Vec<u64>,
}

impl Mask {
    /// Creates a mask from a function of row and column that says which weights are kept.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::Format`] if the size overflows.
    pub fn from_fn(
        n: usize,
        k: usize,
        keep: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, LayerwiseError> {
        WeightFormat::f32().geometry(n, k)?;
        let row_words = k.div_ceil(64);
        let mut words = vec![0; n * row_words];
        for (index, word) in words.iter_mut().enumerate() {
            let (row, first) = (index / row_words, index % row_words * 64);
            for column in first..k.min(first + 64) {
                *word |= u64::from(keep(row, column)) << (column - first);
            }
        }
        Ok(Self { n, k, words })
    }

    /// Returns the number of rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Returns the number of columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Returns whether a weight is kept. Panics if there is no such weight.
    pub fn keeps(&self, row: usize, column: usize) -> bool {
        self.words[row * self.k.div_ceil(64) + column / 64] >> (column % 64) & 1 == 1
    }

    /// Returns the number of weights that are kept.
    pub fn kept(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Sets the weights that are pruned to +0.0.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::WrongLength`] if `w` does not have the shape of the mask.
    pub fn apply(&self, w: &mut [f32]) -> Result<(), LayerwiseError> {
        super::error::check_length("the matrix", self.n * self.k, w.len())?;
        for (at, w) in w.iter_mut().enumerate() {
            if !self.keeps(at / self.k, at % self.k) {
                *w = 0.0;
            }
        }
        Ok(())
    }

    /// Returns the mask as 2:4 metadata, with the lowest free positions added where fewer than two of
    /// four are kept.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::Format`] if more than two of four are kept.
    pub fn to_mask24(&self) -> Result<Mask24, LayerwiseError> {
        Ok(Mask24::from_fn(self.n, self.k, |row, column| self.keeps(row, column))?)
    }

    /// Returns the mask as bytes, each row from a whole byte on.
    pub fn to_bitmask(&self) -> BitMask {
        let row_bytes = self.k.div_ceil(8);
        let mut bytes = Vec::with_capacity(self.n * row_bytes);
        for row in self.words.chunks(self.k.div_ceil(64).max(1)) {
            bytes.extend(row.iter().flat_map(|word| word.to_le_bytes()).take(row_bytes));
        }
        BitMask { n: self.n, k: self.k, bytes }
    }
}

impl From<&Mask24> for Mask {
    fn from(mask: &Mask24) -> Self {
        let (n, k) = (mask.n(), mask.k());
        let row_words = k.div_ceil(64);
        let mut words = vec![0; n * row_words];
        for row in 0..if k == 0 { 0 } else { n } {
            for column in (0..k.div_ceil(4)).flat_map(|quad| mask.kept(row, quad)) {
                if column < k {
                    words[row * row_words + column / 64] |= 1 << (column % 64);
                }
            }
        }
        Self { n, k, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::prune_magnitude;

    #[test]
    fn masks_of_two_four_round_trip() {
        for k in [0, 1, 3, 4, 63, 64, 65, 130] {
            let w: Vec<f32> = (0..3 * k).map(|i| (i as f32 * 0.7).sin()).collect();
            let mask24 = prune_magnitude(&w, 3, k).unwrap();
            let mask = Mask::from(&mask24);
            assert_eq!(mask.to_mask24().unwrap(), mask24);
            assert_eq!(mask.to_bitmask(), mask24.to_bitmask());
            assert_eq!(Mask::from_fn(3, k, |row, col| mask.keeps(row, col)).unwrap(), mask);
            let keeps = (0..3 * k).filter(|at| mask.keeps(at / k, at % k)).count();
            assert_eq!(mask.kept(), keeps);
        }
        let mask = Mask::from_fn(1, 4, |_, column| column > 0).unwrap();
        assert!(mask.to_mask24().is_err());
        assert!(Mask::from_fn(usize::MAX, usize::MAX, |_, _| true).is_err());
        let mut w = [1.0, 2.0, 3.0, 4.0];
        mask.apply(&mut w).unwrap();
        assert_eq!(w, [0.0, 2.0, 3.0, 4.0]);
        assert!(mask.apply(&mut w[..3]).is_err());
    }
}
