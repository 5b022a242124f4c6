//! HQQ checkpoints: integers with zero points that are floats, `(c − z) · s`.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.W_q` | U8, I32 for 3 bits | | codes, see below |
//! | `M.scale`, `M.zero` | F16, BF16, F32 | `[N·K/g, 1]` | |
//! | `M.shape` | I64, I32 | `[2]` | N and K |
//! | `M.nbits` | I32, F32 | one | 8, 6, 5, 4, 3, 2 or 1.58 |
//! | `M.group_size`, `M.axis` | I32 | one | g; 1: groups along K |
//! | `M.packing` | U8 | | text: `8bit_u8`, `4bit_u8`, `3bit_32`, `2bit_u8` |
//!
//! Groups are the rows of a matrix `[N·K/g, g]`. With p codes in a stored number, its first
//! `N·K/g/p` rows are in the highest bits of the numbers, the next ones in the bits below, and so on; 10
//! codes of 3 bits are in an I32. 8-bit codes become signed: 128 is subtracted from codes and zero points,
//! the latter rounded to f32 (by at most 2⁻¹⁸ of a step).

use super::HfError;
use super::layer::{Codes, Layer, Single, pick};
use super::tensors::{Context, elements, floats, integers, stated_shape, typed, widened, words};
use lowbit::format::{CodeType, Granularity, Offset, Parts, Scales, WeightFormat};
use safetensors::Dtype;

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let codes = context.need("W_q")?;
    let shape = stated_shape(&context.need("shape")?)?;
    let weights = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    let matrix = crate::checkpoint::matrix_shape(&shape).zip(weights.filter(|all| *all > 0));
    let ((n, k), weights) = matrix.ok_or_else(|| {
        HfError::unsupported(format!("its shape is {shape:?}, which is no matrix"), "leave it out")
    })?;
    let axis = context.need("axis")?;
    if integers(&axis)? != [1] {
        let what = "its groups are along the output channels (`axis` is not 1)";
        return Err(HfError::unsupported(what, "quantize the model with `axis=1`"));
    }
    for quantized in ["scale_q", "zero_q"] {
        if context.find(quantized).is_some() {
            let what = format!("its `{quantized}` is quantized itself");
            let next = "quantize the model with `quant_scale=False` and `quant_zero=False`";
            return Err(HfError::unsupported(what, next));
        }
    }
    let (scale, zero) = (context.need("scale")?, context.need("zero")?);
    let lines = elements(&scale);
    if lines == 0 || !weights.is_multiple_of(lines) || lines < n {
        return Err(HfError::shape(scale.name, scale.shape, format!("groups of {n}×{k} weights")));
    }
    if zero.shape != scale.shape {
        return Err(HfError::shape(zero.name, zero.shape, format!("{:?}", scale.shape)));
    }
    let group = weights / lines;
    if let Some(stated) = context.find("group_size")
        && integers(&stated)? != [group as i64]
    {
        let found = format!("`{}` has groups of {group} columns", scale.name);
        return Err(HfError::Disagree { stated: "another group size".to_owned(), found });
    }
    let (code_type, bits, codes) = codes_of(context, &codes, lines, group)?;
    // A group that goes on in the next row is divided, as in the reader of bitsandbytes.
    let size = super::bitsandbytes::gcd(group, k);
    let groups = k / size;
    let at = |index: usize| (index / groups * k + index % groups * size) / group;
    let expand = |scales: Scales| pick(&scales, n * groups, at);
    let (mut scales, mut zeros) = (expand(floats(&scale)?), expand(floats(&zero)?));
    if code_type == CodeType::Int8 {
        zeros = Scales::F32(widened(&zeros).into_iter().map(|zero| zero - 128.0).collect());
    }
    if scales.scale_type() != zeros.scale_type() {
        (scales, zeros) = (Scales::F32(widened(&scales)), Scales::F32(widened(&zeros)));
    }
    let granularity = match u32::try_from(size).ok().filter(|_| groups > 1) {
        Some(size) => Granularity::group(size)
            .map_err(|source| HfError::Format { weight: context.weight(), source })?,
        None => Granularity::Channel,
    };
    let format = WeightFormat::new(code_type, granularity)
        .with_offset(Offset::FloatZeroPoint)
        .with_scales(scales.scale_type());
    let parts = Parts { scales, minima: zeros, ..Parts::default() };
    let mut layer = Layer::new(context, format, shape, parts, codes, format!("HQQ, {bits} bits"))?;
    for own in SETTINGS {
        let name = context.name(own);
        if context.file.tensor(&name).is_some() {
            layer.used.push(name);
        }
    }
    Ok(layer)
}

/// Settings of the quantizer, which say nothing about the values.
pub(super) const SETTINGS: [&str; 12] = [
    "unpack_view_dtype",
    "view_as_float",
    "quant_scale",
    "quant_zero",
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
    "meta",
];

/// Finds the codes of `lines` groups.
fn codes_of<'a>(
    context: &Context<'a>,
    codes: &crate::checkpoint::Tensor<'a>,
    lines: usize,
    group: usize,
) -> Result<(CodeType, String, Codes<'a>), HfError> {
    let nbits = context.need("nbits")?;
    let bits = match nbits.dtype {
        Dtype::F32 => words(&nbits).map(f32::from_bits).next().unwrap_or(0.0),
        _ => integers(&nbits)?.first().copied().unwrap_or(0) as f32,
    };
    let packing = context.need("packing")?;
    typed(&packing, &[Dtype::U8], "U8")?;
    let text = String::from_utf8_lossy(packing.bytes);
    // 1.58 bits are three codes.
    let known = [
        (8.0, "8bit_u8", CodeType::Int8, 1, 1),
        (6.0, "8bit_u8", CodeType::Int6, 1, 1),
        (5.0, "8bit_u8", CodeType::Int5, 1, 1),
        (4.0, "4bit_u8", CodeType::Int4, 2, 1),
        (3.0, "3bit_32", CodeType::Int3, 10, 4),
        (2.0, "2bit_u8", CodeType::Int2, 4, 1),
        (1.58, "2bit_u8", CodeType::Int2, 4, 1),
    ];
    let found = known.into_iter().find(|(known, packing, ..)| *known == bits && *packing == text);
    let (_, _, code_type, slots, size) = found.ok_or_else(|| {
        let what = format!("its codes of {bits} bits are packed as `{}`", text.escape_debug());
        HfError::unsupported(what, "quantize the model with 2, 3, 4, 5, 6 or 8 bits")
    })?;
    let rows = lines.div_ceil(slots as usize);
    let fits = rows.checked_mul(group).and_then(|all| all.checked_mul(size));
    // Any type of as many bytes will do: codes can be stored as if they were floats (`view_as_float`).
    if fits != Some(codes.bytes.len()) || (size == 1 && !lines.is_multiple_of(slots as usize)) {
        let need = format!("[{rows}, {group}] numbers of {slots} codes");
        return Err(HfError::shape(codes.name, codes.shape, need));
    }
    if size == 1 && slots == 1 && code_type != CodeType::Int8 {
        let limit = 1u8 << code_type.bits();
        if let Some(index) = codes.bytes.iter().position(|&code| code >= limit) {
            let what = format!("code {index} of `{}` has more than {bits} bits", codes.name);
            return Err(HfError::unsupported(what, "quantize the model again"));
        }
    }
    let codes = Codes::Single(Single::Slots { bytes: codes.bytes, group, rows, slots, size });
    Ok((code_type, format!("{bits}"), codes))
}
