//! What `config.json` says about how a checkpoint was quantized.

use super::HfError;
use serde_json::Value;

/// A method whose checkpoints are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Gptq,
    Awq,
    CompressedTensors,
    BitsAndBytes,
    Hqq,
    Fp8,
}

impl Method {
    const NAMES: [(&'static str, Self); 7] = [
        ("gptq", Self::Gptq),
        ("awq", Self::Awq),
        ("compressed-tensors", Self::CompressedTensors),
        ("bitsandbytes", Self::BitsAndBytes),
        ("hqq", Self::Hqq),
        ("fp8", Self::Fp8),
        ("fbgemm_fp8", Self::Fp8),
    ];

    /// Returns the usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::CompressedTensors => "compressed-tensors",
            Self::BitsAndBytes => "bitsandbytes",
            Self::Hqq => "HQQ",
            Self::Fp8 => "fp8",
        }
    }
}

/// The `quantization_config` of a checkpoint. Without one, tensors alone say how they are quantized.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    value: Value,
    method: Option<Method>,
}

const QUANTIZE_ANEW: &str =
    "import the model in another format, or compress the original with `lowbit compress`";

impl Config {
    /// Reads a `quantization_config`, or null.
    ///
    /// # Errors
    /// Returns [`HfError::Unsupported`] for a method or a variant of one that is not read.
    pub fn new(value: Value) -> Result<Self, HfError> {
        let mut config = Self { value, method: None };
        if !config.is_stated() {
            return Ok(config);
        }
        config.method = match config.text("quant_method") {
            Some(name) => {
                let found = Method::NAMES.iter().find(|(known, _)| name == *known);
                let method = found.map(|(_, method)| *method).ok_or_else(|| {
                    let what = format!("its weights were quantized by the method `{name}`");
                    HfError::unsupported(what, QUANTIZE_ANEW)
                })?;
                Some(method)
            }
            // Files of bitsandbytes, GPTQ and AWQ from before transformers named methods.
            None if config.has("load_in_4bit") || config.has("load_in_8bit") => {
                Some(Method::BitsAndBytes)
            }
            None if config.has("zero_point") => Some(Method::Awq),
            None if config.has("desc_act") => Some(Method::Gptq),
            None => None,
        };
        config.check_variant()?;
        Ok(config)
    }

    /// Refuses variants of methods whose tensors are laid out in other ways.
    fn check_variant(&self) -> Result<(), HfError> {
        match self.method {
            Some(Method::Gptq) => {
                let format = self.text("checkpoint_format").unwrap_or("gptq");
                let marlin = self.flag("is_marlin_format") == Some(true);
                if marlin || !matches!(format, "gptq" | "gptq_v2" | "gptq_p") {
                    let format = if marlin { "marlin" } else { format };
                    let what = format!("its GPTQ weights are in the layout `{format}`");
                    let next = "save the model with `checkpoint_format` `gptq` or `gptq_v2`";
                    return Err(HfError::unsupported(what, next));
                }
                if let Some(pack) = self.text("pack_dtype").filter(|pack| *pack != "int32") {
                    let what = format!("its GPTQ weights are packed in {pack}");
                    return Err(HfError::unsupported(what, "pack them in int32"));
                }
            }
            Some(Method::Awq) => {
                let version = self.text("version").or(self.text("format")).unwrap_or("gemm");
                let backend = self.text("backend").unwrap_or("autoawq");
                let version = if backend == "llm-awq" { backend } else { version };
                if !version.eq_ignore_ascii_case("gemm") {
                    let what = format!("its AWQ weights are in the layout `{version}`");
                    return Err(HfError::unsupported(what, "save the model in the layout `gemm`"));
                }
            }
            Some(Method::CompressedTensors) => {
                // Such weights belong to rotated activations.
                let rotated = |value: &serde_json::Value| {
                    value.as_object().is_some_and(|transforms| {
                        transforms.values().any(|v| v.as_object().is_some_and(|v| !v.is_empty()))
                    })
                };
                if self.value.get("transform_config").is_some_and(rotated) {
                    let what = "its weights were transformed (transform_config)";
                    return Err(HfError::unsupported(what, QUANTIZE_ANEW));
                }
                // The tensors of a format that is not known here are refused one by one.
                if self.ct_formats().any(|stated| stated == "marlin-24") {
                    let what = "its weights are in the format `marlin-24`";
                    return Err(HfError::unsupported(what, QUANTIZE_ANEW));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether there is a configuration.
    pub fn is_stated(&self) -> bool {
        self.value.is_object()
    }

    /// Returns the method, or `None` if the configuration does not name one.
    pub fn method(&self) -> Option<Method> {
        self.method
    }

    fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// Returns whether there is an object of this name.
    pub fn has_object(&self, key: &str) -> bool {
        self.value.get(key).is_some_and(Value::is_object)
    }

    /// Returns a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value.get(key)?.as_str()
    }

    /// Returns a flag.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.value.get(key)?.as_bool()
    }

    /// Returns a number of bits, under any of the names that the methods have for it.
    pub fn bits(&self) -> Option<u32> {
        let params = self.value.pointer("/quant_config/weight_quant_params/nbits");
        let found = ["bits", "w_bit"].iter().find_map(|key| self.value.get(*key));
        found.or(params)?.as_u64()?.try_into().ok()
    }

    /// Returns whether GPTQ gave some modules other numbers of bits or group sizes.
    pub fn is_dynamic(&self) -> bool {
        self.value.get("dynamic").is_some_and(|dynamic| !dynamic.is_null())
    }

    /// Returns every group size that the configuration states.
    pub fn group_sizes(&self) -> Vec<usize> {
        let own = ["group_size", "q_group_size"].iter().filter_map(|key| self.value.get(*key));
        let params = self.value.pointer("/quant_config/weight_quant_params/group_size");
        let groups = self.ct_weights().filter_map(|weights| weights.get("group_size"));
        let sizes = own.chain(params).chain(groups).filter_map(Value::as_u64);
        sizes.filter_map(|size| usize::try_from(size).ok()).filter(|size| *size > 0).collect()
    }

    /// Returns the text of `meta.quantizer`, which names the program that wrote the checkpoint.
    pub fn quantizers(&self) -> String {
        match self.value.pointer("/meta/quantizer") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => {
                list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        }
    }

    /// Returns the sizes of blocks of fp8 weights, rows first.
    pub fn block(&self) -> Option<(usize, usize)> {
        let of = |value: &Value| {
            let size = |at: usize| usize::try_from(value.get(at)?.as_u64()?).ok();
            Some((size(0)?, size(1)?)).filter(|(rows, columns)| *rows > 0 && *columns > 0)
        };
        let own = self.value.get("weight_block_size");
        let groups = self.ct_weights().filter_map(|weights| weights.get("block_structure"));
        own.into_iter().chain(groups).find_map(of)
    }

    /// Returns every config group of compressed-tensors.
    pub fn ct_groups(&self) -> impl Iterator<Item = &Value> {
        let groups = self.value.get("config_groups").and_then(Value::as_object);
        groups.into_iter().flat_map(|groups| groups.values())
    }

    /// Returns the `weights` of every config group of compressed-tensors.
    pub fn ct_weights(&self) -> impl Iterator<Item = &Value> {
        self.ct_groups()
            .filter_map(|group| group.get("weights").filter(|weights| weights.is_object()))
    }

    /// Returns every name of a format of compressed-tensors.
    fn ct_formats(&self) -> impl Iterator<Item = &str> {
        let sparsity = self.value.get("sparsity_config");
        let all = std::iter::once(&self.value).chain(self.ct_groups()).chain(sparsity);
        all.filter_map(|value| value.get("format")?.as_str())
    }
}
