//! Observes the input of every linear layer of an encoder on sample text.

use super::{Dense, Encoder, Error};
use crate::checkpoint::{LayerRanges, RangeTarget, Ranges};
use crate::inputs::shared_input;
use lowbit::compress::calibrate::{CalibrateError, NotFinite, Observer, Statistics};
use lowbit::format::WeightFormat;
use lowbit::host::{Host, HostError};
use lowbit::ops::DeviceWeights;
use std::cell::RefCell;

/// The reason why a text cannot be observed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The device failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The input of a layer contains NaN or infinities.
    #[error(
        "the input of `{layer}` is not finite: {} NaN and {} infinities, the first at token {}, channel {}",
        at.nan, at.infinite, at.row, at.column
    )]
    NotFinite {
        /// The layer.
        layer: String,
        /// Where and how many.
        at: NotFinite,
    },
    /// The encoder cannot run the text.
    #[error(transparent)]
    Encoder(Error),
}

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

/// The statistics of one X.
struct Observed {
    /// The layers that take it, by [`Dense::index`]; the first of them observes.
    linears: Vec<usize>,
    tensor: Statistics,
    channels: Option<Statistics>,
}

/// Statistics of the input of every linear layer. An input that several layers share is observed
/// once.
pub struct EncoderStatistics(Vec<Observed>);

impl EncoderStatistics {
    /// Creates empty statistics: of each input as a whole, and also of each of its channels if
    /// `channels` is set.
    ///
    /// # Errors
    /// Returns [`CalibrateError`] if a layer has more columns than statistics can be kept of.
    pub fn new(encoder: &Encoder, channels: bool) -> Result<Self, CalibrateError> {
        let mut observed: Vec<Observed> = Vec::new();
        for dense in encoder.linears() {
            let (name, k) = (dense.weight_name(), dense.k);
            let shares =
                |before: &&mut Observed| shared_input(before.tensor.layer()) == shared_input(&name);
            match observed.last_mut().filter(shares) {
                Some(before) => before.linears.push(dense.index),
                None => {
                    // Smoothing needs the ranges of channels, not their histograms.
                    let by_channels = Observer::channels(name.clone(), k).with_bins(0);
                    observed.push(Observed {
                        linears: vec![dense.index],
                        tensor: Statistics::new(Observer::tensor(name, k))?,
                        channels: channels.then(|| Statistics::new(by_channels)).transpose()?,
                    });
                }
            }
        }
        Ok(Self(observed))
    }

    /// Returns the number of texts that were observed.
    pub fn texts(&self) -> u64 {
        self.0.first().map_or(0, |observed| observed.tensor.batches())
    }

    /// Runs a text through the encoder in f32 and observes the input of every linear layer.
    /// `weights` are those of [`upload`].
    ///
    /// # Errors
    /// Returns [`ObserveError`] if the device fails, if an input is not finite, or if the tokenizer
    /// or the encoder refuses the text.
    pub fn observe(
        &mut self,
        host: &Host,
        encoder: &Encoder,
        weights: &[DeviceWeights],
        text: &str,
    ) -> Result<(), ObserveError> {
        let statistics = RefCell::new(self);
        let linear = |dense: &Dense, x: &[f32], m: usize| -> Result<Vec<f32>, Error> {
            // A tokenizer may find no tokens in a text.
            if m == 0 {
                return Ok(Vec::new());
            }
            let weights = weights.get(dense.index).ok_or("the weights are of another encoder")?;
            statistics.borrow_mut().observe_layer(host, dense, x)?;
            Ok(host.matmul(x, m, weights, Some(&dense.bias))?)
        };
        match encoder.embed(text, &linear) {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.downcast::<ObserveError>() {
                Ok(own) => *own,
                Err(other) => ObserveError::Encoder(other),
            }),
        }
    }

    /// Observes the input of a layer, unless an earlier layer that shares it has done so.
    fn observe_layer(&mut self, host: &Host, dense: &Dense, x: &[f32]) -> Result<(), ObserveError> {
        let first = |observed: &&mut Observed| observed.linears.first() == Some(&dense.index);
        let Some(observed) = self.0.iter_mut().find(first) else { return Ok(()) };
        host.observe(&mut observed.tensor, x)?;
        if let Some(at) = observed.tensor.not_finite() {
            return Err(ObserveError::NotFinite { layer: observed.tensor.layer().into(), at });
        }
        match &mut observed.channels {
            Some(channels) => Ok(host.observe(channels, x)?),
            None => Ok(()),
        }
    }

    /// Takes over what an earlier run observed.
    ///
    /// # Errors
    /// Returns [`ResumeError`] if the file is not of this encoder, or does not contain statistics
    /// that can be continued.
    pub fn resume(&mut self, encoder: &Encoder, file: &Ranges) -> Result<(), ResumeError> {
        let names: Vec<String> = encoder.linears().map(Dense::weight_name).collect();
        if let Some(name) = file.layers.keys().find(|name| !names.contains(name)) {
            return Err(ResumeError::UnknownLayer { layer: name.clone() });
        }
        for Observed { linears, tensor, channels } in &mut self.0 {
            for (at, &index) in linears.iter().enumerate() {
                let name = &names[index];
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
    pub fn ranges(&self, encoder: &Encoder, target: RangeTarget) -> Ranges {
        let mut ranges = Ranges { target: Some(target), ..Ranges::default() };
        for dense in encoder.linears() {
            let of = |observed: &&Observed| observed.linears.contains(&dense.index);
            let Some(observed) = self.0.iter().find(of) else { continue };
            ranges.insert(observed.tensor.for_layer(dense.weight_name()));
            if let Some(channels) = &observed.channels {
                ranges.insert_channels(channels.for_layer(dense.weight_name()));
            }
        }
        ranges
    }
}

/// Replaces empty statistics with saved ones. For the further layers of the same X, which come
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

/// The reason why a layer cannot be put on the device.
#[derive(Debug, thiserror::Error)]
#[error("cannot put `{layer}` on the device")]
pub struct UploadError {
    /// The name of its weight.
    pub layer: String,
    /// The reason.
    pub source: HostError,
}

/// Puts the weights of all linear layers on the device in f32, in the order of [`Dense::index`].
///
/// # Errors
/// Returns [`UploadError`] if a weight is not finite or the device fails.
pub fn upload(host: &Host, encoder: &Encoder) -> Result<Vec<DeviceWeights>, UploadError> {
    let upload = |dense: &Dense| {
        let weights = host.compress(&dense.weight, dense.n, dense.k, &WeightFormat::f32());
        weights.map_err(|source| UploadError { layer: dense.weight_name(), source })
    };
    encoder.linears().map(upload).collect()
}
