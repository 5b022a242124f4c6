//! Recognizes checkpoints whose weights another tool has quantized already.

use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;

/// A format in which other tools store quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignFormat {
    /// GPTQ: `qweight`, `qzeros`, `scales`, `g_idx`.
    Gptq,
    /// AWQ: `qweight`, `qzeros`, `scales`, with codes packed along the output channels.
    Awq,
    /// compressed-tensors: `weight_packed` or integer and fp8 weights with `weight_scale`.
    CompressedTensors,
    /// bitsandbytes: `weight.absmax`, `weight.quant_state.…`, `SCB`.
    BitsAndBytes,
    /// fp8 weights with `weight_scale_inv` for blocks.
    Fp8,
    /// HQQ: `W_q` with its metadata.
    Hqq,
    /// Another method that `config.json` names, or integers and fp8 whose method is not known.
    Other,
}

impl std::fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::CompressedTensors => "compressed-tensors",
            Self::BitsAndBytes => "bitsandbytes",
            Self::Fp8 => "fp8 with block scales",
            Self::Hqq => "HQQ",
            Self::Other => "another method",
        })
    }
}

/// A checkpoint that another tool quantized, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Foreign {
    /// The format.
    pub format: ForeignFormat,
    /// What shows it: the name of a tensor, or the method that `config.json` names.
    pub evidence: String,
}

/// The facts about a tensor that tell formats apart.
#[derive(Clone, Copy, Debug)]
pub struct TensorKind<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
}

/// Returns the format in which another tool has quantized the weights of a checkpoint, or `None` if
/// nothing says that one did.
///
/// `config` is the `config.json` beside the tensors, if there is one: its `quantization_config` names
/// the method. Without it the names and types of the tensors tell.
pub fn foreign<'a>(
    config: Option<&Value>,
    tensors: impl IntoIterator<Item = TensorKind<'a>>,
) -> Option<Foreign> {
    let tensors: BTreeMap<&str, TensorKind<'a>> =
        tensors.into_iter().map(|tensor| (tensor.name, tensor)).collect();
    let found = tensors.values().find_map(|tensor| {
        let format = by_tensor(tensor, &tensors)?;
        Some(Foreign { format, evidence: format!("tensor `{}`", tensor.name) })
    });
    let config = config.and_then(|config| config.get("quantization_config"));
    match config.filter(|value| value.is_object()) {
        None => found,
        Some(config) => by_config(config, found),
    }
}

/// Returns what `quantization_config` says. `found` is what the tensors say, which decides if the
/// method is not known here.
fn by_config(config: &Value, found: Option<Foreign>) -> Option<Foreign> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    // Older files of bitsandbytes state no method.
    let method = text("quant_method").or_else(|| {
        config.get("load_in_4bit").or(config.get("load_in_8bit")).map(|_| "bitsandbytes")
    });
    let Some(method) = method else { return found };
    let format = match method {
        "gptq" => ForeignFormat::Gptq,
        "awq" => ForeignFormat::Awq,
        "compressed-tensors" => ForeignFormat::CompressedTensors,
        "bitsandbytes" => ForeignFormat::BitsAndBytes,
        "fp8" | "fbgemm_fp8" => ForeignFormat::Fp8,
        "hqq" => ForeignFormat::Hqq,
        _ => found.map_or(ForeignFormat::Other, |found| found.format),
    };
    let evidence = format!("quant_method `{method}` in config.json");
    Some(Foreign { format, evidence })
}

fn by_tensor(
    tensor: &TensorKind<'_>,
    all: &BTreeMap<&str, TensorKind<'_>>,
) -> Option<ForeignFormat> {
    let own = tensor.name.rsplit('.').next().unwrap_or_default();
    let module = tensor.name.strip_suffix(own).unwrap_or_default();
    let sibling = |name: &str| all.get(format!("{module}{name}").as_str());
    let fp8 = matches!(tensor.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2);
    let bytes = fp8 || matches!(tensor.dtype, Dtype::I8 | Dtype::U8);
    match own {
        "qweight" => {
            // Both hold 32-bit words: GPTQ packs the rows of `[K, N]`, and AWQ the columns.
            let columns = |kind: &TensorKind<'_>| kind.shape.last().copied();
            let whole = sibling("scales").is_some_and(|scales| columns(scales) == columns(tensor));
            Some(if whole { ForeignFormat::Gptq } else { ForeignFormat::Awq })
        }
        "weight_packed" | "weight_shape" | "bitmask" => Some(ForeignFormat::CompressedTensors),
        "weight_scale_inv" => Some(ForeignFormat::Fp8),
        "SCB" | "absmax" | "quant_map" | "nested_absmax" => Some(ForeignFormat::BitsAndBytes),
        "W_q" => Some(ForeignFormat::Hqq),
        "weight" if bytes && sibling("weight_scale_inv").is_some() => Some(ForeignFormat::Fp8),
        "weight" if bytes && sibling("weight_scale").is_some() => {
            Some(ForeignFormat::CompressedTensors)
        }
        "weight" if bytes && sibling("SCB").is_some() => Some(ForeignFormat::BitsAndBytes),
        _ if tensor.name.contains(".quant_state.") => Some(ForeignFormat::BitsAndBytes),
        _ if fp8 => Some(ForeignFormat::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(tensors: &[(&str, Dtype, &[usize])], config: Option<Value>) -> Option<ForeignFormat> {
        let kinds = tensors.iter().map(|&(name, dtype, shape)| TensorKind { name, dtype, shape });
        foreign(config.as_ref(), kinds).map(|foreign| foreign.format)
    }

    #[test]
    fn tensors_tell() {
        use Dtype::{BF16, F8_E4M3, F16, F32, I8, I32, I64, U8};
        for (tensors, want) in [
            (
                vec![("l.qweight", I32, &[32, 64][..]), ("l.scales", F16, &[8, 64])],
                ForeignFormat::Gptq,
            ),
            (vec![("l.qweight", I32, &[256, 8]), ("l.scales", F16, &[8, 64])], ForeignFormat::Awq),
            (vec![("l.weight_packed", I32, &[64, 32])], ForeignFormat::CompressedTensors),
            (vec![("l.weight_shape", I64, &[2])], ForeignFormat::CompressedTensors),
            (
                vec![("l.weight", I8, &[64, 32]), ("l.weight_scale", BF16, &[64, 1])],
                ForeignFormat::CompressedTensors,
            ),
            (
                vec![("l.weight", F8_E4M3, &[64, 32]), ("l.weight_scale_inv", F32, &[1, 1])],
                ForeignFormat::Fp8,
            ),
            (vec![("l.weight.absmax", F32, &[4])], ForeignFormat::BitsAndBytes),
            (
                vec![("l.weight.quant_state.bitsandbytes__nf4", U8, &[80])],
                ForeignFormat::BitsAndBytes,
            ),
            (vec![("l.weight", I8, &[4, 4]), ("l.SCB", F32, &[4])], ForeignFormat::BitsAndBytes),
            (vec![("l.W_q", U8, &[4, 4])], ForeignFormat::Hqq),
            (vec![("l.weight", F8_E4M3, &[4, 4])], ForeignFormat::Other),
        ] {
            assert_eq!(found(&tensors, None), Some(want), "{tensors:?}");
        }
        let plain: [(&str, Dtype, &[usize]); 3] =
            [("l.weight", F32, &[4, 4]), ("ids", I64, &[1, 4]), ("u", U8, &[4])];
        assert_eq!(found(&plain, None), None);
        assert_eq!(found(&plain, Some(json!({"model_type": "bert"}))), None);
    }

    #[test]
    fn the_configuration_tells() {
        for (method, want) in [
            ("gptq", ForeignFormat::Gptq),
            ("awq", ForeignFormat::Awq),
            ("compressed-tensors", ForeignFormat::CompressedTensors),
            ("bitsandbytes", ForeignFormat::BitsAndBytes),
            ("fp8", ForeignFormat::Fp8),
            ("hqq", ForeignFormat::Hqq),
            ("aqlm", ForeignFormat::Other),
        ] {
            let config = json!({"quantization_config": {"quant_method": method}});
            let tensors: [(&str, Dtype, &[usize]); 1] = [("l.weight", Dtype::F32, &[4, 4])];
            assert_eq!(found(&tensors, Some(config)), Some(want));
        }
        let config = json!({"quantization_config": {"load_in_4bit": true}});
        assert_eq!(found(&[], Some(config)), Some(ForeignFormat::BitsAndBytes));
        assert_eq!(found(&[], Some(json!({"quantization_config": null}))), None);
    }
}
