//! fp8 weights: compressed-tensors `float-quantized` and `mxfp8`, `fbgemm_fp8`, and fp8 with scales for
//! blocks.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.weight` | F8_E4M3, F8_E5M2 | `[N, K]` | |
//! | `M.weight_scale` or `M.weight_scale_inv` | F16, BF16, F32 | one, `[N, 1]`, `[N, G]` | |
//! | | the same | `[⌈N/R⌉, ⌈K/C⌉]` | for blocks of R rows and C columns |
//! | | U8, F8_E8M0 | `[N, G]` or for blocks | powers of two |
//!
//! The weight is multiplied by either scale: `weight_scale_inv` is named after what the quantizer
//! multiplied by. A scale for a block is stored once for each of its rows.
//!
//! Files of GPTQModel (`weight_scale_semantics` is `inverse`) are an exception: their `weight_scale_inv` is a
//! *divisor*. Its reciprocal is stored here, rounded to f32.

use super::HfError;
use super::int_quantized::{in_order, row_granularity};
use super::layer::{Codes, Layer, Single, pick};
use super::tensors::{Context, elements, floats, powers, two, typed, widened};
use lowbit::format::{CodeType, Granularity, Parts, Scales, WeightFormat};
use safetensors::Dtype;

/// The block of files that state none: all known ones have it.
const BLOCK: (usize, usize) = (128, 128);

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let codes = context.need("weight")?;
    typed(&codes, &[Dtype::F8_E4M3, Dtype::F8_E5M2], "F8_E4M3 or F8_E5M2")?;
    let code_type = match codes.dtype {
        Dtype::F8_E5M2 => CodeType::E5m2,
        _ => CodeType::E4m3,
    };
    let (n, k) = two(&codes)?;
    in_order(context)?;
    if context.find("weight_zero_point").is_some() {
        let what = "its fp8 codes have zero points";
        return Err(HfError::unsupported(what, "quantize the model symmetrically"));
    }
    let inverse = context.find("weight_scale_inv");
    let scale = inverse.map_or_else(|| context.need("weight_scale"), Ok)?;
    let bytes = matches!(scale.dtype, Dtype::U8 | Dtype::F8_E8M0);
    let scales = if bytes { powers(&scale)? } else { floats(&scale)? };
    let divisor =
        inverse.is_some() && context.config.text("weight_scale_semantics") == Some("inverse");
    let scales = match divisor {
        true => Scales::F32(widened(&scales).into_iter().map(f32::recip).collect()),
        false => scales,
    };
    let (rows, columns) = context.config.block().unwrap_or(BLOCK);
    let (granularity, scales) = match *scale.shape {
        [down, across]
            if (down, across) == (n.div_ceil(rows), k.div_ceil(columns))
                && down != n
                && n > 0
                && k > 0 =>
        {
            let granularity = match across {
                1 => Granularity::Channel,
                _ => group(context, columns)?,
            };
            let at = |index: usize| index / across / rows * across + index % across;
            (granularity, pick(&scales, n * across, at))
        }
        _ => match row_granularity(context, &scale, n, k) {
            Ok(granularity) => (granularity, scales),
            Err(_) if elements(&scale) > 1 && scale.shape.len() == 2 => {
                let need = format!(
                    "one scale, [{n}, groups], or one scale for each {rows}×{columns} block"
                );
                return Err(HfError::shape(scale.name, scale.shape, need));
            }
            Err(error) => return Err(error),
        },
    };
    // Powers of two in a byte go with groups.
    let (granularity, scales) = match (granularity, scales) {
        (Granularity::Channel, Scales::E8m0(bytes)) => (group(context, k)?, Scales::E8m0(bytes)),
        (Granularity::Tensor, Scales::E8m0(bytes)) => {
            (group(context, k)?, Scales::E8m0(vec![bytes[0]; n]))
        }
        other => other,
    };
    let format = WeightFormat::new(code_type, granularity).with_scales(scales.scale_type());
    let parts = Parts { scales, ..Parts::default() };
    let stored = format!("fp8, {}", code_type.name());
    Layer::new(
        context,
        format,
        vec![n, k],
        parts,
        Codes::Single(Single::Bytes(codes.bytes)),
        stored,
    )
}

fn group(context: &Context<'_>, size: usize) -> Result<Granularity, HfError> {
    let refuse = |source| HfError::Format { weight: context.weight(), source };
    Granularity::group(u32::try_from(size).unwrap_or(0)).map_err(refuse)
}
