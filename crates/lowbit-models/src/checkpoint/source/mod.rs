//! One way in: models of every format that this crate reads.
//!
//! [`open`] tells by the content what a path leads to, and gives a [`Model`]. What it contains is a list
//! of [`Item`]s, whatever the format: plain tensors, and weights that lowbit multiplies with in
//! compressed form. [`ModelSource::read`] reads one of them; codes and scales are taken as they are.
//!
//! | path | read as |
//! |---|---|
//! | safetensors file | that file |
//! | index of shards (`model.safetensors.index.json`) | all files that it names |
//! | GGUF file | that file; if it is one of several (`split.count`), all of them |
//! | ONNX file | that file and its files of tensor data |
//! | folder | the model in it |
//!
//! ```no_run
//! use lowbit_models::checkpoint::source::{self, Data, ModelSource};
//!
//! let model = source::open("model.gguf")?;
//! for item in model.items()? {
//!     match model.read(&item.name)? {
//!         Data::Plain(bytes) => println!("{}: {} bytes", item.name, bytes.len()),
//!         Data::Compressed(weights) => println!("{}: {}", item.name, weights.format()),
//!     }
//! }
//! # Ok::<(), lowbit_models::checkpoint::source::SourceError>(())
//! ```

#[cfg(not(target_arch = "wasm32"))]
mod checksum;
mod detect;
mod error;
mod folder;
mod import;
#[cfg(feature = "onnx")]
mod onnx;
mod open;
mod overlay;
mod plain;
mod readable;
mod role;
mod safetensors;
#[cfg(test)]
mod tests;

#[cfg(not(target_arch = "wasm32"))]
pub use checksum::model_checksum;
pub use detect::NotAModel;
pub use error::SourceError;
pub use import::import;
pub use open::{Model, locate, open};
pub use overlay::Overlay;
pub use readable::Readable;
pub use role::Role;

use super::{Dtype, LayerActivations};
use lowbit::format::{PackedWeights, WeightFormat};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A family of file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// One or several safetensors files.
    Safetensors,
    /// One or several GGUF files.
    Gguf,
    /// An ONNX file.
    Onnx,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Onnx => "ONNX",
        })
    }
}

/// What an item is when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemKind {
    /// A plain tensor of this type.
    Plain(Dtype),
    /// A compressed weight of this format.
    Compressed(WeightFormat),
    /// Nothing: lowbit has no format for it, for the reason that is given.
    Unsupported(String),
}

/// A tensor or weight of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// Its name, which no other item has.
    pub name: String,
    /// Its shape, the outermost dimension first. The matrix of a compressed weight is
    /// `[shape[0], product of the rest]`.
    pub shape: Vec<usize>,
    /// How the model stores it, by the words of its format: `F16`, `Q4_K`, `int4-g64`.
    pub stored: String,
    /// The bytes that it takes in the model's files.
    pub bytes: usize,
    /// What it is when it is read.
    pub kind: ItemKind,
    /// What it does in the network, if its name says it.
    pub role: Option<Role>,
}

impl Item {
    /// Returns the number of elements. It does not overflow: whoever made the item checked its bits. Only if it is 0 may
    /// the product of some dimensions be too large.
    pub fn elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }
}

/// The data of an item.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it owns megabytes")]
pub enum Data<'a> {
    /// The bytes of a plain tensor: little-endian, row-major, and not aligned. They are borrowed from
    /// the mapped file where they are as they should be.
    Plain(Cow<'a, [u8]>),
    /// A compressed weight.
    Compressed(PackedWeights),
}

/// Says that X of these weights is quantized in the model, and that a format, into which they are written,
/// does not say so. Returns `None` if there are no such weights.
pub(crate) fn without_activations(weights: &[&str], format: &str) -> Option<String> {
    let some: Vec<String> = weights.iter().take(3).map(|name| format!("`{name}`")).collect();
    let more = if weights.len() > some.len() { ", …" } else { "" };
    (!weights.is_empty()).then(|| {
        format!(
            "the model says how the inputs of {} of its weights are quantized ({}{more}), and {format} cannot \
             say it: programs that read the file take these inputs as floats",
            weights.len(),
            some.join(", ")
        )
    })
}

/// Something in a model that is not among its items.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Omission {
    /// Its name.
    pub name: String,
    /// What it is: the operator of a node, or the kind of a tensor.
    pub what: String,
    /// The reason why it is left out.
    pub why: String,
}

/// A model of any format.
///
/// A new format implements this and is added to [`Model`].
pub trait ModelSource: std::fmt::Debug + Send + Sync {
    /// Returns the family of its format.
    fn family(&self) -> Family;

    /// Returns how the format is written, if there are several ways: a version, or how weights are
    /// quantized.
    fn variant(&self) -> Option<String> {
        None
    }

    /// Returns the architecture as the model names it: `BertModel`, `llama`.
    fn architecture(&self) -> Option<&str>;

    /// Returns the configuration: `config.json` of a safetensors model, the metadata of a GGUF file; null
    /// if there is none.
    fn config(&self) -> &Value;

    /// Returns text that a safetensors file made from the model keeps in its header.
    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Returns the names of the files in which the weights lie.
    fn files(&self) -> Vec<String>;

    /// Returns the number of bytes of these files.
    fn file_bytes(&self) -> usize;

    /// Lists what the model contains, ordered by name. No weight is read for this.
    ///
    /// # Errors
    /// Returns [`SourceError`] if something in the model does not fit together.
    fn items(&self) -> Result<Vec<Item>, SourceError>;

    /// Reads an item.
    ///
    /// # Errors
    /// Returns [`SourceError`] if there is no such item, if lowbit has no format for it, or if its
    /// values are not valid.
    fn read(&self, name: &str) -> Result<Data<'_>, SourceError>;

    /// Checks whether the scales of an item are valid, without reading its codes, where an open model has
    /// not checked that already.
    ///
    /// # Errors
    /// Returns the error with which [`read`](Self::read) would refuse the item.
    fn check(&self, _name: &str) -> Result<(), SourceError> {
        Ok(())
    }

    /// Returns how X of a compressed weight becomes 8-bit codes, or `None` if the model does not say it.
    ///
    /// # Errors
    /// Returns [`SourceError`] if what the model says is not valid.
    fn activations(&self, _name: &str) -> Result<Option<LayerActivations>, SourceError> {
        Ok(None)
    }

    /// Returns the reason why the weights of the model are not read, if they are not: the items are then
    /// parts of weights and not weights.
    fn refusal(&self) -> Option<SourceError> {
        None
    }

    /// Lists what is not among the items, such as nodes of a graph that are not understood.
    fn omissions(&self) -> Vec<Omission> {
        Vec::new()
    }

    /// Returns what the user should know about the model, as sentences without a full stop.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
