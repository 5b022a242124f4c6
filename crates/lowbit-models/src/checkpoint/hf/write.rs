//! Writes models in formats of compressed-tensors.

use super::layer::{field_of_words, put};
use super::{HfError, sparse, write_config};
use crate::checkpoint::source::{Data, ItemKind, ModelSource, SourceError, without_activations};
use crate::checkpoint::{Dtype, Entry, ModelWriter, Output, matrix_shape, write_atomic};
use crate::progress::Step;
use lowbit::format::{
    CodeType, Granularity, Mask24, Offset, PackedWeights, Quantization, ScaleType, Scales,
    StaticScale, WeightFormat,
};
use std::collections::BTreeMap;

/// A format of compressed-tensors that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HfFormat {
    /// Integers of 2 to 6 and 8 bits, packed in 32-bit words.
    PackQuantized,
    /// Integers of 8 bits.
    IntQuantized,
    /// 2:4 sparse f32, f16 and symmetric 8-bit integers.
    Sparse24Bitmask,
    /// Dense f32 and f16 with zeros in any pattern, which are not stored.
    SparseBitmask,
}

impl HfFormat {
    /// Returns the name that the configuration states.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PackQuantized => "pack-quantized",
            Self::IntQuantized => "int-quantized",
            Self::Sparse24Bitmask => "sparse-24-bitmask",
            Self::SparseBitmask => "sparse-bitmask",
        }
    }

    /// Returns why weights of a lowbit format cannot be written, or `None` if they can.
    pub(super) fn refuses(self, format: &WeightFormat, k: usize) -> Option<&'static str> {
        let codes = format.code_type();
        let zeros = matches!(format.offset(), Offset::ZeroPoint | Offset::ZeroPoint4);
        let one_level = matches!(format.scale_type(), ScaleType::F32 | ScaleType::F16);
        let ragged = match format.granularity() {
            Granularity::Group(g) => !k.is_multiple_of(g.get() as usize),
            _ => false,
        };
        let words = codes.is_integer() && codes != CodeType::Int16;
        if codes.has_scales() && !one_level {
            return Some("its scales have one level of floats");
        }
        if !format.is_symmetric() && !zeros {
            return Some("its zero points are integers");
        }
        if ragged {
            return Some("its group size divides the number of columns");
        }
        match self {
            Self::PackQuantized if !words => Some("it holds integers of 2 to 6 and 8 bits"),
            Self::IntQuantized if codes != CodeType::Int8 => Some("it holds integers of 8 bits"),
            Self::PackQuantized | Self::IntQuantized if format.is_sparse() => {
                Some("it holds dense weights, and `sparse-24-bitmask` holds 2:4 sparse ones")
            }
            Self::IntQuantized if format.is_permuted() => {
                Some("its columns are in order, and those of `pack-quantized` need not be")
            }
            Self::Sparse24Bitmask if !format.is_sparse() => Some("it holds 2:4 sparse weights"),
            Self::Sparse24Bitmask if zeros || !k.is_multiple_of(4) => {
                Some("it has no zero points, and a multiple of 4 columns")
            }
            Self::Sparse24Bitmask
                if !matches!(codes, CodeType::F32 | CodeType::F16 | CodeType::Int8) =>
            {
                Some("it holds f32, f16 and 8-bit integers")
            }
            Self::SparseBitmask if format.is_sparse() => Some(
                "it holds zeros in dense weights, and `sparse-24-bitmask` holds 2:4 sparse ones",
            ),
            Self::SparseBitmask if !matches!(codes, CodeType::F32 | CodeType::F16) => {
                Some("it holds f32 and f16")
            }
            Self::SparseBitmask if format.is_permuted() => Some("its columns are in order"),
            _ => None,
        }
    }
}

/// A tensor to write.
pub(super) struct Written {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Writes everything that `model` contains to safetensors files: weights in `format`, with their codes and
/// scales as they are, and everything else as plain tensors. In [`HfFormat::SparseBitmask`], weights that a mask
/// would not make smaller are plain tensors too. A `config.json` is written beside them last: that of a
/// safetensors model, with the new quantization, of weights and of their X. One item is in memory at a time.
///
/// Returns what the user should know about the files, as sentences without a full stop.
///
/// # Errors
/// Returns [`HfError`] as a [`SourceError`] for a weight that the format does not hold, or whose name does
/// not end in `.weight`, if no weight would be smaller with a mask, and if there is a `config.json` already.
/// Returns other [`SourceError`]s if an item cannot be read or a file cannot be written. No model file is
/// written in that case, except if only `config.json` cannot be.
pub fn write(
    model: &dyn ModelSource,
    format: HfFormat,
    output: impl Into<Output>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Vec<String>, SourceError> {
    if let Some(error) = model.refusal() {
        return Err(error);
    }
    let items = model.items()?;
    let mut entries = BTreeMap::new();
    let mut modules = BTreeMap::new();
    let mut without = Vec::new();
    let mut dense = Vec::new();
    let mut add = |name: String, entry: Entry| match entries.insert(name.clone(), entry) {
        None => Ok(()),
        Some(_) => Err(HfError::unsupported(
            format!("two tensors would have the name `{name}`"),
            "leave one of them out",
        )),
    };
    for item in &items {
        match &item.kind {
            ItemKind::Plain(dtype) => {
                let entry = Entry::Plain { dtype: *dtype, shape: item.shape.clone() };
                add(item.name.clone(), entry)?;
            }
            ItemKind::Compressed(weights) => {
                let (module, mut inputs) = module(model, format, &item.name)?;
                // The configuration has no group for floats, in which it could stand.
                if inputs.is_some() && !weights.code_type().has_scales() {
                    without.push(item.name.as_str());
                    inputs = None;
                }
                let mut written = tensors(&item.name, module, format, weights, &item.shape)?;
                if format == HfFormat::SparseBitmask {
                    // How many values there are, only the weight itself tells.
                    let masked = masked(model.read(&item.name)?);
                    if masked.is_none() {
                        dense.push(module.to_owned());
                    }
                    written = sparse::tensors(module, weights, &item.shape, masked.as_ref());
                }
                for Written { name, dtype, shape } in written {
                    add(name, Entry::Plain { dtype, shape })?;
                }
                if dense.last().is_some_and(|last| last == module) {
                    continue;
                }
                for (own, dtype, _) in input_tensors(inputs) {
                    let name = format!("{module}.{own}");
                    add(name, Entry::Plain { dtype, shape: vec![1] })?;
                }
                modules.insert(module.to_owned(), (*weights, inputs));
            }
            ItemKind::Unsupported(why) => {
                let (name, stored) = (item.name.clone(), item.stored.clone());
                return Err(SourceError::Unsupported { name, stored, why: why.clone() });
            }
        }
    }
    if format == HfFormat::SparseBitmask && modules.is_empty() {
        let what = "no weight has so many zeros that a mask makes it smaller";
        let next = "prune the model, as `lowbit compress --scheme f16 --sparsity 0.5` does";
        return Err(HfError::unsupported(what, next).into());
    }
    let own_config = write_config::source(model);
    let config = write_config::config(own_config.clone(), format, &modules, &dense);
    let output = output.into();
    let beside = output.entry_point().with_file_name("config.json");
    if beside.exists() {
        let what = format!("`{}` exists, and it may be of another model", beside.display());
        return Err(HfError::unsupported(what, "write to a folder of its own").into());
    }
    let mut writer = ModelWriter::create(output, entries, &model.metadata())?;
    for item in &items {
        progress(Step::Started(&item.name));
        match model.read(&item.name)? {
            Data::Plain(bytes) => writer.write_plain(&item.name, &bytes)?,
            Data::Compressed(weights) if format == HfFormat::SparseBitmask => {
                let (module, _) = module(model, format, &item.name)?;
                match sparse::Masked::smaller(&weights) {
                    Some(masked) => {
                        for (own, bytes) in masked.parts() {
                            writer.write_plain(&format!("{module}.{own}"), &bytes)?;
                        }
                    }
                    None => writer.write_plain(&item.name, &codes(&weights))?,
                }
            }
            Data::Compressed(weights) => {
                let (module, inputs) = module(model, format, &item.name)?;
                let written = tensors(&item.name, module, format, &weights.format(), &item.shape)?;
                for Written { name, .. } in written {
                    let own = name.strip_prefix(module).unwrap_or(&name).trim_start_matches('.');
                    writer.write_plain(&name, &bytes(own, format, &weights))?;
                }
                let inputs = inputs.filter(|_| weights.format().code_type().has_scales());
                for (own, _, bytes) in input_tensors(inputs) {
                    writer.write_plain(&format!("{module}.{own}"), &bytes)?;
                }
            }
        }
        progress(Step::Finished(&item.name));
    }
    writer.finish()?;
    write_atomic(beside, &config)?;
    let mut warnings: Vec<String> =
        without_activations(&without, format.name()).into_iter().collect();
    let named = ["architectures", "model_type"].iter().any(|key| own_config.contains_key(*key));
    if !named {
        warnings.push(
            "there is no config.json beside the model, and so the new one does not say what its architecture \
             is: programs that load it need the keys of the model's own"
                .to_owned(),
        );
    }
    Ok(warnings)
}

/// Returns the tensors of one element that say how X is quantized, if its scale is fixed: their names in the
/// module, their types and their bytes.
fn input_tensors(inputs: Option<Quantization>) -> Vec<(&'static str, Dtype, Vec<u8>)> {
    let Some(Quantization::Static(StaticScale { scale, zero_point })) = inputs else {
        return Vec::new();
    };
    let mut tensors = vec![("input_scale", Dtype::F32, scale.to_le_bytes().to_vec())];
    if zero_point != 0 {
        // A zero point was checked to be one of a signed byte.
        tensors.push(("input_zero_point", Dtype::I8, vec![zero_point as u8]));
    }
    tensors
}

/// Returns the module of a weight, and how its X is quantized if the model says it.
fn module<'a>(
    model: &dyn ModelSource,
    format: HfFormat,
    name: &'a str,
) -> Result<(&'a str, Option<Quantization>), SourceError> {
    let activations = model.activations(name)?;
    if activations.as_ref().is_some_and(|x| x.factors.is_some()) {
        let what = format!("the input of `{name}` is smoothed, which {} cannot say", format.name());
        let next = "compress the model without smoothing";
        return Err(HfError::unsupported(what, next).into());
    }
    let module = name.strip_suffix(".weight").ok_or_else(|| {
        let what = format!("the name `{name}` does not end in `.weight`");
        HfError::unsupported(what, "formats of compressed-tensors hold weights of modules")
    })?;
    Ok((module, activations.map(|activations| activations.quantization)))
}

/// Returns a weight behind a mask, if that is smaller.
fn masked(data: Data<'_>) -> Option<sparse::Masked> {
    match data {
        Data::Compressed(weights) => sparse::Masked::smaller(&weights),
        Data::Plain(_) => None,
    }
}

/// Returns the tensors of a weight.
fn tensors(
    weight: &str,
    module: &str,
    format: HfFormat,
    weights: &WeightFormat,
    shape: &[usize],
) -> Result<Vec<Written>, HfError> {
    let refuse = |why: &str| {
        let what = format!("`{weight}` is {weights}: {} needs that {why}", format.name());
        HfError::unsupported(what, "compress the model in a format that it holds")
    };
    let (n, k) = match matrix_shape(shape) {
        Some(matrix) if shape.len() == 2 => matrix,
        _ => return Err(refuse("a weight has two dimensions")),
    };
    if let Some(why) = format.refuses(weights, k) {
        return Err(refuse(why));
    }
    let g = weights
        .geometry(n, k)
        .map_err(|source| HfError::Format { weight: weight.to_owned(), source })?;
    let groups = match weights.granularity() {
        Granularity::Tensor => vec![1],
        _ => vec![n, g.groups],
    };
    let (words, i8) = (Dtype::I32, Dtype::I8);
    let scale = if weights.scale_type() == ScaleType::F16 { Dtype::F16 } else { Dtype::F32 };
    let packed = |count: usize| (count * weights.code_type().bits() as usize).div_ceil(32);
    let mut written = Vec::new();
    let mut add = |own: &str, dtype: Dtype, shape: Vec<usize>| {
        written.push(Written { name: format!("{module}.{own}"), dtype, shape });
    };
    match format {
        HfFormat::PackQuantized => {
            add("weight_packed", words, vec![n, g.code_words]);
            add("weight_shape", Dtype::I64, vec![2]);
            match weights.granularity() {
                _ if !weights.has_zeros() => {}
                Granularity::Tensor => add("weight_zero_point", i8, vec![1]),
                _ => add("weight_zero_point", words, vec![packed(n), g.groups]),
            }
            if weights.is_permuted() {
                add("weight_g_idx", words, vec![k]);
            }
        }
        HfFormat::IntQuantized => {
            add("weight", i8, vec![n, k]);
            if weights.has_zeros() {
                add("weight_zero_point", i8, groups.clone());
            }
        }
        HfFormat::Sparse24Bitmask => {
            let dtype = match weights.code_type() {
                CodeType::F32 => Dtype::F32,
                CodeType::F16 => Dtype::F16,
                _ => i8,
            };
            add("compressed", dtype, vec![n, k / 2]);
            add("bitmask", Dtype::U8, vec![n, k.div_ceil(8)]);
            add("shape", Dtype::I64, vec![2, 1]);
        }
        // These depend on the values.
        HfFormat::SparseBitmask => return Ok(written),
    }
    if weights.code_type().has_scales() {
        add("weight_scale", scale, groups);
    }
    Ok(written)
}

/// Returns the bytes of one tensor of a weight.
fn bytes(own: &str, format: HfFormat, weights: &PackedWeights) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let sizes = [weights.n() as u64, weights.k() as u64];
    match own {
        "weight_shape" | "shape" => sizes.iter().flat_map(|size| size.to_le_bytes()).collect(),
        "weight_packed" => words(&packed_codes(weights)),
        "weight_scale" => scales(weights.scales()),
        "weight_g_idx" => words(&group_index(weights)),
        "weight_zero_point" if format == HfFormat::IntQuantized => weights.zeros().to_vec(),
        "weight_zero_point" => packed_zeros(weights),
        "bitmask" => {
            let metadata = weights.metadata().to_vec();
            let mask = Mask24::from_words(weights.n(), weights.k(), metadata);
            mask.map(|mask| mask.to_bitmask().bytes).unwrap_or_default()
        }
        _ => codes(weights),
    }
}

fn scales(scales: &Scales) -> Vec<u8> {
    match scales {
        Scales::F16(scales) => scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
        other => (0..other.len()).flat_map(|index| other.get(index).to_le_bytes()).collect(),
    }
}

/// Returns codes in words, in the order of columns, 128 added to signed ones. The bits after the last code
/// of a row are 0.
fn packed_codes(weights: &PackedWeights) -> Vec<u32> {
    let (g, code_type) = (weights.geometry(), weights.format().code_type());
    let (bits, order) = (code_type.bits(), weights.order());
    let flip = if code_type == CodeType::Int8 { 0x80 } else { 0 };
    let mut words = vec![0u32; g.n * g.code_words];
    for row in 0..if g.k == 0 { 0 } else { g.n } {
        let from = &weights.codes()[row * g.code_words..][..g.code_words];
        let to = &mut words[row * g.code_words..][..g.code_words];
        for at in 0..g.k {
            let column = order.get(at).map_or(at, |&column| column as usize);
            put(
                to,
                column * bits as usize,
                bits,
                field_of_words(from, at * bits as usize, bits) ^ flip,
            );
        }
    }
    words
}

/// Returns the group of each column.
fn group_index(weights: &PackedWeights) -> Vec<u32> {
    let mut groups = vec![0u32; weights.k()];
    for (at, &column) in weights.order().iter().enumerate() {
        if let Some(group) = groups.get_mut(column as usize) {
            *group = weights.geometry().group_of(at) as u32;
        }
    }
    groups
}

/// Returns zero points packed along N, or the one of the whole tensor, 2ᵇ⁻¹ less, in a byte.
fn packed_zeros(weights: &PackedWeights) -> Vec<u8> {
    let (g, code_type) = (weights.geometry(), weights.format().code_type());
    let bits = code_type.bits();
    // Stored zero points are unsigned; those of int8 are signed here.
    let half = 1i32 << (bits - 1);
    let signed = |row: usize, group: usize| match code_type {
        CodeType::Int8 => weights.zero(row, group),
        _ => weights.zero(row, group) - half,
    };
    if weights.format().granularity() == Granularity::Tensor {
        return vec![signed(0, 0) as u8];
    }
    let words = (g.n * bits as usize).div_ceil(32);
    let mut packed = vec![0u32; words * g.groups];
    for group in 0..g.groups {
        let mut column = vec![0u32; words];
        for row in 0..g.n {
            put(&mut column, row * bits as usize, bits, (signed(row, group) + half) as u32);
        }
        for (word, value) in column.into_iter().enumerate() {
            packed[word * g.groups + group] = value;
        }
    }
    packed.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Returns codes row after row, without what fills up the words of a row.
fn codes(weights: &PackedWeights) -> Vec<u8> {
    let g = weights.geometry();
    let row_bytes = g.stored * weights.format().code_type().bits() as usize / 8;
    let mut bytes = Vec::with_capacity(g.n * row_bytes);
    for row in 0..if g.k == 0 { 0 } else { g.n } {
        let words = &weights.codes()[row * g.code_words..][..g.code_words];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()).take(row_bytes));
    }
    bytes
}
