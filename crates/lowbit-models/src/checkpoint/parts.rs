use super::IoError;
use super::activations::RawActivations;
use half::f16;
use lowbit::format::{CodeType, Geometry, Granularity, Parts, ScaleType, Scales, WeightFormat};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// The metadata key of the layout's version.
pub(super) const VERSION_KEY: &str = "lowbit.version";
/// The metadata key of the index of compressed weights.
pub(super) const TENSORS_KEY: &str = "lowbit.tensors";
/// The version of files without activations.
pub(super) const VERSION: &str = "1";
/// The version of files with them.
pub(super) const VERSION_ACTIVATIONS: &str = "2";

/// The last part of the name of the tensor that holds the factors of a weight's X.
const FACTORS: &str = "factors";

/// Returns the name of the tensor that holds the factors of a weight's X.
pub(super) fn factors_tensor(weight: &str) -> String {
    format!("{weight}.{FACTORS}")
}

/// Returns the compressed weight that a tensor of this name would belong to.
#[cfg(feature = "onnx")]
pub(super) fn weight_of_part(tensor: &str) -> Option<&str> {
    let (weight, own) = tensor.rsplit_once('.')?;
    let is_part = own == FACTORS || Part::ALL.iter().any(|part| part.name() == own);
    is_part.then_some(weight)
}

/// One tensor of a compressed weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Codes,
    Metadata,
    Scales,
    /// The upper level of scales of two levels.
    UpperScales,
    Zeros,
    Minima,
    /// The upper level of minima of two levels.
    UpperMinima,
    Codebook,
    Order,
}

impl Part {
    pub const ALL: [Part; 9] = [
        Self::Codes,
        Self::Metadata,
        Self::Scales,
        Self::UpperScales,
        Self::Zeros,
        Self::Minima,
        Self::UpperMinima,
        Self::Codebook,
        Self::Order,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::Metadata => "metadata",
            Self::Scales => "scales",
            Self::UpperScales => "upper_scales",
            Self::Zeros => "zeros",
            Self::Minima => "minima",
            Self::UpperMinima => "upper_minima",
            Self::Codebook => "codebook",
            Self::Order => "order",
        }
    }

    /// Returns the name of this part's tensor in the file.
    pub fn tensor(self, weight: &str) -> String {
        format!("{weight}.{}", self.name())
    }

    /// Returns its type and shape, or `None` if it has no elements and is absent.
    pub fn layout(self, geometry: &Geometry) -> Option<(Dtype, Vec<usize>)> {
        let g = geometry;
        let format = g.format;
        let rows = |count: usize, columns: usize| match format.granularity() {
            Granularity::Tensor => vec![count],
            _ => vec![g.n, columns],
        };
        let lower = match format.scale_type() {
            ScaleType::F32 => Dtype::F32,
            ScaleType::F16 => Dtype::F16,
            ScaleType::Int8Super => Dtype::I8,
            ScaleType::E8m0 | ScaleType::E4m3Tensor => Dtype::U8,
        };
        let upper = match format.scale_type() {
            ScaleType::Int8Super => (Dtype::F16, vec![g.n, g.supers]),
            _ => (Dtype::F32, vec![1]),
        };
        let is_codebook = format.code_type() == CodeType::Codebook;
        let (dtype, count, shape) = match self {
            Self::Codes => (Dtype::U32, g.n * g.code_words, vec![g.n, g.code_words]),
            Self::Metadata => (Dtype::U32, g.n * g.meta_words, vec![g.n, g.meta_words]),
            Self::Scales => (lower, g.scales, rows(g.scales, g.groups)),
            Self::UpperScales => (upper.0, g.upper(), upper.1),
            Self::Zeros => (Dtype::U8, g.zeros, rows(g.zeros, g.zeros / g.n.max(1))),
            Self::Minima => (lower, g.minima, rows(g.minima, g.groups)),
            Self::UpperMinima if g.minima > 0 => (upper.0, g.upper(), upper.1),
            Self::UpperMinima => return None,
            Self::Codebook => (Dtype::F32, if is_codebook { 16 } else { 0 }, vec![16]),
            Self::Order => (Dtype::U32, if format.is_permuted() { g.k } else { 0 }, vec![g.k]),
        };
        (count > 0).then_some((dtype, shape))
    }

    /// Passes the bytes of this part of a matrix to `put`, as the file stores them, in pieces, so that they are
    /// not in memory twice.
    ///
    /// # Errors
    /// Returns the first error of `put`.
    pub fn write<E>(self, parts: &Parts, put: &mut Put<'_, E>) -> Result<(), E> {
        match self {
            Self::Codes => encode(&parts.codes, u32::to_le_bytes, put),
            Self::Metadata => encode(&parts.metadata, u32::to_le_bytes, put),
            Self::Scales => lower(&parts.scales, put),
            Self::UpperScales => upper(&parts.scales, put),
            Self::Zeros => put(&parts.zeros),
            Self::Minima => lower(&parts.minima, put),
            Self::UpperMinima => upper(&parts.minima, put),
            Self::Codebook => encode(&parts.codebook, f32::to_le_bytes, put),
            Self::Order => encode(&parts.order, u32::to_le_bytes, put),
        }
    }
}

/// The number of values that are encoded at a time.
const PIECE: usize = 1 << 16;

/// Takes some bytes.
pub(super) type Put<'a, E> = dyn FnMut(&[u8]) -> Result<(), E> + 'a;

fn encode<T: Copy, E, const N: usize>(
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
    put: &mut Put<'_, E>,
) -> Result<(), E> {
    for values in values.chunks(PIECE) {
        let mut piece = vec![0; values.len() * N];
        for (to, &value) in piece.as_chunks_mut().0.iter_mut().zip(values) {
            *to = bytes(value);
        }
        put(&piece)?;
    }
    Ok(())
}

fn lower<E>(scales: &Scales, put: &mut Put<'_, E>) -> Result<(), E> {
    match scales {
        Scales::F32(scales) => encode(scales, f32::to_le_bytes, put),
        Scales::F16(scales) => encode(scales, f16::to_le_bytes, put),
        Scales::Int8Super { groups, .. } => encode(groups, i8::to_le_bytes, put),
        Scales::E8m0(groups) | Scales::E4m3Tensor { groups, .. } => put(groups),
    }
}

fn upper<E>(scales: &Scales, put: &mut Put<'_, E>) -> Result<(), E> {
    match scales {
        Scales::Int8Super { supers, .. } => encode(supers, f16::to_le_bytes, put),
        Scales::E4m3Tensor { groups, tensor } if !groups.is_empty() => put(&tensor.to_le_bytes()),
        _ => Ok(()),
    }
}

/// Reads the values of a part's bytes.
fn decode<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&bytes| value(bytes)).collect()
}

/// Returns the parts whose bytes, of the right length, `bytes` returns.
pub(super) fn read_parts<'a>(geometry: &Geometry, bytes: impl Fn(Part) -> &'a [u8]) -> Parts {
    let scales = |lower: Part, upper: Part| {
        let (lower, upper) = (bytes(lower), bytes(upper));
        match geometry.format.scale_type() {
            ScaleType::F32 => Scales::F32(decode(lower, f32::from_le_bytes)),
            ScaleType::F16 => Scales::F16(decode(lower, f16::from_le_bytes)),
            ScaleType::E8m0 => Scales::E8m0(lower.to_vec()),
            ScaleType::Int8Super => Scales::Int8Super {
                groups: decode(lower, i8::from_le_bytes),
                supers: decode(upper, f16::from_le_bytes),
            },
            ScaleType::E4m3Tensor => Scales::E4m3Tensor {
                groups: lower.to_vec(),
                tensor: decode(upper, f32::from_le_bytes).first().copied().unwrap_or(1.0),
            },
        }
    };
    let is_codebook = geometry.format.code_type() == CodeType::Codebook;
    let mut codebook = decode(bytes(Part::Codebook), f32::from_le_bytes);
    if is_codebook && codebook.is_empty() {
        codebook = vec![0.0; 16];
    }
    Parts {
        codes: decode(bytes(Part::Codes), u32::from_le_bytes),
        metadata: decode(bytes(Part::Metadata), u32::from_le_bytes),
        scales: scales(Part::Scales, Part::UpperScales),
        zeros: bytes(Part::Zeros).to_vec(),
        minima: match geometry.format.has_minima() {
            true => scales(Part::Minima, Part::UpperMinima),
            false => Scales::default(),
        },
        codebook,
        order: decode(bytes(Part::Order), u32::from_le_bytes),
    }
}

/// Returns the matrix `[n, k]` of a tensor's shape: the first dimension, and the product of the rest.
///
/// Returns `None` if there are fewer than two dimensions, or if n or k is 2³¹ or more. Kernels count
/// in 32 bits, and a huge number of rows without elements would take no bytes but very long loops.
pub fn matrix_shape(shape: &[usize]) -> Option<(usize, usize)> {
    const LIMIT: usize = 1 << 31;
    let (&n, rest) = shape.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let k = rest.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    (n < LIMIT && k < LIMIT).then_some((n, k))
}

/// What the index of a file says about a compressed weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedInfo {
    /// Its format.
    pub format: WeightFormat,
    /// The original shape, of two or more dimensions.
    pub shape: Vec<usize>,
}

impl CompressedInfo {
    /// Returns the canonical layout of the matrix `[shape[0], product of the rest]`. `name` is the
    /// weight's name, for errors.
    ///
    /// # Errors
    /// Returns [`IoError::NotAMatrix`] or [`IoError::Format`].
    pub fn geometry(&self, name: &str) -> Result<Geometry, IoError> {
        let (n, k) = matrix_shape(&self.shape).ok_or_else(|| IoError::NotAMatrix {
            name: name.to_owned(),
            shape: self.shape.clone(),
        })?;
        self.format
            .geometry(n, k)
            .map_err(|source| IoError::Format { name: name.to_owned(), source })
    }
}

/// [`CompressedInfo`] as the index stores it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInfo {
    pub format: String,
    pub shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<RawActivations>,
}
