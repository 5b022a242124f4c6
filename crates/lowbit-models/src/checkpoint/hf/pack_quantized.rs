//! compressed-tensors, format `pack-quantized`.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.weight_packed` | I32 | `[N, ⌈K·b/32⌉]` | codes along K, the lowest bits of a word first, 2ᵇ⁻¹ added |
//! | `M.weight_scale` | F16, BF16, F32 | `[N, G]`, or one | |
//! | `M.weight_zero_point` | I32 | `[⌈N·b/32⌉, G]` | zero points along N, packed like codes; absent if symmetric |
//! | | I8 | one | the zero point of the whole tensor, not packed |
//! | `M.weight_shape` | I64, I32 | `[2]` | N and K |
//! | `M.weight_g_idx` | I32 | `[K]` | the group of each column, with act-order |
//!
//! Codes of 3, 5 and 6 bits cross words. Earlier versions of the package put only whole codes in a word,
//! `[N, ⌈K/⌊32/b⌋⌉]`; the number of words tells which it is.

use super::HfError;
use super::layer::{Codes, Layer, Single};
use super::tensors::{
    Context, Grouping, elements, floats, granularity, grouping, pack_zeros, shaped, stated_shape,
    typed,
};
use crate::checkpoint::Tensor;
use lowbit::format::{CodeType, Granularity, Offset, Parts, WeightFormat};
use safetensors::Dtype;
use serde_json::Value;

/// The numbers of bits that are read.
const BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];

/// How codes lie in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packing {
    bits: u32,
    /// Whether codes cross words.
    crosses: bool,
}

impl Packing {
    /// Returns the number of words of `count` codes.
    fn words(self, count: usize) -> usize {
        match self.crosses {
            true => (count * self.bits as usize).div_ceil(32),
            false => count.div_ceil((32 / self.bits) as usize),
        }
    }

    /// Returns the word and the shift of the code at a position, and whether the next word has a part of
    /// it.
    fn place(self, at: usize) -> (usize, u32, bool) {
        let bits = self.bits as usize;
        let (word, shift) = match self.crosses {
            true => (at * bits / 32, at * bits % 32),
            false => (at / (32 / bits), at % (32 / bits) * bits),
        };
        (word, shift as u32, shift + bits > 32)
    }
}

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    let (packed, n, words) = context.words("weight_packed")?;
    let shape = context.need("weight_shape")?;
    let stated = stated_shape(&shape)?;
    let k = match stated[..] {
        // A number of words bounds the number of columns, so that no product below overflows.
        [rows, k] if rows == n && n > 0 && k > 0 && k.div_ceil(16) <= words => k,
        _ => return Err(HfError::shape(packed.name, packed.shape, format!("{stated:?} in words"))),
    };
    let packing = packing(context, &packed, k, words)?;
    let bits = packing.bits;
    let scale = context.need("weight_scale")?;
    let scales = floats(&scale)?;
    let sizes = context.config.group_sizes();
    let (in_order, groups) = match *scale.shape {
        _ if elements(&scale) == 1 && n > 1 => (Granularity::Tensor, 1),
        [rows, groups] if rows == n => (granularity(&scale, groups, k, &sizes)?, groups),
        [rows] if rows == n => (Granularity::Channel, 1),
        _ => {
            return Err(HfError::shape(
                scale.name,
                scale.shape,
                format!("[{n}, groups], or one scale"),
            ));
        }
    };
    let columns = match context.find("weight_g_idx") {
        Some(index) => grouping(&index, groups, k, || Ok(in_order))?,
        None => Grouping { granularity: in_order, order: Vec::new(), ignored: false },
    };
    let (offset, zeros) = zeros(context, packing, n, groups, in_order == Granularity::Tensor)?;
    let code_type = match bits {
        2 => CodeType::Int2,
        3 => CodeType::Int3,
        4 => CodeType::Int4,
        5 => CodeType::Int5,
        6 => CodeType::Int6,
        _ => CodeType::Int8,
    };
    let format = WeightFormat::new(code_type, columns.granularity)
        .with_offset(offset)
        .with_scales(scales.scale_type());
    let format = if columns.order.is_empty() { format } else { format.permuted() };
    let codes = match packing.crosses || 32 % bits == 0 {
        true => Codes::Words(packed.bytes),
        false => Codes::Single(Single::WholeInWords(packed.bytes)),
    };
    let parts = Parts { scales, zeros, order: columns.order, ..Parts::default() };
    let stored = format!("pack-quantized, {bits} bits");
    let mut layer = Layer::new(context, format, vec![n, k], parts, codes, stored)?;
    if columns.ignored {
        let warning = "weight_g_idx is all zeros, which is read as columns in order";
        layer.warning = Some(warning.to_owned());
    }
    Ok(layer)
}

/// Finds the number of bits: the only one of the configuration, or of all, that gives this many words.
fn packing(
    context: &Context<'_>,
    packed: &Tensor<'_>,
    k: usize,
    words: usize,
) -> Result<Packing, HfError> {
    let stated =
        context.config.ct_weights().filter_map(|weights| weights.get("num_bits")?.as_u64());
    let stated: Vec<u64> = stated.collect();
    let mut found: Vec<Packing> = Vec::new();
    for bits in
        BITS.into_iter().filter(|bits| stated.is_empty() || stated.contains(&u64::from(*bits)))
    {
        for crosses in [true, false] {
            // Both are the same if a word has a whole number of codes.
            let packing = Packing { bits, crosses };
            if (crosses || 32 % bits != 0) && packing.words(k) == words {
                found.push(packing);
            }
        }
    }
    match found[..] {
        [packing] => Ok(packing),
        [] => {
            let need = match stated[..] {
                [] => format!("words of {k} codes of 2, 3, 4, 5, 6 or 8 bits"),
                _ => format!("words of {k} codes of the stated {stated:?} bits"),
            };
            Err(HfError::shape(packed.name, packed.shape, need))
        }
        // The first word of both packings is the same.
        [Packing { bits, .. }, other] if bits == other.bits && words == 1 => Ok(other),
        [Packing { bits, .. }, other] if bits == other.bits => {
            let what = format!(
                "rows of {words} words hold {k} codes of {bits} bits both as old and as new versions of the \
                 package pack them"
            );
            Err(HfError::unsupported(what, "quantize the model with 4 or 8 bits"))
        }
        _ => {
            let what = format!("rows of {words} words can hold {k} codes in more than one way");
            Err(HfError::unsupported(what, "state `num_bits` in the configuration"))
        }
    }
}

/// Reads the zero points, if there are any.
fn zeros(
    context: &Context<'_>,
    packing: Packing,
    n: usize,
    groups: usize,
    one: bool,
) -> Result<(Offset, Vec<u8>), HfError> {
    let Some(tensor) = context.find("weight_zero_point") else {
        let bits = Some(u64::from(packing.bits));
        let of_bits = |weights: &&Value| weights.get("num_bits").and_then(Value::as_u64) == bits;
        let mut groups = context.config.ct_weights().filter(of_bits).peekable();
        let asymmetric = |weights: &Value| weights.get("symmetric") == Some(&Value::Bool(false));
        if groups.peek().is_some() && groups.all(asymmetric) {
            return Err(HfError::Missing { tensor: context.name("weight_zero_point") });
        }
        return Ok((Offset::Fixed, Vec::new()));
    };
    typed(&tensor, &[Dtype::I32, Dtype::I8], "I32, or I8 if there is one")?;
    let half = 1u32 << (packing.bits - 1);
    if tensor.dtype == Dtype::I8 {
        if !one || tensor.bytes.len() != 1 {
            return Err(HfError::shape(tensor.name, tensor.shape, "one element, or I32"));
        }
        let signed = i32::from(tensor.bytes[0] as i8);
        let zero = u32::try_from(signed + half as i32).ok().filter(|zero| *zero < 2 * half);
        let zero = zero.ok_or_else(|| {
            let what = format!("the zero point {signed} is outside of {} bits", packing.bits);
            HfError::unsupported(what, "quantize the model again")
        })?;
        return Ok(one_byte(packing.bits, vec![zero as u8]));
    }
    shaped(&tensor, &[packing.words(n), groups])?;
    let word = |word: usize, group: usize| {
        super::layer::field(tensor.bytes, (word * groups + group) * 32, 32)
    };
    let zero = |row: usize, group: usize| {
        let (at, shift, crosses) = packing.place(row);
        let low = word(at, group) >> shift;
        let high = if crosses { word(at + 1, group) << (32 - shift) } else { 0 };
        ((low | high) & (2 * half - 1)) as u8
    };
    if packing.bits <= 4 && !one {
        return Ok((Offset::ZeroPoint4, pack_zeros(n, groups, zero)));
    }
    let rows = if one { 0..1 } else { 0..n };
    let all = rows.flat_map(|row| (0..groups).map(move |group| (row, group)));
    Ok(one_byte(packing.bits, all.map(|(row, group)| zero(row, group)).collect()))
}

/// Makes zero points of one byte of unsigned ones. Those of 8 bits are signed in lowbit.
fn one_byte(bits: u32, mut zeros: Vec<u8>) -> (Offset, Vec<u8>) {
    if bits == 8 {
        zeros.iter_mut().for_each(|zero| *zero ^= 0x80);
    }
    (Offset::ZeroPoint, zeros)
}
