use super::GgmlType;
use std::path::PathBuf;

/// The reason why a GGUF file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first word is another.
    #[error("it is no GGUF file")]
    NotGguf,
    /// Offsets in the file are numbers that this platform does not have.
    #[error("the file has {have} bytes, and this platform reads files of fewer than {most}")]
    TooLong {
        /// The length of the file.
        have: u64,
        /// The limit.
        most: u64,
    },
    /// The header does not end where those of models do.
    #[error("the header has more than {most} bytes")]
    LongHeader {
        /// The limit.
        most: u64,
    },
    /// The file ends inside of its header.
    #[error("the file ends inside of {what}, at byte {at}")]
    Truncated {
        /// The part of the header that was being read.
        what: String,
        /// The length of the file.
        at: usize,
    },
    /// The numbers of the file are stored with the highest byte first.
    #[error("the file is GGUF version {version} in big-endian order; only little-endian is read")]
    BigEndian {
        /// The version.
        version: u32,
    },
    /// The version is not 2 or 3.
    #[error("the file is GGUF version {version}; versions 2 and 3 are read")]
    Version {
        /// The version.
        version: u32,
    },
    /// The file states more entries than its bytes can hold.
    #[error("the file states {count} {what}, for which its {have} bytes are too few")]
    Count {
        /// The things that are counted.
        what: &'static str,
        /// The stated number.
        count: u64,
        /// The bytes that are left.
        have: usize,
    },
    /// Text is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// What it is.
        what: String,
    },
    /// Two keys or two tensors have the same name.
    #[error("the {what} `{name}` appears twice")]
    Duplicate {
        /// `key` or `tensor`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A value of the metadata has a type that does not exist.
    #[error("the value of `{key}` has the type {number}, which does not exist")]
    ValueType {
        /// The key.
        key: String,
        /// The number of the type.
        number: u32,
    },
    /// A value is neither true nor false.
    #[error("the value of `{key}` is {value}, where 0 or 1 is needed")]
    Bool {
        /// The key.
        key: String,
        /// The value.
        value: u8,
    },
    /// Arrays are nested too deeply.
    #[error("the value of `{key}` has more than {limit} arrays inside of each other")]
    Depth {
        /// The key.
        key: String,
        /// The limit.
        limit: usize,
    },
    /// A key that this crate needs has a value that it cannot have.
    #[error("the value of `{key}` is {have}, where {need} is needed")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What it must be.
        need: &'static str,
        /// What the file has.
        have: String,
    },
    /// A tensor has more axes than ggml allows.
    #[error("tensor `{name}` has {have} axes; at most {limit} are possible")]
    Axes {
        /// The tensor.
        name: String,
        /// The number of its axes.
        have: u32,
        /// The limit.
        limit: usize,
    },
    /// The size of a tensor overflows.
    #[error("the size of tensor `{name}` {dims:?} overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its sizes, the innermost first, as the file has them.
        dims: Vec<u64>,
    },
    /// The innermost size of a tensor is not whole blocks.
    #[error("rows of tensor `{name}` have {have} elements, which is not whole blocks of {block}")]
    Ragged {
        /// The tensor.
        name: String,
        /// The elements of a row.
        have: usize,
        /// The elements of a block.
        block: usize,
    },
    /// The data of a tensor do not start at a multiple of the file's alignment.
    #[error(
        "tensor `{name}` starts at byte {offset} of the data, which is no multiple of {alignment}"
    )]
    Alignment {
        /// The tensor.
        name: String,
        /// Where its data start.
        offset: u64,
        /// The alignment.
        alignment: usize,
    },
    /// The data of a tensor lie outside of the file.
    #[error(
        "tensor `{name}` ({kind}) has {need} bytes from byte {offset} of the data, of which there are {have}"
    )]
    Range {
        /// The tensor.
        name: String,
        /// Its type.
        kind: GgmlType,
        /// Where its data start.
        offset: u64,
        /// The number of its bytes.
        need: usize,
        /// The number of bytes of data in the file.
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
    /// The file is one of several, and its name does not say where the others are.
    #[error("the file is number {number} of {count}, and its name does not end in `{need}`")]
    SplitName {
        /// Its number, from 1.
        number: u64,
        /// The number of files.
        count: u64,
        /// How its name must end.
        need: String,
    },
    /// The file is one of several, and is to be read by itself.
    #[error("the file is one of {count} that have the model together, and is read alone here")]
    SplitAlone {
        /// The number of files.
        count: u64,
    },
    /// A file of a model in several files cannot be opened.
    #[error("the model is in {count} files, and `{file}` is one {why}")]
    SplitFile {
        /// The number of files.
        count: u64,
        /// The name of the file.
        file: String,
        /// The reason, as the end of the sentence.
        why: &'static str,
    },
    /// A file of a model in several files is damaged.
    #[error("the file `{}` of the model", file.display())]
    InSplit {
        /// The file.
        file: PathBuf,
        /// The fault in it.
        source: Box<GgufError>,
    },
    /// A file of a model in several files belongs to another model, or has another number.
    #[error("`{file}` says that its `{key}` is {have}, where {need} is needed")]
    SplitMismatch {
        /// The file.
        file: String,
        /// The key.
        key: &'static str,
        /// What it says.
        have: String,
        /// What it must say.
        need: u64,
    },
    /// The files of a model have another number of tensors than they should.
    #[error("the files of the model have {have} tensors, where {need} are needed")]
    SplitTensors {
        /// The number of tensors.
        have: usize,
        /// What the first file says.
        need: u64,
    },
    /// A tensor to write is not one of the file whose metadata are copied.
    #[error(
        "the metadata are those of another model: it has {}, and the tensor to write is `{name}` {have:?}",
        other(name, need.as_deref())
    )]
    OtherModel {
        /// The tensor.
        name: String,
        /// Its shape.
        have: Vec<usize>,
        /// The shape that it has in that file, if it is there.
        need: Option<Vec<usize>>,
    },
}

fn other(name: &str, shape: Option<&[usize]>) -> String {
    match shape {
        None => "no tensor of that name".to_owned(),
        Some(shape) => format!("`{name}` {shape:?}"),
    }
}

impl GgufError {
    /// Returns what the user can do about it, as a sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Truncated { .. } | Self::Range { .. } | Self::Count { .. } => {
                "the file is damaged or cut off: download it again"
            }
            Self::NotGguf => "choose a GGUF file",
            Self::TooLong { .. } => "use a smaller model, or one in a type of fewer bits",
            Self::BigEndian { .. } => {
                "`gguf-convert-endian` of the Python package `gguf` turns it around"
            }
            Self::Version { version: 0 | 1 } => "convert the model again with llama.cpp",
            Self::Version { .. } => "a newer lowbit may read it",
            Self::SplitAlone { .. } => "join them with `llama-gguf-split --merge`",
            Self::SplitName { .. } => "give the file its original name back",
            Self::SplitFile { .. } | Self::SplitMismatch { .. } | Self::SplitTensors { .. } => {
                "fetch all files of the model into one folder"
            }
            Self::InSplit { source, .. } => source.next_step(),
            Self::OtherModel { .. } => {
                "copy the metadata of a GGUF file of this very model, from which it was imported; lowbit \
                 neither renames tensors nor changes the order of their rows, as llama.cpp's \
                 convert_hf_to_gguf.py does with a checkpoint of Hugging Face"
            }
            _ => "the file is damaged, or the program that wrote it has a fault",
        }
    }
}
