//! What the linear layers of a stage take.

use super::LayerwiseRunError;
use crate::checkpoint::source::ModelSource;
use crate::device::{Input, InputRows, InputSums, RunError, StagedRun};
use lowbit::compress::layerwise::{Gram, LayerwiseError};
use lowbit::ops::GRAM_UNIT;

/// The greatest sum, in units: 2⁵⁴, as in a [`Gram`].
pub(super) const MOST: i128 = 1 << (54 - GRAM_UNIT);

/// Sums over the rows of X.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputStatistics {
    /// XᵀX.
    pub gram: Gram,
    /// The sum of |x| of each column, in the units of the Gram matrix, each |x| rounded to one. Empty if it was not
    /// wanted.
    pub abs: Vec<i128>,
}

impl InputStatistics {
    /// Returns the mean of |x| of each column.
    pub fn mean_abs(&self) -> Vec<f64> {
        let rows = self.gram.rows().max(1) as f64 * units();
        self.abs.iter().map(|&sum| sum as f64 / rows).collect()
    }

    /// Divides the columns of X by factors. Sums are rounded to their unit then.
    pub fn divide(&mut self, factors: &[f32]) -> Result<(), LayerwiseError> {
        let columns = self.gram.columns();
        let factors: Vec<f64> = factors.iter().map(|&factor| f64::from(factor)).collect();
        let mut sums = Vec::with_capacity(self.gram.sums().len());
        let mut old = self.gram.sums().iter();
        for (i, first) in factors.iter().enumerate() {
            for second in factors.iter().take(columns).skip(i) {
                let sum = old.next().map_or(0.0, |&sum| sum as f64);
                sums.push((sum / (first * second)).round() as i128);
            }
        }
        self.gram = Gram::from_parts(columns, self.gram.rows(), sums)?;
        let divided =
            |(sum, factor): (&mut i128, &f64)| *sum = (*sum as f64 / factor).round() as i128;
        self.abs.iter_mut().zip(&factors).for_each(divided);
        Ok(())
    }

    /// Adds the sums of other rows. They are exact.
    ///
    /// # Errors
    /// Returns [`LayerwiseError`] if the number of columns is another one, or a sum exceeds 2⁵⁴.
    pub fn merge(&mut self, other: &Self) -> Result<(), LayerwiseError> {
        if self.abs.len() != other.abs.len() {
            return Err(LayerwiseError::Columns { need: self.abs.len(), have: other.abs.len() });
        }
        self.gram.merge(&other.gram)?;
        for (column, (sum, more)) in self.abs.iter_mut().zip(&other.abs).enumerate() {
            add(sum, *more, column)?;
        }
        Ok(())
    }
}

/// Returns how many units 1 has.
fn units() -> f64 {
    f64::from(-GRAM_UNIT).exp2()
}

/// Adds to the sum of a column.
fn add(sum: &mut i128, more: i128, column: usize) -> Result<(), LayerwiseError> {
    *sum = sum.saturating_add(more);
    if *sum > MOST {
        return Err(LayerwiseError::Overflow { first: column, second: column });
    }
    Ok(())
}

/// Runs the texts through their next stage, and returns what was seen of each input: XᵀX, and with `abs` also the
/// magnitudes of columns, for which rows are read back. The layers of `inputs` name the weights in errors.
pub(crate) async fn observe(
    texts: &StagedRun,
    source: &dyn ModelSource,
    inputs: &[Input],
    abs: bool,
) -> Result<Vec<Option<InputStatistics>>, LayerwiseRunError> {
    let failed = |index: usize, source| {
        let names = inputs.get(index).map(Input::weights).unwrap_or_default();
        let name = names.first().copied().unwrap_or_default().to_owned();
        LayerwiseRunError::Weight { name, source }
    };
    let mut magnitudes: Vec<Vec<i128>> = vec![Vec::new(); inputs.len()];
    let mut refused: Option<(usize, LayerwiseError)> = None;
    let observed = if abs {
        let each = &mut |InputRows { index, columns, x, .. }: InputRows<'_>| {
            let Some(sums) = magnitudes.get_mut(index) else { return Ok(()) };
            add_rows(sums, columns, x).map_err(|error| {
                refused = Some((index, error));
                RunError::Empty
            })
        };
        texts.observe_with_grams(source, each).await
    } else {
        texts.grams(source).await
    };
    if let Some((index, source)) = refused {
        return Err(failed(index, source));
    }
    let mut all: Vec<Option<InputStatistics>> = inputs.iter().map(|_| None).collect();
    for InputSums { index, columns, rows, sums, .. } in observed? {
        let gram = Gram::from_parts(columns, rows, sums).map_err(|source| failed(index, source))?;
        if let (Some(seen), Some(abs)) = (all.get_mut(index), magnitudes.get_mut(index)) {
            *seen = Some(InputStatistics { gram, abs: std::mem::take(abs) });
        }
    }
    Ok(all)
}

/// Adds the magnitudes of rows to the sums of columns.
fn add_rows(sums: &mut Vec<i128>, columns: usize, x: &[f32]) -> Result<(), LayerwiseError> {
    sums.resize(columns, 0);
    for (row, x) in (0..).zip(x.chunks_exact(columns.max(1))) {
        for (column, (sum, x)) in sums.iter_mut().zip(x).enumerate() {
            let value = f64::from(x.abs());
            if !value.is_finite() {
                return Err(LayerwiseError::NonFinite { what: "the input", row, column, value });
            }
            add(sum, (value * units()).round_ties_even() as i128, column)?;
        }
    }
    Ok(())
}
