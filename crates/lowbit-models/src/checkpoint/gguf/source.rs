//! GGUF files as a [`ModelSource`].

use super::{GgufFile, GgufTensor};
use crate::checkpoint::source::{Data, Family, Item, ItemKind, ModelSource, Role, SourceError};
use serde_json::Value;

impl ModelSource for GgufFile {
    fn family(&self) -> Family {
        Family::Gguf
    }

    fn variant(&self) -> Option<String> {
        Some(format!("version {}", self.version))
    }

    fn architecture(&self) -> Option<&str> {
        self.config.get("general.architecture").and_then(Value::as_str)
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn files(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }

    fn file_bytes(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        let item = |tensor: GgufTensor<'_>| Item {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
            stored: tensor.kind.to_string(),
            bytes: tensor.bytes.len(),
            kind: kind(&tensor),
            role: Role::of(tensor.name),
        };
        Ok(self.tensors().map(item).collect())
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        let missing = || SourceError::NotFound { name: name.to_owned() };
        let tensor = self.tensor(name).ok_or_else(missing)?;
        match kind(&tensor) {
            ItemKind::Unsupported(why) => Err(SourceError::Unsupported {
                name: name.to_owned(),
                stored: tensor.kind.to_string(),
                why,
            }),
            ItemKind::Plain(_) | ItemKind::Compressed(_) => Ok(Data::Plain(tensor.bytes.into())),
        }
    }
}

/// Returns what a tensor is when it is read.
fn kind(tensor: &GgufTensor<'_>) -> ItemKind {
    match (tensor.kind.dtype(), tensor.kind.name()) {
        (Some(dtype), _) => ItemKind::Plain(dtype),
        (None, Some(_)) => ItemKind::Unsupported("lowbit has no format for this type".to_owned()),
        (None, None) => ItemKind::Unsupported("no type of ggml has this number".to_owned()),
    }
}
