//! safetensors models as a [`ModelSource`].

use super::{Data, Family, Item, ItemKind, ModelSource, Role, SourceError};
use crate::checkpoint::{LayerActivations, ModelFile, read_compressed};
use serde_json::Value;
use std::collections::BTreeMap;

impl ModelSource for ModelFile {
    fn family(&self) -> Family {
        Family::Safetensors
    }

    fn variant(&self) -> Option<String> {
        (!self.compressed().is_empty()).then(|| "compressed by lowbit".to_owned())
    }

    fn architecture(&self) -> Option<&str> {
        let config = ModelFile::config(self);
        let named = config.get("architectures").and_then(|list| list.get(0));
        named.or_else(|| config.get("model_type")).and_then(Value::as_str)
    }

    fn config(&self) -> &Value {
        ModelFile::config(self)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        ModelFile::metadata(self).clone()
    }

    fn files(&self) -> Vec<String> {
        ModelFile::files(self).map(str::to_owned).collect()
    }

    fn file_bytes(&self) -> usize {
        ModelFile::file_bytes(self)
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        let mut items = Vec::new();
        for (name, info) in self.compressed() {
            items.push(Item {
                name: name.clone(),
                shape: info.shape.clone(),
                stored: info.format.to_string(),
                bytes: self.check_compressed(name)?.sizes().total(),
                kind: ItemKind::Compressed(info.format),
                role: Role::of(name),
            });
        }
        items.extend(self.plain().map(|tensor| Item {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
            stored: tensor.dtype.to_string(),
            bytes: tensor.bytes.len(),
            kind: ItemKind::Plain(tensor.dtype),
            role: Role::of(tensor.name),
        }));
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        if self.compressed().contains_key(name) {
            return Ok(Data::Compressed(read_compressed(self, name)?));
        }
        let missing = || SourceError::NotFound { name: name.to_owned() };
        Ok(Data::Plain(self.tensor(name).ok_or_else(missing)?.bytes.into()))
    }

    fn activations(&self, name: &str) -> Result<Option<LayerActivations>, SourceError> {
        if !self.compressed().contains_key(name) {
            return Ok(None);
        }
        Ok(ModelFile::activations(self, name)?)
    }
}
