//! Reads checkpoints of the Hugging Face Hub whose weights other tools have quantized, and writes some of
//! their formats.
//!
//! | method | variants that are read | here |
//! |---|---|---|
//! | GPTQ v1, v2 | 2, 3, 4, 8 bits, act-order | int2 … int8, permuted |
//! | AWQ | GEMM | int4 with zero points of 4 bits |
//! | compressed-tensors | `pack-quantized` with 2 to 6 and 8 bits | int2 … int8 |
//! | | `int-quantized` | int8 |
//! | | `float-quantized`, `mxfp8` | e4m3, e5m2 |
//! | | `nvfp4-pack-quantized`, `mxfp4-pack-quantized` | e2m1 |
//! | | `sparse-24-bitmask` | 2:4 f32, f16, int8 |
//! | | `sparse-bitmask` | f32, f16 with zeros |
//! | bitsandbytes | nf4, fp4, int8 | nf4, fp4, a codebook, int8 |
//! | HQQ | 2, 3, 4, 5, 6, 8 bits along K | integers with float zero points |
//! | fp8 | one scale, channels, blocks | e4m3, e5m2 |
//!
//! Codes and scales are taken as they are; nothing is dequantized on the way. bf16 scales are widened to
//! f32, which is exact. The modules of each format (in the source) describe its tensors. A module `M`
//! becomes the weight `M.weight`; all other tensors of the checkpoint are plain tensors.
//!
//! `quantization_config` in `config.json` (`quantize_config.json` and `quant_config.json` in older files)
//! names the method. Without it, the names, types and shapes of the tensors tell. A method that is not
//! known is refused. A weight that cannot be read is listed by [`HfModel::left_out`] with the reason and the
//! next step, and does not keep others from being read; its tensors are not copied.
//!
//! Where compressed-tensors says that inputs become 8-bit integers, [`HfModel::inputs`] has how.
//!
//! [`write()`] writes the formats `pack-quantized`, `int-quantized`, `sparse-24-bitmask` and
//! `sparse-bitmask`.

mod awq;
mod bitmask;
mod bitsandbytes;
mod config;
mod error;
mod fp4;
mod fp8;
mod gptq;
mod hqq;
mod inputs;
mod int_quantized;
mod layer;
mod pack_quantized;
mod source;
mod sparse;
mod tensors;
#[cfg(test)]
mod tests;
mod write;
mod write_config;

pub use error::HfError;
pub use write::{HfFormat, write};

use super::shards::read_object;
use super::{Dtype, IoError, ModelFile, Tensor};
use config::{Config, Method};
use layer::Layer;
use lowbit::format::{PackedWeights, Quantization, WeightFormat};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tensors::Context;

/// A quantized weight that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HfWeight {
    /// The name of its parameter.
    pub name: String,
    /// The format in which it is read.
    pub format: WeightFormat,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it is stored, by the words of its method: `GPTQ v1, 4 bits`.
    pub stored: String,
    /// The bytes of its tensors in the files.
    pub bytes: usize,
    module: String,
    reader: Reader,
}

/// A quantized weight that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HfLeftOut {
    /// The name of its parameter.
    pub name: String,
    /// The method by which it is quantized.
    pub what: String,
    /// The reason, and the next step.
    pub why: String,
}

/// A checkpoint with quantized weights. Its tensors are in a [`ModelFile`].
#[derive(Debug)]
pub struct HfModel {
    file: ModelFile,
    config: Config,
    refused: Option<HfError>,
    version: gptq::Version,
    weights: BTreeMap<String, HfWeight>,
    /// How X of weights becomes codes, where the configuration says it.
    inputs: BTreeMap<String, Quantization>,
    /// The tensors that belong to quantized weights.
    used: BTreeSet<String>,
    left_out: Vec<HfLeftOut>,
    warnings: Vec<String>,
}

/// A format, each with a reader of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Gptq,
    Awq,
    PackQuantized,
    IntQuantized,
    Fp8,
    Fp4,
    Bitmask,
    Sparse,
    FourBits,
    EightBits,
    Hqq,
}

impl Reader {
    /// Returns the method of `config.json` that the format belongs to, and whether a stated one is that.
    fn is_of(self, stated: Method) -> bool {
        match self {
            Self::Gptq => stated == Method::Gptq,
            Self::Awq => stated == Method::Awq,
            Self::PackQuantized | Self::IntQuantized | Self::Fp4 | Self::Bitmask | Self::Sparse => {
                stated == Method::CompressedTensors
            }
            Self::Fp8 => matches!(stated, Method::CompressedTensors | Method::Fp8),
            Self::FourBits | Self::EightBits => stated == Method::BitsAndBytes,
            Self::Hqq => stated == Method::Hqq,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::PackQuantized => "pack-quantized",
            Self::IntQuantized => "int-quantized",
            Self::Fp8 => "fp8",
            Self::Fp4 => "4-bit floats",
            Self::Bitmask => "sparse-24-bitmask",
            Self::Sparse => "sparse-bitmask",
            Self::FourBits | Self::EightBits => "bitsandbytes",
            Self::Hqq => "HQQ",
        }
    }

    /// Returns the format of a weight that this tensor belongs to, and the name of its module, if the
    /// tensor is the one that holds its codes.
    fn of<'a>(file: &ModelFile, config: &Config, tensor: &Tensor<'a>) -> Option<(Self, &'a str)> {
        let (module, own) = match tensor.name.rsplit_once('.') {
            Some((module, own)) => (module, own),
            None => ("", tensor.name),
        };
        let context = Context::new(file, config, module);
        let has = |own: &str| context.find(own).is_some();
        let fp8 = matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2);
        // Without a configuration and without scales, bytes may be what they seem to be.
        let stated = config.is_stated() && tensor.shape.len() > 1 || has("weight_scale");
        let reader = match own {
            "qweight" => {
                let scales = context.find("scales");
                let columns = |tensor: &Tensor<'_>| tensor.shape.last().copied();
                // Both hold 32-bit words: GPTQ packs the rows of `[K, N]`, and AWQ the columns.
                let same = scales.is_some_and(|scales| columns(&scales) == columns(tensor));
                match config.method() {
                    Some(Method::Awq) => Self::Awq,
                    Some(Method::Gptq) => Self::Gptq,
                    _ if same => Self::Gptq,
                    _ => Self::Awq,
                }
            }
            "weight_packed" if tensor.dtype == Dtype::U8 => Self::Fp4,
            "weight_packed" => Self::PackQuantized,
            "compressed" if has("bitmask") && has("row_offsets") => Self::Sparse,
            "compressed" if has("bitmask") => Self::Bitmask,
            "W_q" => Self::Hqq,
            "weight" if fp8 && (stated || has("weight_scale_inv")) => Self::Fp8,
            "weight" if tensor.dtype == Dtype::I8 && has("SCB") => Self::EightBits,
            "weight" if tensor.dtype == Dtype::I8 && stated => Self::IntQuantized,
            "weight" if has("weight.absmax") || has("weight.quant_map") => Self::FourBits,
            _ => return None,
        };
        Some((reader, module))
    }

    /// Finds a weight.
    fn layer<'a>(
        self,
        context: &Context<'a>,
        version: &gptq::Version,
    ) -> Result<Layer<'a>, HfError> {
        match self {
            Self::Gptq => gptq::layer(context, version),
            Self::Awq => awq::layer(context),
            Self::PackQuantized => pack_quantized::layer(context),
            Self::IntQuantized => int_quantized::layer(context),
            Self::Fp8 => fp8::layer(context),
            Self::Fp4 => fp4::layer(context),
            Self::Bitmask => bitmask::layer(context),
            Self::Sparse => sparse::layer(context),
            Self::FourBits => bitsandbytes::four_bits(context),
            Self::EightBits => bitsandbytes::eight_bits(context),
            Self::Hqq => hqq::layer(context),
        }
    }
}

impl HfModel {
    /// Finds the quantized weights of a model, or returns the model if it has none and its configuration
    /// names no method.
    ///
    /// # Errors
    /// Returns [`IoError`] if a configuration beside the model cannot be read.
    pub fn find(file: ModelFile) -> Result<Result<Self, ModelFile>, IoError> {
        if !file.compressed().is_empty() {
            return Ok(Err(file));
        }
        let stated = configuration(&file)?;
        let (config, refused) = match Config::new(stated) {
            Ok(config) => (config, None),
            Err(error) => (Config::default(), Some(error)),
        };
        let found: Vec<(Reader, String)> = match refused {
            Some(_) => Vec::new(),
            None => {
                let readers = file.plain().filter_map(|tensor| {
                    let (reader, module) = Reader::of(&file, &config, &tensor)?;
                    Some((reader, module.to_owned()))
                });
                readers.collect()
            }
        };
        if found.is_empty() && refused.is_none() && !config.is_stated() {
            return Ok(Err(file));
        }
        let gptq = found.iter().filter(|(reader, _)| *reader == Reader::Gptq);
        let gptq: Vec<&str> = gptq.map(|(_, module)| module.as_str()).collect();
        let version = gptq::Version::of(&file, &config, &gptq);
        let mut model = Self {
            file,
            config,
            refused,
            version,
            weights: BTreeMap::new(),
            inputs: BTreeMap::new(),
            used: BTreeSet::new(),
            left_out: Vec::new(),
            warnings: Vec::new(),
        };
        model.warnings.extend(model.version.warning.clone());
        let groups = inputs::Groups::new(&model.config);
        let mut floats = BTreeMap::new();
        for (reader, module) in found {
            model.add(reader, module, &groups, &mut floats);
        }
        model.warnings.extend(groups.warnings);
        for (why, weights) in floats {
            let inputs = match &weights[..] {
                [one] => format!("the input of `{one}` stays floats"),
                [first, ..] => {
                    format!("the inputs of {} weights, first `{first}`, stay floats", weights.len())
                }
                [] => continue,
            };
            model.warnings.push(format!("{inputs}: {why}"));
        }
        model.finish();
        Ok(Ok(model))
    }

    /// Adds a weight, or lists it as left out. If its input is to become codes that kernels do not take, its name is
    /// added to those of that reason in `floats`.
    fn add(
        &mut self,
        reader: Reader,
        module: String,
        groups: &inputs::Groups,
        floats: &mut BTreeMap<String, Vec<String>>,
    ) {
        let context = Context::new(&self.file, &self.config, &module);
        let disagrees = self.config.method().filter(|stated| !reader.is_of(*stated));
        let layer = match disagrees {
            Some(stated) => {
                let found = format!("the tensors are those of {}", reader.name());
                Err(HfError::Disagree { stated: stated.name().to_owned(), found })
            }
            None => reader.layer(&context, &self.version),
        };
        let layer = layer.and_then(|layer| {
            let plain =
                !layer.used.contains(&layer.name) && self.file.tensor(&layer.name).is_some();
            if plain || self.weights.contains_key(&layer.name) {
                let what = "there is another weight of this name";
                return Err(HfError::unsupported(what, "remove one of the two"));
            }
            Ok(layer)
        });
        match layer {
            Ok(layer) => {
                let bytes = |name: &String| self.file.tensor(name).map_or(0, |t| t.bytes.len());
                let weight = HfWeight {
                    name: layer.name.clone(),
                    format: layer.geometry.format,
                    shape: layer.shape,
                    stored: layer.stored,
                    bytes: layer.used.iter().map(bytes).sum(),
                    module: module.clone(),
                    reader,
                };
                self.used.extend(layer.used);
                match inputs::inputs(groups, &context, &layer.geometry) {
                    Ok(None) => {}
                    Ok(Some(quantization)) => {
                        self.inputs.insert(layer.name.clone(), quantization);
                    }
                    Err(why) => floats.entry(why).or_default().push(layer.name.clone()),
                }
                self.used.extend(context.used());
                if let Some(warning) = layer.warning {
                    self.warnings.push(format!("`{}`: {warning}", layer.name));
                }
                self.weights.insert(layer.name, weight);
            }
            Err(error) => {
                let (name, what) = (context.weight(), reader.name().to_owned());
                // All tensors of the format, whatever was looked at before it was refused.
                let prefix = context.name("");
                let own = self.file.plain().filter(|tensor| {
                    let own = tensor.name.strip_prefix(&prefix);
                    own.is_some_and(|own| {
                        let known = PARTS.contains(&own) || hqq::SETTINGS.contains(&own);
                        known || own.starts_with("weight.")
                    })
                });
                self.used.extend(own.map(|tensor| tensor.name.to_owned()));
                self.left_out.push(HfLeftOut { name, what, why: error.with_next_step() });
            }
        }
    }

    /// Lists codes that belong to no weight, and refuses a checkpoint in which nothing can be read.
    fn finish(&mut self) {
        if self.refused.is_some() {
            return;
        }
        let mut codes = Vec::new();
        for tensor in self.file.plain().filter(|tensor| !self.used.contains(tensor.name)) {
            let fp8 = matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2);
            let weight = tensor.name.ends_with(".weight") && tensor.shape.len() > 1;
            if fp8 || (weight && matches!(tensor.dtype, Dtype::U8 | Dtype::I32)) {
                codes.push((tensor.name.to_owned(), tensor.dtype));
            }
        }
        for (name, dtype) in codes {
            self.used.insert(name.clone());
            let why = "nothing says what its codes stand for; quantize the model again, and leave this \
                       tensor out";
            self.left_out.push(HfLeftOut { name, what: dtype.to_string(), why: why.to_owned() });
        }
        self.left_out.sort_by(|a, b| a.name.cmp(&b.name));
        match (&self.left_out[..], self.config.method()) {
            ([first, ..], _) if self.weights.is_empty() => {
                let (count, why) = (self.left_out.len(), first.why.clone());
                let first = first.name.clone();
                self.refused = Some(HfError::NothingReadable { count, first, why });
            }
            ([], Some(method)) if self.weights.is_empty() => {
                let name = method.name();
                let warning = format!("the configuration says {name}, but no tensor is quantized");
                self.warnings.push(warning);
            }
            _ => {}
        }
    }

    /// Returns the file with the tensors, quantized ones in their parts.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// Returns the file with the tensors and gives up the rest.
    pub fn into_file(self) -> ModelFile {
        self.file
    }

    /// Returns the weights that can be read, by name.
    pub fn weights(&self) -> &BTreeMap<String, HfWeight> {
        &self.weights
    }

    /// Returns how X of weights becomes 8-bit codes, by the name of the weight, where the configuration says it and
    /// kernels do it.
    pub fn inputs(&self) -> &BTreeMap<String, Quantization> {
        &self.inputs
    }

    /// Returns every way in which weights that can be read are stored, by the words of their methods.
    pub fn stored(&self) -> String {
        let stored: BTreeSet<&str> = self.weights.values().map(|w| w.stored.as_str()).collect();
        stored.into_iter().collect::<Vec<_>>().join("; ")
    }

    /// Returns the tensors that are not parts of quantized weights, ordered by name.
    pub fn plain(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.file.plain().filter(|tensor| !self.used.contains(tensor.name))
    }

    /// Returns the quantized weights that cannot be read.
    pub fn left_out(&self) -> &[HfLeftOut] {
        &self.left_out
    }

    /// Returns what the user should know about the checkpoint.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the reason why the checkpoint as a whole is not read, if it is not.
    pub fn refused(&self) -> Option<&HfError> {
        self.refused.as_ref()
    }

    /// Reads a weight, with its codes and scales as they are.
    ///
    /// # Errors
    /// Returns [`HfError`] if there is no such weight, or if its values are not valid.
    pub fn read_weight(&self, name: &str) -> Result<PackedWeights, HfError> {
        let missing = || HfError::Missing { tensor: name.to_owned() };
        let weight = self.weights.get(name).ok_or_else(missing)?;
        let context = Context::new(&self.file, &self.config, &weight.module);
        let layer = weight.reader.layer(&context, &self.version)?;
        layer.pack().map_err(|source| HfError::Format { weight: name.to_owned(), source })
    }
}

/// The tensors of quantized weights beside `weight.…`, for weights that are refused.
const PARTS: [&str; 29] = [
    "weight",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_global_scale",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "compressed",
    "bitmask",
    "row_offsets",
    "shape",
    "SCB",
    "weight_format",
    "W_q",
    "scale",
    "zero",
    "scale_q",
    "zero_q",
    "nbits",
    "group_size",
    "axis",
    "packing",
];

/// Returns the `quantization_config` of a model, from `config.json` or from the files of their own that
/// GPTQ and AWQ had earlier; null if there is none.
fn configuration(file: &ModelFile) -> Result<Value, IoError> {
    for config in [file.config(), file.config().get("text_config").unwrap_or(&Value::Null)] {
        if let Some(found) = config.get("quantization_config").filter(|found| found.is_object()) {
            return Ok(found.clone());
        }
    }
    let old = file.plain().any(|tensor| tensor.name.ends_with(".qweight"));
    let Some(folder) = file.folder().filter(|_| old) else { return Ok(Value::Null) };
    for name in ["quantize_config.json", "quant_config.json"] {
        let found = read_object(folder, name)?;
        if found.is_object() {
            return Ok(found);
        }
    }
    Ok(Value::Null)
}
