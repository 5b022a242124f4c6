use lowbit::format::{ActivationError, FormatError};
use safetensors::Dtype;
use std::path::PathBuf;

/// Why a model file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The operating system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried: `open`, `read`, `create`, `write`, `replace`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// Fewer than the eight bytes that every safetensors file starts with.
    #[error("{have} bytes are too few for a safetensors file, which starts with eight")]
    TooShort {
        /// Bytes in the file.
        have: usize,
    },
    /// The header's length points past the end of the file or past the format's limit.
    #[error("the header is said to hold {length} bytes where at most {limit} are possible")]
    HeaderLength {
        /// What the file says.
        length: u64,
        /// What is possible.
        limit: u64,
    },
    /// The header is not the JSON it must be.
    #[error("the header is not valid")]
    HeaderJson(#[source] serde_json::Error),
    /// Two tensors, or two entries of an index, of the same name.
    #[error("the name `{name}` appears twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A tensor's offsets do not lie in the file, or end before they start.
    #[error("tensor `{name}` claims bytes {start}..{end} of {have}")]
    BadOffsets {
        /// The tensor.
        name: String,
        /// Its first byte.
        start: usize,
        /// One past its last byte.
        end: usize,
        /// Bytes of tensor data in the file.
        have: usize,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The other.
        second: String,
    },
    /// Bytes that belong to no tensor; the format allows none.
    #[error("bytes {start}..{end} of the data belong to no tensor")]
    Gap {
        /// First unclaimed byte.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// A tensor's type and shape do not give the bytes it has.
    #[error("tensor `{name}`, {dtype} {shape:?}, has {have} bytes, not those of its shape")]
    WrongSize {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes it has.
        have: usize,
    },
    /// A shape whose size in bytes does not fit the address space.
    #[error("the size of tensor `{name}` {shape:?} overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// No tensor, or no compressed weight, of that name.
    #[error("there is no {what} `{name}` in the file")]
    NotFound {
        /// `tensor` or `compressed weight`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// A tensor that is not f32, f16 or bf16 where floats are needed.
    #[error("tensor `{name}` is {dtype}; only F32, F16 and BF16 are read as floats")]
    NotFloat {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// `lowbit.version` is not one that this crate reads.
    #[error("the file's lowbit.version is `{version}`; this crate reads versions 1 and 2")]
    UnsupportedVersion {
        /// What the file says.
        version: String,
    },
    /// One of `lowbit.version` and `lowbit.tensors` without the other.
    #[error("the file's metadata lacks `{key}`")]
    MissingKey {
        /// The key that is missing.
        key: &'static str,
    },
    /// `lowbit.tensors` is not the JSON it must be.
    #[error("the file's metadata `{key}` is not valid")]
    BadMetadata {
        /// The key.
        key: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// A compressed weight needs two dimensions or more, each of them below 2³¹.
    #[error("weight `{name}` of shape {shape:?} is no matrix that can be compressed")]
    NotAMatrix {
        /// The weight.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A part of a compressed weight is absent.
    #[error("weight `{name}` lacks its part `{name}.{part}`")]
    MissingPart {
        /// The weight.
        name: String,
        /// `codes`, `metadata`, `scales` or `zeros`.
        part: &'static str,
    },
    /// A tensor is named like a part, or like the whole, of a compressed weight that has
    /// no such tensor.
    #[error("tensor `{tensor}` does not belong beside the compressed weight `{name}`")]
    UnexpectedTensor {
        /// The weight.
        name: String,
        /// The tensor.
        tensor: String,
    },
    /// A part of a compressed weight has the wrong element type.
    #[error("tensor `{name}` is {have} where {need} is needed")]
    WrongDtype {
        /// The tensor.
        name: String,
        /// What the format says.
        need: Dtype,
        /// What the file has.
        have: Dtype,
    },
    /// A part of a compressed weight has the wrong shape.
    #[error("tensor `{name}` has shape {have:?} where {need:?} is needed")]
    WrongShape {
        /// The tensor.
        name: String,
        /// What the format says.
        need: Vec<usize>,
        /// What the file has.
        have: Vec<usize>,
    },
    /// A compressed weight's format, sizes or values are bad.
    #[error("weight `{name}`")]
    Format {
        /// The weight.
        name: String,
        /// The reason.
        source: FormatError,
    },
    /// What is said of the X of a compressed weight cannot be.
    #[error("the activations of weight `{name}`")]
    Activations {
        /// The weight.
        name: String,
        /// The reason.
        source: ActivationError,
    },
    /// A factor that nothing can be divided by.
    #[error(
        "the factor of column {column} of weight `{name}` is {factor}: it must be positive and normal"
    )]
    Factor {
        /// The weight.
        name: String,
        /// The column.
        column: usize,
        /// Its factor.
        factor: f32,
    },
    /// A name or metadata key that the file format or this crate keeps for itself.
    #[error("the name `{name}` is reserved")]
    Reserved {
        /// The name.
        name: String,
    },
    /// The header would be longer than readers accept.
    #[error("a header of {length} bytes is longer than the {limit} that readers accept")]
    HeaderTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A tensor was written that was not declared, or twice.
    #[error("tensor `{name}` was not declared, or is already written")]
    NotDeclared {
        /// The tensor.
        name: String,
    },
    /// A tensor was written in another type, shape or format than declared.
    #[error("tensor `{name}` is not what was declared: {have} where {need} is needed")]
    NotAsDeclared {
        /// The tensor.
        name: String,
        /// What was declared.
        need: String,
        /// What was given.
        have: String,
    },
    /// A declared tensor was never written.
    #[error("tensor `{name}` was declared and never written")]
    NotWritten {
        /// The tensor.
        name: String,
    },
}
