use super::{Family, NotAModel};
use crate::checkpoint::IoError;
use crate::checkpoint::gguf::GgufError;
use crate::checkpoint::hf::HfError;
#[cfg(feature = "onnx")]
use crate::checkpoint::onnx::OnnxError;

/// The reason why a model cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A safetensors file, or the operating system, reported it.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A GGUF file is not valid.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An ONNX file is not valid.
    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The path leads to something else than a model.
    #[error("it is {what}")]
    NotAModel {
        /// What it is. [`NotAModel::next_step`] says what to do.
        what: NotAModel,
    },
    /// A folder has more than one model, and none of the names says which one is meant.
    #[error("the folder has {} models: {}", names.len(), some(names))]
    ManyModels {
        /// The names of the files.
        names: Vec<String>,
    },
    /// This build of the crate does not read the format.
    #[error("it is a model in {family}, which this build of lowbit does not read")]
    NotBuilt {
        /// The format.
        family: Family,
    },
    /// There is no tensor or weight of that name.
    #[error("there is no tensor `{name}` in the model")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// The model has quantized weights where only plain tensors are taken.
    #[error("{count} of its weights are quantized already ({stored}), first `{first}`")]
    AlreadyQuantized {
        /// The number of them.
        count: usize,
        /// How the model stores them.
        stored: String,
        /// The first of them.
        first: String,
    },
    /// Another tool has quantized the weights in a way that lowbit does not read.
    #[error(transparent)]
    Hf(#[from] HfError),
    /// Some weights are stored in ways that lowbit has no format for.
    #[error("{count} of its weights are stored as {stored}, first `{first}`: {why}")]
    UnsupportedWeights {
        /// The number of them.
        count: usize,
        /// How the model stores them.
        stored: String,
        /// The first of them.
        first: String,
        /// The reason why the first cannot be read.
        why: String,
    },
    /// A tensor or weight is stored in a way that lowbit has no format for.
    #[error("`{name}` is stored as {stored}: {why}")]
    Unsupported {
        /// The tensor or weight.
        name: String,
        /// How the model stores it.
        stored: String,
        /// The reason why it cannot be read.
        why: String,
    },
    /// A replacement of a tensor or weight has another size than is said of it.
    #[error("{have} were given for `{name}` of shape {shape:?}")]
    WrongReplacement {
        /// The tensor or weight.
        name: String,
        /// The numbers or the matrix that were given.
        have: String,
        /// The shape that it was to have.
        shape: Vec<usize>,
    },
}

impl SourceError {
    /// Returns what the user can do about it, as a sentence, if the error does not say it.
    pub fn next_step(&self) -> &'static str {
        if let Self::Io(error) = self
            && let Some(step) = error.system_step()
        {
            return step;
        }
        match self {
            Self::Io(IoError::UnsupportedVersion { .. }) => {
                "a later version of lowbit wrote it: use that version"
            }
            Self::Io(
                IoError::IndexAlone { .. } | IoError::BadShard { .. } | IoError::InShard { .. },
            ) => "fetch all files that the index names, into its folder",
            Self::Io(
                IoError::NotInShard { .. }
                | IoError::NotInIndex { .. }
                | IoError::InTwoShards { .. },
            ) => "the index and the files are of different versions: fetch all of them again",
            Self::Io(IoError::BadJson { .. } | IoError::JsonTooLong { .. }) => {
                "fetch that file again"
            }
            Self::Io(_) => "the input must be a complete safetensors file",
            Self::Gguf(error) => error.next_step(),
            #[cfg(feature = "onnx")]
            Self::Onnx(error) => match error {
                OnnxError::Io(_) => "is it a file that this user may read?",
                OnnxError::External { .. } => {
                    "files of tensor data must lie beside the model, or in a folder beside it"
                }
                OnnxError::ExternalRange { .. } => "fetch the model's files of tensor data again",
                OnnxError::DuplicateName { .. } => "`onnx.checker` says what else is wrong with it",
                _ => "the input must be a complete ONNX file",
            },
            Self::NotAModel { what } => what.next_step(),
            Self::ManyModels { .. } => "give one of them",
            Self::NotBuilt { .. } => "build lowbit with the feature of that name",
            Self::NotFound { .. } => "`lowbit inspect` lists the names",
            Self::AlreadyQuantized { .. } => {
                "`lowbit import` takes them as they are; `lowbit decompress` makes f32 of them, which \
                 can be compressed again"
            }
            Self::Hf(error) => error.next_step(),
            Self::Unsupported { .. } | Self::UnsupportedWeights { .. } => {
                "use a file of that model in another type"
            }
            Self::WrongReplacement { .. } => "give as many numbers as the shape has",
        }
    }
}

fn some(names: &[String]) -> String {
    let some: Vec<String> = names.iter().take(4).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > some.len() { ", …" } else { "" };
    format!("{}{more}", some.join(", "))
}
