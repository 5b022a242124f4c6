//! Which nodes lose a weight or a quantization, and why.

use super::{Finder, What};
use crate::checkpoint::onnx::LeftOut;
use crate::checkpoint::onnx::graph::MICROSOFT;
use std::collections::BTreeSet;

const SUBGRAPH: &str = "its graphs are not read";

impl Finder<'_> {
    /// Lists every node with which a weight or a quantization is lost, and returns the values of `Constant`
    /// nodes that such nodes take together with stored integers.
    pub(super) fn left_out(&self) -> (Vec<LeftOut>, BTreeSet<usize>) {
        let graph = self.graph;
        let (mut list, mut lost) = (Vec::new(), BTreeSet::new());
        for (index, node) in graph.nodes.iter().enumerate() {
            let why = if node.has_graph {
                Some(SUBGRAPH.to_owned())
            } else if self.understood.contains(&index) {
                None
            } else {
                self.lost(index)
            };
            if let Some(why) = why {
                let output = graph.output(index).unwrap_or_default();
                let name = if node.name.is_empty() { output } else { &node.name };
                list.push(LeftOut::new(name.to_owned(), &node.op_type, why));
                if self.stored_weight(index).is_some() {
                    let inputs = node.input.iter().filter_map(|name| graph.source(name));
                    lost.extend(inputs.filter(|&source| graph.sources[source].constant));
                }
            }
        }
        (list, lost)
    }

    /// Returns the first tensor of the file that a node takes and that may be a weight.
    fn stored_weight(&self, node: usize) -> Option<usize> {
        let op = self.op(node).1;
        self.graph.nodes[node].input.iter().enumerate().find_map(|(at, name)| {
            // What a lookup takes besides its table are places in it.
            let place = at > 0 && (op.starts_with("Gather") || op.starts_with("Scatter"));
            self.graph.source(name).filter(|&source| !place && self.is_weight(source))
        })
    }

    /// Returns operator and name of a node for a reason. Reasons are stored for each node, so a long
    /// name would take much memory.
    pub(super) fn title(&self, node: usize) -> String {
        let short = |name: &str| -> String { name.chars().take(80).collect() };
        let own = &self.graph.nodes[node].name;
        let name = if own.is_empty() { self.graph.output(node).unwrap_or_default() } else { own };
        format!("{} `{}`", short(&self.graph.nodes[node].op_type), short(name))
    }

    /// Returns whether a tensor may be a weight by its type and shape: integers of two or more axes.
    pub(super) fn is_weight(&self, source: usize) -> bool {
        let source = &self.graph.sources[source];
        source.kind.is_code() && source.shape.len() >= 2
    }

    fn lost(&self, node: usize) -> Option<String> {
        if let Some(why) = self.why.get(&node) {
            return Some(why.clone());
        }
        let (domain, op) = self.op(node);
        match op {
            "QuantizeLinear" if matches!(domain, "" | MICROSOFT) => {
                return Some(self.lost_quantization(node));
            }
            "DequantizeLinear" if matches!(domain, "" | MICROSOFT) => {
                return Some(self.dequantized(node).err().unwrap_or_else(|| self.lost_value(node)));
            }
            _ => {}
        }
        let makes_value = self.graph.output(node).is_some_and(|out| self.values.contains_key(out));
        let inputs = &self.graph.nodes[node].input;
        let weight = inputs.iter().find(|name| {
            let value = self.values.get(name.as_str());
            !makes_value && value.is_some_and(|v| !matches!(v.what, What::Float(_)))
        });
        if let Some(weight) = weight {
            return Some(format!("takes the quantized `{weight}` in a way that is not understood"));
        }
        if let Some(stored) = self.stored_weight(node).filter(|_| !makes_value) {
            let source = &self.graph.sources[stored];
            return Some(format!(
                "takes the integers `{}` ({} {:?}), and this operator is not understood",
                source.name, source.kind, source.shape
            ));
        }
        let quantized = op.ends_with("Integer")
            || op.starts_with("QLinear")
            || op.contains("Bits")
            || op.contains("Bnb4")
            || op.contains("Quantized");
        quantized.then(|| "this quantized operator is not understood".to_owned())
    }

    fn lost_quantization(&self, node: usize) -> String {
        match (self.unquantized(node), self.source(node, 0)) {
            (Some(why), _) => format!("quantizes a weight, and {why}"),
            (None, None) => "quantizes activations: only weights are imported".to_owned(),
            (None, Some(_)) => {
                format!("quantizes a weight that is not imported; {}", self.destination(node))
            }
        }
    }

    /// Returns why the codes are not known that `QuantizeLinear` makes of a tensor of the file, or `None` if
    /// they are known or if it quantizes something else.
    fn unquantized(&self, node: usize) -> Option<String> {
        if let Some(why) = self.graph.unquantized.get(&node) {
            return Some(why.clone());
        }
        let computed = self.source(node, 0).is_none() && self.value_of(node, 0).is_some();
        let maker = self.graph.input(node, 0).and_then(|name| self.graph.maker(name));
        let maker = maker.filter(|_| computed)?;
        Some(format!("its input is what {} makes of a tensor of the file", self.title(maker)))
    }

    /// Returns why the codes that a node dequantizes are no tensor of the file.
    pub(super) fn not_stored(&self, node: usize) -> String {
        let maker = self.graph.input(node, 0).and_then(|name| self.graph.maker(name));
        let maker = maker.filter(|&maker| self.op(maker).1 == "QuantizeLinear");
        match maker.and_then(|maker| Some((maker, self.unquantized(maker)?))) {
            Some((maker, why)) => {
                format!("dequantizes what {} makes, which is left out: {why}", self.title(maker))
            }
            None => "dequantizes activations: only weights are imported".to_owned(),
        }
    }

    /// Returns why a node that dequantizes a tensor of the file is not part of a layer.
    fn lost_value(&self, node: usize) -> String {
        format!("its output is no weight of a layer; {}", self.destination(node))
    }

    /// Says what takes the output of a node.
    fn destination(&self, node: usize) -> String {
        let takers = self.graph.output(node).map_or(&[][..], |output| self.graph.takers(output));
        let Some(&first) = takers.first() else {
            return "no node of the graph takes it".to_owned();
        };
        let taker = takers.iter().find_map(|taker| Some((*taker, self.why.get(taker)?)));
        match taker {
            Some((taker, _)) => format!("{} takes it, which is left out", self.title(taker)),
            None => format!("{} takes it", self.title(first)),
        }
    }
}
