//! compressed-tensors, format `sparse-bitmask`: floats of which those that are not 0 are stored, in any pattern.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.compressed` | F32, F16, BF16 | `[stored]` | the weights that are not 0, row after row |
//! | `M.bitmask` | U8 | `[N, ⌈K/8⌉]` | where they are, one bit for each column, the lowest bit first |
//! | `M.row_offsets` | I64 | `[N]` | for each row, how many are stored before it |
//! | `M.shape` | I64 | `[2, 1]` or `[2]` | N and K |
//!
//! `M` is the module; in older files it is the name of the weight. Lists may be matrices of one row or column. bf16
//! weights are widened to f32, which is exact.

use super::HfError;
use super::layer::{Codes, Layer};
use super::tensors::{Context, elements, integers, shaped, stated_shape, typed};
use super::write::Written;
use crate::checkpoint::Tensor;
use lowbit::format::{CodeType, PackedWeights, Parts, WeightFormat};
use safetensors::Dtype;
use std::borrow::Cow;

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let values = context.need("compressed")?;
    let mask = context.need("bitmask")?;
    let offsets = context.need("row_offsets")?;
    let shape = context.need("shape")?;
    let stated = stated_shape(&shape)?;
    let &[n, k] = &stated[..] else {
        return Err(HfError::shape(shape.name, shape.shape, "the two sizes of a matrix"));
    };
    let format = match values.dtype {
        Dtype::F16 => WeightFormat::f16(),
        Dtype::F32 | Dtype::BF16 => WeightFormat::f32(),
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
            let what = "its weights behind a mask are fp8, which is not read";
            return Err(HfError::unsupported(what, "store the weight in a dense format"));
        }
        have => {
            let need = "F32, F16 or BF16";
            return Err(HfError::WrongType { tensor: values.name.to_owned(), have, need });
        }
    };
    typed(&mask, &[Dtype::U8], "U8")?;
    shaped(&mask, &[n, k.div_ceil(8)])?;
    check(&values, &mask, &offsets, n, k)?;
    let stored = format!("sparse-bitmask, {}", values.dtype);
    let codes = Codes::Masked { values: values.bytes, dtype: values.dtype, mask: mask.bytes };
    Layer::new(context, format, stated, Parts::default(), codes, stored)
}

/// Checks that the mask has as many bits as there are values, none of them behind the last column, and that offsets count
/// them.
fn check(
    values: &Tensor<'_>,
    mask: &Tensor<'_>,
    offsets: &Tensor<'_>,
    n: usize,
    k: usize,
) -> Result<(), HfError> {
    list(offsets, n)?;
    let starts = integers(offsets)?;
    let row_bytes = k.div_ceil(8);
    let rows = mask.bytes.chunks_exact(row_bytes.max(1));
    let (mut before, mut rows_seen) = (0usize, 0);
    for (row, (bits, &start)) in rows.zip(&starts).enumerate() {
        if usize::try_from(start) != Ok(before) {
            let what = format!(
                "entry {row} of `{}` is {start}, and `{}` has {before} weights before that row",
                offsets.name, mask.name
            );
            return Err(HfError::unsupported(what, DAMAGED));
        }
        let behind = bits.last().is_some_and(|&last| !k.is_multiple_of(8) && last >> (k % 8) != 0);
        if behind {
            let what = format!(
                "`{}` has bits behind column {} in row {row}",
                mask.name,
                k.saturating_sub(1)
            );
            return Err(HfError::unsupported(what, DAMAGED));
        }
        before += bits.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        rows_seen += 1;
    }
    if k == 0 && starts.iter().any(|&start| start != 0) || k > 0 && rows_seen != n {
        return Err(HfError::shape(offsets.name, offsets.shape, "one offset for each row"));
    }
    list(values, before)
}

/// The next step for tensors that do not belong together.
const DAMAGED: &str = "the file is damaged; save the model again";

/// Checks that a tensor is a list of this many elements.
fn list(tensor: &Tensor<'_>, count: usize) -> Result<(), HfError> {
    let long = tensor.shape.iter().filter(|&&size| size != 1).count();
    if elements(tensor) == count && long <= 1 && !tensor.shape.is_empty() {
        return Ok(());
    }
    Err(HfError::shape(tensor.name, tensor.shape, format!("[{count}]")))
}

/// A weight whose floats are written behind a mask.
pub(super) struct Masked {
    n: usize,
    k: usize,
    /// The values that are not 0, as bytes.
    values: Vec<u8>,
    mask: Vec<u8>,
    offsets: Vec<u8>,
}

/// Returns the bytes of a dense float.
fn float_bytes(weights: &WeightFormat) -> usize {
    weights.code_type().bits() as usize / 8
}

impl Masked {
    /// Puts dense floats behind a mask. −0 is stored, so that it is read back as it was.
    fn new(weights: &PackedWeights) -> Self {
        let g = weights.geometry();
        let size = float_bytes(&weights.format());
        let row_bytes = g.k.div_ceil(8);
        let mut masked = Self {
            n: g.n,
            k: g.k,
            values: Vec::new(),
            mask: vec![0; g.n * row_bytes],
            offsets: Vec::with_capacity(size_of::<u64>() * g.n),
        };
        for row in 0..g.n {
            masked.offsets.extend(((masked.values.len() / size) as u64).to_le_bytes());
            if g.k == 0 {
                continue;
            }
            let words = &weights.codes()[row * g.code_words..][..g.code_words];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            for (column, value) in bytes.chunks_exact(size).take(g.k).enumerate() {
                if value.iter().any(|&byte| byte != 0) {
                    masked.values.extend(value);
                    masked.mask[row * row_bytes + column / 8] |= 1 << (column % 8);
                }
            }
        }
        masked
    }

    /// Does the same, if that takes less room than the dense weight.
    pub fn smaller(weights: &PackedWeights) -> Option<Self> {
        let masked = Self::new(weights);
        let own: usize = masked.parts().iter().map(|(_, bytes)| bytes.len()).sum();
        let dense = masked.n * masked.k * float_bytes(&weights.format());
        (own < dense).then_some(masked)
    }

    /// Returns the tensors of the module, with their bytes.
    pub fn parts(&self) -> [(&'static str, Cow<'_, [u8]>); 4] {
        let shape = [self.n, self.k].into_iter().flat_map(|size| (size as u64).to_le_bytes());
        [
            ("compressed", Cow::Borrowed(&self.values)),
            ("bitmask", Cow::Borrowed(&self.mask)),
            ("row_offsets", Cow::Borrowed(&self.offsets)),
            ("shape", Cow::Owned(shape.collect())),
        ]
    }
}

/// Returns the tensors of a weight: behind a mask if there is one, and otherwise the dense weight.
pub(super) fn tensors(
    module: &str,
    weights: &WeightFormat,
    shape: &[usize],
    masked: Option<&Masked>,
) -> Vec<Written> {
    let dtype = if weights.code_type() == CodeType::F16 { Dtype::F16 } else { Dtype::F32 };
    let written =
        |own: &str, dtype, shape| Written { name: format!("{module}.{own}"), dtype, shape };
    match masked {
        None => vec![written("weight", dtype, shape.to_vec())],
        Some(masked) => vec![
            written("compressed", dtype, vec![masked.values.len() / float_bytes(weights)]),
            written("bitmask", Dtype::U8, vec![masked.n, masked.k.div_ceil(8)]),
            written("row_offsets", Dtype::I64, vec![masked.n]),
            written("shape", Dtype::I64, vec![2, 1]),
        ],
    }
}
