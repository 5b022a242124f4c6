//! Reads ONNX files: quantized weights become [`PackedWeights`], and everything else that is stored
//! stays as it is.
//!
//! | in the graph | weight |
//! |---|---|
//! | `Cast`(int8, uint8) → `Mul`(scales) → `MatMul`, `Gemm`, `Gather`, `Conv` | int8 |
//! | `Cast`(int8, uint8) → `MatMul` → `Mul`(scales) | int8 |
//! | `DequantizeLinear`, per tensor, axis or block → the same, also through `Transpose` | int8, int4 |
//! | float → `QuantizeLinear` → `DequantizeLinear` → the same | int8, int4 |
//! | `Gather` of codes → `DequantizeLinear` with one scale | int8, int4 |
//! | `MatMulInteger` → `Cast` → `Mul`(scale of X · scale of W) | int8 |
//! | `QLinearMatMul`; `com.microsoft`: `DynamicQuantizeMatMul`, `MatMulIntegerToFloat`, `QAttention`, `QGemm` | int8 |
//! | `com.microsoft`: `MatMulNBits` and `GatherBlockQuantized` of 4 and 8 bits | int4, int8 |
//!
//! `MatMul` multiplies with `[K, N]`, and a packed weight is `[N, K]`, so the codes are transposed.
//! Codes and zero points are exact, up to an offset that both share (128 is subtracted from uint8, and
//! 8 is added to int4), and scales are those of the file. A negative scale, as in ONNX Runtime's
//! symmetric int4, becomes positive, and the codes and zero points that belong to it are mirrored:
//! `(c − z)·s = ((15−c) − (15−z))·(−s)`. A group whose scale is 0 or subnormal, as quantizers write it for
//! a block of zeros, gets the scale 1 and codes of zero. A weight is symmetric if every zero point is
//! the symmetric one, no int8 code is −128 and no scale is negative.
//!
//! A tensor keeps the name of its parameter. Only names that exporters made (`onnx::MatMul_12`, `val_3`),
//! those of codes among them, are replaced. These sources are tried in order: the name of the tensor
//! without the suffix of a quantizer; the name of the bias, `….bias`; the scope of the node
//! (`/encoder/layer.0/query/MatMul`). If there is none of these, or if two weights would have the same
//! name, the weight keeps the name of its tensor.
//!
//! Under a name `….weight` that multiplies is always `[N, K]`, whether it is quantized or not. A float
//! `[K, N]` that only `MatMul` or `Gemm` take is therefore transposed if its name is `….weight` (GPT-2's
//! `Conv1D`) or is replaced by such a name; see [`OnnxTensor::is_transposed`]. A parameter of any other
//! name (`text_projection`, `visual.proj`) keeps its order, and where it is `[K, N]` and quantized it
//! gets the name `….weight`. All other initializers are copied as they are, and so are float constants
//! of more than one element.
//!
//! No weight is lost silently: nodes that quantize in ways not listed here, other nodes that take
//! integers of two or more axes (of at most 32 bits: wider ones are indices), and tensors that cannot be
//! read, are listed as [`LeftOut`], and the tensors of such nodes are copied, those of `Constant` nodes too.
//!
//! Files are not trusted: whatever a file contains, reading it returns a value or an error, and
//! allocates no more than a hundred bytes for each byte of the graph and a small multiple of the
//! tensors' data. Data in other files are read only from inside the model's folder, or, where the model
//! is a link into a cache, from beside the real file.
//!
//! Sources: `onnx.proto3` and the operators' pages of the ONNX standard; ONNX Runtime's
//! `ContribOperators.md`.

mod error;
mod graph;
mod import;
mod layers;
mod name;
mod names;
mod plan;
mod proto;
mod quantize;
mod source;

pub use error::OnnxError;
pub use import::import;

use super::bytes::FileBytes;
use graph::Graph;
use lowbit::format::{PackedWeights, WeightFormat};
use plan::{Plan, Quantized};
use prost::Message;
use prost::bytes::Bytes;
use safetensors::Dtype;
use source::{Files, Source};
use std::borrow::Cow;
use std::collections::BTreeMap;
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

impl OnnxTensor {
    /// Returns whether the tensor is `[K, N]` in the file and is imported as `[N, K]`.
    pub fn is_transposed(&self) -> bool {
        matches!(self.content, Content::Transposed(_))
    }
}

/// How a plain tensor is made from tensors of the file.
#[derive(Clone, Copy, Debug)]
enum Content {
    Copied(usize),
    /// From `[K, N]` to `[N, K]`.
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
    /// The file of the model and its files of tensor data, relative to its folder.
    files: Vec<String>,
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
    /// do not have the size of its type and shape. A weight that cannot be imported is no error: it is
    /// [left out](Self::left_out).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OnnxError> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let real = path.canonicalize().ok().and_then(|real| Some(real.parent()?.to_owned()));
        let files = Files { folder: Some(folder.to_owned()), real, open: BTreeMap::new() };
        let mut model = Self::new(Bytes::from_owner(FileBytes::open(path)?), files)?;
        let own = path.file_name().map(|name| name.to_string_lossy().into_owned());
        model.files.splice(..0, own);
        Ok(model)
    }

    /// Does the same as [`open`](Self::open) for bytes in memory. Tensor data in other files are
    /// refused.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, OnnxError> {
        Self::new(Bytes::from(bytes), Files { folder: None, real: None, open: BTreeMap::new() })
    }

    fn new(bytes: Bytes, mut files: Files) -> Result<Self, OnnxError> {
        let model_bytes = bytes.len();
        let (graph, mut left_out) = Graph::read(bytes, &mut files)?;
        let found = layers::find(&graph);
        left_out.extend(graph.unreadable(&found.parts));
        left_out.extend(found.left_out);
        let (weights, tensors, reserved) =
            name::all(&graph, found.layers, &found.parts, &found.lost);
        left_out.extend(reserved);
        let places = places(&weights, &tensors)?;
        let file_bytes = model_bytes + files.open.values().map(Bytes::len).sum::<usize>();
        let files = files.open.keys().map(|file| file.to_string_lossy().into_owned()).collect();
        Ok(Self { sources: graph.sources, weights, tensors, places, left_out, files, file_bytes })
    }

    /// Returns the names of the file and of its files of tensor data, relative to the folder of the model.
    /// Bytes in memory have none.
    pub fn files(&self) -> &[String] {
        &self.files
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
    /// Returns [`OnnxError::NotFound`] if there is no such weight, and [`OnnxError::Format`] if its parts
    /// are not valid.
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
    let also = from.also.and_then(|also| sources[also].floats()?.first().copied()).unwrap_or(1.0);
    let value = |index: usize| {
        // There is one scale for all elements, or one for each.
        let at = if scales.len() == 1 { 0 } else { index };
        let zero = from.zero.map_or(0, |zero| sources[zero].integer(codes.kind, at));
        let scale = scales.get(at).copied().unwrap_or(0.0) * also;
        (codes.integer(codes.kind, index) - zero) as f32 * scale
    };
    (0..codes.elements).flat_map(|index| value(index).to_le_bytes()).collect()
}
