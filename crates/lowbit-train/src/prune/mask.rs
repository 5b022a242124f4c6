/// Which weights of a matrix are kept, one bit each, the lowest bits first. Bits past the end are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    rows: usize,
    columns: usize,
    words: Vec<u32>,
}

impl Mask {
    /// Creates a mask that keeps everything.
    pub fn all(rows: usize, columns: usize) -> Self {
        Self::new(rows, columns, |_| true)
    }

    /// Creates a mask of the positions, in row-major order, that `keep` names.
    pub fn new(rows: usize, columns: usize, keep: impl Fn(usize) -> bool) -> Self {
        let mut words = vec![0u32; (rows * columns).div_ceil(32)];
        for at in (0..rows * columns).filter(|&at| keep(at)) {
            words[at / 32] |= 1 << (at % 32);
        }
        Self { rows, columns, words }
    }

    /// Returns the rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the bits.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Returns whether the weight at a position, in row-major order, is kept.
    pub fn keeps(&self, at: usize) -> bool {
        self.words[at / 32] >> (at % 32) & 1 == 1
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Returns whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of kept weights.
    pub fn kept(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns 1 for kept weights and 0 for others.
    pub fn to_floats(&self) -> Vec<f32> {
        (0..self.len()).map(|at| f32::from(u8::from(self.keeps(at)))).collect()
    }

    /// Returns the mask that keeps what both keep.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        Self { words, ..*self }
    }

    /// Returns the fraction of weights that masks keep.
    pub fn left(masks: &[Self]) -> f64 {
        let all: usize = masks.iter().map(Self::len).sum();
        masks.iter().map(Self::kept).sum::<usize>() as f64 / all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_by_hand() {
        let mask = Mask::new(3, 12, |at| at % 5 == 0);
        assert_eq!(mask.words(), [0b0100_0010_0001_0000_1000_0100_0010_0001, 0b1000]);
        assert_eq!((mask.kept(), mask.len(), mask.rows(), mask.columns()), (8, 36, 3, 12));
        assert!(mask.keeps(35) && !mask.keeps(34));
        assert_eq!(mask.to_floats().iter().sum::<f32>(), 8.0);
        let both = mask.and(&Mask::new(3, 12, |at| at < 12));
        assert_eq!(both.kept(), 3);
        assert_eq!(Mask::left(&[both, Mask::all(3, 12)]), 39.0 / 72.0);
        assert_eq!(Mask::left(&[]), 0.0);
    }
}
