use super::dense::{self, Multiply};
use super::error::{LayerwiseError, check_length};
use super::{Gram, check_matrix};
use crate::compress::rows::each_row;

/// Returns the squared error of a layer's outputs, `‖X(W − Ŵ)ᵀ‖²`, from the Gram matrix of its inputs:
/// the sum of `d G dᵀ` over the rows d of `W − Ŵ`.
///
/// `w` and `kept` are `[n, k]` in row-major order, where k is the number of columns of `gram`. Rounding
/// cannot make the result negative.
///
/// # Errors
/// Returns [`LayerwiseError::WrongLength`] if a matrix has another size,
/// [`LayerwiseError::NonFinite`] if one has a NaN or an infinity, and [`LayerwiseError::Format`] if
/// n · k overflows.
pub fn output_error(gram: &Gram, w: &[f32], kept: &[f32], n: usize) -> Result<f64, LayerwiseError> {
    check_matrix("the matrix", w, n, gram.columns())?;
    check_matrix("the matrix of what is kept", kept, n, gram.columns())?;
    Objective::new(gram).error(w, kept)
}

/// The error of outputs as a function of weights, for one Gram matrix.
pub(super) struct Objective {
    k: usize,
    /// `[k, k]`.
    gram: Vec<f64>,
}

/// Rows that are multiplied with the Gram matrix at once.
const TILE_ROWS: usize = 64;

impl Objective {
    pub fn new(gram: &Gram) -> Self {
        let k = gram.columns();
        let mut full = vec![0.0; k * k];
        each_row(&mut full, k, |i, row| {
            row.iter_mut().enumerate().for_each(|(j, value)| *value = gram.value(i, j));
        });
        Self { k, gram: full }
    }

    /// Returns the error of rows of finite weights.
    pub fn error(&self, w: &[f32], kept: &[f32]) -> Result<f64, LayerwiseError> {
        check_length("the matrix of what is kept", w.len(), kept.len())?;
        let per_tile = (self.k * TILE_ROWS).max(1);
        let mut sums = vec![0.0; w.len().div_ceil(per_tile)];
        each_row(&mut sums, 1, |tile, sums| {
            let range = tile * per_tile..w.len().min((tile + 1) * per_tile);
            let off = |(&a, &b): (&f32, &f32)| f64::from(a) - f64::from(b);
            let off: Vec<f64> = w[range.clone()].iter().zip(&kept[range]).map(off).collect();
            let mut products = vec![0.0; off.len()];
            dense::multiply(Multiply {
                out: (&mut products, self.k),
                left: (&off, self.k),
                transposed: false,
                right: (&self.gram, self.k),
                shape: (off.len() / self.k.max(1), self.k, self.k),
                factor: 1.0,
            });
            sums.fill(off.iter().zip(&products).map(|(a, b)| a * b).sum());
        });
        Ok(sums.iter().sum::<f64>().max(0.0))
    }

    /// Returns the error of part of a row, from column `start` on.
    pub fn error_of(&self, start: usize, off: &[f64]) -> f64 {
        let row = |i: usize| &self.gram[(start + i) * self.k + start..][..off.len()];
        let dot = |i: usize| off.iter().zip(row(i)).map(|(a, b)| a * b).sum::<f64>();
        off.iter().enumerate().map(|(i, off)| off * dot(i)).sum::<f64>().max(0.0)
    }
}
