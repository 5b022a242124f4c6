//! The reasons why a model does not load or run.

use crate::architecture::ArchitectureError;
use crate::checkpoint::source::SourceError;
use lowbit::compress::calibrate::CalibrateError;
use lowbit::format::FormatError;
use lowbit::host::HostError;
use lowbit::ops::{BindError, GramError, PlanError, RecordError, WeightsError};

/// The reason why a model does not load or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The model is not understood.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A tensor cannot be what the model needs.
    #[error("{tensor}: {reason}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The reason.
        reason: String,
    },
    /// The architecture asks for something that is not built here.
    #[error("{what} is not supported on the device{next}")]
    Unsupported {
        /// What the architecture asks for.
        what: String,
        /// What the user may do, with a separator in front; empty if there is nothing.
        next: &'static str,
    },
    /// The products of an input of linear layers cannot be summed.
    #[error("the input of `{weight}`")]
    Gram {
        /// The first weight that takes the input.
        weight: String,
        /// The reason.
        source: GramError,
    },
    /// A text is longer than its session has room for.
    #[error(
        "{need} tokens do not fit into a session of {slots}; make it larger, or the text shorter"
    )]
    Full {
        /// Tokens that there must be room for.
        need: usize,
        /// Tokens that there is room for.
        slots: usize,
    },
    /// A text is longer than a model that has a table of positions can read.
    #[error("{need} tokens do not fit: the model has positions for {have}")]
    Positions {
        /// Tokens that there must be positions for.
        need: usize,
        /// Tokens that there are positions for.
        have: usize,
    },
    /// Every logit is NaN, so there is no token to choose.
    #[error(
        "the logits after {tokens} tokens are NaN; numbers beyond the range of f16 do that, which f32 \
         activations and caches hold"
    )]
    NotFinite {
        /// Tokens that were read.
        tokens: usize,
    },
    /// A token is not in the vocabulary.
    #[error("token {token} is outside of the vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// Nothing was read yet, so there is nothing that a token could follow.
    #[error("the text is empty: a model continues at least one token")]
    Empty,
    /// An option has no meaning for this model.
    #[error("{0}")]
    Options(String),
    /// Logits say nothing of a text.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Windows(#[from] crate::text::windows::WindowsError),
    /// A step of the model cannot be planned.
    #[error("{step}")]
    Plan {
        /// The step.
        step: String,
        /// The reason.
        source: PlanError,
    },
    /// A step of the model cannot be bound.
    #[error("{step}")]
    Bind {
        /// The step.
        step: String,
        /// The reason.
        source: BindError,
    },
    /// A step was recorded with a number of rows that it was not made for.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Weights do not fit together, or into a format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The device refused weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Statistics of the inputs of layers cannot be kept or continued.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The device failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl RunError {
    /// Describes a tensor that is not what the model needs.
    pub(super) fn tensor(tensor: &str, reason: impl std::fmt::Display) -> Self {
        Self::Tensor { tensor: tensor.to_owned(), reason: reason.to_string() }
    }
}
