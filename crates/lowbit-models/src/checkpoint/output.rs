use super::writer::FileWriter;
use super::{AtomicFile, Entry, IoError, LayerActivations, beside};
use lowbit::format::PackedWeights;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// Where a model is written: to one file, or to several. Several safetensors files have an index.
///
/// With shards, the path `model.safetensors` stands for `model-00001-of-00003.safetensors`, … and
/// `model.safetensors.index.json`, as other programs name them. The path of a folder that exists stands
/// for `model.safetensors` in it. Several GGUF files have no index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    path: PathBuf,
    shard_bytes: Option<NonZeroU64>,
}

impl<P: AsRef<Path>> From<P> for Output {
    /// One file.
    fn from(path: P) -> Self {
        Self { path: path.as_ref().to_owned(), shard_bytes: None }
    }
}

impl Output {
    /// Writes several files, each with at most `bytes` of tensor data, except that a tensor or compressed
    /// weight is never divided. Safetensors files have an index even if there is only one.
    pub fn in_shards(self, bytes: NonZeroU64) -> Self {
        let path = if self.path.is_dir() { self.path.join("model.safetensors") } else { self.path };
        Self { path, shard_bytes: Some(bytes) }
    }

    /// Returns the file that opens the whole model afterwards: the only file, or the index of safetensors
    /// files. Several GGUF files have no index; the first of them opens the model.
    pub fn entry_point(&self) -> PathBuf {
        if self.shard_bytes.is_none() {
            return self.path.clone();
        }
        let mut name = self.path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".index.json");
        self.path.with_file_name(name)
    }

    /// Returns whether writing may replace `file`: whether it is the file or the index, or has the name of
    /// one of several files, however many there will be.
    pub fn may_replace(&self, file: &Path) -> bool {
        let folder = |path: &Path| beside::folder(path).canonicalize().ok();
        if folder(file).is_none() || folder(file) != folder(&self.path) {
            return false;
        }
        file.file_name() == self.entry_point().file_name()
            || self.shard_bytes.is_some() && self.names_shard(file)
    }

    fn names_shard(&self, file: &Path) -> bool {
        let stem = |path: &Path| Some(path.file_stem()?.to_str()?.to_owned());
        let Some((own, other)) = stem(&self.path).zip(stem(file)) else { return false };
        let numbers = other.strip_prefix(&own).and_then(|rest| rest.strip_prefix('-'));
        let numbers = numbers.and_then(|rest| rest.split_once("-of-"));
        let digits = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
        file.extension() == self.path.extension()
            && numbers.is_some_and(|(number, count)| digits(number) && digits(count))
    }

    /// Returns the path that was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the largest size of one of several files, or `None` for one file.
    pub(super) fn shard_bytes(&self) -> Option<NonZeroU64> {
        self.shard_bytes
    }

    /// Returns the path of file `number` of `count`, from 1.
    pub(super) fn shard(&self, number: usize, count: usize) -> PathBuf {
        let mut name = self.path.file_stem().map_or_else(OsString::new, OsString::from);
        name.push(format!("-{number:05}-of-{count:05}"));
        if let Some(extension) = self.path.extension() {
            name.push(".");
            name.push(extension);
        }
        self.path.with_file_name(name)
    }
}

/// Writes a model to safetensors files, one tensor at a time and in any order.
///
/// All sizes follow from the declared formats and shapes, so the headers are written first and only one
/// tensor needs to be in memory. Each file appears whole or not at all, and the index, if there is one,
/// appears last: a writer that is dropped without [`finish`](Self::finish) leaves nothing behind.
///
/// A compressed weight lies in one file with all its parts, so that each file can be read by itself.
#[derive(Debug)]
pub struct ModelWriter {
    files: Vec<FileWriter>,
    /// The index of the file in which each entry lies.
    places: BTreeMap<String, usize>,
    /// The index, where it is written, and its text.
    index: Option<(AtomicFile, PathBuf, Vec<u8>)>,
}

impl ModelWriter {
    /// Lays the files out and writes their headers. `metadata` is the model's own metadata; this crate's
    /// keys are added if there is a compressed weight.
    ///
    /// # Errors
    /// Returns [`IoError`] if a file cannot be created, if a name is reserved or appears twice
    /// (parts of weights have names too), if a size overflows, or if a shape or format is not valid.
    pub fn create(
        output: impl Into<Output>,
        entries: BTreeMap<String, Entry>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, IoError> {
        Self::create_with_activations(output, entries, BTreeMap::new(), metadata)
    }

    /// Does the same as [`create`](Self::create), and also stores how X of some of the compressed
    /// weights becomes codes.
    ///
    /// # Errors
    /// Returns the errors of [`create`](Self::create) and [`LayerActivations::check`], and
    /// [`IoError::NotFound`] for activations of a name that is not declared as a compressed weight.
    pub fn create_with_activations(
        output: impl Into<Output>,
        entries: BTreeMap<String, Entry>,
        activations: BTreeMap<String, LayerActivations>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, IoError> {
        let output = output.into();
        let Some(most) = output.shard_bytes else {
            let places = entries.keys().map(|name| (name.clone(), 0)).collect();
            let file = FileWriter::create(&output.path, entries, activations, metadata)?;
            return Ok(Self { files: vec![file], places, index: None });
        };
        // This finds names that appear twice in different files, and it knows every size.
        let laid_out = super::writer::lay_out_all(&entries, &activations)?;
        let shards = divide(entries, activations, &laid_out, most.get())?;
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        let (mut weight_map, mut total) = (Map::new(), 0u64);
        let count = shards.len();
        for (file, Shard { entries, activations, bytes }) in shards.into_iter().enumerate() {
            let path = output.shard(file + 1, count);
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            places.extend(entries.keys().map(|name| (name.clone(), file)));
            let file = FileWriter::create(&path, entries, activations, metadata)?;
            let name = Value::from(name.unwrap_or_default());
            weight_map.extend(file.tensors().map(|tensor| (tensor.to_owned(), name.clone())));
            total = total.saturating_add(bytes);
            files.push(file);
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        let mut text = serde_json::to_vec_pretty(&index).map_err(IoError::HeaderJson)?;
        text.push(b'\n');
        let path = output.entry_point();
        let file = AtomicFile::create(&path)?;
        Ok(Self { files, places, index: Some((file, path, text)) })
    }

    /// Returns the file in which an entry lies. One that is not declared is refused by any of them.
    fn file(&mut self, name: &str) -> Result<&mut FileWriter, IoError> {
        let at = self.places.get(name).copied().unwrap_or(0);
        let refused = || IoError::NotDeclared { name: name.to_owned() };
        self.files.get_mut(at).ok_or_else(refused)
    }

    /// Writes a declared plain tensor.
    ///
    /// # Errors
    /// Returns [`IoError::NotDeclared`] if the name was not declared or is already written,
    /// [`IoError::NotAsDeclared`] for a wrong number of bytes or the name of a compressed weight, and
    /// [`IoError::Io`] if the file cannot be written.
    pub fn write_plain(&mut self, name: &str, bytes: &[u8]) -> Result<(), IoError> {
        self.file(name)?.write_plain(name, bytes)
    }

    /// Writes a declared compressed weight.
    ///
    /// # Errors
    /// Returns [`IoError::NotDeclared`] if the name was not declared or is already written,
    /// [`IoError::NotAsDeclared`] for another format or matrix or the name of a plain tensor, and
    /// [`IoError::Io`] if the file cannot be written.
    pub fn write_compressed(&mut self, name: &str, weights: &PackedWeights) -> Result<(), IoError> {
        self.file(name)?.write_compressed(name, weights)
    }

    /// Checks that everything declared was written, and makes the files appear under their names, the
    /// index last.
    ///
    /// # Errors
    /// Returns [`IoError::NotWritten`] or [`IoError::Io`]. Nothing is left behind in that case, except
    /// that files of a model in several files stay if a later one cannot be renamed.
    pub fn finish(self) -> Result<(), IoError> {
        for file in &self.files {
            file.check_written()?;
        }
        for file in self.files {
            file.finish()?;
        }
        let Some((mut index, path, text)) = self.index else { return Ok(()) };
        index.write_all(&text).map_err(|source| IoError::Io { doing: "write", path, source })?;
        index.commit()
    }
}

/// What one of several files holds.
#[derive(Default)]
struct Shard {
    entries: BTreeMap<String, Entry>,
    activations: BTreeMap<String, LayerActivations>,
    bytes: u64,
}

/// Divides entries among files of at most `most` bytes, in the order of their names. `sizes` has the
/// bytes of each entry.
fn divide(
    entries: BTreeMap<String, Entry>,
    mut activations: BTreeMap<String, LayerActivations>,
    sizes: &BTreeMap<String, u64>,
    most: u64,
) -> Result<Vec<Shard>, IoError> {
    let mut shards = vec![Shard::default()];
    for (name, entry) in entries {
        let bytes = sizes.get(&name).copied().unwrap_or(0);
        let full =
            |shard: &Shard| !shard.entries.is_empty() && shard.bytes.saturating_add(bytes) > most;
        if shards.last().is_none_or(full) {
            shards.push(Shard::default());
        }
        if let Some(shard) = shards.last_mut() {
            shard.bytes = shard.bytes.saturating_add(bytes);
            shard.activations.extend(activations.remove_entry(&name));
            shard.entries.insert(name, entry);
        }
    }
    Ok(shards)
}
