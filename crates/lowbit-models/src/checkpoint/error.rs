use lowbit::format::{ActivationError, FormatError};
use safetensors::Dtype;
use std::path::PathBuf;

/// The reason why a model file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The operating system reported an error.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// The operation: `open`, `read`, `create`, `write` or `replace`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error that it reported.
        source: std::io::Error,
    },
    /// The file has fewer than the eight bytes that every safetensors file starts with.
    #[error("{have} bytes are too few for a safetensors file, which starts with eight")]
    TooShort {
        /// The number of bytes in the file.
        have: usize,
    },
    /// The stated length of the header exceeds the file or the format's limit.
    #[error("the file states a header of {length} bytes; at most {limit} are possible")]
    HeaderLength {
        /// The stated length.
        length: u64,
        /// The largest possible length.
        limit: u64,
    },
    /// The header is not valid JSON, or does not have the required form.
    #[error("the header is not valid")]
    HeaderJson(#[source] serde_json::Error),
    /// Two tensors, or two entries of an index, have the same name.
    #[error("the name `{name}` appears twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// The offsets of a tensor lie outside of the file, or the end comes before the start.
    #[error("tensor `{name}` claims bytes {start}..{end} of {have}")]
    BadOffsets {
        /// The tensor.
        name: String,
        /// Its first byte.
        start: usize,
        /// The byte after its last byte.
        end: usize,
        /// The number of bytes of tensor data in the file.
        have: usize,
    },
    /// Two tensors overlap.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The other.
        second: String,
    },
    /// Some bytes belong to no tensor, which the format does not allow.
    #[error("bytes {start}..{end} of the data belong to no tensor")]
    Gap {
        /// The first such byte.
        start: usize,
        /// The byte after the last.
        end: usize,
    },
    /// The size of a tensor does not follow from its type and shape.
    #[error("tensor `{name}` has {have} bytes, which is not the size of {dtype} {shape:?}")]
    WrongSize {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Its number of bytes.
        have: usize,
    },
    /// The size of a shape in bytes does not fit into the address space.
    #[error("the size of tensor `{name}` {shape:?} overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// There is no tensor, or no compressed weight, of that name.
    #[error("there is no {what} `{name}` in the file")]
    NotFound {
        /// `tensor` or `compressed weight`.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// Floats are needed, and the tensor is not F32, F16 or BF16.
    #[error("tensor `{name}` is {dtype}; only F32, F16 and BF16 are read as floats")]
    NotFloat {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// This crate does not read this `lowbit.version`.
    #[error("the file's lowbit.version is `{version}`; this crate reads versions 1 and 2")]
    UnsupportedVersion {
        /// What the file says.
        version: String,
    },
    /// The metadata has only one of `lowbit.version` and `lowbit.tensors`.
    #[error("the file's metadata lacks `{key}`")]
    MissingKey {
        /// The key that is missing.
        key: &'static str,
    },
    /// `lowbit.tensors` is not valid JSON, or does not have the required form.
    #[error("the file's metadata `{key}` is not valid")]
    BadMetadata {
        /// The key.
        key: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// The shape is not one of two or more dimensions that gives a matrix with n and k below 2³¹.
    #[error("weight `{name}` of shape {shape:?} is not a matrix that can be compressed")]
    NotAMatrix {
        /// The weight.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A part of a compressed weight is missing.
    #[error("weight `{name}` lacks its part `{name}.{part}`")]
    MissingPart {
        /// The weight.
        name: String,
        /// `codes`, `metadata`, `scales` or `zeros`.
        part: &'static str,
    },
    /// A tensor has the name of a compressed weight, or of a part that the weight does not have.
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
        /// What the format requires.
        need: Dtype,
        /// What the file has.
        have: Dtype,
    },
    /// A part of a compressed weight has the wrong shape.
    #[error("tensor `{name}` has shape {have:?} where {need:?} is needed")]
    WrongShape {
        /// The tensor.
        name: String,
        /// What the format requires.
        need: Vec<usize>,
        /// What the file has.
        have: Vec<usize>,
    },
    /// The format, sizes or values of a compressed weight are not valid.
    #[error("weight `{name}`")]
    Format {
        /// The weight.
        name: String,
        /// The reason.
        source: FormatError,
    },
    /// What the file says about the X of a compressed weight is not valid.
    #[error("the activations of weight `{name}`")]
    Activations {
        /// The weight.
        name: String,
        /// The reason.
        source: ActivationError,
    },
    /// A factor is zero, negative, subnormal or not finite.
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
    /// The file format or this crate reserves a name or metadata key.
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
    /// A tensor was written that was not declared, or was written twice.
    #[error("tensor `{name}` was not declared, or is already written")]
    NotDeclared {
        /// The tensor.
        name: String,
    },
    /// A tensor was written with another type, shape or format than declared.
    #[error("tensor `{name}` is not what was declared: {have} where {need} is needed")]
    NotAsDeclared {
        /// The tensor.
        name: String,
        /// The declared type, shape or format.
        need: String,
        /// The type, shape or format of the data that was to be written.
        have: String,
    },
    /// A declared tensor was never written.
    #[error("tensor `{name}` was declared and never written")]
    NotWritten {
        /// The tensor.
        name: String,
    },
    /// A JSON file that belongs to a model is not valid, or does not have the required form.
    #[error("`{}` is not valid", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// A JSON file that belongs to a model is too long to be one.
    #[error("`{}` has more than {limit} bytes", path.display())]
    JsonTooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// An index of files was given, and none of them lies beside it.
    #[error(
        "it is an index of {files} files, and none of them lies beside it: the first is `{first}`"
    )]
    IndexAlone {
        /// The number of files that it names.
        files: usize,
        /// The first of them.
        first: String,
    },
    /// A file that the index names cannot be opened.
    #[error("the index names the file `{shard}`, {why}")]
    BadShard {
        /// The file, as the index names it.
        shard: String,
        /// The reason, as the end of the sentence.
        why: &'static str,
    },
    /// A file that the index names is damaged.
    #[error("the file `{shard}` of the model")]
    InShard {
        /// The file, as the index names it.
        shard: String,
        /// The fault in it.
        source: Box<IoError>,
    },
    /// A tensor is not in the file that the index names.
    #[error(
        "the index says that tensor `{name}` is in `{shard}`; it is in {}",
        have.as_ref().map_or("none of the files".to_owned(), |have| format!("`{have}`"))
    )]
    NotInShard {
        /// The tensor.
        name: String,
        /// The file that the index names.
        shard: String,
        /// The file that has the tensor, if there is one.
        have: Option<String>,
    },
    /// A file of the model has a tensor that the index does not name.
    #[error("the index does not name tensor `{name}`, which is in `{shard}`")]
    NotInIndex {
        /// The tensor.
        name: String,
        /// The file that has it.
        shard: String,
    },
    /// Two files of a model have a tensor of the same name.
    #[error("tensor `{name}` is in `{first}` and in `{second}`")]
    InTwoShards {
        /// The tensor.
        name: String,
        /// The first of the files.
        first: String,
        /// The other.
        second: String,
    },
}

impl IoError {
    /// Returns what the user can do where the operating system refused a file: another path, more rights,
    /// or more room. Returns `None` for all other errors.
    pub fn system_step(&self) -> Option<&'static str> {
        use std::io::ErrorKind;
        let Self::Io { doing, source, .. } = self else { return None };
        let writing = matches!(*doing, "create" | "write" | "replace");
        Some(match source.kind() {
            ErrorKind::NotFound if writing => "make the folder first, or give another path",
            ErrorKind::NotFound => "is the path right?",
            ErrorKind::PermissionDenied if writing => "may this user write there?",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room, or give another path",
            _ if writing => "is there room, and may this user write there?",
            _ => "is it a file that this user may read?",
        })
    }
}
