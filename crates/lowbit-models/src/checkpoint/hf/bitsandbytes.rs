//! bitsandbytes: 4-bit codebooks and 8-bit integers.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.weight` | U8, or any type of as many bytes | `[N·K/2, 1]` | two codes a byte, the first in the *high* half |
//! | `M.weight.absmax` | F32 | `[blocks]` | the scale of each block of consecutive weights |
//! | | U8 | `[blocks]` | double quantization: an index into `nested_quant_map` |
//! | `M.weight.quant_map` | F32 | `[16]` | the codebook |
//! | `M.weight.nested_absmax` | F32 | `[blocks / nested_blocksize]` | |
//! | `M.weight.nested_quant_map` | F32 | `[256]` | |
//! | `M.weight.quant_state.bitsandbytes__nf4`, `…__fp4` | U8 | | JSON: shape, `blocksize`, `nested_blocksize`, `nested_offset` |
//!
//! Scales that are quantized are expanded to f32: `map[index] · nested_absmax + offset`, each operation
//! rounded to f32, as bitsandbytes does it. Blocks go on from one row to the next. If they do not divide K,
//! lowbit's groups are smaller than blocks, so that each lies in one row and one block.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.weight` | I8 | `[N, K]` | codes −127…127 |
//! | `M.SCB` | F32 | `[N]` | the largest magnitude of each row |
//! | `M.weight_format` | U8 | one | 0: rows |
//!
//! The scale of a row is `SCB / 127`, rounded to f32.

use super::HfError;
use super::layer::{Codes, Layer, Single};
use super::tensors::{Context, elements, floats, shaped, two, typed, widened};
use crate::checkpoint::Tensor;
use lowbit::format::{CodeType, Granularity, Parts, Scales, WeightFormat};
use safetensors::Dtype;
use serde::Deserialize;

/// What the JSON beside a 4-bit weight says.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// Finds a weight of 4-bit codes.
pub(super) fn four_bits<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let packed = context.need("weight")?;
    let state = state(context)?;
    let weights = state.shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    let weights = weights.filter(|all| *all > 0 && packed.bytes.len() == all.div_ceil(2));
    let weights = weights.ok_or_else(|| {
        HfError::shape(packed.name, packed.shape, format!("the codes of {:?}", state.shape))
    })?;
    let (n, k) = crate::checkpoint::matrix_shape(&state.shape).ok_or_else(|| {
        let what = format!("its shape is {:?}, which is no matrix", state.shape);
        HfError::unsupported(what, "leave this tensor out when the model is quantized")
    })?;
    if state.blocksize == 0 {
        let what = "its blocks have no weights";
        return Err(HfError::unsupported(what, "quantize the model again"));
    }
    let absmax = scales(context, &state, weights.div_ceil(state.blocksize))?;
    let map = context.need("weight.quant_map")?;
    shaped(&map, &[16])?;
    let map = widened(&floats(&map)?);
    let known = [CodeType::Nf4, CodeType::Fp4, CodeType::Af4].into_iter();
    // The map of fp4 has +0 where the table has −0; nothing else differs.
    let same = |table: &[f32; 16]| table.iter().zip(&map).all(|(a, b)| a == b);
    let code_type = known.into_iter().find(|known| known.table().is_some_and(same));
    let code_type = code_type.unwrap_or(CodeType::Codebook);
    // A row that is longer than a block and no multiple of it has groups that divide both.
    let size = gcd(state.blocksize, k);
    let groups = k / size;
    let at = |index: usize| (index / groups * k + index % groups * size) / state.blocksize;
    let scales = Scales::F32((0..n * groups).map(|index| absmax[at(index)]).collect());
    let granularity = match u32::try_from(size).ok().filter(|_| groups > 1) {
        Some(size) => Granularity::group(size)
            .map_err(|source| HfError::Format { weight: context.weight(), source })?,
        None => Granularity::Channel,
    };
    let codebook = if code_type == CodeType::Codebook { map } else { Vec::new() };
    let parts = Parts { scales, codebook, ..Parts::default() };
    let nested = if state.nested_blocksize.is_some() { ", double quantization" } else { "" };
    let stored =
        format!("bitsandbytes {}, blocks of {}{nested}", state.quant_type, state.blocksize);
    let codes = Codes::Single(Single::Nibbles { bytes: packed.bytes, high_first: true });
    let format = WeightFormat::new(code_type, granularity);
    Layer::new(context, format, state.shape, parts, codes, stored)
}

/// Reads the JSON beside a weight.
fn state(context: &Context<'_>) -> Result<State, HfError> {
    let names = ["nf4", "fp4"].map(|kind| format!("weight.quant_state.bitsandbytes__{kind}"));
    let found = names.iter().find_map(|name| context.find(name));
    let tensor = found.ok_or_else(|| HfError::Missing { tensor: context.name(&names[0]) })?;
    typed(&tensor, &[Dtype::U8], "U8")?;
    serde_json::from_slice(tensor.bytes).map_err(|error| {
        let what = format!("`{}` is not the JSON of a quantization state: {error}", tensor.name);
        HfError::unsupported(what, "quantize the model again")
    })
}

/// Returns the scale of each block.
fn scales(context: &Context<'_>, state: &State, blocks: usize) -> Result<Vec<f32>, HfError> {
    let absmax = context.need("weight.absmax")?;
    shaped(&absmax, &[blocks])?;
    let Some(nested_block) = state.nested_blocksize.filter(|size| *size > 0) else {
        return Ok(widened(&floats(&absmax)?));
    };
    typed(&absmax, &[Dtype::U8], "U8 with double quantization")?;
    let nested = context.need("weight.nested_absmax")?;
    shaped(&nested, &[blocks.div_ceil(nested_block)])?;
    let map = context.need("weight.nested_quant_map")?;
    shaped(&map, &[256])?;
    let (nested, map) = (widened(&floats(&nested)?), widened(&floats(&map)?));
    let offset = state.nested_offset.unwrap_or(0.0) as f32;
    let scale = |(block, &index): (usize, &u8)| {
        map[usize::from(index)] * nested[block / nested_block] + offset
    };
    Ok(absmax.bytes.iter().enumerate().map(scale).collect())
}

pub(super) fn gcd(mut a: usize, mut b: usize) -> usize {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Finds a weight of 8-bit codes.
pub(super) fn eight_bits<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let codes = context.need("weight")?;
    typed(&codes, &[Dtype::I8], "I8")?;
    let (n, k) = two(&codes)?;
    let largest = context.need("SCB")?;
    typed(&largest, &[Dtype::F32], "F32")?;
    if elements(&largest) != n || k == 0 {
        return Err(HfError::shape(largest.name, largest.shape, format!("[{n}]")));
    }
    if let Some(format) = context.find("weight_format") {
        check_rows(&format)?;
    }
    let scales = widened(&floats(&largest)?).into_iter().map(|largest| largest / 127.0).collect();
    let parts = Parts { scales: Scales::F32(scales), ..Parts::default() };
    let format = WeightFormat::int8(Granularity::Channel);
    Layer::new(
        context,
        format,
        vec![n, k],
        parts,
        Codes::Single(Single::Bytes(codes.bytes)),
        "bitsandbytes int8",
    )
}

/// Refuses 8-bit codes that are not row after row.
fn check_rows(format: &Tensor<'_>) -> Result<(), HfError> {
    if format.bytes.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    let what = format!("`{}` says that its codes are in tiles of a GPU", format.name);
    Err(HfError::unsupported(what, "save the model with bitsandbytes 0.43 or later"))
}
