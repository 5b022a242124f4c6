//! Which nodes multiply with, or look up in, which weights.

use super::LeftOut;
use super::graph::Graph;
use super::plan::{Plan, Quantized, Spread};
use super::source::Kind;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// What a value of the graph is, as far as it follows from tensors of the file.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Float(usize),
    /// Integers cast to floats: scales come later.
    Codes(usize),
    Quantized(Quantized),
}

#[derive(Clone, Copy)]
struct Value {
    what: What,
    /// Whether its two axes are exchanged.
    transposed: bool,
}

/// How a layer's bias is stored.
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
    /// The name of the value that the node takes.
    pub value: String,
    /// The tensor that holds the codes.
    pub source: usize,
    pub bias: Option<Bias>,
}

pub(super) enum Weight {
    Quantized(Plan),
    /// A float `[K, N]`, and nothing but that.
    Float,
}

/// What was found.
pub(super) struct Layers {
    pub layers: Vec<Layer>,
    pub left_out: Vec<LeftOut>,
    /// Tensors that are only parts of the layers' weights.
    pub parts: BTreeSet<usize>,
}

/// A use of a weight.
struct Use {
    node: usize,
    value: String,
    /// The axis of output channels in the weight's tensor.
    n_axis: usize,
    bias: Option<Bias>,
    /// The value that the bias is.
    bias_value: Option<String>,
}

/// A bias, and the value that it is.
type Found<'a> = Option<(Bias, &'a str)>;

const MICROSOFT: &str = "com.microsoft";
const SUBGRAPH: &str = "its graphs are not read";

struct Finder<'a> {
    graph: &'a Graph,
    values: BTreeMap<&'a str, Value>,
    /// Nodes whose whole effect is in the layers.
    understood: BTreeSet<usize>,
    why: BTreeMap<usize, String>,
    /// By the tensor of the codes.
    quantized: BTreeMap<usize, (Quantized, Vec<Use>)>,
    /// Float tensors that are multiplied with as `[K, N]`.
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
    // The standard wants nodes in the order of their values.
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

    /// An initializer as it is.
    fn float(&self, node: usize, input: usize) -> Option<usize> {
        match self.value_of(node, input)? {
            Value { what: What::Float(source), transposed: false } => Some(source),
            _ => None,
        }
    }

    fn source(&self, node: usize, input: usize) -> Option<usize> {
        self.graph.source(self.graph.input(node, input)?)
    }

    /// What a node makes of tensors.
    fn value(&self, node: usize) -> Option<Value> {
        let attributes = &self.graph.nodes[node];
        match self.op(node) {
            ("", "Identity") => self.value_of(node, 0),
            ("", "Transpose") if attributes.ints("perm") == [1, 0] => {
                let value = self.value_of(node, 0)?;
                Some(Value { transposed: !value.transposed, ..value })
            }
            ("", "Cast") if matches!(attributes.int("to", 0), 1 | 10 | 16) => {
                let source = self.source(node, 0)?;
                let kind = self.graph.sources[source].kind;
                let codes = matches!(kind, Kind::Plain(Dtype::I8 | Dtype::U8));
                codes.then_some(Value { what: What::Codes(source), transposed: false })
            }
            ("", "Mul") => self.scaled(node, 0, 1).or_else(|| self.scaled(node, 1, 0)),
            ("", "DequantizeLinear") => {
                let what = What::Quantized(self.dequantized(node)?);
                Some(Value { what, transposed: false })
            }
            _ => None,
        }
    }

    /// `Mul` of codes and scales.
    fn scaled(&self, node: usize, codes: usize, scale: usize) -> Option<Value> {
        let Value { what: What::Codes(codes), transposed: false } = self.value_of(node, codes)?
        else {
            return None;
        };
        let scale = self.float(node, scale)?;
        let (shape, scales) = (&self.graph.sources[codes].shape, &self.graph.sources[scale].shape);
        let spread = broadcast(scales, shape)?;
        let what = What::Quantized(Quantized { codes, scale, zero: None, spread });
        Some(Value { what, transposed: false })
    }

    /// `DequantizeLinear` of tensors: per tensor, axis or block.
    fn dequantized(&self, node: usize) -> Option<Quantized> {
        let attributes = &self.graph.nodes[node];
        let codes = self.source(node, 0)?;
        let scale = self.float(node, 1)?;
        let zero = match self.graph.input(node, 2) {
            None => None,
            Some(_) => Some(self.source(node, 2)?),
        };
        let (shape, scales) = (&self.graph.sources[codes].shape, &self.graph.sources[scale]);
        let axis = attributes.int("axis", 1);
        let axis = if axis < 0 { axis.checked_add(shape.len() as i64)? } else { axis };
        let axis = usize::try_from(axis).ok();
        let spread = match attributes.int("block_size", 0) {
            0 if scales.elements == 1 => Spread::Tensor,
            0 => {
                let axis = axis.filter(|&axis| axis < shape.len())?;
                (scales.shape == [shape[axis]]).then_some(Spread::Axis(axis))?
            }
            size => {
                let (axis, size) = (axis?, usize::try_from(size).ok()?);
                let mut blocks = shape.clone();
                let along = blocks.get_mut(axis)?;
                *along = along.div_ceil(size);
                (scales.shape == blocks).then_some(Spread::Blocks { axis, size })?
            }
        };
        let same = |zero: usize| self.graph.sources[zero].elements == scales.elements;
        zero.is_none_or(same).then_some(Quantized { codes, scale, zero, spread })
    }

    /// Notes a node that multiplies with a weight or looks up in one.
    fn use_of(&mut self, node: usize) {
        match self.op(node) {
            ("", "MatMul") => self.multiply(node),
            ("", "Gemm") => self.gemm(node),
            ("", "Gather") if self.graph.nodes[node].int("axis", 0) == 0 => self.rows(node, 0),
            ("", "Conv") => self.rows(node, 1),
            ("", "MatMulInteger") => self.integer(node),
            ("", "QLinearMatMul") => self.stated(node, [3, 4, 5], None),
            (MICROSOFT, "DynamicQuantizeMatMul") => self.stated(node, [1, 2, 3], Some(4)),
            (MICROSOFT, "MatMulIntegerToFloat") => self.stated(node, [1, 3, 5], Some(6)),
            (MICROSOFT, "MatMulNBits") => self.bits(node),
            _ => {}
        }
    }

    /// Notes why a node is not understood.
    fn refuse(&mut self, node: usize, why: impl Into<String>) {
        self.why.insert(node, why.into());
    }

    /// What scales of a `[K, N]` cover where an operator takes one, or one for each column.
    fn columns(&self, scale: usize) -> Spread {
        if self.graph.sources[scale].elements == 1 { Spread::Tensor } else { Spread::Axis(1) }
    }

    fn multiply(&mut self, node: usize) {
        let Some(value) = self.value_of(node, 1) else { return };
        let n_axis = usize::from(!value.transposed);
        match value.what {
            What::Float(source) => {
                let bias = self.added(node);
                let used = self.used(node, 1, n_axis, bias);
                self.floats.entry(source).or_default().push(used);
            }
            What::Quantized(from) => {
                let bias = self.added(node);
                self.note(from, self.used(node, 1, n_axis, bias));
            }
            // Scales that come after the product: one for each output channel.
            What::Codes(codes) => {
                let after = self.graph.only_taker(node, "Mul");
                let scale = after.and_then(|mul| self.float(mul, 0).or_else(|| self.float(mul, 1)));
                let (Some(mul), Some(scale)) = (after, scale) else {
                    return self.refuse(node, "its integer weight has no scales");
                };
                let scales = &self.graph.sources[scale];
                let spread = match (scales.elements, scales.shape.last()) {
                    (1, _) => Spread::Tensor,
                    (count, Some(&last)) if count == last => Spread::Axis(n_axis),
                    _ => {
                        let why = "the scales after it are not per output channel";
                        return self.refuse(node, why);
                    }
                };
                let from = Quantized { codes, scale, zero: None, spread };
                let bias = self.added(mul);
                if self.note(from, self.used(node, 1, n_axis, bias)) {
                    self.understood.insert(mul);
                }
            }
        }
    }

    fn gemm(&mut self, node: usize) {
        let attributes = &self.graph.nodes[node];
        let kn = attributes.int("transB", 0) == 0;
        let has_bias = self.graph.input(node, 2).is_some();
        let scaled = attributes.factor("alpha") != 1.0
            || (has_bias && attributes.factor("beta") != 1.0)
            || attributes.int("transA", 0) != 0;
        let Some(value) = self.value_of(node, 1) else { return };
        let n_axis = usize::from(kn != value.transposed);
        let bias = if has_bias { self.bias(node, 2) } else { self.added(node) };
        match value.what {
            What::Quantized(_) | What::Codes(_) if scaled => {
                self.refuse(node, "alpha, beta or transA are not the defaults");
            }
            What::Quantized(from) => {
                self.note(from, self.used(node, 1, n_axis, bias));
            }
            What::Float(source) => {
                let bias = if scaled { None } else { bias };
                let used = self.used(node, 1, n_axis, bias);
                self.floats.entry(source).or_default().push(used);
            }
            What::Codes(_) => {}
        }
    }

    /// A weight whose rows are output channels, or looked up.
    fn rows(&mut self, node: usize, input: usize) {
        if let Some(Value { what: What::Quantized(from), transposed }) = self.value_of(node, input)
        {
            let bias = if self.op(node).1 == "Conv" { self.bias(node, 2) } else { None };
            self.note(from, self.used(node, input, usize::from(transposed), bias));
        }
    }

    /// `MatMulInteger` → `Cast` → `Mul` by the product of the scales of X and of W.
    fn integer(&mut self, node: usize) {
        let Some(codes) = self.source(node, 1) else { return };
        let zero = self.source(node, 3);
        if self.graph.input(node, 3).is_some() && zero.is_none() {
            return self.refuse(node, "its zero point is no tensor of the file");
        }
        let cast = self.graph.only_taker(node, "Cast");
        let mul = cast.and_then(|cast| self.graph.only_taker(cast, "Mul"));
        let found = mul.zip(cast).and_then(|(mul, cast)| {
            let product = self.graph.output(cast)?;
            let side = (0..2).find(|&side| self.graph.input(mul, side) != Some(product))?;
            let scales = self.graph.maker(self.graph.input(mul, side)?)?;
            let both = [self.float(scales, 0), self.float(scales, 1)];
            match (self.op(scales), both) {
                (("", "Mul"), [Some(scale), None] | [None, Some(scale)]) => {
                    Some((mul, scales, scale))
                }
                _ => None,
            }
        });
        let Some((mul, scales, scale)) = found else {
            return self.refuse(node, "the scale of its weight is not found behind it");
        };
        let spread = self.columns(scale);
        let bias = self.added(mul);
        if self.note(Quantized { codes, scale, zero, spread }, self.used(node, 1, 1, bias)) {
            self.understood.insert(scales);
        }
    }

    /// Nodes that take codes, scale and zero point themselves.
    fn stated(&mut self, node: usize, inputs: [usize; 3], bias: Option<usize>) {
        let [codes, scale, zero] = inputs;
        let bias = bias.and_then(|bias| self.bias(node, bias));
        let zero_absent = self.graph.input(node, zero).is_none();
        let (found, zero) =
            (self.source(node, codes).zip(self.float(node, scale)), self.source(node, zero));
        let Some((source, scale)) = found.filter(|_| zero.is_some() || zero_absent) else {
            return self.refuse(node, "its weight, scale or zero point is no tensor of the file");
        };
        let spread = self.columns(scale);
        let from = Quantized { codes: source, scale, zero, spread };
        self.note(from, self.used(node, codes, 1, bias));
    }

    /// `MatMulNBits`: A, B, scales, zero points, g_idx, bias.
    fn bits(&mut self, node: usize) {
        match self.stated_bits(node) {
            Ok(from) => {
                let bias = match self.graph.input(node, 5) {
                    Some(_) => self.bias(node, 5),
                    None => self.added(node),
                };
                self.note(from, self.used(node, 1, 0, bias));
            }
            Err(why) => self.refuse(node, why),
        }
    }

    fn stated_bits(&self, node: usize) -> Result<Quantized, &'static str> {
        let attributes = &self.graph.nodes[node];
        let size = |name| usize::try_from(attributes.int(name, 0)).unwrap_or(0);
        let (n, k, block) = (size("N"), size("K"), size("block_size"));
        let bits = attributes.int("bits", 4);
        if !matches!(bits, 4 | 8) {
            return Err("only 4 and 8 bits are understood");
        }
        if n == 0 || k == 0 || !block.is_power_of_two() || block < 16 {
            return Err("its N, K or block_size is none");
        }
        if self.graph.input(node, 4).is_some() {
            return Err("an order of input channels (g_idx) is not understood");
        }
        let missing = "its weight, scales or zero points are no tensors of the file";
        let codes = self.source(node, 1).ok_or(missing)?;
        let scale = self.float(node, 2).ok_or(missing)?;
        let zero = self.source(node, 3);
        if self.graph.input(node, 3).is_some() && zero.is_none() {
            return Err(missing);
        }
        if self.graph.sources[codes].kind != Kind::Plain(Dtype::U8) {
            return Err("its weight is not U8");
        }
        let spread = Spread::Bits { n, k, size: block, bits: bits as usize };
        Ok(Quantized { codes, scale, zero, spread })
    }

    fn used(&self, node: usize, input: usize, n_axis: usize, bias: Found<'_>) -> Use {
        let value = self.graph.input(node, input).unwrap_or_default().to_owned();
        let (bias, bias_value) = bias.unzip();
        Use { node, value, n_axis, bias, bias_value: bias_value.map(str::to_owned) }
    }

    /// Notes a use; whether it agrees with earlier uses of the same codes.
    fn note(&mut self, from: Quantized, used: Use) -> bool {
        let node = used.node;
        let (known, uses) = self.quantized.entry(from.codes).or_insert((from, Vec::new()));
        if let Some(first) = uses.first().filter(|u| *known != from || u.n_axis != used.n_axis) {
            // Said of each use: a long name would be in memory as often.
            let first: String = self.graph.nodes[first.node].name.chars().take(80).collect();
            let why = format!("its weight is used in another way by `{first}`");
            self.refuse(node, why);
            return false;
        }
        uses.push(used);
        self.understood.insert(node);
        true
    }

    /// A bias that a node takes.
    fn bias(&self, node: usize, input: usize) -> Found<'a> {
        let name = self.graph.input(node, input)?;
        let value = self.value_of(node, input)?;
        let vector = |source: usize| {
            let shape = &self.graph.sources[source].shape;
            let leading = shape.len().saturating_sub(1);
            !shape.is_empty() && shape[..leading].iter().all(|&size| size == 1)
        };
        match value.what {
            What::Float(source) if !value.transposed && vector(source) => {
                Some((Bias::Float(source), name))
            }
            What::Quantized(from) => {
                let source = &self.graph.sources[from.codes];
                let int32 = source.kind == Kind::Plain(Dtype::I32) && source.shape.len() == 1;
                let spread = matches!(from.spread, Spread::Tensor | Spread::Axis(0));
                (int32 && spread).then_some((Bias::Quantized(from), name))
            }
            _ => None,
        }
    }

    /// A bias added to a node's output, which nothing else takes.
    fn added(&self, node: usize) -> Found<'a> {
        let add = self.graph.only_taker(node, "Add")?;
        self.bias(add, 0).or_else(|| self.bias(add, 1))
    }

    /// Marks the nodes that led to a value.
    fn mark(&mut self, value: &str) {
        let mut names = vec![value];
        while let Some(node) = names.pop().and_then(|name| self.graph.maker(name)) {
            if self.understood.insert(node) {
                let inputs = &self.graph.nodes[node].input;
                names.extend(inputs.iter().map(String::as_str).filter(|name| {
                    self.graph.maker(name).is_some_and(|_| self.values.contains_key(name))
                }));
            }
        }
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
            let takers = graph.takers(&tensor.name);
            let only = tensor.shape.len() == 2
                && uses.iter().all(|used| used.n_axis == 1)
                && takers.iter().all(|taker| nodes.contains(taker));
            if let Some(first) = uses.into_iter().next().filter(|_| only) {
                layers.push(Layer {
                    weight: Weight::Float,
                    node: first.node,
                    value: first.value,
                    source,
                    bias: graph.of_length(first.bias, tensor.shape[1]),
                });
            }
        }
        // A part that anything else takes stays a tensor of its own.
        parts.retain(|&part| {
            let takers = graph.takers(&graph.sources[part].name);
            takers.iter().all(|taker| self.understood.contains(taker))
        });
        layers.sort_by_key(|layer| layer.node);
        let left_out = self.left_out();
        Layers { layers, left_out, parts }
    }
}

impl Finder<'_> {
    /// Every node that a weight or a quantization is lost with.
    fn left_out(&self) -> Vec<LeftOut> {
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
            let why = "dequantizes activations, or what no understood node uses as a weight";
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

impl Graph {
    /// A bias, if it has an element for each output channel.
    fn of_length(&self, bias: Option<Bias>, n: usize) -> Option<Bias> {
        bias.filter(|bias| self.sources[bias.source()].elements == n)
    }
}

/// What scales cover that multiply codes of a shape, by the rules of broadcasting.
fn broadcast(scales: &[usize], codes: &[usize]) -> Option<Spread> {
    let leading = codes.len().checked_sub(scales.len())?;
    let mut spread = Spread::Tensor;
    for (axis, (&scale, &code)) in scales.iter().zip(&codes[leading..]).enumerate() {
        match (scale, spread) {
            (1, _) => {}
            (size, Spread::Tensor) if size == code => spread = Spread::Axis(leading + axis),
            _ => return None,
        }
    }
    Some(spread)
}
