use crate::checkpoint::IoError;
use lowbit::format::FormatError;
use std::path::PathBuf;

/// The reason why an ONNX file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file, or a file of tensor data beside it, cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A part of the file is not a valid protobuf message.
    #[error("the {what} is not valid protobuf")]
    Protobuf {
        /// The kind of message: `model`, `graph`, `node`, `tensor`, …
        what: &'static str,
        /// The reason.
        source: prost::DecodeError,
    },
    /// The file does not have exactly one graph.
    #[error("the file holds {have} graphs where an ONNX model has one")]
    Graphs {
        /// The number of graphs.
        have: usize,
    },
    /// The graph has more nodes or initializers than any real model.
    #[error("the graph has {have} {what}; at most {limit} are read")]
    TooMany {
        /// `nodes`, `initializers`, `sparse initializers` or `functions`.
        what: &'static str,
        /// How many there are.
        have: usize,
        /// How many are read.
        limit: usize,
    },
    /// A name is longer than in any real model. (Names are repeated for every node that uses them.)
    #[error("the {what} `{start}…` has a name of {length} bytes; at most {limit} are read")]
    LongName {
        /// The kind of thing that has the name: `tensor`, `function`, or `node` (also for its inputs, outputs and operator).
        what: &'static str,
        /// The start of the name.
        start: String,
        /// Its length in bytes.
        length: usize,
        /// The largest length that is read.
        limit: usize,
    },
    /// Two tensors have the same name.
    #[error("the name `{name}` appears twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A dimension is negative, or the size in bytes does not fit into the address space.
    #[error("tensor `{name}` has the impossible shape {dims:?}")]
    BadShape {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<i64>,
    },
    /// The data of a tensor do not have the size of its type and shape.
    #[error("tensor `{name}` of shape {shape:?} needs {need} bytes of data and has {have}")]
    WrongSize {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The number of bytes needed.
        need: usize,
        /// The number of bytes that it has.
        have: usize,
    },
    /// The data of a tensor are in two forms, in parts, or contain a value outside of its type.
    #[error("tensor `{name}`: {why}")]
    BadTensor {
        /// The tensor.
        name: String,
        /// A description of the problem.
        why: &'static str,
    },
    /// The data of a tensor lie in a file that is not read: it is outside of the model's folder or not a
    /// regular file, or the model was opened from bytes.
    #[error("tensor `{name}` lies in the file `{}`, {why}", location.display())]
    External {
        /// The tensor.
        name: String,
        /// The file, as the model names it.
        location: PathBuf,
        /// The reason why it is not read.
        why: &'static str,
    },
    /// The data of a tensor lie past the end of their file.
    #[error(
        "tensor `{name}` claims {length} bytes from byte {offset} of `{}`, which has {have}",
        location.display()
    )]
    ExternalRange {
        /// The tensor.
        name: String,
        /// The file, as the model names it.
        location: PathBuf,
        /// The first byte.
        offset: u64,
        /// The number of bytes.
        length: u64,
        /// The number of bytes in the file.
        have: usize,
    },
    /// The scales or zero points of a weight are not valid.
    #[error("weight `{name}`")]
    Format {
        /// The weight.
        name: String,
        /// The reason.
        source: FormatError,
    },
    /// There is no weight or tensor of that name.
    #[error("there is no {what} `{name}` to import from the file")]
    NotFound {
        /// `weight` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
    },
}
