//! compressed-tensors, formats `nvfp4-pack-quantized` and `mxfp4-pack-quantized`.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.weight_packed` | U8 | `[N, K/2]` | two e2m1 codes a byte, the first in the low half |
//! | `M.weight_scale` | F8_E4M3 | `[N, K/16]` | NVFP4 |
//! | | U8, F8_E8M0 | `[N, K/32]` | MXFP4: powers of two |
//! | `M.weight_global_scale` | F32 | one | NVFP4: a *divisor* |
//!
//! A weight of NVFP4 is `c · s / g`. The upper scale that is stored here is 1/g, rounded to f32, so that a
//! weight may differ from `c · s / g` by the rounding of that quotient.

use super::HfError;
use super::layer::{Codes, Layer, Single};
use super::tensors::{Context, elements, powers, shaped, two, typed, words};
use lowbit::format::{CodeType, Granularity, Parts, Scales, WeightFormat};
use safetensors::Dtype;

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let packed = context.need("weight_packed")?;
    typed(&packed, &[Dtype::U8], "U8")?;
    let (n, bytes) = two(&packed)?;
    let scale = context.need("weight_scale")?;
    let group: u32 = if scale.dtype == Dtype::F8_E4M3 { 16 } else { 32 };
    let k = bytes.checked_mul(2).filter(|k| n > 0 && *k > 0 && k.is_multiple_of(group as usize));
    let need = || format!("bytes of whole groups of {group} codes");
    let k = k.ok_or_else(|| HfError::shape(packed.name, packed.shape, need()))?;
    shaped(&scale, &[n, k / group as usize])?;
    if context.find("weight_zero_point").is_some() {
        let what = "its 4-bit floats have zero points";
        return Err(HfError::unsupported(what, "quantize the model symmetrically"));
    }
    let (scales, stored) = if scale.dtype == Dtype::F8_E4M3 {
        let divisor = context.need("weight_global_scale")?;
        typed(&divisor, &[Dtype::F32], "F32")?;
        if elements(&divisor) != 1 {
            return Err(HfError::shape(divisor.name, divisor.shape, "one element"));
        }
        let tensor = 1.0 / words(&divisor).map(f32::from_bits).next().unwrap_or(f32::NAN);
        (Scales::E4m3Tensor { groups: scale.bytes.to_vec(), tensor }, "NVFP4")
    } else {
        (powers(&scale)?, "MXFP4")
    };
    let refuse = |source| HfError::Format { weight: context.weight(), source };
    let granularity = Granularity::group(group).map_err(refuse)?;
    let format = WeightFormat::new(CodeType::E2m1, granularity).with_scales(scales.scale_type());
    let codes = Codes::Single(Single::Nibbles { bytes: packed.bytes, high_first: false });
    let parts = Parts { scales, ..Parts::default() };
    Layer::new(context, format, vec![n, k], parts, codes, stored)
}
