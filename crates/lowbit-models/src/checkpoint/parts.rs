use super::IoError;
use super::activations::RawActivations;
use lowbit::format::{Geometry, Granularity, ScaleType, WeightFormat};
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

/// Returns the name of the tensor that holds the factors of a weight's X.
pub(super) fn factors_tensor(weight: &str) -> String {
    format!("{weight}.factors")
}

/// One tensor of a compressed weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Codes,
    Metadata,
    Scales,
    Zeros,
}

impl Part {
    pub const ALL: [Part; 4] = [Self::Codes, Self::Metadata, Self::Scales, Self::Zeros];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::Metadata => "metadata",
            Self::Scales => "scales",
            Self::Zeros => "zeros",
        }
    }

    /// Returns the name of this part's tensor in the file.
    pub fn tensor(self, weight: &str) -> String {
        format!("{weight}.{}", self.name())
    }

    /// Returns its type and shape, or `None` if it has no elements and is absent.
    pub fn layout(self, geometry: &Geometry) -> Option<(Dtype, Vec<usize>)> {
        let g = geometry;
        let scales = match g.format.granularity() {
            Granularity::Tensor => vec![g.scales],
            _ => vec![g.n, g.groups],
        };
        let (dtype, count, shape) = match self {
            Self::Codes => (Dtype::U32, g.n * g.code_words, vec![g.n, g.code_words]),
            Self::Metadata => (Dtype::U32, g.n * g.meta_words, vec![g.n, g.meta_words]),
            Self::Scales => match g.format.scale_type() {
                ScaleType::F32 => (Dtype::F32, g.scales, scales),
                ScaleType::F16 => (Dtype::F16, g.scales, scales),
            },
            Self::Zeros => (Dtype::U8, g.zeros, scales),
        };
        (count > 0).then_some((dtype, shape))
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
