use crate::data::DataError;
use crate::fake::{FakeFormatError, FoldError};
use crate::gradients::GradientError;
use crate::prune::PruneError;
use lowbit::compress::CompressError;
use lowbit::format::FormatError;
use std::path::PathBuf;

/// The reason why training cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// There are no examples.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Gradients cannot be compressed.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// Weights cannot be pruned so.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// There is no fake quantization to a format.
    #[error(transparent)]
    FakeFormat(#[from] FakeFormatError),
    /// Weights cannot be packed.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// Weights cannot be rounded.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// A format does not exist.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The loss is NaN or infinite.
    #[error("the loss of step {step} is {loss}: training has diverged; lower the learning rate")]
    Diverged {
        /// The step.
        step: u32,
        /// Its loss.
        loss: f32,
    },
    /// A file cannot be read or written.
    #[error("{path} cannot be {action}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The reason.
        error: std::io::Error,
    },
    /// A checkpoint is damaged, or of other training.
    #[error("{path} {why}; delete it to train from the beginning")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// A recipe asks for something that does not exist.
    #[error("{0}")]
    Recipe(String),
}
