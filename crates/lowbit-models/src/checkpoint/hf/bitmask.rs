//! compressed-tensors, format `sparse-24-bitmask`: 2:4 sparse weights.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.compressed` | F32, F16, BF16, I8 | `[N, K/2]` | the two kept weights of every four columns |
//! | `M.bitmask` | U8 | `[N, ⌈K/8⌉]` | which they are, one bit for each column, the lowest bit first |
//! | `M.shape` | I64, I32 | `[2, 1]` or `[2]` | N and K |
//! | `M.weight_scale` | | | of I8, as in `int-quantized` |
//!
//! bf16 weights are widened to f32, which is exact.

use super::HfError;
use super::int_quantized::row_granularity;
use super::layer::{Codes, Layer, Single};
use super::tensors::{Context, floats, shaped, stated_shape, two, typed};
use crate::checkpoint::Tensor;
use lowbit::format::{Mask24, Parts, WeightFormat};
use safetensors::Dtype;

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let kept = context.need("compressed")?;
    let (n, half) = two(&kept)?;
    let mask = context.need("bitmask")?;
    typed(&mask, &[Dtype::U8], "U8")?;
    let stated = stated_shape(&context.need("shape")?)?;
    let k = half.checked_mul(2).filter(|k| n > 0 && *k > 0 && k.is_multiple_of(4));
    let k = k.filter(|k| stated == [n, *k]).ok_or_else(|| {
        let need = format!("half of {stated:?}, with a multiple of 4 columns");
        HfError::shape(kept.name, kept.shape, need)
    })?;
    shaped(&mask, &[n, k.div_ceil(8)])?;
    let metadata = metadata(context, &mask, n, k)?;
    let (format, parts) = match kept.dtype {
        Dtype::F16 => (WeightFormat::f16(), Parts::default()),
        Dtype::F32 | Dtype::BF16 => (WeightFormat::f32(), Parts::default()),
        Dtype::I8 => quantized(context, n, k)?,
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
            let what = "its 2:4 sparse codes are fp8, for which there are no kernels";
            return Err(HfError::unsupported(what, "use 8-bit integers, or a dense format"));
        }
        have => {
            let need = "F32, F16, BF16 or I8";
            return Err(HfError::WrongType { tensor: kept.name.to_owned(), have, need });
        }
    };
    let codes = Codes::Single(Single::Kept(kept.bytes, kept.dtype));
    let parts = Parts { metadata, ..parts };
    let stored = format!("sparse-24-bitmask, {}", kept.dtype);
    Layer::new(context, format.two_four(), vec![n, k], parts, codes, stored)
}

/// Returns the canonical metadata of a mask with two bits in every four.
fn metadata(
    context: &Context<'_>,
    mask: &Tensor<'_>,
    n: usize,
    k: usize,
) -> Result<Vec<u32>, HfError> {
    let row_bytes = k.div_ceil(8);
    let bits =
        |row: usize, quad: usize| mask.bytes[row * row_bytes + quad / 2] >> (quad % 2 * 4) & 0xf;
    for row in 0..n {
        for quad in 0..k / 4 {
            let kept = bits(row, quad).count_ones();
            if kept != 2 {
                let what = format!(
                    "`{}` keeps {kept} of 4 weights in row {row}, columns {}…{}; 2:4 sparsity keeps two",
                    mask.name,
                    4 * quad,
                    4 * quad + 3
                );
                return Err(HfError::unsupported(what, "store the weight in a dense format"));
            }
        }
    }
    let keeps = |row: usize, column: usize| bits(row, column / 4) >> (column % 4) & 1 == 1;
    let refuse = |source| HfError::Format { weight: context.weight(), source };
    Ok(Mask24::from_fn(n, k, keeps).map_err(refuse)?.into_words())
}

/// Returns the format and the scales of integer codes.
fn quantized(context: &Context<'_>, n: usize, k: usize) -> Result<(WeightFormat, Parts), HfError> {
    let scale = context.need("weight_scale")?;
    let scales = floats(&scale)?;
    let granularity = row_granularity(context, &scale, n, k)?;
    let format = WeightFormat::int8(granularity).with_scales(scales.scale_type());
    let Some(zeros) = context.find("weight_zero_point") else {
        return Ok((format, Parts { scales, ..Parts::default() }));
    };
    typed(&zeros, &[Dtype::I8], "I8")?;
    shaped(&zeros, scale.shape)?;
    // A column that is not stored is code 0, and that is the weight 0 only without a zero point.
    if zeros.bytes.iter().any(|&zero| zero != 0) {
        let what = "its 2:4 sparse codes have zero points, so that pruned weights are not 0";
        return Err(HfError::unsupported(what, "quantize the model symmetrically"));
    }
    Ok((format, Parts { scales, ..Parts::default() }))
}
