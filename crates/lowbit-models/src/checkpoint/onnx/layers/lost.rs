//! Which nodes lose a weight or a quantization, and why.

use super::{Finder, What};
use crate::checkpoint::onnx::LeftOut;

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

    fn lost(&self, node: usize) -> Option<String> {
        if let Some(why) = self.why.get(&node) {
            return Some(why.clone());
        }
        let (_, op) = self.op(node);
        if op == "QuantizeLinear" {
            return Some("quantizes activations: only weights are imported".to_owned());
        }
        if op == "DequantizeLinear" {
            let why =
                "dequantizes activations, or a tensor that no understood node uses as a weight";
            return Some(why.to_owned());
        }
        let quantized = op.ends_with("Integer")
            || op.starts_with("QLinear")
            || op.contains("Bits")
            || op.contains("Bnb4")
            || op.contains("Quantized");
        let makes_value = self.graph.output(node).is_some_and(|out| self.values.contains_key(out));
        let weight = self.graph.nodes[node].input.iter().find(|name| {
            let value = self.values.get(name.as_str());
            !makes_value && value.is_some_and(|v| !matches!(v.what, What::Float(_)))
        });
        match weight {
            Some(weight) => {
                Some(format!("takes the quantized `{weight}` in a way that is not understood"))
            }
            None => quantized.then(|| "a quantized operation that is not understood".to_owned()),
        }
    }
}
