//! The tensors of the file, with types, shapes and data checked.

use super::{OnnxError, proto};
use crate::checkpoint::bytes::FileBytes;
use prost::bytes::Bytes;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain(Dtype),
    /// −8…7, two in each byte, the low nibble first.
    Int4,
    /// 0…15, two in each byte, the low nibble first.
    Uint4,
    /// A type that neither this crate nor safetensors files have, by its number in ONNX.
    Other(i32),
}

/// The names of the types that are not read, in `onnx.proto3`.
const OTHERS: [(i32, &str); 11] = [
    (8, "STRING"),
    (14, "COMPLEX64"),
    (15, "COMPLEX128"),
    (17, "FLOAT8E4M3FN"),
    (18, "FLOAT8E4M3FNUZ"),
    (19, "FLOAT8E5M2"),
    (20, "FLOAT8E5M2FNUZ"),
    (23, "FLOAT4E2M1"),
    (24, "FLOAT8E8M0"),
    (25, "UINT2"),
    (26, "INT2"),
];

impl Kind {
    pub fn new(data_type: i32) -> Self {
        Self::Plain(match data_type {
            1 => Dtype::F32,
            2 => Dtype::U8,
            3 => Dtype::I8,
            4 => Dtype::U16,
            5 => Dtype::I16,
            6 => Dtype::I32,
            7 => Dtype::I64,
            9 => Dtype::BOOL,
            10 => Dtype::F16,
            11 => Dtype::F64,
            12 => Dtype::U32,
            13 => Dtype::U64,
            16 => Dtype::BF16,
            21 => return Self::Uint4,
            22 => return Self::Int4,
            other => return Self::Other(other),
        })
    }

    /// Returns whether it can be read as f32.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Plain(Dtype::F32 | Dtype::F16 | Dtype::BF16))
    }

    /// Returns whether it is a type of codes: integers of at most 32 bits, or a type that cannot be
    /// read. Tensors of 64-bit integers are indices and shapes; no operator quantizes to them.
    pub fn is_code(self) -> bool {
        match self {
            Self::Plain(dtype) => matches!(
                dtype,
                Dtype::I8 | Dtype::U8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32
            ),
            Self::Int4 | Self::Uint4 => true,
            // Strings and complex numbers are no codes.
            Self::Other(number) => !matches!(number, 8 | 14 | 15),
        }
    }

    pub fn bits(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.bitsize(),
            Self::Int4 | Self::Uint4 => 4,
            Self::Other(_) => 0,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(dtype) => write!(f, "{dtype}"),
            Self::Int4 => f.write_str("I4"),
            Self::Uint4 => f.write_str("U4"),
            Self::Other(number) => {
                let name = OTHERS.iter().find(|(known, _)| known == number);
                match name {
                    Some((_, name)) => f.write_str(name),
                    None => write!(f, "ONNX type {number}"),
                }
            }
        }
    }
}

/// The largest number of axes: more than any real tensor has. Every node that takes a tensor looks at
/// all of its axes.
const MOST_AXES: usize = 64;

/// A tensor of the file.
pub(super) struct Source {
    pub name: String,
    pub kind: Kind,
    pub shape: Vec<usize>,
    pub elements: usize,
    /// The data, little-endian and row-major, of exactly the size of type and shape; empty for
    /// [`Kind::Other`].
    pub data: Bytes,
    /// Whether it is the value of a `Constant` node and not an initializer.
    pub constant: bool,
    /// The float tensor that it was quantized from, if the file holds only that one and a
    /// `QuantizeLinear`. Such a source is no tensor of the file.
    pub origin: Option<usize>,
}

impl Source {
    pub fn read(message: Bytes, files: &mut Files) -> Result<Self, OnnxError> {
        let tensor: proto::Tensor = super::decode("tensor", message)?;
        super::graph::check_name("tensor", &tensor.name)?;
        let name = tensor.name.clone();
        let bad = |why| OnnxError::BadTensor { name: name.clone(), why };
        if tensor.segment.is_some() {
            return Err(bad("only a segment of it is in the file"));
        }
        if tensor.dims.len() > MOST_AXES {
            return Err(bad("it has more than 64 axes"));
        }
        let kind = Kind::new(tensor.data_type);
        let bad_shape = || OnnxError::BadShape { name: name.clone(), dims: tensor.dims.clone() };
        let shape = tensor.dims.iter().map(|&size| usize::try_from(size).ok());
        let shape: Vec<usize> = shape.collect::<Option<_>>().ok_or_else(bad_shape)?;
        // The check is for bits of the widest type, so that no later product of sizes overflows.
        let elements = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|elements| elements.checked_mul(64).is_some())
            .ok_or_else(bad_shape)?;
        let data = match kind {
            Kind::Other(_) => Bytes::new(),
            _ => data(tensor, kind, files)?,
        };
        let need = (elements * kind.bits()).div_ceil(8);
        if data.len() != need {
            return Err(OnnxError::WrongSize { name, shape, need, have: data.len() });
        }
        Ok(Self { name, kind, shape, elements, data, constant: false, origin: None })
    }

    /// Returns the elements of a float tensor, converted exactly, or `None` for other types.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let Kind::Plain(dtype) = self.kind else { return None };
        let tensor = crate::checkpoint::Tensor {
            name: &self.name,
            dtype,
            shape: &self.shape,
            bytes: &self.data,
        };
        tensor.to_f32().ok()
    }

    /// Returns element `index` of the data read as integers of a type of at most 32 bits, or 0 for other
    /// types.
    pub fn integer(&self, kind: Kind, index: usize) -> i64 {
        let byte = |at: usize| self.data.get(at).copied().unwrap_or(0);
        let nibble = byte(index / 2) >> (index % 2 * 4) & 0xf;
        match kind {
            Kind::Plain(Dtype::I8) => i64::from(byte(index) as i8),
            Kind::Plain(Dtype::U8) => i64::from(byte(index)),
            Kind::Plain(Dtype::I32) => {
                i64::from(i32::from_le_bytes([0, 1, 2, 3].map(|at| byte(4 * index + at))))
            }
            Kind::Int4 => i64::from((nibble as i8) << 4 >> 4),
            Kind::Uint4 => i64::from(nibble),
            _ => 0,
        }
    }
}

/// Returns the data of a tensor, wherever the file stores them.
fn data(tensor: proto::Tensor, kind: Kind, files: &mut Files) -> Result<Bytes, OnnxError> {
    let typed = [
        tensor.float_data.len(),
        tensor.int32_data.len(),
        tensor.int64_data.len(),
        tensor.double_data.len(),
        tensor.uint64_data.len(),
    ];
    let forms = typed.iter().filter(|&&count| count > 0).count()
        + usize::from(tensor.raw_data.as_ref().is_some_and(|raw| !raw.is_empty()))
        + usize::from(tensor.data_location == EXTERNAL);
    if forms > 1 {
        let why = "its data are in two forms";
        return Err(OnnxError::BadTensor { name: tensor.name, why });
    }
    if tensor.data_location == EXTERNAL {
        return files.read(&tensor.name, &tensor.external_data);
    }
    if let Some(raw) = tensor.raw_data.filter(|raw| !raw.is_empty()) {
        return Ok(raw);
    }
    let data = match kind {
        Kind::Plain(Dtype::F32) => le(&tensor.float_data, |v| Some(v.to_le_bytes())),
        Kind::Plain(Dtype::F64) => le(&tensor.double_data, |v| Some(v.to_le_bytes())),
        Kind::Plain(Dtype::I64) => le(&tensor.int64_data, |v| Some(v.to_le_bytes())),
        Kind::Plain(Dtype::U64) => le(&tensor.uint64_data, |v| Some(v.to_le_bytes())),
        Kind::Plain(Dtype::U32) => {
            le(&tensor.uint64_data, |v| Some(u32::try_from(v).ok()?.to_le_bytes()))
        }
        Kind::Plain(Dtype::I32) => le(&tensor.int32_data, |v| Some(v.to_le_bytes())),
        Kind::Plain(Dtype::I16) => {
            le(&tensor.int32_data, |v| Some(i16::try_from(v).ok()?.to_le_bytes()))
        }
        // f16 and bf16 are stored as their bits.
        Kind::Plain(Dtype::U16 | Dtype::F16 | Dtype::BF16) => {
            le(&tensor.int32_data, |v| Some(u16::try_from(v).ok()?.to_le_bytes()))
        }
        Kind::Plain(Dtype::I8) => {
            le(&tensor.int32_data, |v| Some(i8::try_from(v).ok()?.to_le_bytes()))
        }
        // An element of int32_data contains two nibbles.
        _ => le(&tensor.int32_data, |v| Some(u8::try_from(v).ok()?.to_le_bytes())),
    };
    let why = "a value lies outside its type";
    data.map(Bytes::from).ok_or(OnnxError::BadTensor { name: tensor.name, why })
}

fn le<T: Copy, const SIZE: usize>(
    values: &[T],
    bytes: impl Fn(T) -> Option<[u8; SIZE]>,
) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity(values.len() * SIZE);
    for &value in values {
        data.extend(bytes(value)?);
    }
    Some(data)
}

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

/// The files of tensor data that belong to a model, each mapped once.
pub(super) struct Files {
    /// The model's folder; `None` if the model was opened from bytes.
    pub folder: Option<PathBuf>,
    /// The folder of the file to which the model's path leads, where that is a symbolic link. Caches
    /// keep the model and its files of tensor data in one folder and link to them.
    pub real: Option<PathBuf>,
    pub open: BTreeMap<PathBuf, Bytes>,
}

impl Files {
    fn read(&mut self, name: &str, entries: &[proto::Entry]) -> Result<Bytes, OnnxError> {
        let get = |key| entries.iter().find(|entry| entry.key == key).map(|e| e.value.as_str());
        let number = |key| match get(key).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => {
                let why = "the place of its external data is not a number";
                Err(OnnxError::BadTensor { name: name.to_owned(), why })
            }
        };
        let location = PathBuf::from(get("location").unwrap_or_default());
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.file(name, &location)?;
        let have = file.len();
        let length = length.unwrap_or((have as u64).saturating_sub(offset));
        let range = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= have).then_some(start..end)
        };
        let wrong = || OnnxError::ExternalRange {
            name: name.to_owned(),
            location: location.clone(),
            offset,
            length,
            have,
        };
        Ok(file.slice(range().ok_or_else(wrong)?))
    }

    /// Opens a file inside the model's folder. Its path may not lead outside, and neither may a symbolic
    /// link, unless it leads to a file beside the one to which the model's own path leads.
    fn file(&mut self, name: &str, location: &Path) -> Result<Bytes, OnnxError> {
        if let Some(file) = self.open.get(location) {
            return Ok(file.clone());
        }
        let refuse =
            |why| OnnxError::External { name: name.to_owned(), location: location.to_owned(), why };
        let folder = self
            .folder
            .as_ref()
            .ok_or_else(|| refuse("which is read only where the model is opened by its path"))?;
        let normal = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.as_os_str().is_empty() || !location.components().all(normal) {
            return Err(refuse("which is not a path inside the model's folder"));
        }
        let missing = |_| refuse("which cannot be found");
        let folder = folder.canonicalize().map_err(missing)?;
        let path = folder.join(location).canonicalize().map_err(missing)?;
        let beside = self.real.is_some() && path.parent() == self.real.as_deref();
        if !path.starts_with(&folder) && !beside {
            return Err(refuse("a link that leads out of the model's folder"));
        }
        // This is checked before the file is opened, because opening a pipe waits for a writer.
        if !path.is_file() {
            return Err(refuse("which is not a regular file"));
        }
        let file = Bytes::from_owner(FileBytes::open(&path)?);
        self.open.insert(location.to_owned(), file.clone());
        Ok(file)
    }
}
