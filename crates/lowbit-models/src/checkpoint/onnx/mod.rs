//! Reads ONNX files: quantized weights become [`PackedWeights`], and everything else that is stored
//! stays as it is.
//!
//! | in the graph | weight |
//! |---|---|
//! | `Cast`(int8, uint8) → `Mul`(scales) → `MatMul`, `Gemm`, `Gather`, `Conv` | int8 |
//! | `Cast`(int8, uint8) → `MatMul` → `Mul`(scales) | int8 |
//! | `DequantizeLinear`, per tensor, axis or block → the same, also through `Transpose` | int8, int4 |
//! | `MatMulInteger` → `Cast` → `Mul`(scale of X · scale of W) | int8 |
//! | `QLinearMatMul`; `com.microsoft`: `DynamicQuantizeMatMul`, `MatMulIntegerToFloat` | int8 |
//! | `com.microsoft`: `MatMulNBits` of 4 and 8 bits | int4, int8 |
//!
//! `MatMul` multiplies with `[K, N]`, and a packed weight is `[N, K]`, so the codes are transposed.
//! Codes and zero points are exact, up to an offset that both share (128 is subtracted from uint8, and
//! 8 is added to int4), and scales are those of the file. A negative scale, as in ONNX Runtime's
//! symmetric int4, becomes positive, and the codes and zero points that belong to it are mirrored:
//! `(c − z)·s = ((15−c) − (15−z))·(−s)`. A weight is symmetric if every zero point is the symmetric
//! one, no int8 code is −128 and no scale is negative.
//!
//! A weight takes the name of its parameter, which exporters often lose. These sources are tried in
//! order: the name of its tensor, if that is `….weight` apart from a suffix of a quantizer; the name
//! of its bias, `….bias`; the scope of its node (`/encoder/layer.0/query/MatMul`). If there is none of
//! these, or if two weights would have the same name, the weight keeps the name of its tensor. A float
//! `[K, N]` that only `MatMul` takes, and for which a parameter's name is found, is transposed as
//! well: a tensor called `….weight` is `[N, K]`, as in the model that was exported. All other
//! initializers are copied as they are, and so are float constants of more than one element.
//!
//! Nothing of a weight is lost silently: nodes that quantize in ways not listed here, and tensors that
//! cannot be read, are listed as [`LeftOut`], and the tensors of such nodes are copied.
//!
//! Files are not trusted: whatever a file contains, reading it returns a value or an error, and
//! allocates no more than a hundred bytes for each byte of the graph and a small multiple of the
//! tensors' data. Data in other files are read only from inside the model's folder.
//!
//! Sources: `onnx.proto3` and the operators' pages of the ONNX standard; ONNX Runtime's
//! `ContribOperators.md`.

mod error;
mod graph;
mod import;
mod layers;
mod names;
mod plan;
mod proto;
mod source;

pub use error::OnnxError;
pub use import::import;

use super::bytes::FileBytes;
use graph::Graph;
use layers::{Bias, Layer, Weight};
use lowbit::format::{PackedWeights, WeightFormat};
use plan::{Plan, Quantized};
use prost::Message;
use prost::bytes::Bytes;
use safetensors::Dtype;
use source::{Files, Kind, Source};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A compressed weight that can be imported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OnnxWeight {
    /// The name of its parameter.
    pub name: String,
    /// The format in which it is imported.
    pub format: WeightFormat,
    /// Its shape: `[N, K]`, or that of a convolution with output channels first.
    pub shape: Vec<usize>,
    /// The tensor that holds its codes.
    pub source: String,
    /// The first node that uses it.
    pub node: String,
    /// The operator of that node: `MatMul`, `Gather`, …
    pub op: String,
    /// The tensor that is added to the product, by the name under which it is imported.
    pub bias: Option<String>,
    plan: Plan,
}

/// A plain tensor that can be imported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OnnxTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The tensor of the ONNX file.
    pub source: String,
    content: Content,
}

/// How a plain tensor is made from tensors of the file.
#[derive(Clone, Copy, Debug)]
enum Content {
    Copied(usize),
    Transposed(usize),
    /// An int32 bias.
    Dequantized(Quantized),
}

/// A node or tensor of the file that is not imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// The name of the node or tensor.
    pub name: String,
    /// The operator of the node, or `initializer`, `sparse initializer` or `function`.
    pub op: String,
    /// The reason why it is left out.
    pub why: String,
}

impl LeftOut {
    fn new(name: String, op: &str, why: impl Into<String>) -> Self {
        Self { name, op: op.to_owned(), why: why.into() }
    }
}

/// An open ONNX file.
///
/// ```no_run
/// use lowbit_models::checkpoint::onnx::OnnxFile;
/// let model = OnnxFile::open("model.onnx")?;
/// for weight in model.weights() {
///     let packed = model.read_weight(&weight.name)?;
///     println!("{}: {}×{} {}", weight.name, packed.n(), packed.k(), weight.format);
/// }
/// # Ok::<(), lowbit_models::checkpoint::onnx::OnnxError>(())
/// ```
pub struct OnnxFile {
    sources: Vec<Source>,
    weights: Vec<OnnxWeight>,
    tensors: Vec<OnnxTensor>,
    /// The index in one of the two lists, by name.
    places: BTreeMap<String, Place>,
    left_out: Vec<LeftOut>,
    file_bytes: usize,
}

#[derive(Clone, Copy)]
enum Place {
    Weight(usize),
    Tensor(usize),
}

/// Returns where every name is.
fn places(
    weights: &[OnnxWeight],
    tensors: &[OnnxTensor],
) -> Result<BTreeMap<String, Place>, OnnxError> {
    let weights = weights.iter().enumerate().map(|(at, w)| (&w.name, Place::Weight(at)));
    let tensors = tensors.iter().enumerate().map(|(at, t)| (&t.name, Place::Tensor(at)));
    let mut places = BTreeMap::new();
    for (name, place) in weights.chain(tensors) {
        if places.insert(name.clone(), place).is_some() {
            return Err(OnnxError::DuplicateName { name: name.clone() });
        }
    }
    Ok(places)
}

impl std::fmt::Debug for OnnxFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxFile")
            .field("bytes", &self.file_bytes)
            .field("weights", &self.weights.len())
            .field("tensors", &self.tensors.len())
            .field("left_out", &self.left_out)
            .finish()
    }
}

impl OnnxFile {
    /// Opens a file and finds its weights. The file, and files of tensor data in its folder, are
    /// memory-mapped and must not be changed in place while they are open.
    ///
    /// # Errors
    /// Returns [`OnnxError`] if a file cannot be read, is not an ONNX model, or has a tensor whose data
    /// do not have the size of its type and shape. Scales are checked when weights are read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OnnxError> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let files = Files { folder: Some(folder.to_owned()), open: BTreeMap::new() };
        Self::new(Bytes::from_owner(FileBytes::open(path)?), files)
    }

    /// Does the same as [`open`](Self::open) for bytes in memory. Tensor data in other files are
    /// refused.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, OnnxError> {
        Self::new(Bytes::from(bytes), Files { folder: None, open: BTreeMap::new() })
    }

    fn new(bytes: Bytes, mut files: Files) -> Result<Self, OnnxError> {
        let model_bytes = bytes.len();
        let (graph, mut left_out) = Graph::read(bytes, &mut files)?;
        let found = layers::find(&graph);
        left_out.extend(graph.unreadable(&found.parts));
        left_out.extend(found.left_out);
        let (weights, tensors) = name(&graph, found.layers, &found.parts);
        let places = places(&weights, &tensors)?;
        let file_bytes = model_bytes + files.open.values().map(Bytes::len).sum::<usize>();
        Ok(Self { sources: graph.sources, weights, tensors, places, left_out, file_bytes })
    }

    /// Returns the number of bytes of the file and of its files of tensor data.
    pub fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// Returns the compressed weights, in the order of their use.
    pub fn weights(&self) -> &[OnnxWeight] {
        &self.weights
    }

    /// Returns the plain tensors: biases, norms, embeddings that are not quantized, and everything
    /// else that is stored.
    pub fn tensors(&self) -> &[OnnxTensor] {
        &self.tensors
    }

    /// Returns the nodes and tensors that are not imported.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Returns the first part, including its dot, that all dotted names have in common. A wrapper
    /// around the exported model may have added it. Returns `None` if the names differ or if there is
    /// only one.
    pub fn common_prefix(&self) -> Option<&str> {
        let names = self.weights.iter().map(|weight| weight.name.as_str());
        let names = names.chain(self.tensors.iter().map(|tensor| tensor.name.as_str()));
        let mut prefixes = names.filter_map(|name| Some(&name[..=name.find('.')?]));
        let first = prefixes.next()?;
        let others: Vec<&str> = prefixes.collect();
        (!others.is_empty() && others.iter().all(|other| *other == first)).then_some(first)
    }

    /// Removes a prefix from every name that has it, and returns how many names had it.
    ///
    /// # Errors
    /// Returns [`OnnxError::DuplicateName`] if a name without the prefix is already taken. Nothing is
    /// renamed in that case.
    pub fn strip_prefix(&mut self, prefix: &str) -> Result<usize, OnnxError> {
        let short = |name: &str| {
            let short = name.strip_prefix(prefix).filter(|short| !short.is_empty());
            short.unwrap_or(name).to_owned()
        };
        let (mut weights, mut tensors) = (self.weights.clone(), self.tensors.clone());
        for weight in &mut weights {
            weight.name = short(&weight.name);
            weight.bias = weight.bias.as_deref().map(short);
        }
        for tensor in &mut tensors {
            tensor.name = short(&tensor.name);
        }
        let places = places(&weights, &tensors)?;
        let changed = self.places.keys().filter(|name| short(name) != **name).count();
        (self.weights, self.tensors, self.places) = (weights, tensors, places);
        Ok(changed)
    }

    /// Reads a compressed weight.
    ///
    /// # Errors
    /// Returns [`OnnxError::NotFound`] if there is no such weight, and [`OnnxError::Format`] if a scale
    /// is zero, subnormal or not finite.
    pub fn read_weight(&self, name: &str) -> Result<PackedWeights, OnnxError> {
        let Some(Place::Weight(at)) = self.places.get(name) else {
            return Err(OnnxError::NotFound { what: "weight", name: name.to_owned() });
        };
        self.weights[*at]
            .plan
            .pack(&self.sources)
            .map_err(|source| OnnxError::Format { name: name.to_owned(), source })
    }

    /// Returns the bytes of a plain tensor, little-endian and row-major.
    ///
    /// # Errors
    /// Returns [`OnnxError::NotFound`] if there is no such tensor.
    pub fn read_tensor(&self, name: &str) -> Result<Cow<'_, [u8]>, OnnxError> {
        let Some(Place::Tensor(at)) = self.places.get(name) else {
            return Err(OnnxError::NotFound { what: "tensor", name: name.to_owned() });
        };
        Ok(match self.tensors[*at].content {
            Content::Copied(source) => Cow::Borrowed(&self.sources[source].data),
            Content::Transposed(source) => Cow::Owned(transposed(&self.sources[source])),
            Content::Dequantized(from) => Cow::Owned(dequantized(&self.sources, &from)),
        })
    }
}

/// Decodes a protobuf message.
fn decode<M: Message + Default>(what: &'static str, bytes: Bytes) -> Result<M, OnnxError> {
    M::decode(bytes).map_err(|source| OnnxError::Protobuf { what, source })
}

/// Transposes `[K, N]` to `[N, K]`.
fn transposed(source: &Source) -> Vec<u8> {
    // A matrix without rows may have any number of columns.
    let n = if source.elements == 0 { 0 } else { source.shape.last().copied().unwrap_or(1) };
    let size = source.data.len() / source.elements.max(1);
    let mut bytes = Vec::with_capacity(source.data.len());
    for column in 0..n {
        let elements = source.data.chunks_exact(size.max(1)).skip(column).step_by(n);
        elements.for_each(|element| bytes.extend_from_slice(element));
    }
    bytes
}

/// Returns `(code − zero) · scale` in f32, as `DequantizeLinear` computes it.
fn dequantized(sources: &[Source], from: &Quantized) -> Vec<u8> {
    let codes = &sources[from.codes];
    let scales = sources[from.scale].floats().unwrap_or_default();
    let value = |index: usize| {
        // There is one scale for all elements, or one for each.
        let at = if scales.len() == 1 { 0 } else { index };
        let zero = from.zero.map_or(0, |zero| sources[zero].integer(codes.kind, at));
        (codes.integer(codes.kind, index) - zero) as f32 * scales.get(at).copied().unwrap_or(0.0)
    };
    (0..codes.elements).flat_map(|index| value(index).to_le_bytes()).collect()
}

/// Returns the name of a layer's parameter if it can be found in the file.
fn parameter_name(graph: &Graph, layer: &Layer) -> Option<String> {
    let own = [&graph.sources[layer.source].name, &layer.value];
    if let Some(name) = own.into_iter().find_map(|name| names::parameter(name, "weight")) {
        return Some(name.to_owned());
    }
    let bias = layer.bias.map(|bias| &graph.sources[bias.source()].name);
    if let Some(bias) = bias.and_then(|name| names::parameter(name, "bias")) {
        return Some(format!("{}weight", bias.strip_suffix("bias")?));
    }
    Some(format!("{}.weight", names::scope(&graph.nodes[layer.node].name)?))
}

/// Gives every weight and tensor a name of its own.
fn name(
    graph: &Graph,
    layers: Vec<Layer>,
    parts: &BTreeSet<usize>,
) -> (Vec<OnnxWeight>, Vec<OnnxTensor>) {
    // If two layers would have the same name, or another tensor has it, no layer gets it.
    let sources: BTreeMap<usize, usize> =
        layers.iter().enumerate().map(|(index, layer)| (layer.source, index)).collect();
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
    let others = |index: &usize| !parts.contains(index) && !sources.contains_key(index);
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
        let source = &graph.sources[layer.source];
        let quantized = matches!(layer.weight, Weight::Quantized(_));
        let own = name.unwrap_or_else(|| {
            // If something else takes the codes too, they are copied under their own name.
            let copied = quantized && !parts.contains(&layer.source);
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
            // A tensor that keeps its own name is copied as it is.
            Weight::Float if own == source.name => {}
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
        let noise = source.constant && !(source.kind.is_float() && source.elements > 1);
        if !noise && !parts.contains(&index) && !done.contains(&index) {
            let shape = source.shape.clone();
            tensors.extend(plain(source, source.name.clone(), shape, Content::Copied(index)));
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    (weights, tensors)
}

/// Returns the name of a bias: its own name without the suffix of a quantizer, or a name made from that
/// of its layer if its own has no meaning and only this layer takes it.
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
        (None, Some(module)) if !own.contains('.') => format!("{module}.bias"),
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
