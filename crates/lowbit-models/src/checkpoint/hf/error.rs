use lowbit::format::FormatError;
use safetensors::Dtype;

/// The reason why a quantized weight, or a whole quantized checkpoint, is not read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HfError {
    /// A tensor that the weight needs is not there.
    #[error("tensor `{tensor}` is missing")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another element type than the format requires.
    #[error("tensor `{tensor}` is {have}, where {need} is needed")]
    WrongType {
        /// The tensor.
        tensor: String,
        /// Its element type.
        have: Dtype,
        /// What the format requires.
        need: &'static str,
    },
    /// A tensor has another shape than the format requires.
    #[error("tensor `{tensor}` has shape {have:?}, where {need} is needed")]
    WrongShape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        have: Vec<usize>,
        /// What the format requires.
        need: String,
    },
    /// An entry of `g_idx` names no group.
    #[error("entry {column} of `{tensor}` is {value}, but the weight has {groups} groups")]
    GroupIndex {
        /// The tensor.
        tensor: String,
        /// The index of the entry, which is a column of the weight.
        column: usize,
        /// The entry.
        value: i32,
        /// The number of groups.
        groups: usize,
    },
    /// The groups of `g_idx` do not have the same number of columns.
    #[error("group {group} of `{tensor}` has {have} columns, but group 0 has {need}")]
    UnevenGroups {
        /// The tensor.
        tensor: String,
        /// The group.
        group: usize,
        /// Its number of columns.
        have: usize,
        /// The number of columns of the first group.
        need: usize,
    },
    /// A scale, a zero point or an entry of a codebook is infinite or NaN.
    #[error("entry {index} of the {part} of `{weight}` is {value}: it must be finite")]
    NotFinite {
        /// The weight.
        weight: String,
        /// `scales`, `upper scales`, `zero points` or `codebook`.
        part: &'static str,
        /// The index of the entry: by rows and groups.
        index: usize,
        /// The entry.
        value: f32,
    },
    /// What the configuration says is not what the tensors are.
    #[error("the configuration says {stated}, but {found}")]
    Disagree {
        /// What the configuration says.
        stated: String,
        /// What the tensors are.
        found: String,
    },
    /// The format is known, but lowbit does not read this variant of it.
    #[error("{what}")]
    Unsupported {
        /// The variant, as a sentence.
        what: String,
        /// What to do instead.
        next: &'static str,
    },
    /// lowbit has no format for the weight, or its values are not valid.
    #[error("weight `{weight}`: {source}")]
    Format {
        /// The weight.
        weight: String,
        /// The reason.
        source: FormatError,
    },
    /// No weight of the checkpoint can be read.
    #[error("none of its {count} quantized weights can be read; the first is `{first}`: {why}")]
    NothingReadable {
        /// The number of quantized weights.
        count: usize,
        /// The first of them.
        first: String,
        /// The reason why it cannot be read, and the next step.
        why: String,
    },
}

impl HfError {
    /// Returns what the user can do about it, as a sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "fetch all files of the checkpoint, or quantize it again",
            Self::WrongType { .. } | Self::WrongShape { .. } => {
                "fetch the file again; if that does not help, quantize the model again"
            }
            Self::GroupIndex { .. } | Self::UnevenGroups { .. } => {
                "quantize the model again, without act-order if that does not help"
            }
            Self::NotFinite { .. } => "quantize the model again: the weight is damaged",
            Self::Disagree { .. } => "use the configuration that belongs to the tensors",
            Self::Unsupported { next, .. } => next,
            Self::Format { .. } => "quantize the model with a group size that divides K",
            Self::NothingReadable { .. } => "`lowbit inspect` lists the reasons",
        }
    }

    /// Returns the error and the next step as one text.
    pub(super) fn with_next_step(&self) -> String {
        format!("{self}; {}", self.next_step())
    }

    pub(super) fn shape(tensor: &str, have: &[usize], need: impl Into<String>) -> Self {
        Self::WrongShape { tensor: tensor.to_owned(), have: have.to_vec(), need: need.into() }
    }

    pub(super) fn unsupported(what: impl Into<String>, next: &'static str) -> Self {
        Self::Unsupported { what: what.into(), next }
    }
}
