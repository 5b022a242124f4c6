//! GGUF files as a [`ModelSource`].

use super::{GgmlType, GgufFile, GgufTensor, blocks};
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
        let tensors = self.tensors();
        Ok(tensors.map(|t| item(t.name, t.kind, t.shape, t.bytes.len())).collect())
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        let missing = || SourceError::NotFound { name: name.to_owned() };
        data(&self.tensor(name).ok_or_else(missing)?)
    }

    fn check(&self, name: &str) -> Result<(), SourceError> {
        match self.tensor(name) {
            Some(tensor) => check(&tensor),
            None => Ok(()),
        }
    }
}

/// Describes a tensor of so many bytes.
pub(super) fn item(name: &str, stored: GgmlType, shape: &[usize], bytes: usize) -> Item {
    Item {
        name: name.to_owned(),
        shape: shape.to_vec(),
        stored: stored.to_string(),
        bytes,
        kind: kind(stored, shape),
        role: Role::of(name),
    }
}

/// Reads a tensor.
pub(super) fn data<'a>(tensor: &GgufTensor<'a>) -> Result<Data<'a>, SourceError> {
    match kind(tensor.kind, tensor.shape) {
        ItemKind::Plain(_) => Ok(Data::Plain(tensor.bytes.into())),
        ItemKind::Compressed(_) => Ok(Data::Compressed(blocks::read(tensor)?)),
        ItemKind::Unsupported(why) => Err(SourceError::Unsupported {
            name: tensor.name.to_owned(),
            stored: tensor.kind.to_string(),
            why,
        }),
    }
}

/// Checks the scales of a tensor, if it has any.
pub(super) fn check(tensor: &GgufTensor<'_>) -> Result<(), SourceError> {
    if matches!(kind(tensor.kind, tensor.shape), ItemKind::Compressed(_)) {
        blocks::check(tensor)?;
    }
    Ok(())
}

/// Returns what a tensor is when it is read.
fn kind(stored: GgmlType, shape: &[usize]) -> ItemKind {
    let unsupported = |why: &str| ItemKind::Unsupported(why.to_owned());
    if let Some(dtype) = stored.dtype() {
        return ItemKind::Plain(dtype);
    }
    match (blocks::format(stored), stored.name()) {
        (Some(format), _) if matrix_shape(shape).is_some() => ItemKind::Compressed(format),
        (Some(_), _) => unsupported("only matrices are read in this type, and it has one axis"),
        (None, Some("NVFP4")) => {
            unsupported("its second level of scales is in another tensor, which is not read")
        }
        (None, Some(_)) => unsupported("lowbit has no format for this type"),
        (None, None) => unsupported("no type of ggml has this number"),
    }
}
