use super::header::{LENGTH_BYTES, MAX_HEADER, METADATA};
use super::parts::{
    Part, RawInfo, TENSORS_KEY, VERSION, VERSION_ACTIVATIONS, VERSION_KEY, factors_tensor,
};
use super::{AtomicFile, CompressedInfo, IoError, LayerActivations, ModelWriter, Output};
use lowbit::format::PackedWeights;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Declares what the file will hold under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An ordinary tensor.
    Plain {
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A compressed weight.
    Compressed(CompressedInfo),
}

/// A tensor to write.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// An ordinary tensor.
    Plain {
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: &'a [usize],
        /// Its bytes, little-endian and row-major, of the size that follows from type and shape.
        bytes: &'a [u8],
    },
    /// A compressed weight.
    Compressed {
        /// The original shape, of two or more dimensions.
        shape: &'a [usize],
        /// The weight as the matrix `[shape[0], product of the rest]`.
        weights: &'a PackedWeights,
    },
}

/// Writes one safetensors file, one tensor at a time and in any order.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: AtomicFile,
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    activations: BTreeMap<String, LayerActivations>,
    /// Byte ranges in the file of every tensor, parts of weights included.
    places: BTreeMap<String, TensorInfo>,
    data_start: u64,
}

impl FileWriter {
    /// Lays the file out and writes its header.
    pub fn create(
        path: &Path,
        entries: BTreeMap<String, Entry>,
        activations: BTreeMap<String, LayerActivations>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, IoError> {
        let mut places = lay_out(&entries)?;
        lay_out_factors(&entries, &activations, &mut places)?;
        let header = header_bytes(&entries, &activations, &mut places, metadata)?;
        let path = path.to_owned();
        let file = AtomicFile::create(&path)?;
        let data_start = (LENGTH_BYTES + header.len()) as u64;
        let mut writer = Self { file, path, entries, activations, places, data_start };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// Returns the names of the tensors of the file, parts of weights included.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    fn error(&self, source: std::io::Error) -> IoError {
        IoError::Io { doing: "write", path: self.path.clone(), source }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        self.file.write_all(bytes).map_err(|source| self.error(source))
    }

    /// Seeks to the place of a tensor's bytes.
    fn seek(&mut self, tensor: &str) -> Result<(), IoError> {
        let start = self.places.get(tensor).map_or(0, |info| info.data_offsets.0);
        let at = SeekFrom::Start(self.data_start + start as u64);
        self.file.seek(at).map(|_| ()).map_err(|source| self.error(source))
    }

    /// Removes a declared entry, so that it counts as written.
    fn take(&mut self, name: &str) -> Result<Entry, IoError> {
        self.entries.remove(name).ok_or_else(|| IoError::NotDeclared { name: name.to_owned() })
    }

    /// Writes a declared plain tensor.
    pub fn write_plain(&mut self, name: &str, bytes: &[u8]) -> Result<(), IoError> {
        let wrong = |need: String| IoError::NotAsDeclared {
            name: name.to_owned(),
            need,
            have: format!("a tensor of {} bytes", bytes.len()),
        };
        if let Entry::Compressed(info) = self.take(name)? {
            return Err(wrong(info.format.to_string()));
        }
        let need =
            self.places.get(name).map_or(0, |info| info.data_offsets.1 - info.data_offsets.0);
        if need != bytes.len() {
            return Err(wrong(format!("a tensor of {need} bytes")));
        }
        self.seek(name)?;
        self.put(bytes)
    }

    /// Writes a declared compressed weight.
    pub fn write_compressed(&mut self, name: &str, weights: &PackedWeights) -> Result<(), IoError> {
        let geometry = *weights.geometry();
        let have = || format!("{}×{} {}", geometry.n, geometry.k, geometry.format);
        let wrong = |need| IoError::NotAsDeclared { name: name.to_owned(), need, have: have() };
        let need = match self.take(name)? {
            Entry::Plain { dtype, shape } => return Err(wrong(format!("{dtype} {shape:?}"))),
            Entry::Compressed(info) => info.geometry(name)?,
        };
        if need != geometry {
            return Err(wrong(format!("{}×{} {}", need.n, need.k, need.format)));
        }
        for part in Part::ALL {
            let tensor = part.tensor(name);
            if self.places.contains_key(&tensor) {
                self.seek(&tensor)?;
                part.write(weights.parts(), &mut |bytes| self.put(bytes))?;
            }
        }
        let activations = self.activations.remove(name);
        if let Some(factors) = activations.and_then(|activations| activations.factors) {
            self.seek(&factors_tensor(name))?;
            for factor in factors {
                self.put(&factor.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Checks that everything declared was written.
    pub fn check_written(&self) -> Result<(), IoError> {
        match self.entries.keys().next() {
            Some(name) => Err(IoError::NotWritten { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Makes the file appear under its name.
    pub fn finish(self) -> Result<(), IoError> {
        self.check_written()?;
        self.file.commit()
    }
}

/// Checks all entries together, as if they lay in one file, and returns the bytes of each.
pub(super) fn lay_out_all(
    entries: &BTreeMap<String, Entry>,
    activations: &BTreeMap<String, LayerActivations>,
) -> Result<BTreeMap<String, u64>, IoError> {
    let mut places = lay_out(entries)?;
    lay_out_factors(entries, activations, &mut places)?;
    let bytes = |tensor: &str| -> Result<u64, IoError> {
        places.get(tensor).map_or(Ok(0), |info| Ok(bits(tensor, info)? as u64 / 8))
    };
    let mut sizes = BTreeMap::new();
    for (name, entry) in entries {
        let mut size = bytes(name)?;
        if let Entry::Compressed(_) = entry {
            let parts = Part::ALL.map(|part| part.tensor(name));
            for tensor in parts.iter().chain([&factors_tensor(name)]) {
                size = size.saturating_add(bytes(tensor)?);
            }
        }
        sizes.insert(name.clone(), size);
    }
    Ok(sizes)
}

/// Returns the bits of a tensor, which are whole bytes.
fn bits(name: &str, info: &TensorInfo) -> Result<usize, IoError> {
    info.shape
        .iter()
        .try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size))
        .filter(|bits| bits % 8 == 0)
        .ok_or_else(|| IoError::Overflow { name: name.to_owned(), shape: info.shape.clone() })
}

/// Returns the type and shape of every tensor of the file; the places follow later.
fn lay_out(entries: &BTreeMap<String, Entry>) -> Result<BTreeMap<String, TensorInfo>, IoError> {
    let mut places = BTreeMap::new();
    let mut add = |name: String, dtype: Dtype, shape: Vec<usize>| {
        if name == METADATA {
            return Err(IoError::Reserved { name });
        }
        let info = TensorInfo { dtype, shape, data_offsets: (0, 0) };
        match places.insert(name.clone(), info) {
            Some(_) => Err(IoError::DuplicateName { name }),
            None => Ok(()),
        }
    };
    for (name, entry) in entries {
        match entry {
            Entry::Plain { dtype, shape } => add(name.clone(), *dtype, shape.clone())?,
            Entry::Compressed(info) => {
                let geometry = info.geometry(name)?;
                for part in Part::ALL {
                    let tensor = part.tensor(name);
                    // Readers refuse such a file even where the part is absent.
                    if entries.contains_key(&tensor) {
                        return Err(IoError::UnexpectedTensor { name: name.clone(), tensor });
                    }
                    if let Some((dtype, shape)) = part.layout(&geometry) {
                        add(tensor, dtype, shape)?;
                    }
                }
            }
        }
    }
    Ok(places)
}

/// Adds the factors of X, and checks how X becomes codes.
fn lay_out_factors(
    entries: &BTreeMap<String, Entry>,
    activations: &BTreeMap<String, LayerActivations>,
    places: &mut BTreeMap<String, TensorInfo>,
) -> Result<(), IoError> {
    for (name, activations) in activations {
        let Some(Entry::Compressed(info)) = entries.get(name) else {
            let what = "compressed weight";
            return Err(IoError::NotFound { what, name: name.clone() });
        };
        activations.check(name, info.geometry(name)?.k)?;
        let Some(factors) = &activations.factors else { continue };
        let shape = vec![factors.len()];
        let place = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (0, 0) };
        let tensor = factors_tensor(name);
        // A compressed weight of that name has no such tensor, but it takes the name.
        if entries.contains_key(&tensor) || places.insert(tensor.clone(), place).is_some() {
            return Err(IoError::UnexpectedTensor { name: name.clone(), tensor });
        }
    }
    Ok(())
}

/// A value of the header.
#[derive(Serialize)]
#[serde(untagged)]
enum HeaderValue<'a> {
    Metadata(&'a BTreeMap<String, String>),
    Tensor(&'a TensorInfo),
}

/// Assigns every tensor its place and builds the header, padded to eight bytes.
fn header_bytes(
    entries: &BTreeMap<String, Entry>,
    activations: &BTreeMap<String, LayerActivations>,
    places: &mut BTreeMap<String, TensorInfo>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, IoError> {
    // The widest elements come first, as in the safetensors crate, so that every tensor is aligned to
    // its elements; then the order is by name, so that the same input gives the same file.
    let mut order: Vec<(&String, &mut TensorInfo)> = places.iter_mut().collect();
    order.sort_by_key(|(_, info)| std::cmp::Reverse(info.dtype.bitsize()));
    let mut at = 0usize;
    for (name, info) in order {
        let overflow = || IoError::Overflow { name: name.clone(), shape: info.shape.clone() };
        let end = at.checked_add(bits(name, info)? / 8).ok_or_else(overflow)?;
        info.data_offsets = (at, end);
        at = end;
    }
    let metadata = with_index(entries, activations, metadata)?;
    let mut values: BTreeMap<&str, HeaderValue<'_>> =
        places.iter().map(|(name, info)| (name.as_str(), HeaderValue::Tensor(info))).collect();
    if !metadata.is_empty() {
        values.insert(METADATA, HeaderValue::Metadata(&metadata));
    }
    let mut header = serde_json::to_vec(&values).map_err(IoError::HeaderJson)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > MAX_HEADER {
        return Err(IoError::HeaderTooLong { length: header.len(), limit: MAX_HEADER });
    }
    Ok(header)
}

/// Adds this crate's index to the file's own metadata.
fn with_index(
    entries: &BTreeMap<String, Entry>,
    activations: &BTreeMap<String, LayerActivations>,
    metadata: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, IoError> {
    let mut metadata = metadata.clone();
    for key in [VERSION_KEY, TENSORS_KEY] {
        if metadata.contains_key(key) {
            return Err(IoError::Reserved { name: key.to_owned() });
        }
    }
    let index: BTreeMap<&str, RawInfo> = entries
        .iter()
        .filter_map(|(name, entry)| match entry {
            Entry::Plain { .. } => None,
            Entry::Compressed(CompressedInfo { format, shape }) => {
                let activations = activations.get(name).map(Into::into);
                let (format, shape) = (format.to_string(), shape.clone());
                let raw = RawInfo { format, shape, activations };
                Some((name.as_str(), raw))
            }
        })
        .collect();
    if !index.is_empty() {
        let index = serde_json::to_string(&index)
            .map_err(|source| IoError::BadMetadata { key: TENSORS_KEY, source })?;
        let version = if activations.is_empty() { VERSION } else { VERSION_ACTIVATIONS };
        metadata.insert(VERSION_KEY.to_owned(), version.to_owned());
        metadata.insert(TENSORS_KEY.to_owned(), index);
    }
    Ok(metadata)
}

/// Writes a whole model from tensors in memory. [`ModelWriter`] takes them one by one.
///
/// # Errors
/// Returns the errors of [`ModelWriter`]; nothing is left behind in that case.
pub fn write_model(
    output: impl Into<Output>,
    tensors: &[(&str, Content<'_>)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), IoError> {
    let mut entries = BTreeMap::new();
    for &(name, content) in tensors {
        let entry = match content {
            Content::Plain { dtype, shape, .. } => Entry::Plain { dtype, shape: shape.to_vec() },
            Content::Compressed { shape, weights } => Entry::Compressed(CompressedInfo {
                format: weights.format(),
                shape: shape.to_vec(),
            }),
        };
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err(IoError::DuplicateName { name: name.to_owned() });
        }
    }
    let mut writer = ModelWriter::create(output, entries, metadata)?;
    for &(name, content) in tensors {
        match content {
            Content::Plain { bytes, .. } => writer.write_plain(name, bytes)?,
            Content::Compressed { weights, .. } => writer.write_compressed(name, weights)?,
        }
    }
    writer.finish()
}
