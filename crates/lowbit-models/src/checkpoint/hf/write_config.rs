//! The `config.json` of a written checkpoint.

use super::HfFormat;
use crate::checkpoint::source::{Family, ModelSource};
use lowbit::format::{ActivationGranularity, Granularity, Quantization, WeightFormat};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The format of a module's weight, and how its X is quantized if the model says it.
type Module = (WeightFormat, Option<Quantization>);

/// How the X of some modules is quantized, as the configuration says it. Fixed scales are tensors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inputs {
    strategy: &'static str,
    group_size: Option<u32>,
    symmetric: bool,
    dynamic: bool,
}

impl Inputs {
    fn new(quantization: Quantization) -> Self {
        let format = quantization.format();
        let (strategy, group_size) = match format.granularity() {
            ActivationGranularity::Group(size) => ("group", Some(size.get())),
            ActivationGranularity::Tensor => ("tensor", None),
            // There is no other set of activations that shares a scale.
            _ => ("token", None),
        };
        let dynamic = matches!(quantization, Quantization::Dynamic(_));
        Self { strategy, group_size, symmetric: format.is_symmetric(), dynamic }
    }

    fn json(self) -> Value {
        json!({
            "num_bits": 8,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": self.strategy,
            "group_size": self.group_size,
            "dynamic": self.dynamic,
        })
    }
}

/// Returns the `config.json` of the model, or nothing if it has none.
pub(super) fn source(model: &dyn ModelSource) -> Map<String, Value> {
    // The configuration of other families has other keys.
    match (model.family(), model.config()) {
        (Family::Safetensors, Value::Object(config)) => config.clone(),
        _ => Map::new(),
    }
}

/// Returns the text of `config.json`: that of the model, with the quantization of these modules, and beside
/// them modules that stay dense where others have a mask.
pub(super) fn config(
    mut config: Map<String, Value>,
    format: HfFormat,
    modules: &BTreeMap<String, Module>,
    dense: &[String],
) -> Vec<u8> {
    config.insert("quantization_config".to_owned(), quantization(format, modules, dense));
    let mut text = format!("{:#}", Value::Object(config)).into_bytes();
    text.push(b'\n');
    text
}

fn quantization(format: HfFormat, modules: &BTreeMap<String, Module>, dense: &[String]) -> Value {
    // One group for each format of weights and of their X, which names its modules.
    let mut groups: BTreeMap<(WeightFormat, Option<Inputs>), Vec<&str>> = BTreeMap::new();
    for (module, (weights, inputs)) in modules {
        groups.entry((*weights, inputs.map(Inputs::new))).or_default().push(module);
    }
    let structure = match format {
        HfFormat::Sparse24Bitmask => Some("2:4"),
        HfFormat::SparseBitmask => Some("unstructured"),
        HfFormat::PackQuantized | HfFormat::IntQuantized => None,
    };
    let sparse = structure.is_some();
    let stored = if sparse { "int-quantized" } else { format.name() };
    let mut config_groups = Map::new();
    let mut floats = true;
    for (at, ((weights, inputs), modules)) in groups.into_iter().enumerate() {
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
            "input_activations": inputs.map(Inputs::json),
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
    if let Some(structure) = structure {
        config["sparsity_config"] = json!({
            "format": format.name(),
            "sparsity_structure": structure,
            "targets": modules.keys().collect::<Vec<_>>(),
            "ignore": dense,
        });
    }
    config
}
