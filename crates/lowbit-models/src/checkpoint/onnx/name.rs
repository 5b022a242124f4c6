//! Gives every weight and tensor a name of its own.

use super::graph::Graph;
use super::layers::{Bias, Layer, Weight};
use super::source::{Kind, Source};
use super::{Content, LeftOut, OnnxTensor, OnnxWeight, names};
use crate::checkpoint::parts::weight_of_part;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// The name that safetensors files use for their metadata.
const RESERVED: &str = "__metadata__";

/// Returns the tensor of the file that holds a source's values.
fn stored(graph: &Graph, source: usize) -> usize {
    graph.sources[source].origin.unwrap_or(source)
}

/// Returns the name of a layer's parameter if it can be found in the file.
fn parameter_name(graph: &Graph, layer: &Layer) -> Option<String> {
    let own = graph.sources[stored(graph, layer.source)].name.as_str();
    if let Some(name) = [own, &layer.value].into_iter().find_map(|n| names::parameter(n, "weight"))
    {
        return Some(name.to_owned());
    }
    if let Some(name) = names::kept(own, matches!(layer.weight, Weight::Float)) {
        return match layer.weight {
            // The tensor keeps its name and its order.
            Weight::Float => None,
            Weight::Quantized(_) if layer.n_axis == 0 => Some(name.to_owned()),
            Weight::Quantized(_) => Some(format!("{name}.weight")),
        };
    }
    let bias = layer.bias.map(|bias| &graph.sources[bias.source()].name);
    if let Some(bias) = bias.and_then(|name| names::parameter(name, "bias")) {
        return Some(format!("{}weight", bias.strip_suffix("bias")?));
    }
    Some(format!("{}.weight", names::scope(&graph.nodes[layer.node].name)?))
}

/// Names all weights and tensors. `parts` are tensors that are only parts of weights, and `lost` are constants
/// of nodes that are left out. What cannot have a name in a model file is returned apart.
pub(super) fn all(
    graph: &Graph,
    layers: Vec<Layer>,
    parts: &BTreeSet<usize>,
    lost: &BTreeSet<usize>,
) -> (Vec<OnnxWeight>, Vec<OnnxTensor>, Vec<LeftOut>) {
    // If two layers would have the same name, or another tensor has it, no layer gets it.
    // A float is copied under the name of its layer, and under no other.
    let floats = layers.iter().filter(|layer| matches!(layer.weight, Weight::Float));
    let floats: BTreeSet<usize> = floats.map(|layer| layer.source).collect();
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    let mut biases: BTreeMap<usize, usize> = BTreeMap::new();
    let candidates: Vec<Option<String>> =
        layers.iter().map(|layer| parameter_name(graph, layer)).collect();
    for name in candidates.iter().flatten() {
        *wanted.entry(name.clone()).or_default() += 1;
    }
    for bias in layers.iter().filter_map(|layer| layer.bias) {
        *biases.entry(bias.source()).or_default() += 1;
    }
    let others = |index: &usize| {
        let copied = !parts.contains(index) && graph.sources[*index].origin.is_none();
        copied && !floats.contains(index)
    };
    let taken: BTreeSet<&str> = (0..graph.sources.len())
        .filter(others)
        .map(|index| graph.sources[index].name.as_str())
        .collect();
    let free = |name: &String| wanted.get(name) == Some(&1) && !taken.contains(name.as_str());

    let mut weights: Vec<OnnxWeight> = Vec::new();
    let mut tensors: Vec<OnnxTensor> = Vec::new();
    let mut done = BTreeSet::new();
    let names: Vec<Option<String>> = candidates.into_iter().map(|name| name.filter(free)).collect();
    for (layer, name) in layers.into_iter().zip(names) {
        let at = stored(graph, layer.source);
        let source = &graph.sources[at];
        let quantized = matches!(layer.weight, Weight::Quantized(_));
        let transposed = name.is_some();
        let own = name.unwrap_or_else(|| {
            // If something else takes the codes too, they are copied under their own name.
            let copied = quantized && !parts.contains(&at);
            if copied { format!("{}.weight", source.name) } else { source.name.clone() }
        });
        let bias = layer.bias.map(|bias| (bias, bias_name(graph, bias, &own, &biases, &taken)));
        if let Some((bias, name)) = &bias
            && done.insert(bias.source())
        {
            tensors.extend(tensor(graph, name.clone(), *bias));
        }
        let node = &graph.nodes[layer.node];
        match layer.weight {
            Weight::Quantized(plan) => weights.push(OnnxWeight {
                name: own,
                format: plan.format,
                shape: plan.shape.clone(),
                source: source.name.clone(),
                node: node.name.clone(),
                op: node.op_type.clone(),
                bias: bias.map(|(_, name)| name),
                plan,
            }),
            // A tensor for which no name was found is copied as it is.
            Weight::Float if !transposed => {}
            Weight::Float => {
                done.insert(layer.source);
                let mut shape = source.shape.clone();
                shape.reverse();
                let content = Content::Transposed(layer.source);
                tensors.extend(plain(source, own, shape, content));
            }
        }
    }
    for (index, source) in graph.sources.iter().enumerate() {
        let table = source.kind.is_float() && source.elements > 1;
        let noise = source.constant && !table && !lost.contains(&index);
        let made = source.origin.is_some();
        if !noise && !made && !parts.contains(&index) && !done.contains(&index) {
            let shape = source.shape.clone();
            tensors.extend(plain(source, source.name.clone(), shape, Content::Copied(index)));
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let left_out = reserved(&mut weights, &mut tensors);
    (weights, tensors, left_out)
}

/// Takes out what a model file cannot hold: a tensor of the name that the file format reserves, tensors of
/// names that the parts of a compressed weight have, and the second tensor of a name.
fn reserved(weights: &mut Vec<OnnxWeight>, tensors: &mut Vec<OnnxTensor>) -> Vec<LeftOut> {
    let compressed: BTreeSet<String> = weights.iter().map(|weight| weight.name.clone()).collect();
    let mut left_out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut keep = |name: &str, source: &str, op: &str| {
        if !seen.insert(name.to_owned()) {
            let why = format!("another tensor is imported under the name `{name}`");
            left_out.push(LeftOut::new(source.to_owned(), op, why));
            return false;
        }
        if name == RESERVED {
            let why = "safetensors files reserve this name";
            left_out.push(LeftOut::new(source.to_owned(), op, why));
            return false;
        }
        let weight = weight_of_part(name).filter(|&weight| compressed.contains(weight));
        if let Some(weight) = weight {
            let why = format!("a part of the weight `{weight}` has this name in the new file");
            left_out.push(LeftOut::new(source.to_owned(), op, why));
        }
        weight.is_none()
    };
    weights.retain(|weight| keep(&weight.name, &weight.source, &weight.op));
    tensors.retain(|tensor| keep(&tensor.name, &tensor.source, "initializer"));
    left_out
}

/// Returns the name of a bias: its own name without the suffix of a quantizer, or a name made from that
/// of its layer if an exporter made its own and only this layer takes it.
fn bias_name(
    graph: &Graph,
    bias: Bias,
    weight: &str,
    users: &BTreeMap<usize, usize>,
    taken: &BTreeSet<&str>,
) -> String {
    let own = graph.sources[bias.source()].name.as_str();
    let name = match (names::parameter(own, "bias"), weight.strip_suffix(".weight")) {
        (Some(name), _) => name.to_owned(),
        (None, Some(module)) if names::is_made(own) => format!("{module}.bias"),
        _ => own.to_owned(),
    };
    let free = users.get(&bias.source()) == Some(&1) && !taken.contains(name.as_str());
    if free { name } else { own.to_owned() }
}

/// Returns the bias of a layer as a tensor.
fn tensor(graph: &Graph, name: String, bias: Bias) -> Option<OnnxTensor> {
    let source = &graph.sources[bias.source()];
    // `[1, N]` and `[1, 1, N]` are also biases.
    let shape = vec![source.elements];
    match bias {
        Bias::Float(index) => plain(source, name, shape, Content::Copied(index)),
        Bias::Quantized(from) => Some(OnnxTensor {
            name,
            dtype: Dtype::F32,
            shape,
            source: source.name.clone(),
            content: Content::Dequantized(from),
        }),
    }
}

/// Returns a tensor, if safetensors files have its type.
fn plain(source: &Source, name: String, shape: Vec<usize>, content: Content) -> Option<OnnxTensor> {
    let Kind::Plain(dtype) = source.kind else { return None };
    Some(OnnxTensor { name, dtype, shape, source: source.name.clone(), content })
}
