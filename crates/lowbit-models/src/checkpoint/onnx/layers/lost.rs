//! Which nodes lose a weight or a quantization, and why.

use super::{Finder, What};
use crate::checkpoint::onnx::LeftOut;
use crate::checkpoint::onnx::graph::MICROSOFT;

const SUBGRAPH: &str = "its graphs are not read";

impl Finder<'_> {
    /// Lists every node with which a weight or a quantization is lost.
    pub(super) fn left_out(&self) -> Vec<LeftOut> {
        let graph = self.graph;
        let mut list = Vec::new();
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
            }
        }
        list
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
        let stored = inputs.iter().enumerate().find_map(|(at, name)| {
            // What a lookup takes besides its table are places in it.
            let place = at > 0 && (op.starts_with("Gather") || op.starts_with("Scatter"));
            self.graph.source(name).filter(|&source| !place && self.is_weight(source))
        });
        if let Some(stored) = stored.filter(|_| !makes_value) {
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
        match self.source(node, 0) {
            None => "quantizes activations: only weights are imported".to_owned(),
            Some(_) => {
                let output = self.graph.output(node).unwrap_or_default();
                if self.graph.source(output).is_none() {
                    return "quantizes a weight in a way that is not understood".to_owned();
                }
                format!("quantizes a weight that is not imported; {}", self.destination(node))
            }
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
