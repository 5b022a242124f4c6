//! Reads and writes GGUF files, the format of llama.cpp.
//!
//! Versions 2 and 3 in little-endian order are read, also models in several files. A file has metadata
//! and tensors. Rows of a tensor are divided into blocks of 32 to 256 weights, each with its scales; the
//! [type](GgmlType) says how. [`GgufFile`] lists tensors of every type; those that lowbit has a format for are read as
//! [`PackedWeights`](lowbit::format::PackedWeights), codes and scales as they are, and [`write()`]
//! writes them back.
//!
//! Files are not trusted: whatever a file contains, reading it returns a value or an error, and
//! allocates no more than a small multiple of the header's size. Opening a file reads its header only.
//!
//! Sources: `docs/gguf.md` and `ggml.h` of ggml; the Python package `gguf`.

mod array;
mod blocks;
mod cursor;
mod error;
mod header;
mod metadata;
mod ranged;
mod source;
mod split;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod value;
mod write;

pub use error::GgufError;
pub use metadata::GgufMetadata;
pub use ranged::{RangedGguf, ReadBytes};
pub use types::GgmlType;
pub use write::write;

pub(super) use split::split_name;

use super::bytes::FileBytes;
use super::model::{self, ModelFile};
use super::source::{ModelSource, SourceError};
use header::{Header, Place};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// One of the files of a model, with its header.
struct FileParts {
    name: String,
    bytes: FileBytes,
    header: Header,
}

/// A tensor of an open GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub kind: GgmlType,
    /// Its shape, the outermost size first. (The file has the innermost first.)
    pub shape: &'a [usize],
    /// Its bytes: rows one after the other, each of whole blocks.
    pub bytes: &'a [u8],
}

/// An open GGUF model: one file, or several.
///
/// ```no_run
/// use lowbit_models::checkpoint::gguf::GgufFile;
/// let model = GgufFile::open("model.gguf")?;
/// println!("{:?}", model.config()["general.architecture"]);
/// for tensor in model.tensors() {
///     println!("{}: {} {:?}", tensor.name, tensor.kind, tensor.shape);
/// }
/// # Ok::<(), lowbit_models::checkpoint::source::SourceError>(())
/// ```
pub struct GgufFile {
    version: u32,
    files: Vec<(String, FileBytes)>,
    config: Value,
    /// The metadata of the first file as its bytes.
    entries: Vec<(String, Range<usize>)>,
    alignment: usize,
    tensors: BTreeMap<String, Place>,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile")
            .field("version", &self.version)
            .field("files", &self.files.len())
            .field("tensors", &self.tensors.len())
            .finish()
    }
}

impl GgufFile {
    /// Opens a file, and the others of its model if it is one of several (`split.count`), which must lie
    /// in its folder. The files are memory-mapped and must not be changed in place while they are open.
    ///
    /// # Errors
    /// Returns [`SourceError`] if a file cannot be read, is not a GGUF file, or is damaged, or if files of
    /// the model are missing or do not belong together.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let path = path.as_ref();
        Self::open_bytes(path, FileBytes::open(path)?)
    }

    /// Does the same as [`open`](Self::open) for a file that is open already.
    pub(super) fn open_bytes(path: &Path, bytes: FileBytes) -> Result<Self, SourceError> {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let header = Header::read(&bytes, bytes.len())?;
        Self::new(split::open(path, FileParts { name, bytes, header })?)
    }

    /// Reads the bytes of a file in memory. A model in several files is refused.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SourceError> {
        Self::open_bytes(Path::new(""), FileBytes::Read(bytes))
    }

    fn new(parts: Vec<FileParts>) -> Result<Self, SourceError> {
        let (mut files, mut tensors, mut config) = (Vec::new(), BTreeMap::new(), None);
        let (mut version, mut entries, mut alignment) = (0, Vec::new(), header::ALIGNMENT);
        for (file, FileParts { name, bytes, header }) in parts.into_iter().enumerate() {
            // The first file has the metadata of the model, the others their numbers.
            if config.is_none() {
                config = Some(Value::Object(header.metadata.into_iter().collect()));
                (version, entries) = (header.version, header.entries);
                alignment = header.alignment;
            }
            for (tensor, place) in header.tensors {
                if tensors.contains_key(&tensor) {
                    return Err(GgufError::Duplicate { what: "tensor", name: tensor }.into());
                }
                tensors.insert(tensor, Place { file, ..place });
            }
            files.push((name, bytes));
        }
        let config = config.unwrap_or_default();
        Ok(Self { version, files, config, entries, alignment, tensors })
    }

    /// Returns the version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the metadata, by the keys of the file. An array of more than 256 elements, such as a
    /// vocabulary, is `{"array": TYPE, "length": NUMBER}`: [`strings`](Self::strings),
    /// [`integers`](Self::integers) and [`floats`](Self::floats) return its elements.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Returns keys of the metadata in the order of the file, with the bytes of types and values.
    fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let bytes = |range: &Range<usize>| self.files.first().and_then(|f| f.1.get(range.clone()));
        let entries = self.entries.iter();
        entries.map(move |(key, range)| (key.as_str(), bytes(range).unwrap_or_default()))
    }

    /// Returns the alignment of tensor data.
    fn alignment(&self) -> usize {
        self.alignment
    }

    /// Returns the tensors, ordered by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = GgufTensor<'_>> {
        self.tensors.iter().map(|(name, place)| self.view(name, place))
    }

    /// Returns a tensor.
    pub fn tensor(&self, name: &str) -> Option<GgufTensor<'_>> {
        self.tensors.get_key_value(name).map(|(name, place)| self.view(name, place))
    }

    /// Returns the model as one of plain tensors, or `None` if a tensor has blocks.
    pub(super) fn into_plain(self) -> Option<ModelFile> {
        let metadata = ModelSource::metadata(&self);
        let plain = |(name, Place { file, kind, shape, range })| {
            Some((name, model::Place { file, dtype: GgmlType::dtype(kind)?, shape, range }))
        };
        let tensors = self.tensors.into_iter().map(plain).collect::<Option<_>>()?;
        Some(ModelFile::from_plain(self.files, tensors, metadata))
    }

    fn view<'a>(&'a self, name: &'a str, place: &'a Place) -> GgufTensor<'a> {
        let bytes = &self.files[place.file].1[place.range.clone()];
        GgufTensor { name, kind: place.kind, shape: &place.shape, bytes }
    }
}
