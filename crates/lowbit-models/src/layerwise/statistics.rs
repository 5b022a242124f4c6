//! What the linear layers of a stage take.

use super::LayerwiseRunError;
use crate::checkpoint::source::ModelSource;
use crate::device::{Input, InputRows, InputSums, RunError, StagedRun};
use lowbit::compress::layerwise::{Gram, LayerwiseError};

/// Sums over the rows of X.
#[derive(Debug)]
pub(crate) struct InputStatistics {
    /// XᵀX.
    pub gram: Gram,
    /// The sum of |x| of each column. Empty if it was not wanted.
    pub abs: Vec<f64>,
}

impl InputStatistics {
    /// Returns the mean of |x| of each column.
    pub fn mean_abs(&self) -> Vec<f64> {
        let rows = self.gram.rows().max(1) as f64;
        self.abs.iter().map(|sum| sum / rows).collect()
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
        self.abs.iter_mut().zip(&factors).for_each(|(sum, factor)| *sum /= factor);
        Ok(())
    }
}

/// Runs the texts through their next stage, and returns what was seen of each input: sums of the device, or with
/// `abs` the sums of rows that are read back, for which the magnitudes of columns are summed too. The layers of `inputs` name the
/// weights in errors.
pub(crate) async fn observe(
    texts: &StagedRun,
    source: &dyn ModelSource,
    inputs: &[Input],
    abs: bool,
) -> Result<Vec<Option<InputStatistics>>, LayerwiseRunError> {
    if !abs {
        let mut all: Vec<Option<InputStatistics>> = inputs.iter().map(|_| None).collect();
        for InputSums { index, columns, rows, sums, .. } in texts.grams(source).await? {
            let gram = Gram::from_parts(columns, rows, sums).map_err(|source| {
                let names = inputs.get(index).map(Input::weights).unwrap_or_default();
                let name = names.first().copied().unwrap_or_default().to_owned();
                LayerwiseRunError::Weight { name, source }
            })?;
            if let Some(seen) = all.get_mut(index) {
                *seen = Some(InputStatistics { gram, abs: Vec::new() });
            }
        }
        return Ok(all);
    }
    let mut all: Vec<Option<InputStatistics>> = inputs.iter().map(|_| None).collect();
    let mut failed: Option<(usize, LayerwiseError)> = None;
    let observed = texts
        .observe(source, &mut |InputRows { index, columns, x, .. }| {
            let Some(seen) = all.get_mut(index) else { return Ok(()) };
            match add(seen, columns, x) {
                Ok(()) => Ok(()),
                Err(error) => {
                    failed = Some((index, error));
                    Err(RunError::Empty)
                }
            }
        })
        .await;
    if let Some((index, source)) = failed {
        let names = inputs.get(index).map(Input::weights).unwrap_or_default();
        let name = names.first().copied().unwrap_or_default().to_owned();
        return Err(LayerwiseRunError::Weight { name, source });
    }
    observed?;
    Ok(all)
}

/// Adds rows to the statistics of an input.
fn add(
    seen: &mut Option<InputStatistics>,
    columns: usize,
    x: &[f32],
) -> Result<(), LayerwiseError> {
    let seen = match seen {
        Some(seen) => seen,
        None => {
            let (gram, abs) = (Gram::new(columns)?, vec![0.0; columns]);
            seen.insert(InputStatistics { gram, abs })
        }
    };
    seen.gram.add(x)?;
    for row in x.chunks_exact(columns.max(1)) {
        seen.abs.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
    }
    Ok(())
}
