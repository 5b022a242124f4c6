use super::beside;
use super::bytes::FileBytes;
use super::header::{self, Pairs};
use super::parts::{
    Part, RawInfo, TENSORS_KEY, VERSION, VERSION_ACTIVATIONS, VERSION_KEY, factors_tensor,
    read_parts,
};
use super::shards::{self, Shard};
use super::{CompressedInfo, IoError, LayerActivations};
use half::{bf16, f16};
use lowbit::format::{Geometry, PackedWeights, Quantization};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A tensor of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its bytes: little-endian, row-major, and not aligned.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// Returns whether [`to_f32`](Self::to_f32) can read it: whether it is F32, F16 or BF16.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Returns its elements, converted exactly.
    ///
    /// # Errors
    /// Returns [`IoError::NotFloat`] for other types.
    pub fn to_f32(&self) -> Result<Vec<f32>, IoError> {
        match self.dtype {
            Dtype::F32 => Ok(decode(self.bytes, f32::from_le_bytes)),
            Dtype::F16 => Ok(decode(self.bytes, |pair| f16::from_le_bytes(pair).to_f32())),
            Dtype::BF16 => Ok(decode(self.bytes, |pair| bf16::from_le_bytes(pair).to_f32())),
            dtype => Err(IoError::NotFloat { name: self.name.to_owned(), dtype }),
        }
    }
}

/// Decodes elements of `SIZE` bytes. The bytes may start at any address.
fn decode<T, const SIZE: usize>(bytes: &[u8], element: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(SIZE)
        .map(|chunk| {
            let mut exact = [0; SIZE];
            exact.copy_from_slice(chunk);
            element(exact)
        })
        .collect()
}

/// Where a tensor is.
pub(super) struct Place {
    /// The index of the file.
    pub file: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// An open safetensors model, with or without compressed weights: one file, or several with an index.
pub struct ModelFile {
    files: Vec<(String, FileBytes)>,
    folder: Option<PathBuf>,
    config: Value,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
    compressed: BTreeMap<String, CompressedInfo>,
    /// How X of compressed weights becomes codes, and whether the file has factors.
    activations: BTreeMap<String, (Quantization, bool)>,
    /// Tensors that are parts of compressed weights.
    parts: BTreeSet<String>,
}

impl std::fmt::Debug for ModelFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelFile")
            .field("files", &self.files.len())
            .field("bytes", &self.file_bytes())
            .field("tensors", &self.tensors.len())
            .field("compressed", &self.compressed.len())
            .finish()
    }
}

impl ModelFile {
    /// Opens a model and checks its headers and indexes. Regular files are memory-mapped.
    ///
    /// `path` is a safetensors file or the index of a model in several files
    /// (`model.safetensors.index.json`). The files that an index names must have exactly the tensors
    /// that it lists, and must lie in its folder. (Links of the Hugging Face cache may lead to the
    /// folder of the real index.) A `config.json` in the folder is read as well.
    /// [`source::open`](super::source::open) also finds the model of a folder.
    ///
    /// The files must not be changed in place while they are open; replacing them by a rename,
    /// as [`ModelWriter`](super::ModelWriter) does, is safe.
    ///
    /// # Errors
    /// Returns [`IoError`] if a file cannot be read, is not a safetensors file, has an index of
    /// compressed weights that is not valid, or does not agree with the index of the files, or if
    /// `config.json` is not a JSON object. The parts of a compressed weight are checked when it is
    /// read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, IoError> {
        let path = path.as_ref();
        Self::open_bytes(path, FileBytes::open(path)?)
    }

    /// Does the same as [`open`](Self::open) for a file that is open already.
    pub(super) fn open_bytes(path: &Path, bytes: FileBytes) -> Result<Self, IoError> {
        let shards = if bytes.trim_ascii_start().starts_with(b"{") && shards::is_index(&bytes) {
            shards::open(path, &bytes)?
        } else {
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
            vec![Shard::new(name, bytes)?]
        };
        let folder = beside::folder(path);
        let config = shards::read_object(folder, "config.json")?;
        Self::new(shards, Some(folder.to_owned()), config)
    }

    /// Does the same as [`open`](Self::open) for the bytes of one file in memory.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, IoError> {
        let shard = Shard::new(String::new(), FileBytes::Read(bytes))?;
        Self::new(vec![shard], None, Value::Null)
    }

    /// Returns a model of plain tensors that lie in files of any format. `tensors` have places inside of
    /// them, of the sizes of their types and shapes.
    pub(super) fn from_plain(
        files: Vec<(String, FileBytes)>,
        tensors: BTreeMap<String, Place>,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        let (compressed, activations) = Index::default();
        let (folder, config, parts) = (None, Value::Null, BTreeSet::new());
        Self { files, folder, config, tensors, metadata, compressed, activations, parts }
    }

    fn new(shards: Vec<Shard>, folder: Option<PathBuf>, config: Value) -> Result<Self, IoError> {
        let mut files = Vec::new();
        let mut tensors: BTreeMap<String, Place> = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        let mut index = Index::default();
        for (file, Shard { name, bytes, header }) in shards.into_iter().enumerate() {
            // No name appears twice: the index of the files was checked.
            tensors.extend(header.tensors.into_iter().map(|(name, info)| {
                let (start, end) = info.data_offsets;
                let range = header.data_start + start..header.data_start + end;
                (name, Place { file, dtype: info.dtype, shape: info.shape, range })
            }));
            let mut own = header.metadata;
            take_index(&mut own, &mut index)?;
            // What several files say differently, such as a checksum, is that of the first file.
            for (key, value) in own {
                metadata.entry(key).or_insert(value);
            }
            files.push((name, bytes));
        }
        let (compressed, activations) = index;
        let mut parts = BTreeSet::new();
        for name in compressed.keys() {
            if tensors.contains_key(name) {
                return Err(IoError::UnexpectedTensor { name: name.clone(), tensor: name.clone() });
            }
            parts.extend(
                Part::ALL.map(|p| p.tensor(name)).into_iter().filter(|p| tensors.contains_key(p)),
            );
        }
        let smoothed = activations.iter().filter(|(_, (_, smoothed))| *smoothed);
        parts.extend(smoothed.map(|(name, _)| factors_tensor(name)));
        Ok(Self { files, folder, config, tensors, metadata, compressed, activations, parts })
    }

    /// Returns the number of bytes of all files together.
    pub fn file_bytes(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Returns the names of the files, as the index names them.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the folder in which the model lies, or `None` if it was opened from bytes.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Returns `config.json` of the folder, which names the architecture and how the weights are
    /// quantized, or null if there is none.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Returns the metadata of the files, without this crate's two keys. If several files give a key
    /// different values, it has that of the first file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns every tensor of the file, including parts of compressed weights, ordered by name.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|(name, place)| self.view(name, place))
    }

    /// Returns the tensors that are not parts of compressed weights, ordered by name.
    pub fn plain(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.tensors().filter(|tensor| !self.parts.contains(tensor.name))
    }

    /// Returns a tensor of the file, which may be a part of a compressed weight.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.get_key_value(name).map(|(name, place)| self.view(name, place))
    }

    fn view<'a>(&'a self, name: &'a str, place: &'a Place) -> Tensor<'a> {
        let bytes = &self.files[place.file].1[place.range.clone()];
        Tensor { name, dtype: place.dtype, shape: &place.shape, bytes }
    }

    /// Returns the elements of a float tensor, converted exactly.
    ///
    /// # Errors
    /// Returns [`IoError::NotFound`] or [`IoError::NotFloat`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, IoError> {
        let missing = || IoError::NotFound { what: "tensor", name: name.to_owned() };
        self.tensor(name).ok_or_else(missing)?.to_f32()
    }

    /// Returns the compressed weights, by name.
    pub fn compressed(&self) -> &BTreeMap<String, CompressedInfo> {
        &self.compressed
    }

    /// Checks that a compressed weight has its parts with the right types and shapes, and no others.
    /// Returns its layout. This reads no values.
    ///
    /// # Errors
    /// Returns [`IoError`] with the name of the weight or part.
    pub fn check_compressed(&self, name: &str) -> Result<Geometry, IoError> {
        let missing = || IoError::NotFound { what: "compressed weight", name: name.to_owned() };
        let geometry = self.compressed.get(name).ok_or_else(missing)?.geometry(name)?;
        for part in Part::ALL {
            let tensor = part.tensor(name);
            match (part.layout(&geometry), self.tensors.get(&tensor)) {
                (None, None) => {}
                (None, Some(_)) => {
                    return Err(IoError::UnexpectedTensor { name: name.to_owned(), tensor });
                }
                (Some(_), None) => {
                    let part = part.name();
                    return Err(IoError::MissingPart { name: name.to_owned(), part });
                }
                (Some((need, _)), Some(place)) if need != place.dtype => {
                    return Err(IoError::WrongDtype { name: tensor, need, have: place.dtype });
                }
                (Some((_, need)), Some(place)) if need != place.shape => {
                    let have = place.shape.clone();
                    return Err(IoError::WrongShape { name: tensor, need, have });
                }
                (Some(_), Some(_)) => {}
            }
        }
        if let Some(&(quantization, smoothed)) = self.activations.get(name) {
            let format = quantization.format();
            format
                .layout(geometry.k)
                .map_err(|source| IoError::Activations { name: name.to_owned(), source })?;
            if smoothed {
                self.check_factors(name, geometry.k)?;
            }
        }
        Ok(geometry)
    }

    fn check_factors(&self, name: &str, k: usize) -> Result<(), IoError> {
        let tensor = factors_tensor(name);
        let missing = || IoError::MissingPart { name: name.to_owned(), part: "factors" };
        let place = self.tensors.get(&tensor).ok_or_else(missing)?;
        if place.dtype != Dtype::F32 {
            let (need, have) = (Dtype::F32, place.dtype);
            return Err(IoError::WrongDtype { name: tensor, need, have });
        }
        if place.shape != [k] {
            let (need, have) = (vec![k], place.shape.clone());
            return Err(IoError::WrongShape { name: tensor, need, have });
        }
        Ok(())
    }

    /// Returns how X of a compressed weight becomes 8-bit codes, or `None` if the file does not say it.
    ///
    /// # Errors
    /// Returns the errors of [`check_compressed`](Self::check_compressed), and [`IoError::Factor`] if
    /// a factor is not a positive normal number.
    pub fn activations(&self, name: &str) -> Result<Option<LayerActivations>, IoError> {
        let k = self.check_compressed(name)?.k;
        let Some(&(quantization, smoothed)) = self.activations.get(name) else { return Ok(None) };
        let factors = smoothed.then(|| self.read_f32(&factors_tensor(name))).transpose()?;
        let activations = LayerActivations { quantization, factors };
        activations.check(name, k)?;
        Ok(Some(activations))
    }

    /// Returns the bytes of a part; there are none if the part has no elements and is absent.
    fn part(&self, name: &str, part: Part) -> &[u8] {
        self.tensor(&part.tensor(name)).map_or(&[], |tensor| tensor.bytes)
    }
}

type Index = (BTreeMap<String, CompressedInfo>, BTreeMap<String, (Quantization, bool)>);

/// Removes this crate's keys from the metadata and adds what they list to the index.
fn take_index(
    metadata: &mut BTreeMap<String, String>,
    (compressed, activations): &mut Index,
) -> Result<(), IoError> {
    let index = match (metadata.remove(VERSION_KEY), metadata.remove(TENSORS_KEY)) {
        (None, None) => return Ok(()),
        (Some(version), _) if version != VERSION && version != VERSION_ACTIVATIONS => {
            return Err(IoError::UnsupportedVersion { version });
        }
        (Some(_), Some(index)) => index,
        (None, Some(_)) => return Err(IoError::MissingKey { key: VERSION_KEY }),
        (Some(_), None) => return Err(IoError::MissingKey { key: TENSORS_KEY }),
    };
    let Pairs(index): Pairs<RawInfo> = serde_json::from_str(&index)
        .map_err(|source| IoError::BadMetadata { key: TENSORS_KEY, source })?;
    for (name, RawInfo { format, shape, activations: raw }) in header::unique(index)? {
        let format =
            format.parse().map_err(|source| IoError::Format { name: name.clone(), source })?;
        if let Some(raw) = raw {
            let quantization = raw
                .quantization()
                .map_err(|source| IoError::Activations { name: name.clone(), source })?;
            activations.insert(name.clone(), (quantization, raw.smoothed));
        }
        if compressed.insert(name.clone(), CompressedInfo { format, shape }).is_some() {
            return Err(IoError::DuplicateName { name });
        }
    }
    Ok(())
}

/// Reads a compressed weight. If its [`activations`](ModelFile::activations) have factors, its columns
/// were multiplied with them.
///
/// An engine uploads the weights of a file to its own device:
///
/// ```no_run
/// use lowbit::gpu::Kernels;
/// use lowbit::ops::DeviceWeights;
/// use lowbit_models::checkpoint::{ModelFile, read_compressed};
///
/// # async fn example(kernels: &Kernels) -> Result<(), Box<dyn std::error::Error>> {
/// let file = ModelFile::open("model.lowbit.safetensors")?;
/// for name in file.compressed().keys() {
///     let packed = read_compressed(&file, name)?;
///     let weights = DeviceWeights::upload(kernels, &packed).await?;
///     println!("{name}: {} on the device, {} bytes", packed.format(), weights.device_bytes());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Returns [`IoError`] if there is no such weight, if a part is missing, has the wrong type or shape
/// or should not be there, or if [`PackedWeights::new`] refuses the values.
pub fn read_compressed(file: &ModelFile, name: &str) -> Result<PackedWeights, IoError> {
    // Types and shapes are checked before anything is allocated, so that no allocation is larger than
    // what the file really holds.
    let geometry = file.check_compressed(name)?;
    let parts = read_parts(&geometry, |part| file.part(name, part));
    PackedWeights::new(geometry.format, geometry.n, geometry.k, parts)
        .map_err(|source| IoError::Format { name: name.to_owned(), source })
}
