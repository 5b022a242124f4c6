//! The graph: its tensors and nodes, which node makes a value and which nodes take it.

use super::source::{Files, Kind, Source};
use super::{LeftOut, OnnxError, decode, proto, quantize};
use prost::bytes::Bytes;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// The largest number of nodes or initializers: more than any real model has, and low enough that a
/// small file cannot make the reader allocate much memory.
const LIMIT: usize = 1 << 20;

/// The domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// The longest name that is read; exporters write none that is as long. A file can store a name once
/// and have it repeated for every use, so a name must be short.
const LONGEST: usize = 1 << 10;

/// Refuses a name that is too long.
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), OnnxError> {
    if name.len() <= LONGEST {
        return Ok(());
    }
    let start = name.chars().take(40).collect();
    Err(OnnxError::LongName { what, start, length: name.len(), limit: LONGEST })
}

/// The attributes that are read; all others of a node are skipped.
const ATTRIBUTES: [&str; 15] = [
    "alpha",
    "axis",
    "beta",
    "bits",
    "block_size",
    "gather_axis",
    "K",
    "N",
    "output_dtype",
    "perm",
    "quantize_axis",
    "to",
    "transA",
    "transB",
    "value",
];

/// A node with the attributes that are read.
pub(super) struct Node {
    pub name: String,
    pub op_type: String,
    pub domain: String,
    pub input: Vec<String>,
    pub output: Vec<String>,
    /// The first attribute of each name.
    attributes: Vec<proto::Attribute>,
    /// Whether the node has a graph of its own.
    pub has_graph: bool,
}

impl Node {
    fn read(message: Bytes) -> Result<Self, OnnxError> {
        let proto::Node { input, output, name, op_type, attribute, domain } =
            decode("node", message)?;
        let own = [&name, &op_type, &domain];
        for name in own.into_iter().chain(&input).chain(&output) {
            check_name("node", name)?;
        }
        let (mut attributes, mut has_graph) = (Vec::new(), false);
        for message in attribute {
            let attribute: proto::Attribute = decode("attribute", message)?;
            has_graph |= attribute.g.is_some() || !attribute.graphs.is_empty();
            let known = ATTRIBUTES.contains(&attribute.name.as_str());
            if known && !attributes.iter().any(|a: &proto::Attribute| a.name == attribute.name) {
                attributes.push(attribute);
            }
        }
        Ok(Self { name, op_type, domain, input, output, attributes, has_graph })
    }

    fn attribute(&self, name: &str) -> Option<&proto::Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// Returns an integer attribute or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|attribute| attribute.i).unwrap_or(default)
    }

    /// Returns a float attribute, or 1 if it is absent.
    pub fn factor(&self, name: &str) -> f32 {
        self.attribute(name).and_then(|attribute| attribute.f).unwrap_or(1.0)
    }

    /// Returns an attribute that is a list of integers.
    pub fn ints(&self, name: &str) -> &[i64] {
        self.attribute(name).map_or(&[], |attribute| &attribute.ints)
    }
}

pub(super) struct Graph {
    pub sources: Vec<Source>,
    by_name: BTreeMap<String, usize>,
    pub nodes: Vec<Node>,
    makers: BTreeMap<String, usize>,
    takers: BTreeMap<String, Vec<usize>>,
    /// The nodes that quantize a tensor of the file in a way that is not followed, and why it is not.
    pub unquantized: BTreeMap<usize, String>,
}

impl Graph {
    /// Reads a model. What it contains besides the nodes and tensors of the graph is listed.
    pub fn read(bytes: Bytes, files: &mut Files) -> Result<(Self, Vec<LeftOut>), OnnxError> {
        let mut model: proto::Model = decode("model", bytes)?;
        let (Some(graph), true) = (model.graph.pop(), model.graph.is_empty()) else {
            // One graph was popped.
            let have = if model.graph.is_empty() { 0 } else { model.graph.len() + 1 };
            return Err(OnnxError::Graphs { have });
        };
        let graph: proto::Graph = decode("graph", graph)?;
        for (what, have) in [("nodes", graph.node.len()), ("initializers", graph.initializer.len())]
        {
            if have > LIMIT {
                return Err(OnnxError::TooMany { what, have, limit: LIMIT });
            }
        }
        for (what, have) in [
            ("functions", model.functions.len()),
            ("sparse initializers", graph.sparse_initializer.len()),
        ] {
            // Each is only listed, but the list takes more bytes than the file.
            if have > LIMIT / 16 {
                return Err(OnnxError::TooMany { what, have, limit: LIMIT / 16 });
            }
        }
        let mut left_out = Vec::new();
        for function in model.functions {
            let function: proto::Function = decode("function", function)?;
            check_name("function", &function.name)?;
            left_out.push(LeftOut::new(function.name, "function", "functions are not read"));
        }
        for sparse in graph.sparse_initializer {
            let sparse: proto::SparseTensor = decode("sparse tensor", sparse)?;
            let values: proto::Tensor = decode("tensor", sparse.values)?;
            let why = "sparse initializers are not read";
            left_out.push(LeftOut::new(values.name, "sparse initializer", why));
        }
        let mut read = Self {
            sources: Vec::new(),
            by_name: BTreeMap::new(),
            // With the right capacity, the vector does not grow and is not copied.
            nodes: Vec::with_capacity(graph.node.len()),
            makers: BTreeMap::new(),
            takers: BTreeMap::new(),
            unquantized: BTreeMap::new(),
        };
        for tensor in graph.initializer {
            read.add(Source::read(tensor, files)?)?;
        }
        for node in graph.node {
            let node = Node::read(node)?;
            if node.domain.is_empty() && node.op_type == "Constant" {
                read.add_constant(&node, files)?;
            }
            let index = read.nodes.len();
            // An empty name stands for an optional input or output that is absent.
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if read.makers.insert(output.clone(), index).is_some() {
                    return Err(OnnxError::DuplicateName { name: output.clone() });
                }
            }
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                read.takers.entry(input.clone()).or_default().push(index);
            }
            read.nodes.push(node);
        }
        read.quantize()?;
        Ok((read, left_out))
    }

    /// Quantizes the float tensors that a `QuantizeLinear` of the graph quantizes, as exporters write
    /// the weights of models that were trained with quantization. The codes become a source under the
    /// name of the node's output. Only the first such node of a tensor is followed, so that no file
    /// makes more codes than it has floats.
    ///
    /// # Errors
    /// Returns [`OnnxError::DuplicateName`] if a stored tensor has the name of such an output.
    fn quantize(&mut self) -> Result<(), OnnxError> {
        let mut done = BTreeSet::new();
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let standard = matches!(node.domain.as_str(), "" | "ai.onnx" | MICROSOFT);
            if !standard || node.op_type != "QuantizeLinear" {
                continue;
            }
            let Some(from) = self.input(index, 0).and_then(|name| self.source(name)) else {
                continue;
            };
            let made = if done.contains(&from) {
                Err("another node quantizes the same tensor".to_owned())
            } else {
                self.quantized(index, from)
            };
            match made {
                Ok(source) => {
                    done.insert(from);
                    self.add(source)?;
                }
                Err(why) => {
                    self.unquantized.insert(index, why);
                }
            }
        }
        Ok(())
    }

    /// Returns the codes that a node makes of the tensor `from`.
    ///
    /// # Errors
    /// Returns the reason why they are not known.
    fn quantized(&self, index: usize, from: usize) -> Result<Source, String> {
        let computed = |what: &str| format!("its {what} are computed by the graph");
        let tensor = |at: usize| self.input(index, at).map(|name| self.source(name));
        let scale = tensor(1).flatten().ok_or_else(|| computed("scales"))?;
        let zero = match tensor(2) {
            None => None,
            Some(None) => return Err(computed("zero points")),
            Some(zero) => zero,
        };
        quantize::quantized(&self.sources, &self.nodes[index], from, scale, zero)
    }

    fn add(&mut self, source: Source) -> Result<(), OnnxError> {
        match self.by_name.entry(source.name.clone()) {
            Entry::Occupied(entry) => Err(OnnxError::DuplicateName { name: entry.key().clone() }),
            Entry::Vacant(entry) => {
                entry.insert(self.sources.len());
                self.sources.push(source);
                Ok(())
            }
        }
    }

    fn add_constant(&mut self, node: &Node, files: &mut Files) -> Result<(), OnnxError> {
        let value = node.attribute("value");
        if let (Some(tensor), Some(name)) = (value.and_then(|v| v.t.clone()), node.output.first()) {
            let source = Source::read(tensor, files)?;
            self.add(Source { name: name.clone(), constant: true, ..source })?;
        }
        Ok(())
    }

    /// Returns the tensor with this name.
    pub fn source(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns the node that makes a value.
    pub fn maker(&self, name: &str) -> Option<usize> {
        self.makers.get(name).copied()
    }

    /// Returns the nodes that take a value.
    pub fn takers(&self, name: &str) -> &[usize] {
        self.takers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the only node that takes a node's first output, if it has the standard operator `op`.
    pub fn only_taker(&self, node: usize, op: &str) -> Option<usize> {
        let [taker] = self.takers(self.output(node)?) else { return None };
        let next = &self.nodes[*taker];
        (next.domain.is_empty() && next.op_type == op).then_some(*taker)
    }

    /// Returns the first output of a node.
    pub fn output(&self, node: usize) -> Option<&str> {
        self.nodes[node].output.first().map(String::as_str)
    }

    /// Returns an input of a node, or `None` if it is absent.
    pub fn input(&self, node: usize, index: usize) -> Option<&str> {
        let name = self.nodes[node].input.get(index)?;
        (!name.is_empty()).then_some(name.as_str())
    }

    /// Lists tensors of types that cannot be imported, except for `parts` of weights.
    pub fn unreadable(&self, parts: &BTreeSet<usize>) -> impl Iterator<Item = LeftOut> {
        let lost = |&(index, source): &(usize, &Source)| {
            let plain = matches!(source.kind, Kind::Plain(_)) || source.origin.is_some();
            !plain && !parts.contains(&index)
        };
        self.sources.iter().enumerate().filter(lost).map(|(_, source)| {
            let why = format!("elements of {} cannot be copied", source.kind);
            LeftOut::new(source.name.clone(), "initializer", why)
        })
    }
}
