//! A model of which some parts are replaced in memory.

use super::{Data, Family, Item, ItemKind, ModelSource, Omission, Role, SourceError};
use crate::checkpoint::{Dtype, LayerActivations, matrix_shape};
use lowbit::compress::dequantize;
use lowbit::format::PackedWeights;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The key of the metadata under which a file that was imported from GGUF has the metadata of that.
const GGUF_METADATA: &str = "gguf.metadata";

/// A model with other tensors, weights or settings in the place of some of its own. It can be loaded,
/// compressed and written as any other model; no file is written for it.
///
/// ```no_run
/// use lowbit_models::checkpoint::source::{self, Overlay};
///
/// let model = source::open("model.safetensors")?;
/// let mut changed = Overlay::new(&model);
/// changed.put_floats("model.norm.weight", vec![4], &[1.0; 4])?;
/// // lowbit_models::device::Model::from_source(&host, &changed, …)
/// # Ok::<(), lowbit_models::checkpoint::source::SourceError>(())
/// ```
#[derive(Debug)]
pub struct Overlay<'a> {
    base: &'a dyn ModelSource,
    replaced: BTreeMap<String, Replaced>,
    config: Option<Value>,
    metadata: BTreeMap<String, String>,
}

/// What stands in the place of an item of the base, or beside its items.
#[derive(Debug)]
struct Replaced {
    item: Item,
    data: Held,
    activations: Option<LayerActivations>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "they own megabytes")]
enum Held {
    /// The bytes of a plain tensor.
    Plain(Vec<u8>),
    Compressed(PackedWeights),
}

impl<'a> Overlay<'a> {
    /// Returns a model in which nothing is replaced yet.
    pub fn new(base: &'a dyn ModelSource) -> Self {
        Self { base, replaced: BTreeMap::new(), config: None, metadata: BTreeMap::new() }
    }

    /// Puts an f32 tensor in the place of the item of this name, or adds it if there is none. `values` are
    /// row-major.
    ///
    /// # Errors
    /// Returns [`SourceError::WrongReplacement`] if `values` are not as many as the shape has elements.
    pub fn put_floats(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        values: &[f32],
    ) -> Result<(), SourceError> {
        let elements = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
        if elements != Some(values.len()) {
            let have = format!("{} numbers", values.len());
            return Err(wrong(name, shape, have));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.put_bytes(name, shape, bytes);
        Ok(())
    }

    /// Puts an f32 tensor of this shape in the place of the item of this name, or adds it, for something that
    /// looks at names, types and shapes only. No element of the tensor can be read.
    pub(crate) fn put_shape(&mut self, name: &str, shape: Vec<usize>) {
        self.put_bytes(name, shape, Vec::new());
    }

    fn put_bytes(&mut self, name: &str, shape: Vec<usize>, bytes: Vec<u8>) {
        let (stored, kind) = (Dtype::F32.to_string(), ItemKind::Plain(Dtype::F32));
        let item = item(name, shape, stored, bytes.len(), kind);
        self.put(Replaced { item, data: Held::Plain(bytes), activations: None });
    }

    /// Returns a model whose compressed weights are f32 tensors, for what changes floats.
    ///
    /// # Errors
    /// Returns [`SourceError`] if the model cannot be read.
    pub fn dequantized(base: &'a dyn ModelSource) -> Result<Self, SourceError> {
        let mut overlay = Self::new(base);
        for item in base.items()? {
            if let (ItemKind::Compressed(_), Data::Compressed(weights)) =
                (&item.kind, base.read(&item.name)?)
            {
                let mut values = dequantize(&weights);
                if let Some(factors) = base.activations(&item.name)?.and_then(|x| x.factors) {
                    values.iter_mut().zip(factors.iter().cycle()).for_each(|(w, s)| *w /= s);
                }
                overlay.put_floats(&item.name, item.shape.clone(), &values)?;
            }
        }
        Ok(overlay)
    }

    /// Puts a compressed weight in the place of the item of this name, or adds it if there is none. Its matrix
    /// is `[shape[0], product of the rest]`. `activations` says how its X becomes 8-bit codes.
    ///
    /// # Errors
    /// Returns [`SourceError::WrongReplacement`] if the weight is no matrix of this shape, or
    /// [`SourceError::Io`] if `activations` do not fit its columns.
    pub fn put_packed(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        weights: PackedWeights,
        activations: Option<LayerActivations>,
    ) -> Result<(), SourceError> {
        let geometry = weights.geometry();
        if matrix_shape(&shape) != Some((geometry.n, geometry.k)) {
            let have = format!("a matrix [{}, {}]", geometry.n, geometry.k);
            return Err(wrong(name, shape, have));
        }
        if let Some(activations) = &activations {
            activations.check(name, geometry.k)?;
        }
        let (stored, kind) = (geometry.format.to_string(), ItemKind::Compressed(geometry.format));
        let item = item(name, shape, stored, geometry.sizes().total(), kind);
        self.put(Replaced { item, data: Held::Compressed(weights), activations });
        Ok(())
    }

    /// Puts these settings in the place of [`config`](ModelSource::config): `config.json` of a model with the
    /// names of `transformers`, the metadata of a model with those of a GGUF file.
    pub fn put_config(&mut self, config: Value) {
        self.config = Some(config);
    }

    /// Puts a text under a key of the [`metadata`](ModelSource::metadata).
    pub fn put_metadata(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.metadata.insert(key.into(), text.into());
    }

    fn put(&mut self, replaced: Replaced) {
        self.replaced.insert(replaced.item.name.clone(), replaced);
    }
}

fn item(name: &str, shape: Vec<usize>, stored: String, bytes: usize, kind: ItemKind) -> Item {
    Item { name: name.to_owned(), shape, stored, bytes, kind, role: Role::of(name) }
}

fn wrong(name: &str, shape: Vec<usize>, have: String) -> SourceError {
    SourceError::WrongReplacement { name: name.to_owned(), have, shape }
}

impl ModelSource for Overlay<'_> {
    fn family(&self) -> Family {
        self.base.family()
    }

    fn variant(&self) -> Option<String> {
        self.base.variant()
    }

    /// Returns the architecture that replaced settings name, or else that of the base.
    fn architecture(&self) -> Option<&str> {
        let config = self.config.as_ref();
        let class = config.and_then(|config| config.get("architectures")).and_then(|c| c.get(0));
        let kind = |key| config.and_then(|config| config.get(key));
        let named = class.or_else(|| kind("model_type")).or_else(|| kind("general.architecture"));
        named.and_then(Value::as_str).or_else(|| self.base.architecture())
    }

    fn config(&self) -> &Value {
        self.config.as_ref().unwrap_or_else(|| self.base.config())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = self.base.metadata();
        if let (Some(config), Some(text)) = (&self.config, metadata.get_mut(GGUF_METADATA)) {
            *text = config.to_string();
        }
        metadata.extend(self.metadata.clone());
        metadata
    }

    fn files(&self) -> Vec<String> {
        self.base.files()
    }

    /// Returns the bytes of the files of the base, which do not have what replaces their tensors.
    fn file_bytes(&self) -> usize {
        self.base.file_bytes()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        let mut items = self.base.items()?;
        items.retain(|item| !self.replaced.contains_key(&item.name));
        items.extend(self.replaced.values().map(|replaced| replaced.item.clone()));
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        match self.replaced.get(name).map(|replaced| &replaced.data) {
            None => self.base.read(name),
            Some(Held::Plain(bytes)) => Ok(Data::Plain(Cow::Borrowed(bytes))),
            Some(Held::Compressed(weights)) => Ok(Data::Compressed(weights.clone())),
        }
    }

    fn check(&self, name: &str) -> Result<(), SourceError> {
        if self.replaced.contains_key(name) { Ok(()) } else { self.base.check(name) }
    }

    fn activations(&self, name: &str) -> Result<Option<LayerActivations>, SourceError> {
        match self.replaced.get(name) {
            None => self.base.activations(name),
            Some(replaced) => Ok(replaced.activations.clone()),
        }
    }

    fn refusal(&self) -> Option<SourceError> {
        self.base.refusal()
    }

    fn omissions(&self) -> Vec<Omission> {
        self.base.omissions()
    }

    fn warnings(&self) -> Vec<String> {
        self.base.warnings()
    }
}
