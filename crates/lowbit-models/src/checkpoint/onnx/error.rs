use crate::checkpoint::IoError;
use lowbit::format::FormatError;
use std::path::PathBuf;

/// Why an ONNX file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file, or a file of tensor data beside it, cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Not the protobuf it must be.
    #[error("the {what} is not valid protobuf")]
    Protobuf {
        /// `model`, `graph`, `node`, `tensor`, …
        what: &'static str,
        /// The reason.
        source: prost::DecodeError,
    },
    /// A model has one graph.
    #[error("the file holds {have} graphs where an ONNX model has one")]
    Graphs {
        /// How many it holds.
        have: usize,
    },
    /// More nodes or initializers than any model has.
    #[error("the graph has {have} {what}; at most {limit} are read")]
    TooMany {
        /// `nodes`, `initializers`, `sparse initializers` or `functions`.
        what: &'static str,
        /// How many there are.
        have: usize,
        /// How many are read.
        limit: usize,
    },
    /// A name longer than any model has. Names are said again of every node that uses them.
    #[error("the {what} `{start}…` has a name of {length} bytes; at most {limit} are read")]
    LongName {
        /// `tensor`, `function` or `node`: its name, or that of what a node takes, gives or does.
        what: &'static str,
        /// How the name starts.
        start: String,
        /// How long it is, in bytes.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Two tensors of one name.
    #[error("the name `{name}` appears twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A dimension is negative, or the size in bytes does not fit the address space.
    #[error("tensor `{name}` has the impossible shape {dims:?}")]
    BadShape {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<i64>,
    },
    /// A tensor's data are not those of its type and shape.
    #[error("tensor `{name}` of shape {shape:?} needs {need} bytes of data and has {have}")]
    WrongSize {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes needed.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// A tensor's data are in two forms, in parts, or hold a value that its type does not.
    #[error("tensor `{name}`: {why}")]
    BadTensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Tensor data in a file that may not be read: outside the model's folder, no regular
    /// file, or beside a model that came without a folder.
    #[error("tensor `{name}` lies in the file `{}`, {why}", location.display())]
    External {
        /// The tensor.
        name: String,
        /// The file, as the model states it.
        location: PathBuf,
        /// Why it is not read.
        why: &'static str,
    },
    /// Tensor data past the end of the file they are said to lie in.
    #[error(
        "tensor `{name}` claims {length} bytes from byte {offset} of `{}`, which has {have}",
        location.display()
    )]
    ExternalRange {
        /// The tensor.
        name: String,
        /// The file, as the model states it.
        location: PathBuf,
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Bytes in the file.
        have: usize,
    },
    /// A weight whose scales or zero points are refused.
    #[error("weight `{name}`")]
    Format {
        /// The weight.
        name: String,
        /// The reason.
        source: FormatError,
    },
    /// No weight or tensor of that name.
    #[error("there is no {what} `{name}` to import from the file")]
    NotFound {
        /// `weight` or `tensor`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
}
