//! Runs texts through a model as it is, and writes statistics of what its linear layers take.

use super::statistics::observe;
use super::statistics_file::{Described, StatisticsFile, StatisticsWriter};
use super::text_part::{TextPart, joined};
use super::{Doing, LayerwiseRunError};
use crate::architecture::Blueprint;
use crate::checkpoint::source::{Item, ModelSource};
use crate::device::{Input, Stage, StagedRun, columns};
use lowbit::host::Host;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Statistics to collect and to merge.
#[derive(Debug)]
pub struct Recording<'a> {
    /// The model.
    pub source: &'a dyn ModelSource,
    /// Its [checksum](crate::checkpoint::source::model_checksum).
    pub checksum: u64,
    /// What it is.
    pub blueprint: &'a Blueprint,
    /// The tokens of samples, if any are to run, and the part of a text that they are.
    pub samples: Option<(&'a [Vec<u32>], TextPart)>,
    /// The largest number of tokens that a sample may have. Sums of several runs are only the same as those of
    /// one if this is.
    pub rows: usize,
    /// Statistics of the same model, of other samples, which are added.
    pub merged: &'a [StatisticsFile],
}

/// Runs the samples on a device, adds the statistics of files, and writes all to `output`, whole or not at all. One stage
/// of the model and the sums of one stage are in memory at a time. Returns the parts of texts that the statistics are of.
///
/// Each sample is a step of its own, and sums are integers. So the file is the same, to the last bit, however the samples
/// are divided into runs, and in whatever order these are merged.
///
/// # Errors
/// Returns [`LayerwiseRunError`] if a file is of another model or of the same samples, the samples cannot run, or the
/// file cannot be written.
pub async fn record(
    host: Option<&Arc<Host>>,
    job: &Recording<'_>,
    output: &Path,
    progress: &mut dyn FnMut(Doing<'_>),
) -> Result<Vec<TextPart>, LayerwiseRunError> {
    for file in job.merged {
        file.check_model(job.checksum)?;
    }
    let own = job.samples.iter().map(|(_, part)| part);
    let parts = job.merged.iter().flat_map(StatisticsFile::parts).chain(own).cloned().collect();
    let parts = joined(parts)?;
    if parts.is_empty() {
        return Err(LayerwiseRunError::NoSamples);
    }
    let mut texts = match (&job.samples, host) {
        (Some((texts, _)), Some(host)) => {
            Some(StagedRun::one_by_one(host, job.blueprint, texts, job.rows)?)
        }
        (Some(_), None) => return Err(LayerwiseRunError::NoSamples),
        (None, _) => None,
    };
    let stages: Vec<(Stage, Vec<Input>)> = Stage::all(job.blueprint)
        .into_iter()
        .map(|stage| (stage, stage.inputs(job.blueprint)))
        .collect();
    let inputs = described(job, stages.iter().flat_map(|(_, inputs)| inputs))?;
    let mut writer = StatisticsWriter::create(output, job.checksum, parts.clone(), inputs)?;
    let last = stages.iter().rposition(|(_, inputs)| !inputs.is_empty());
    for (index, (stage, inputs)) in stages.iter().enumerate() {
        if last.is_none_or(|last| index > last) {
            break;
        }
        progress(Doing::Observing(*stage));
        let mut seen = match &texts {
            Some(texts) if !inputs.is_empty() => observe(texts, job.source, inputs, true).await?,
            _ => inputs.iter().map(|_| None).collect(),
        };
        for (input, seen) in inputs.iter().zip(&mut seen) {
            let name = first(input);
            let mut all = seen.take();
            for file in job.merged {
                let more = file.read(input)?;
                match &mut all {
                    None => all = Some(more),
                    Some(all) => all.merge(&more).map_err(|source| LayerwiseRunError::Weight {
                        name: name.to_owned(),
                        source,
                    })?,
                }
            }
            let all = all.ok_or(LayerwiseRunError::NoSamples)?;
            writer.write(name, &all)?;
        }
        if let Some(texts) = texts.as_mut().filter(|_| last != Some(index)) {
            progress(Doing::Advancing(*stage));
            texts.advance(job.source).await?;
        }
    }
    writer.finish()?;
    Ok(parts)
}

/// Returns the name of an input: that of the first weight that takes it.
fn first(input: &Input) -> &str {
    input.weights().first().copied().unwrap_or_default()
}

/// Returns the columns and weights of all inputs.
fn described<'i>(
    job: &Recording<'_>,
    inputs: impl Iterator<Item = &'i Input>,
) -> Result<BTreeMap<String, Described>, LayerwiseRunError> {
    let items: BTreeMap<String, Item> =
        job.source.items()?.into_iter().map(|item| (item.name.clone(), item)).collect();
    let mut all: BTreeMap<String, Described> = BTreeMap::new();
    for input in inputs {
        let weights: Vec<String> = input.weights().into_iter().map(str::to_owned).collect();
        let Some(linear) = input.linears.first() else { continue };
        let mut known = all.values().flat_map(|input| &input.weights);
        if let Some(twice) = known.find(|name| weights.contains(name)) {
            return Err(LayerwiseRunError::Unsupported {
                name: twice.clone(),
                why: "it is the weight of layers of several inputs".to_owned(),
            });
        }
        let columns = columns(&items, linear)?;
        all.insert(first(input).to_owned(), Described { columns, weights });
    }
    Ok(all)
}
