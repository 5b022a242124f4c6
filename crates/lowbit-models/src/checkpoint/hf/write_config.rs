//! The `config.json` of a written checkpoint.

use super::HfFormat;
use crate::checkpoint::source::{Family, ModelSource};
use lowbit::format::{Granularity, WeightFormat};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Returns the text of `config.json`: that of the model, with the quantization of these modules.
pub(super) fn config(
    model: &dyn ModelSource,
    format: HfFormat,
    modules: &BTreeMap<String, WeightFormat>,
) -> Vec<u8> {
    // The configuration of other families has other keys.
    let mut config = match (model.family(), model.config()) {
        (Family::Safetensors, Value::Object(config)) => config.clone(),
        _ => Map::new(),
    };
    config.insert("quantization_config".to_owned(), quantization(format, modules));
    let mut text = format!("{:#}", Value::Object(config)).into_bytes();
    text.push(b'\n');
    text
}

fn quantization(format: HfFormat, modules: &BTreeMap<String, WeightFormat>) -> Value {
    // One group for each format of weights, which names its modules.
    let mut groups: BTreeMap<WeightFormat, Vec<&str>> = BTreeMap::new();
    for (module, weights) in modules {
        groups.entry(*weights).or_default().push(module);
    }
    let sparse = format == HfFormat::Sparse24Bitmask;
    let stored = if sparse { "int-quantized" } else { format.name() };
    let mut config_groups = Map::new();
    let mut floats = true;
    for (at, (weights, modules)) in groups.into_iter().enumerate() {
        if !weights.code_type().has_scales() {
            continue;
        }
        floats = false;
        let (strategy, size) = match weights.granularity() {
            Granularity::Tensor => ("tensor", None),
            Granularity::Channel => ("channel", None),
            Granularity::Group(g) => ("group", Some(g.get())),
        };
        let args = json!({
            "num_bits": weights.code_type().bits(),
            "type": "int",
            "symmetric": weights.is_symmetric(),
            "strategy": strategy,
            "group_size": size,
            "dynamic": false,
            "actorder": weights.is_permuted().then_some("group"),
        });
        let group = json!({
            "targets": modules,
            "weights": args,
            "input_activations": null,
            "output_activations": null,
            "format": stored,
        });
        config_groups.insert(format!("group_{at}"), group);
    }
    let mut config = json!({
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": if floats && sparse { "dense" } else { stored },
        "config_groups": config_groups,
        "ignore": [],
    });
    if sparse {
        config["sparsity_config"] = json!({
            "format": format.name(),
            "sparsity_structure": "2:4",
            "targets": modules.keys().collect::<Vec<_>>(),
            "ignore": [],
        });
    }
    config
}
