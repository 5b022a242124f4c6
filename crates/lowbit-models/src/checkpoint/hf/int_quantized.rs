//! compressed-tensors, format `int-quantized` (and `naive-quantized` with integers).
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.weight` | I8 | `[N, K]` | codes of at most 8 bits |
//! | `M.weight_scale` | F16, BF16, F32 | `[N, 1]`, `[N, G]`, or one | |
//! | `M.weight_zero_point` | I8 | the same | absent if symmetric |

use super::HfError;
use super::layer::{Codes, Layer, Single};
use super::tensors::{Context, elements, floats, granularity, shaped, two, typed};
use crate::checkpoint::Tensor;
use lowbit::format::{Granularity, Offset, Parts, WeightFormat};
use safetensors::Dtype;

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let codes = context.need("weight")?;
    typed(&codes, &[Dtype::I8], "I8")?;
    let (n, k) = two(&codes)?;
    in_order(context)?;
    let scale = context.need("weight_scale")?;
    let scales = floats(&scale)?;
    let granularity = row_granularity(context, &scale, n, k)?;
    let format = WeightFormat::int8(granularity).with_scales(scales.scale_type());
    let (format, zeros) = match context.find("weight_zero_point") {
        None => (format, Vec::new()),
        Some(zeros) => {
            typed(&zeros, &[Dtype::I8], "I8")?;
            shaped(&zeros, scale.shape)?;
            (format.with_offset(Offset::ZeroPoint), zeros.bytes.to_vec())
        }
    };
    let parts = Parts { scales, zeros, ..Parts::default() };
    Layer::new(
        context,
        format,
        vec![n, k],
        parts,
        Codes::Single(Single::Bytes(codes.bytes)),
        "int-quantized, 8 bits",
    )
}

/// Returns an error if columns have an order of their own: no known quantizer writes that in formats
/// other than pack-quantized.
pub(super) fn in_order(context: &Context<'_>) -> Result<(), HfError> {
    if context.find("weight_g_idx").is_none() {
        return Ok(());
    }
    let what = "its columns have an order of their own (weight_g_idx)";
    Err(HfError::unsupported(what, "quantize the model without act-order, or as pack-quantized"))
}

/// Returns the granularity of scales of `[N, K]` that are one, one for each row, or `[N, G]`.
pub(super) fn row_granularity(
    context: &Context<'_>,
    scale: &Tensor<'_>,
    n: usize,
    k: usize,
) -> Result<Granularity, HfError> {
    match *scale.shape {
        _ if n == 0 || k == 0 => {
            Err(HfError::shape(scale.name, scale.shape, "a matrix with weights"))
        }
        [rows] | [rows, 1] if rows == n => Ok(Granularity::Channel),
        _ if elements(scale) == 1 => Ok(Granularity::Tensor),
        [rows, groups] if rows == n => granularity(scale, groups, k, &context.config.group_sizes()),
        _ => Err(HfError::shape(scale.name, scale.shape, format!("[{n}, groups], or one scale"))),
    }
}
