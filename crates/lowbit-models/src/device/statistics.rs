//! Statistics of what the linear layers of a model take.

use super::RunError;
use crate::architecture::{Blueprint, Linear};
use crate::checkpoint::source::{Item, ItemKind, ModelSource};
use crate::checkpoint::{LayerRanges, RangeTarget, Ranges};
use lowbit::compress::calibrate::{CalibrateError, Observer, Statistics};
use std::collections::{BTreeMap, BTreeSet};

/// The reason why statistics of an earlier run cannot be continued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The file has a layer that the model lacks.
    #[error("the model has no layer `{layer}`")]
    UnknownLayer {
        /// The layer.
        layer: String,
    },
    /// The file lacks a layer of the model.
    #[error("layer `{layer}` is not there")]
    MissingLayer {
        /// The layer.
        layer: String,
    },
    /// The file has only a scale for a layer.
    #[error("layer `{layer}` has a scale there and no statistics")]
    NoStatistics {
        /// The layer.
        layer: String,
    },
    /// The file lacks the statistics of a layer's channels.
    #[error("layer `{layer}` has no statistics by channels there")]
    NoChannels {
        /// The layer.
        layer: String,
    },
    /// Layers that take the same input have different statistics of it.
    #[error("`{layer}` and `{other}` have the same input, and other statistics of it")]
    Unequal {
        /// The layer.
        layer: String,
        /// The layer that it shares its input with.
        other: String,
    },
    /// The earlier run met NaN or infinities.
    #[error("layer `{layer}` saw values there that are not finite")]
    NotFinite {
        /// The layer.
        layer: String,
    },
    /// The statistics are of another kind or size.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
}

/// The statistics of one input.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// The weights of the layers that take it.
    pub names: Vec<String>,
    pub tensor: Statistics,
    pub channels: Option<Statistics>,
}

/// Statistics of the input of every linear layer of a model, under the name of the layer's weight in the file.
/// Layers that take the same input share them, as [`Blueprint::inputs`] says.
#[derive(Clone, Debug)]
pub struct ModelStatistics(pub(super) Vec<Observed>);

impl ModelStatistics {
    /// Creates empty statistics: of each input as a whole, and also of each of its channels if `channels` is
    /// set.
    ///
    /// # Errors
    /// Returns [`RunError::Source`] if the tensors cannot be listed, [`RunError::Tensor`] if a layer is not
    /// among them, and [`RunError::Calibrate`] if it has more columns than statistics can be kept of.
    pub fn new(
        model: &dyn ModelSource,
        blueprint: &Blueprint,
        channels: bool,
    ) -> Result<Self, RunError> {
        let items: BTreeMap<String, Item> =
            model.items()?.into_iter().map(|item| (item.name.clone(), item)).collect();
        let mut observed = Vec::new();
        let mut known = BTreeSet::new();
        for linears in blueprint.inputs() {
            let mut names: Vec<String> = Vec::new();
            for Linear { matrix, .. } in &linears {
                if !names.contains(&matrix.tensor) {
                    names.push(matrix.tensor.clone());
                }
            }
            if let Some(twice) = names.iter().find(|name| !known.insert((*name).clone())) {
                return Err(RunError::tensor(
                    twice,
                    "it is the weight of layers of several inputs",
                ));
            }
            let (Some(name), Some(linear)) = (names.first(), linears.first()) else { continue };
            let k = columns(&items, linear)?;
            // Smoothing needs the ranges of channels, not their histograms.
            let by_channels = Observer::channels(name, k).with_bins(0);
            observed.push(Observed {
                tensor: Statistics::new(Observer::tensor(name, k))?,
                channels: channels.then(|| Statistics::new(by_channels)).transpose()?,
                names,
            });
        }
        Ok(Self(observed))
    }

    /// Returns the number of texts that were observed.
    pub fn texts(&self) -> u64 {
        self.0.first().map_or(0, |observed| observed.tensor.batches())
    }

    /// Takes over what an earlier run observed.
    ///
    /// # Errors
    /// Returns [`ResumeError`] if the file is not of this model, or does not contain statistics that can be
    /// continued.
    pub fn resume(&mut self, file: &Ranges) -> Result<(), ResumeError> {
        let names: BTreeSet<&String> = self.0.iter().flat_map(|input| &input.names).collect();
        if let Some(name) = file.layers.keys().find(|name| !names.contains(name)) {
            return Err(ResumeError::UnknownLayer { layer: name.clone() });
        }
        for Observed { names, tensor, channels } in &mut self.0 {
            for (at, name) in names.iter().enumerate() {
                let layer = || name.clone();
                let saved = match file.layers.get(name) {
                    Some(LayerRanges::Statistics(saved)) => saved,
                    Some(_) => return Err(ResumeError::NoStatistics { layer: layer() }),
                    None => return Err(ResumeError::MissingLayer { layer: layer() }),
                };
                let by_channels = file.channels.get(name);
                if channels.is_some() && by_channels.is_none() {
                    return Err(ResumeError::NoChannels { layer: layer() });
                }
                take_over(tensor, saved, name, at)?;
                if let (Some(channels), Some(saved)) = (channels.as_mut(), by_channels) {
                    take_over(channels, saved, name, at)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the statistics of all layers, each under the name of its weight.
    pub fn ranges(&self, target: RangeTarget) -> Ranges {
        let mut ranges = Ranges { target: Some(target), ..Ranges::default() };
        for Observed { names, tensor, channels } in &self.0 {
            for name in names {
                ranges.insert(tensor.for_layer(name));
                if let Some(channels) = channels {
                    ranges.insert_channels(channels.for_layer(name));
                }
            }
        }
        ranges
    }
}

/// Returns the columns of what a layer takes.
pub(crate) fn columns(items: &BTreeMap<String, Item>, linear: &Linear) -> Result<usize, RunError> {
    let name = &linear.matrix.tensor;
    let missing = || RunError::tensor(name, "the model has no such matrix");
    let item = items.get(name).ok_or_else(missing)?;
    let transposed = linear.matrix.transposed && matches!(item.kind, ItemKind::Plain(_));
    let columns = if transposed { item.shape.first() } else { item.shape.last() };
    columns.copied().ok_or_else(missing)
}

/// Replaces empty statistics with saved ones. For the further layers of the same input, which come
/// later, the saved ones must be equal.
fn take_over(
    statistics: &mut Statistics,
    saved: &Statistics,
    name: &str,
    at: usize,
) -> Result<(), ResumeError> {
    let saved = saved.for_layer(statistics.layer());
    if at > 0 {
        if saved == *statistics {
            return Ok(());
        }
        let (layer, other) = (name.to_owned(), statistics.layer().to_owned());
        return Err(ResumeError::Unequal { layer, other });
    }
    if saved.refused() > 0 {
        return Err(ResumeError::NotFinite { layer: name.to_owned() });
    }
    Ok(statistics.merge(&saved)?)
}
