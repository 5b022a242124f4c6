//! The reasons why a model is not understood.

use crate::checkpoint::source::SourceError;

/// The reason why no [`Blueprint`](super::Blueprint) is made of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model has no configuration: no `config.json` beside it, or no metadata.
    #[error("the model has no configuration")]
    NoConfig,
    /// The configuration does not name the architecture.
    #[error("the configuration does not name the architecture (`{key}`)")]
    Unnamed {
        /// The setting that would name it.
        key: &'static str,
    },
    /// The architecture is none of those that are known.
    #[error("`{name}` is an unknown architecture (known ones are {})", known.join(", "))]
    Unknown {
        /// Its name.
        name: String,
        /// Those that are known in this format.
        known: Vec<&'static str>,
    },
    /// The configuration lacks a setting.
    #[error("the configuration has no `{key}`")]
    Missing {
        /// The setting.
        key: String,
    },
    /// A setting cannot be what it is.
    #[error("`{key}` is {have}, and not {need}")]
    Wrong {
        /// The setting.
        key: String,
        /// What it is.
        have: String,
        /// What it must be.
        need: String,
    },
    /// A setting asks for something that is not computed here.
    #[error("`{key}` is {have}, and only {need} is supported")]
    Unsupported {
        /// The setting.
        key: String,
        /// What it is.
        have: String,
        /// The values that are supported.
        need: String,
    },
    /// A tensor is missing.
    #[error("there is no tensor `{name}`")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape or element type than the configuration says.
    #[error("`{name}` is {have}, and not {need}")]
    WrongTensor {
        /// The tensor.
        name: String,
        /// How it is stored, and its shape.
        have: String,
        /// What it must be.
        need: String,
    },
    /// A layer has a tensor that nothing in the architecture uses, so the model is another one than its
    /// configuration says.
    #[error("`{name}` is not part of {family}, as the configuration describes it")]
    Unused {
        /// The tensor.
        name: String,
        /// The family of the architecture.
        family: &'static str,
    },
    /// The tensors of two models are in the file.
    #[error("there are two models: `{first}…` and `{second}…`")]
    TwoModels {
        /// What stands before the names of one.
        first: String,
        /// What stands before the names of the other.
        second: String,
    },
}

impl ArchitectureError {
    /// Returns what the user can do about it, as a sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Source(error) => error.next_step(),
            Self::NoConfig => "put the model's `config.json` beside it",
            Self::Unnamed { .. } | Self::Missing { .. } | Self::Wrong { .. } => {
                "fetch the model and its configuration again, from where it was published"
            }
            Self::Unknown { .. } | Self::Unsupported { .. } | Self::Unused { .. } => {
                "use a model of an architecture that is supported"
            }
            Self::MissingTensor { .. } | Self::WrongTensor { .. } => {
                "the tensors and the configuration must be those of one model; `lowbit inspect` lists \
                 the tensors"
            }
            Self::TwoModels { .. } => "save the two models in files of their own",
        }
    }
}
