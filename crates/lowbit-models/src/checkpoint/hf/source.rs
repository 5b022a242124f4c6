//! Quantized checkpoints as a [`ModelSource`].

use super::{HfLeftOut, HfModel};
use crate::checkpoint::LayerActivations;
use crate::checkpoint::source::{
    Data, Family, Item, ItemKind, ModelSource, Omission, Role, SourceError,
};
use serde_json::Value;
use std::collections::BTreeMap;

impl ModelSource for HfModel {
    fn family(&self) -> Family {
        Family::Safetensors
    }

    fn variant(&self) -> Option<String> {
        let stored = self.stored();
        (!stored.is_empty()).then(|| format!("quantized: {stored}"))
    }

    fn architecture(&self) -> Option<&str> {
        ModelSource::architecture(self.file())
    }

    fn config(&self) -> &Value {
        self.file().config()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.file().metadata().clone()
    }

    fn files(&self) -> Vec<String> {
        self.file().files().map(str::to_owned).collect()
    }

    fn file_bytes(&self) -> usize {
        self.file().file_bytes()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        let weights = self.weights().values().map(|weight| Item {
            name: weight.name.clone(),
            shape: weight.shape.clone(),
            stored: weight.format.to_string(),
            bytes: weight.bytes,
            kind: ItemKind::Compressed(weight.format),
            role: Role::of(&weight.name),
        });
        let plain = self.plain().map(|tensor| Item {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
            stored: tensor.dtype.to_string(),
            bytes: tensor.bytes.len(),
            kind: ItemKind::Plain(tensor.dtype),
            role: Role::of(tensor.name),
        });
        let mut items: Vec<Item> = weights.chain(plain).collect();
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        if self.weights().contains_key(name) {
            return Ok(Data::Compressed(self.read_weight(name)?));
        }
        let missing = || SourceError::NotFound { name: name.to_owned() };
        Ok(Data::Plain(self.file().tensor(name).ok_or_else(missing)?.bytes.into()))
    }

    fn activations(&self, name: &str) -> Result<Option<LayerActivations>, SourceError> {
        let quantization = self.inputs().get(name).copied();
        Ok(quantization.map(|quantization| LayerActivations { quantization, factors: None }))
    }

    fn refusal(&self) -> Option<SourceError> {
        self.refused().cloned().map(SourceError::Hf)
    }

    fn omissions(&self) -> Vec<Omission> {
        let omission = |HfLeftOut { name, what, why }: &HfLeftOut| Omission {
            name: name.clone(),
            what: what.clone(),
            why: why.clone(),
        };
        self.left_out().iter().map(omission).collect()
    }

    fn warnings(&self) -> Vec<String> {
        HfModel::warnings(self).to_vec()
    }
}
