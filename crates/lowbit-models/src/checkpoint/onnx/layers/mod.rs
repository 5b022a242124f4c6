//! Finds which nodes multiply with, or look up in, which weights.
//!
//! First every value of the graph that follows from tensors of the file is described (`values`), then
//! every node that uses such a value as a weight is noted (`uses`), and then the layers are collected.
//! Nodes that are not understood are listed (`lost`).

mod fused;
mod lost;
mod uses;
mod values;

use super::LeftOut;
use super::graph::Graph;
use super::plan::{Plan, Quantized};
use std::collections::{BTreeMap, BTreeSet};

/// What a value of the graph is, if it follows from tensors of the file.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Float(usize),
    /// Integers that were cast to floats. Their scales follow later in the graph.
    Codes(usize),
    Quantized(Quantized),
}

#[derive(Clone, Copy)]
struct Value {
    what: What,
    /// Whether its two axes are exchanged.
    transposed: bool,
}

/// How the bias of a layer is stored.
#[derive(Clone, Copy)]
pub(super) enum Bias {
    Float(usize),
    /// int32 codes with scales.
    Quantized(Quantized),
}

impl Bias {
    pub fn source(&self) -> usize {
        match self {
            Self::Float(source) => *source,
            Self::Quantized(from) => from.codes,
        }
    }
}

/// A weight of the graph, and the first node that uses it.
pub(super) struct Layer {
    pub weight: Weight,
    pub node: usize,
    /// The name of the value that the node takes as its weight.
    pub value: String,
    /// The tensor that holds the codes.
    pub source: usize,
    /// The axis of output channels in that tensor.
    pub n_axis: usize,
    pub bias: Option<Bias>,
}

pub(super) enum Weight {
    Quantized(Plan),
    /// A float tensor that is used only as `[K, N]`.
    Float,
}

/// The layers of a graph, and what is not part of them.
pub(super) struct Layers {
    pub layers: Vec<Layer>,
    pub left_out: Vec<LeftOut>,
    /// Tensors that are used only as parts of the layers' weights.
    pub parts: BTreeSet<usize>,
    /// Values of `Constant` nodes that belong to integers which nodes among `left_out` take.
    pub lost: BTreeSet<usize>,
}

/// A use of a weight by a node.
struct Use {
    node: usize,
    value: String,
    /// The axis of output channels in the tensor of the weight.
    n_axis: usize,
    bias: Option<Bias>,
    /// The name of the bias's value.
    bias_value: Option<String>,
}

/// A bias and the name of its value.
type Found<'a> = Option<(Bias, &'a str)>;

struct Finder<'a> {
    graph: &'a Graph,
    values: BTreeMap<&'a str, Value>,
    /// Nodes whose whole effect is contained in the layers.
    understood: BTreeSet<usize>,
    why: BTreeMap<usize, String>,
    /// Quantized weights and their uses, by the tensor of the codes.
    quantized: BTreeMap<usize, (Quantized, Vec<Use>)>,
    /// Float tensors that nodes multiply with, and their uses.
    floats: BTreeMap<usize, Vec<Use>>,
}

/// Finds the layers of a graph.
pub(super) fn find(graph: &Graph) -> Layers {
    let mut finder = Finder {
        graph,
        values: BTreeMap::new(),
        understood: BTreeSet::new(),
        why: BTreeMap::new(),
        quantized: BTreeMap::new(),
        floats: BTreeMap::new(),
    };
    for (index, source) in graph.sources.iter().enumerate() {
        if source.kind.is_float() {
            let what = What::Float(index);
            finder.values.insert(&source.name, Value { what, transposed: false });
        }
    }
    // The standard requires that nodes come after the nodes whose values they take.
    for node in 0..graph.nodes.len() {
        if let Some((value, name)) = finder.value(node).zip(graph.output(node)) {
            finder.values.insert(name, value);
        }
    }
    for node in 0..graph.nodes.len() {
        finder.use_of(node);
    }
    finder.finish()
}

impl<'a> Finder<'a> {
    fn op(&self, node: usize) -> (&'a str, &'a str) {
        let node = &self.graph.nodes[node];
        // `ai.onnx` is the long name of the standard's domain.
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
        (domain, node.op_type.as_str())
    }

    fn value_of(&self, node: usize, input: usize) -> Option<Value> {
        self.values.get(self.graph.input(node, input)?).copied()
    }

    /// Returns the float tensor that an input of a node is, if it is not transposed.
    fn float(&self, node: usize, input: usize) -> Option<usize> {
        match self.value_of(node, input)? {
            Value { what: What::Float(source), transposed: false } => Some(source),
            _ => None,
        }
    }

    fn source(&self, node: usize, input: usize) -> Option<usize> {
        self.graph.source(self.graph.input(node, input)?)
    }

    /// Marks the nodes that led to a value as understood.
    fn mark(&mut self, value: &str) {
        let mut names = vec![value];
        while let Some(node) = names.pop().and_then(|name| self.graph.maker(name)) {
            if self.understood.insert(node) {
                let inputs = &self.graph.nodes[node].input;
                names.extend(inputs.iter().map(String::as_str).filter(|name| {
                    let known = self.values.contains_key(name) || self.graph.source(name).is_some();
                    known && self.graph.maker(name).is_some()
                }));
            }
        }
    }

    /// Returns whether only the given nodes take a float tensor, directly or through nodes that leave
    /// its values as they are.
    fn only_for(&self, name: &str, nodes: &BTreeSet<usize>) -> bool {
        let mut names = vec![name];
        let mut seen = BTreeSet::new();
        while let Some(name) = names.pop() {
            if !seen.insert(name) {
                continue;
            }
            for &taker in self.graph.takers(name) {
                if nodes.contains(&taker) {
                    continue;
                }
                match self.graph.output(taker).filter(|out| self.values.contains_key(out)) {
                    Some(output) => names.push(output),
                    None => return false,
                }
            }
        }
        true
    }

    fn finish(mut self) -> Layers {
        let graph = self.graph;
        let mut layers = Vec::new();
        let mut parts = BTreeSet::new();
        for (from, uses) in std::mem::take(&mut self.quantized).into_values() {
            let mut uses = uses.into_iter();
            let Some(first) = uses.next() else { continue };
            match Plan::new(&graph.sources, &from, first.n_axis) {
                Ok(plan) => {
                    parts.extend(from.tensors());
                    parts.extend(graph.sources[from.codes].origin);
                    let bias = graph.of_length(first.bias, plan.shape[0]);
                    if let Some((Bias::Quantized(bias), value)) = bias.zip(first.bias_value) {
                        parts.extend(bias.tensors());
                        self.mark(&value);
                    }
                    self.mark(&first.value);
                    for used in uses {
                        self.mark(&used.value);
                    }
                    layers.push(Layer {
                        weight: Weight::Quantized(plan),
                        node: first.node,
                        value: first.value,
                        source: from.codes,
                        n_axis: first.n_axis,
                        bias,
                    });
                }
                Err(why) => {
                    for used in std::iter::once(first).chain(uses) {
                        self.understood.remove(&used.node);
                        self.refuse(used.node, why.clone());
                    }
                }
            }
        }
        for (source, uses) in std::mem::take(&mut self.floats) {
            let tensor = &graph.sources[source];
            let nodes: BTreeSet<usize> = uses.iter().map(|used| used.node).collect();
            let only = tensor.shape.len() == 2
                && uses.iter().all(|used| used.n_axis == 1)
                && self.only_for(&tensor.name, &nodes);
            if let Some(first) = uses.into_iter().next().filter(|_| only) {
                layers.push(Layer {
                    weight: Weight::Float,
                    node: first.node,
                    value: first.value,
                    source,
                    n_axis: 1,
                    bias: graph.of_length(first.bias, tensor.shape[1]),
                });
            }
        }
        // A part that anything else takes remains a tensor of its own.
        parts.retain(|&part| {
            let takers = graph.takers(&graph.sources[part].name);
            takers.iter().all(|taker| self.understood.contains(taker))
        });
        layers.sort_by_key(|layer| layer.node);
        let (left_out, lost) = self.left_out();
        Layers { layers, left_out, parts, lost }
    }
}

impl Graph {
    /// Returns a bias if it has an element for each output channel.
    fn of_length(&self, bias: Option<Bias>, n: usize) -> Option<Bias> {
        bias.filter(|bias| self.sources[bias.source()].elements == n)
    }
}
