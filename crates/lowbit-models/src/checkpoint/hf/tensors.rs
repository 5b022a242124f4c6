//! The tensors of one quantized weight: found, checked and decoded.

use super::HfError;
use super::config::Config;
use super::layer::pick;
use crate::checkpoint::{ModelFile, Tensor};
use half::{bf16, f16};
use lowbit::format::{Granularity, Scales};
use safetensors::Dtype;
use std::cell::RefCell;

/// A module of a checkpoint, such as `model.layers.0.mlp.up_proj`, whose weight is quantized.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub file: &'a ModelFile,
    pub config: &'a Config,
    pub module: &'a str,
    used: RefCell<Vec<String>>,
}

impl<'a> Context<'a> {
    pub fn new(file: &'a ModelFile, config: &'a Config, module: &'a str) -> Self {
        Self { file, config, module, used: RefCell::default() }
    }

    /// Returns the name of a tensor of the module.
    pub fn name(&self, own: &str) -> String {
        match self.module {
            "" => own.to_owned(),
            module => format!("{module}.{own}"),
        }
    }

    /// Returns the name of the module's weight. Where tensors are named after the weight, it is that name.
    pub fn weight(&self) -> String {
        match self.module.rsplit_once('.') {
            Some((_, "weight")) => self.module.to_owned(),
            _ => self.name("weight"),
        }
    }

    /// Returns the tensors that were found so far, which belong to the weight.
    pub fn used(&self) -> Vec<String> {
        self.used.borrow().clone()
    }

    /// Finds a tensor of the module.
    pub fn find(&self, own: &str) -> Option<Tensor<'a>> {
        let name = self.name(own);
        let tensor = self.file.tensor(&name)?;
        let mut used = self.used.borrow_mut();
        if !used.contains(&name) {
            used.push(name);
        }
        Some(tensor)
    }

    /// Finds a tensor that must be there.
    pub fn need(&self, own: &str) -> Result<Tensor<'a>, HfError> {
        self.find(own).ok_or_else(|| HfError::Missing { tensor: self.name(own) })
    }

    /// Finds a tensor of 32-bit words that must be there, a matrix; returns its two sizes too.
    pub fn words(&self, own: &str) -> Result<(Tensor<'a>, usize, usize), HfError> {
        let tensor = self.need(own)?;
        typed(&tensor, &[Dtype::I32, Dtype::U32], "I32")?;
        let (rows, columns) = two(&tensor)?;
        Ok((tensor, rows, columns))
    }
}

/// Checks the type of a tensor.
pub(super) fn typed(
    tensor: &Tensor<'_>,
    types: &[Dtype],
    need: &'static str,
) -> Result<(), HfError> {
    if types.contains(&tensor.dtype) {
        return Ok(());
    }
    Err(HfError::WrongType { tensor: tensor.name.to_owned(), have: tensor.dtype, need })
}

/// Checks the shape of a tensor.
pub(super) fn shaped(tensor: &Tensor<'_>, need: &[usize]) -> Result<(), HfError> {
    if tensor.shape == need {
        return Ok(());
    }
    Err(HfError::shape(tensor.name, tensor.shape, format!("{need:?}")))
}

/// Returns the two sizes of a matrix.
pub(super) fn two(tensor: &Tensor<'_>) -> Result<(usize, usize), HfError> {
    match *tensor.shape {
        [rows, columns] => Ok((rows, columns)),
        _ => Err(HfError::shape(tensor.name, tensor.shape, "a matrix")),
    }
}

/// Returns the number of elements of a tensor. It does not overflow: opening the file checked it.
pub(super) fn elements(tensor: &Tensor<'_>) -> usize {
    tensor.shape.iter().product()
}

/// Returns scales (or zero points) of a float type: f16 as they are, bf16 widened to f32.
pub(super) fn floats(tensor: &Tensor<'_>) -> Result<Scales, HfError> {
    typed(tensor, &[Dtype::F32, Dtype::F16, Dtype::BF16], "F16, BF16 or F32")?;
    let halves = tensor.bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Ok(match tensor.dtype {
        Dtype::F16 => Scales::F16(halves.map(f16::from_bits).collect()),
        Dtype::BF16 => Scales::F32(halves.map(|half| bf16::from_bits(half).to_f32()).collect()),
        _ => Scales::F32(words(tensor).map(f32::from_bits).collect()),
    })
}

/// Returns powers of two in one byte each.
pub(super) fn powers(tensor: &Tensor<'_>) -> Result<Scales, HfError> {
    typed(tensor, &[Dtype::U8, Dtype::F8_E8M0], "U8 or F8_E8M0")?;
    Ok(Scales::E8m0(tensor.bytes.to_vec()))
}

/// Returns scales, widened to f32.
pub(super) fn widened(scales: &Scales) -> Vec<f32> {
    (0..scales.len()).map(|index| scales.get(index)).collect()
}

/// Returns the 32-bit words of a tensor.
pub(super) fn words<'a>(tensor: &Tensor<'a>) -> impl Iterator<Item = u32> + use<'a> {
    tensor
        .bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// Returns the integers of a tensor of I32 or I64.
pub(super) fn integers(tensor: &Tensor<'_>) -> Result<Vec<i64>, HfError> {
    typed(tensor, &[Dtype::I32, Dtype::I64], "I64 or I32")?;
    if tensor.dtype == Dtype::I32 {
        return Ok(words(tensor).map(|word| i64::from(word as i32)).collect());
    }
    let words: Vec<u32> = words(tensor).collect();
    let pair = |pair: &[u32]| (u64::from(pair[1]) << 32 | u64::from(pair[0])) as i64;
    Ok(words.chunks_exact(2).map(pair).collect())
}

/// Returns the shape that a tensor of integers states.
pub(super) fn stated_shape(tensor: &Tensor<'_>) -> Result<Vec<usize>, HfError> {
    let wrong = || HfError::shape(tensor.name, tensor.shape, "a list of at least two sizes");
    if !(2..=8).contains(&elements(tensor)) {
        return Err(wrong());
    }
    let sizes = integers(tensor)?;
    sizes.into_iter().map(|size| usize::try_from(size).map_err(|_| wrong())).collect()
}

/// Returns the granularity of `groups` groups in each row of `k` columns. `stated` are the group sizes
/// that the configuration states; one that fits is taken, and otherwise the one that divides K.
pub(super) fn granularity(
    tensor: &Tensor<'_>,
    groups: usize,
    k: usize,
    stated: &[usize],
) -> Result<Granularity, HfError> {
    if groups == 1 {
        return Ok(Granularity::Channel);
    }
    let fits = |size: &&usize| k.div_ceil(**size) == groups;
    // Where nothing is stated, the groups are even, unless a usual size would give as many of them.
    let usual = |even: usize| {
        [16, 32, 64, 128, 256].iter().any(|&size| size != even && k.div_ceil(size) == groups)
    };
    let divides = || {
        let even = (groups > 0 && k.is_multiple_of(groups)).then(|| k / groups);
        even.filter(|&even| stated.is_empty() && !usual(even) || !stated.is_empty())
    };
    let size = stated.iter().find(fits).copied().or_else(divides).unwrap_or(0);
    let size = u32::try_from(size).ok();
    size.and_then(|size| Granularity::group(size).ok()).ok_or_else(|| {
        let stated = match stated {
            [] => "no group size is stated".to_owned(),
            sizes => format!("the stated group size is {sizes:?}"),
        };
        let need = format!("a number of groups that fits {k} columns ({stated})");
        HfError::shape(tensor.name, tensor.shape, need)
    })
}

/// Which columns belong to which group.
#[derive(Debug, PartialEq)]
pub(super) struct Grouping {
    pub granularity: Granularity,
    /// The order of columns, if groups are not neighbors; otherwise empty.
    pub order: Vec<u32>,
    /// Whether `g_idx` is all zeros although there are several groups, so that nothing was read from
    /// it.
    pub ignored: bool,
}

/// Reads `g_idx`: for each column, its group. `in_order` is the granularity without it.
pub(super) fn grouping(
    tensor: &Tensor<'_>,
    groups: usize,
    k: usize,
    in_order: impl Fn() -> Result<Granularity, HfError>,
) -> Result<Grouping, HfError> {
    typed(tensor, &[Dtype::I32], "I32")?;
    shaped(tensor, &[k])?;
    if groups > k {
        return Err(HfError::shape(
            tensor.name,
            tensor.shape,
            format!("at least {groups} columns"),
        ));
    }
    let index: Vec<i32> = words(tensor).map(|word| word as i32).collect();
    // All −1 is how compressed-tensors says that there is no order, and all 0 is how some GPTQ writers do.
    let all = |value: i32| index.iter().all(|&group| group == value);
    if all(-1) || all(0) {
        let ignored = groups > 1 && all(0);
        return Ok(Grouping { granularity: in_order()?, order: Vec::new(), ignored });
    }
    let mut counts = vec![0usize; groups];
    for (column, &value) in index.iter().enumerate() {
        let count = usize::try_from(value).ok().and_then(|group| counts.get_mut(group));
        let tensor = || tensor.name.to_owned();
        *count.ok_or_else(|| HfError::GroupIndex { tensor: tensor(), column, value, groups })? += 1;
    }
    let need = counts.first().copied().unwrap_or(0);
    for (group, &have) in counts.iter().enumerate() {
        let last = group + 1 == groups && (1..=need).contains(&have);
        if have != need && !last || need == 0 {
            return Err(HfError::UnevenGroups {
                tensor: tensor.name.to_owned(),
                group,
                have,
                need,
            });
        }
    }
    let size = u32::try_from(need).unwrap_or(u32::MAX);
    let granularity = match groups {
        1 => Granularity::Channel,
        _ => Granularity::group(size)
            .map_err(|source| HfError::Format { weight: tensor.name.to_owned(), source })?,
    };
    let mut order: Vec<u32> = (0..k as u32).collect();
    // Stable: columns of a group keep their order.
    order.sort_by_key(|&column| index[column as usize]);
    if order.is_sorted() {
        order.clear();
    }
    Ok(Grouping { granularity, order, ignored: false })
}

/// Makes zero points of 4 bits each, rows starting at whole bytes.
pub(super) fn pack_zeros(n: usize, groups: usize, zero: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(n * groups.div_ceil(2));
    for row in 0..n {
        for group in (0..groups).step_by(2) {
            let high = if group + 1 < groups { zero(row, group + 1) << 4 } else { 0 };
            bytes.push(zero(row, group) | high);
        }
    }
    bytes
}

/// Returns scales `[N, G]` of scales `[G, N]`.
pub(super) fn transposed(scales: &Scales, n: usize, groups: usize) -> Scales {
    pick(scales, n * groups, |index| index % groups * n + index / groups)
}
