//! Rows of floats in a buffer of sentinels.

use super::matmul::{SENTINEL, put, put_bits, take};
use crate::ops::FloatType;

/// Where rows lie, in elements.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub float: FloatType,
    pub offset: usize,
    pub stride: usize,
    pub k: usize,
}

impl Rows {
    /// Where they start, in bytes.
    pub fn bytes(&self) -> u64 {
        self.offset as u64 * self.float.bytes()
    }

    /// Words of a buffer for so many rows, with some behind them.
    pub fn words(&self, rows: usize) -> usize {
        let elements = self.offset + rows * self.stride.max(self.k) + 16;
        elements * self.float.bytes() as usize / 4
    }

    /// The words of such a buffer: `values` by rows, and all else sentinels, which are NaN.
    pub fn lay(&self, rows: usize, values: &[f32]) -> Vec<u32> {
        let mut words = vec![SENTINEL; self.words(rows)];
        for (row, values) in values.chunks(self.k.max(1)).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                put(&mut words, self.float, self.offset + row * self.stride + column, value);
            }
        }
        words
    }

    /// The values of `m` rows; around them everything must be as [`lay`](Self::lay) leaves it.
    pub fn take(&self, words: &[u32], m: usize) -> Result<Vec<f32>, String> {
        let mut rest = words.to_vec();
        let mut values = Vec::with_capacity(m * self.k);
        for row in 0..m {
            for column in 0..self.k {
                let at = self.offset + row * self.stride + column;
                values.push(take(words, self.float, at).1);
                put_bits(&mut rest, self.float, at, take(&[SENTINEL], self.float, 0).0);
            }
        }
        match rest.iter().position(|&word| word != SENTINEL) {
            Some(word) => {
                Err(format!("word {word} was written, and lies between or past the rows"))
            }
            None => Ok(values),
        }
    }
}
