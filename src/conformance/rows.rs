//! Rows of floats in a buffer that is otherwise full of sentinels.

use super::matmul::{SENTINEL, put, put_bits, take};
use crate::ops::FloatType;

/// The position of rows in a buffer. `offset`, `stride` and `k` count values.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub float: FloatType,
    pub offset: usize,
    pub stride: usize,
    pub k: usize,
}

impl Rows {
    /// Returns the offset of the first row in bytes.
    pub fn bytes(&self) -> u64 {
        self.offset as u64 * self.float.bytes()
    }

    /// Returns the number of words in a buffer for `rows` rows, with some words after them.
    pub fn words(&self, rows: usize) -> usize {
        let values = self.offset + rows * self.stride.max(self.k) + 16;
        values * self.float.bytes() as usize / 4
    }

    /// Returns the words of such a buffer, with `values` in its rows. All other words are
    /// sentinels, which are NaN.
    pub fn lay(&self, rows: usize, values: &[f32]) -> Vec<u32> {
        let mut words = vec![SENTINEL; self.words(rows)];
        for (row, values) in values.chunks(self.k.max(1)).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                put(&mut words, self.float, self.offset + row * self.stride + column, value);
            }
        }
        words
    }

    /// Returns the values of `m` rows, or an error if anything around them differs from what
    /// [`lay`](Self::lay) wrote.
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
                Err(format!("word {word}, which is outside of the rows, was overwritten"))
            }
            None => Ok(values),
        }
    }
}
