//! Why a model cannot be explored.

use crate::checkpoint::IoError;
use crate::checkpoint::source::SourceError;
use crate::device::RunError;
use crate::layerwise::LayerwiseRunError;

/// The reason why a model cannot be explored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExploreError {
    /// A weight cannot be compressed, or the folder of an earlier run cannot be used.
    #[error(transparent)]
    Layerwise(#[from] LayerwiseRunError),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// There are no texts.
    #[error("there is no {0} text, or it is empty")]
    NoTexts(&'static str),
    /// There is nothing to choose from.
    #[error("there are fewer than two candidates")]
    NoCandidates,
    /// The model has no weight that could be explored.
    #[error(
        "no weight of a linear layer has a format among the candidates and a text that runs through it"
    )]
    NoWeights,
    /// The weights of an input have no candidates that go with each other.
    #[error(
        "`{name}` has no candidate that goes with one of each weight that takes the same input; `keep` goes with those \
         without activations"
    )]
    NoneGoes {
        /// The weight.
        name: String,
    },
    /// The model cannot be made so small.
    #[error(
        "the model takes at least {least} bytes with these candidates, and {asked} are asked for"
    )]
    Size {
        /// The bytes that are asked for.
        asked: u64,
        /// The bytes of the smallest model.
        least: usize,
    },
    /// The weights cannot be made so small.
    #[error(
        "a weight takes at least {least:.3} bits on average with these candidates, and {asked} are asked for"
    )]
    Bits {
        /// The bits that are asked for.
        asked: f64,
        /// The bits of the smallest model.
        least: f64,
    },
    /// No model that was measured loses so little.
    #[error(
        "every model that was measured loses at least {least:.4} %, and {asked} % are asked for"
    )]
    Loss {
        /// What may be lost, in per cent.
        asked: f64,
        /// What the best model loses.
        least: f64,
    },
    /// No model that was measured is so fast.
    #[error(
        "a token takes at least {least:.3} ms in every model that was measured, and {asked} ms are asked for"
    )]
    Latency {
        /// The milliseconds that are asked for.
        asked: f64,
        /// The milliseconds of the fastest model.
        least: f64,
    },
    /// A weight's name is no pattern of a recipe.
    #[error("the weight `{name}` cannot be named in a recipe")]
    Name {
        /// The weight.
        name: String,
        /// The reason.
        source: globset::Error,
    },
}
