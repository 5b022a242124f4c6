//! GPTQ checkpoints.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.qweight` | I32 | `[K·b/32, N]` | codes along K, the lowest bits of a word first; those of 3 bits cross words |
//! | `M.qzeros` | I32 | `[G, N·b/32]` | zero points along N, in the same way |
//! | `M.scales` | F16, BF16, F32 | `[G, N]` | |
//! | `M.g_idx` | I32 | `[K]` | the group of each column; may be absent |
//!
//! The number of bits follows from the shapes, so that checkpoints with several read as well. Version 1
//! stores z − 1 and version 2 stores z ([`Zeros`]). If every zero point is 2ᵇ⁻¹, the format is
//! symmetric. With act-order the columns of a group are not neighbors: the format is permuted.

use super::HfError;
use super::config::Config;
use super::layer::{Codes, Layer, field, put, word_at};
use super::tensors::{
    Context, Grouping, floats, granularity, grouping, pack_zeros, shaped, transposed,
};
use crate::checkpoint::ModelFile;
use lowbit::format::{CodeType, Offset, Parts, WeightFormat};

/// How zero points are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeros {
    /// As z − 1, modulo 2ᵇ in each field.
    V1,
    /// As z − 1, where 1 was subtracted from all fields of a word in one operation, so that a field of 0
    /// borrows from the next.
    V1Borrowed,
    /// As z.
    V2,
}

/// What all weights of a checkpoint have in common.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub zeros: Zeros,
    /// What the user should know about it.
    pub warning: Option<String>,
}

impl Version {
    /// Finds the version of a checkpoint with weights in these modules. `checkpoint_format` says it,
    /// but there are symmetric checkpoints that claim version 1 and store 2ᵇ⁻¹, which only version 2 does.
    /// (Version 1 stores 2ᵇ⁻¹ − 1.)
    pub fn of(file: &ModelFile, config: &Config, modules: &[&str]) -> Self {
        let v2 = matches!(config.text("checkpoint_format"), Some("gptq_v2" | "gptq_p"));
        let label = match v2 {
            true => Zeros::V2,
            // GPTQModel subtracts from whole words; others subtract from each zero point.
            false if config.quantizers().contains("gptqmodel") => Zeros::V1Borrowed,
            false => Zeros::V1,
        };
        let mut tells: Vec<Option<bool>> = Vec::new();
        if config.flag("sym") != Some(false) {
            tells = modules.iter().map(|module| tell(file, config, module)).collect();
        }
        let said = |v2: bool| !tells.is_empty() && tells.iter().all(|tell| *tell == Some(v2));
        let (zeros, warning) = match label {
            Zeros::V2 if said(false) => {
                (Zeros::V1, Some("2, but its zero points are stored as in version 1"))
            }
            Zeros::V1 | Zeros::V1Borrowed if said(true) => {
                (Zeros::V2, Some("1, but its zero points are stored as in version 2"))
            }
            label => (label, None),
        };
        let warning = warning.map(|what| {
            format!("the checkpoint says that it is GPTQ version {what}; they are read as stored")
        });
        Self { zeros, warning }
    }
}

/// Returns whether all zero points of a weight are as version 2 (or else as version 1) stores symmetric
/// ones, or `None` if they are neither.
fn tell(file: &ModelFile, config: &Config, module: &str) -> Option<bool> {
    let layout = Layout::of(&Context::new(file, config, module)).ok()?;
    let half = 1 << (layout.bits - 1);
    match layout.uniform()? {
        zero if zero == half => Some(true),
        zero if zero == half - 1 => Some(false),
        _ => None,
    }
}

/// The tensors of a weight, whose shapes fit.
struct Layout<'a> {
    codes: &'a [u8],
    zeros: &'a [u8],
    bits: u32,
    n: usize,
    k: usize,
    groups: usize,
}

impl<'a> Layout<'a> {
    fn of(context: &Context<'a>) -> Result<Self, HfError> {
        let (codes, code_words, n) = context.words("qweight")?;
        let (zeros, groups, zero_words) = context.words("qzeros")?;
        let scales = context.need("scales")?;
        shaped(&scales, &[groups, n])?;
        let packed = |what: &str| format!("{what} of {n} zero points of 2, 3, 4 or 8 bits");
        let bits = zero_words.checked_mul(32).filter(|bits| n > 0 && bits % n == 0);
        let bits = bits.and_then(|bits| u32::try_from(bits / n).ok());
        let bits = bits
            .filter(|bits| [2, 3, 4, 8].contains(bits))
            .ok_or_else(|| HfError::shape(zeros.name, zeros.shape, packed("rows")))?;
        if let Some(stated) = context.config.bits().filter(|stated| *stated != bits)
            && !context.config.is_dynamic()
        {
            let stated = format!("{stated} bits");
            let found = format!("`{}` has codes of {bits} bits", codes.name);
            return Err(HfError::Disagree { stated, found });
        }
        if bits == 3 && context.config.text("checkpoint_format") == Some("gptq_p") {
            let what = "its codes of 3 bits are stored in planes (`gptq_p`)";
            return Err(HfError::unsupported(
                what,
                "save the model with `checkpoint_format` `gptq`",
            ));
        }
        let k = code_words.checked_mul(32).map(|all| all / bits as usize);
        let k = k.filter(|k| *k > 0 && k * bits as usize == code_words * 32 && groups > 0);
        let wrong = || {
            let need = format!("words of whole codes of {bits} bits, in at least one group");
            HfError::shape(codes.name, codes.shape, need)
        };
        let k = k.filter(|k| groups <= *k).ok_or_else(wrong)?;
        Ok(Self { codes: codes.bytes, zeros: zeros.bytes, bits, n, k, groups })
    }

    /// Returns the zero point that is stored for all groups of all rows, if it is the same.
    fn uniform(&self) -> Option<u32> {
        let (first, bits) = (self.stored_zero(0, 0), self.bits as usize);
        // A row of zero points starts with a whole word, and 32 of them fill as many words as they have
        // bits.
        let mut pattern = vec![0u32; bits];
        (0..32).for_each(|at| put(&mut pattern, at * bits, self.bits, first));
        let row = self.n * bits / 32;
        let same = |at: usize| word_at(self.zeros, at) == pattern[at % row % bits];
        (0..self.groups * row).all(same).then_some(first)
    }

    fn stored_zero(&self, row: usize, group: usize) -> u32 {
        let bits = self.bits as usize;
        field(self.zeros, (group * self.n + row) * bits, self.bits)
    }

    /// Returns the zero point of a group of a row.
    fn zero(&self, row: usize, group: usize, zeros: Zeros) -> u32 {
        let mask = u32::MAX >> (32 - self.bits);
        match zeros {
            Zeros::V2 => self.stored_zero(row, group),
            Zeros::V1Borrowed if self.bits != 3 => {
                let per_word = (32 / self.bits) as usize;
                let at = group * self.n + row;
                let word = field(self.zeros, at / per_word * 32, 32);
                let ones = u32::MAX / mask;
                word.wrapping_add(ones) >> (at % per_word * self.bits as usize) & mask
            }
            Zeros::V1 | Zeros::V1Borrowed => (self.stored_zero(row, group) + 1) & mask,
        }
    }

    /// Returns whether the readers of version 1 disagree about a zero point: if a field that stands for
    /// zero point 0 has another field above it in its word.
    fn is_ambiguous(&self) -> bool {
        let differs = |row, group| {
            self.zero(row, group, Zeros::V1) != self.zero(row, group, Zeros::V1Borrowed)
        };
        (0..self.groups).any(|group| (0..self.n).any(|row| differs(row, group)))
    }
}

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>, version: &Version) -> Result<Layer<'a>, HfError> {
    let layout = Layout::of(context)?;
    let Layout { bits, n, k, groups, .. } = layout;
    let config = context.config;
    let scales = context.need("scales")?;
    let in_order = || granularity(&scales, groups, k, &config.group_sizes());
    let act_order = config.flag("desc_act") == Some(true);
    let columns = match context.find("g_idx") {
        Some(index) => grouping(&index, groups, k, in_order)?,
        // Static groups are neighbors, whatever the order in which columns were quantized.
        None if act_order && groups > 1 && config.flag("static_groups") != Some(true) => {
            return Err(HfError::Missing { tensor: context.name("g_idx") });
        }
        None => Grouping { granularity: in_order()?, order: Vec::new(), ignored: false },
    };
    if columns.ignored && act_order {
        let found = format!("`{}` is all zeros", context.name("g_idx"));
        return Err(HfError::Disagree { stated: "act-order (`desc_act`)".to_owned(), found });
    }
    let code_type = match bits {
        2 => CodeType::Int2,
        3 => CodeType::Int3,
        4 => CodeType::Int4,
        _ => CodeType::Int8,
    };
    let half = 1u32 << (bits - 1);
    let zero = |row, group| layout.zero(row, group, version.zeros);
    let symmetric = layout.uniform().is_some() && zero(0, 0) == half;
    let offset = match bits {
        _ if symmetric => Offset::Fixed,
        8 => Offset::ZeroPoint,
        _ => Offset::ZeroPoint4,
    };
    let zeros = match offset {
        Offset::Fixed => Vec::new(),
        // Codes of 8 bits are signed here: 128 is subtracted from codes and zero points.
        Offset::ZeroPoint => {
            let rows = (0..n).flat_map(|row| (0..groups).map(move |group| (row, group)));
            rows.map(|(row, group)| zero(row, group) as u8 ^ 0x80).collect()
        }
        _ => pack_zeros(n, groups, |row, group| zero(row, group) as u8),
    };
    let scales = transposed(&floats(&scales)?, n, groups);
    let format = WeightFormat::new(code_type, columns.granularity)
        .with_offset(offset)
        .with_scales(scales.scale_type());
    let format = if columns.order.is_empty() { format } else { format.permuted() };
    let parts = Parts { scales, zeros, order: columns.order, ..Parts::default() };
    let (number, codes) = (if version.zeros == Zeros::V2 { 2 } else { 1 }, layout.codes);
    let stored = format!("GPTQ v{number}, {bits} bits");
    let mut layer =
        Layer::new(context, format, vec![n, k], parts, Codes::WordColumns(codes), stored)?;
    layer.warning = if columns.ignored {
        Some("g_idx is all zeros, which is read as columns in order".to_owned())
    } else if !symmetric && version.zeros != Zeros::V2 && layout.is_ambiguous() {
        let how = match version.zeros {
            Zeros::V1Borrowed => "as GPTQModel writes them, by words",
            _ => "one by one",
        };
        Some(format!(
            "GPTQ version 1 has no safe way to store zero points of 0: they are read {how}"
        ))
    } else {
        None
    };
    Ok(layer)
}
