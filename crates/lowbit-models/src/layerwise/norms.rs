//! The norms of what a model's layers take, by which rows and heads are cut out.

use super::statistics::observe;
use super::{Doing, LayerwiseRunError};
use crate::architecture::Blueprint;
use crate::checkpoint::source::ModelSource;
use crate::device::{Stage, StagedRun};
use crate::transform::InputNorms;
use lowbit::host::Host;
use std::sync::Arc;

/// Runs texts through a model as it is, and returns the Euclidean norms of the columns of what each weight takes. One
/// stage of the model is on the device at a time. `rows` is the largest number of tokens of a step.
///
/// # Errors
/// Returns [`LayerwiseRunError`] if the texts cannot run.
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
    for stage in Stage::all(blueprint) {
        progress(Doing::Observing(stage));
        let inputs = run.inputs(stage);
        if !inputs.is_empty() {
            for (input, seen) in inputs.iter().zip(observe(&run, source, &inputs, false).await?) {
                let Some(seen) = seen else { continue };
                let of_input: Vec<f32> =
                    seen.gram.diagonal().into_iter().map(|sum| sum.sqrt() as f32).collect();
                let of_weights = input.weights().into_iter().map(str::to_owned);
                norms.extend(of_weights.map(|weight| (weight, of_input.clone())));
            }
        }
        if stage != Stage::End {
            progress(Doing::Advancing(stage));
            run.advance(source).await?;
        }
    }
    Ok(norms)
}
