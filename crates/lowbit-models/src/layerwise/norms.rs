//! The norms of what a model's layers take, by which rows and heads are cut out.

use super::{Doing, LayerwiseRunError};
use crate::architecture::Blueprint;
use crate::checkpoint::source::ModelSource;
use crate::device::{InputRows, RunError, Stage, StagedRun};
use crate::transform::InputNorms;
use lowbit::compress::layerwise::LayerwiseError;
use lowbit::host::Host;
use std::sync::Arc;

/// Runs texts through the layers of a model as it is, and returns the Euclidean norms of the columns of what each of
/// their weights takes. The head is left out. One layer of the model is on the device at a time. `rows` is the
/// largest number of tokens of a step.
///
/// # Errors
/// Returns [`LayerwiseRunError`] if the texts cannot run, or if an input is not finite.
pub async fn input_norms(
    host: &Arc<Host>,
    source: &dyn ModelSource,
    blueprint: &Blueprint,
    texts: &[Vec<u32>],
    rows: usize,
    progress: &mut dyn FnMut(Doing<'_>),
) -> Result<InputNorms, LayerwiseRunError> {
    let mut run = StagedRun::new(host, blueprint, texts, rows)?;
    let mut norms = InputNorms::new();
    let mut stages =
        Stage::all(blueprint).into_iter().filter(|stage| *stage != Stage::End).peekable();
    while let Some(stage) = stages.next() {
        let inputs = run.inputs(stage);
        if !inputs.is_empty() {
            progress(Doing::Observing(stage));
            let mut sums = vec![Vec::new(); inputs.len()];
            let mut refused = None;
            let each = &mut |InputRows { index, columns, x }: InputRows<'_>| {
                let Some(sums) = sums.get_mut(index) else { return Ok(()) };
                add_squares(sums, columns, x).map_err(|error| {
                    refused = Some((index, error));
                    RunError::Empty
                })
            };
            let observed = run.observe(source, each).await;
            if let Some((index, source)) = refused {
                let names = inputs.get(index).map(|input| input.weights()).unwrap_or_default();
                let name = names.first().copied().unwrap_or_default().to_owned();
                return Err(LayerwiseRunError::Weight { name, source });
            }
            observed?;
            for (input, sums) in inputs.iter().zip(sums) {
                let of_input: Vec<f32> = sums.into_iter().map(|sum| sum.sqrt() as f32).collect();
                let of_weights = input.weights().into_iter().map(str::to_owned);
                norms.extend(of_weights.map(|weight| (weight, of_input.clone())));
            }
        }
        if stages.peek().is_some() {
            progress(Doing::Advancing(stage));
            run.advance(source).await?;
        }
    }
    Ok(norms)
}

/// Adds the squares of rows to the sums of columns.
fn add_squares(sums: &mut Vec<f64>, columns: usize, x: &[f32]) -> Result<(), LayerwiseError> {
    sums.resize(columns, 0.0);
    for (row, x) in (0..).zip(x.chunks_exact(columns.max(1))) {
        for (column, (sum, &x)) in sums.iter_mut().zip(x).enumerate() {
            let value = f64::from(x);
            if !value.is_finite() {
                return Err(LayerwiseError::NonFinite { what: "the input", row, column, value });
            }
            *sum += value * value;
        }
    }
    Ok(())
}
