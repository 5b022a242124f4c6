//! GGUF files as a [`ModelSource`].

use super::{GgufFile, GgufTensor, blocks};
use crate::checkpoint::matrix_shape;
use crate::checkpoint::source::{Data, Family, Item, ItemKind, ModelSource, Role, SourceError};
use serde_json::Value;
use std::collections::BTreeMap;

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

    fn metadata(&self) -> BTreeMap<String, String> {
        // A vocabulary is not in it. `GgufMetadata` has everything.
        [("gguf.metadata".to_owned(), self.config.to_string())].into()
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
            ItemKind::Plain(_) => Ok(Data::Plain(tensor.bytes.into())),
            ItemKind::Compressed(_) => Ok(Data::Compressed(blocks::read(&tensor)?)),
            ItemKind::Unsupported(why) => Err(SourceError::Unsupported {
                name: name.to_owned(),
                stored: tensor.kind.to_string(),
                why,
            }),
        }
    }

    fn check(&self, name: &str) -> Result<(), SourceError> {
        match self.tensor(name) {
            Some(tensor) if matches!(kind(&tensor), ItemKind::Compressed(_)) => {
                Ok(blocks::check(&tensor)?)
            }
            _ => Ok(()),
        }
    }
}

/// Returns what a tensor is when it is read.
fn kind(tensor: &GgufTensor<'_>) -> ItemKind {
    let unsupported = |why: &str| ItemKind::Unsupported(why.to_owned());
    if let Some(dtype) = tensor.kind.dtype() {
        return ItemKind::Plain(dtype);
    }
    match (blocks::format(tensor.kind), tensor.kind.name()) {
        (Some(format), _) if matrix_shape(tensor.shape).is_some() => ItemKind::Compressed(format),
        (Some(_), _) => unsupported("only matrices are read in this type, and it has one axis"),
        (None, Some("NVFP4")) => {
            unsupported("its second level of scales is in another tensor, which is not read")
        }
        (None, Some(_)) => unsupported("lowbit has no format for this type"),
        (None, None) => unsupported("no type of ggml has this number"),
    }
}
