//! The reasons why a model cannot be changed.

use crate::architecture::ArchitectureError;
use crate::checkpoint::IoError;
use crate::checkpoint::source::SourceError;

/// The reason why a model cannot be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// The model is not understood, or it would not be after the change.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The change is not possible in models like this one.
    #[error("a {family} model cannot be {change}: {why}")]
    Refused {
        /// The family of the model.
        family: &'static str,
        /// The change: `rotated`, `cut`.
        change: &'static str,
        /// The reason.
        why: String,
    },
    /// A weight is compressed, and only floats can be changed.
    #[error("`{name}` is stored as {stored}, and only floats can be changed")]
    Compressed {
        /// The weight.
        name: String,
        /// How the model stores it.
        stored: String,
    },
    /// There is no Hadamard matrix of a size of the model.
    #[error("no Hadamard matrix of {size} rows, {what}, is known{}", known(*below, *above))]
    Order {
        /// The size.
        size: usize,
        /// The part of the model that has this size.
        what: &'static str,
        /// The closest smaller size for which there is a matrix.
        below: Option<usize>,
        /// The closest larger size for which there is a matrix.
        above: Option<usize>,
    },
    /// A factor of a normalization is zero where something has to be divided by it.
    #[error(
        "factor {channel} of `{name}` is zero, and its offset cannot be folded into a later layer"
    )]
    ZeroFactor {
        /// The tensor of factors.
        name: String,
        /// The factor.
        channel: usize,
    },
    /// A number became infinite or NaN, or was so before.
    #[error("element {index} of `{name}` would be {value}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The element of the changed tensor, row-major.
        index: usize,
        /// What it would be.
        value: f32,
    },
    /// A part of the model cannot be cut to the size that was asked for.
    #[error("{have} {what} cannot be kept, only {need}")]
    Keep {
        /// The parts that are kept: `attention heads`, `rows of a feed-forward block`.
        what: &'static str,
        /// How many were asked for.
        have: String,
        /// How many are possible.
        need: String,
    },
    /// Something that was given for a weight has another length than its input.
    #[error("{have} {what} were given for `{name}`, which has {need} columns")]
    WrongLength {
        /// The weight.
        name: String,
        /// The things that were given.
        what: &'static str,
        /// How many of them.
        have: usize,
        /// How many columns the weight has.
        need: usize,
    },
    /// Something that was given for each weight is missing for one.
    #[error("no {what} were given for `{name}`")]
    MissingFor {
        /// The weight.
        name: String,
        /// The things that are missing.
        what: &'static str,
    },
    /// The order of the columns of a weight is none.
    #[error("the order of the columns of `{name}` does not have each of them once")]
    NoOrder {
        /// The weight.
        name: String,
    },
    /// An order was given for something that is no weight of a linear layer.
    #[error("`{name}` is no weight of a linear layer of the model")]
    NoLinear {
        /// The name.
        name: String,
    },
    /// Two parts of a model that would change in different ways are in one tensor.
    #[error("`{name}` is used in several ways, and cannot change in one of them")]
    Shared {
        /// The tensor.
        name: String,
    },
}

impl TransformError {
    /// Returns what the user can do about it, as a sentence, if the error does not say it.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Source(error) => error.next_step(),
            Self::Compressed { .. } => "`lowbit decompress` makes f32 of it",
            Self::NotFinite { .. } => "a weight of the model is damaged: fetch it again",
            Self::Architecture(_) | Self::Refused { .. } | Self::Order { .. } => {
                "leave this change out for this model"
            }
            Self::ZeroFactor { .. } => "leave the rotation out for this model",
            Self::Keep { .. } => "ask for another number",
            Self::WrongLength { .. } | Self::MissingFor { .. } => {
                "take statistics of this model, and of all its layers"
            }
            Self::NoOrder { .. } | Self::NoLinear { .. } => "make the orders for this model",
            Self::Shared { .. } => "leave this change out for this model",
        }
    }
}

impl From<IoError> for TransformError {
    fn from(error: IoError) -> Self {
        Self::Source(error.into())
    }
}

fn known(below: Option<usize>, above: Option<usize>) -> String {
    match (below, above) {
        (Some(below), Some(above)) => format!(": {below} and {above} are the closest sizes"),
        (Some(one), None) | (None, Some(one)) => format!(": {one} is the closest size"),
        (None, None) => String::new(),
    }
}
