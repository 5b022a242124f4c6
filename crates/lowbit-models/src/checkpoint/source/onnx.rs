//! ONNX files as a [`ModelSource`].

use super::{Data, Family, Item, ItemKind, ModelSource, Omission, Role, SourceError};
use crate::checkpoint::onnx::{LeftOut, OnnxError, OnnxFile};
use serde_json::Value;

impl ModelSource for OnnxFile {
    fn family(&self) -> Family {
        Family::Onnx
    }

    fn architecture(&self) -> Option<&str> {
        // A graph names operators, not an architecture.
        None
    }

    fn config(&self) -> &Value {
        &Value::Null
    }

    fn files(&self) -> Vec<String> {
        OnnxFile::files(self).to_vec()
    }

    fn file_bytes(&self) -> usize {
        OnnxFile::file_bytes(self)
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        let mut items = Vec::new();
        for weight in self.weights() {
            items.push(Item {
                name: weight.name.clone(),
                shape: weight.shape.clone(),
                stored: weight.format.to_string(),
                bytes: weight.bytes()?,
                kind: ItemKind::Compressed(weight.format),
                role: Role::of(&weight.name),
            });
        }
        items.extend(self.tensors().iter().map(|tensor| Item {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            stored: tensor.dtype.to_string(),
            bytes: tensor.bytes(),
            kind: ItemKind::Plain(tensor.dtype),
            role: Role::of(&tensor.name),
        }));
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        match self.read_weight(name) {
            Ok(weights) => Ok(Data::Compressed(weights)),
            Err(OnnxError::NotFound { .. }) => Ok(Data::Plain(self.read_tensor(name)?)),
            Err(error) => Err(error.into()),
        }
    }

    fn omissions(&self) -> Vec<Omission> {
        let omission = |LeftOut { name, op, why }: &LeftOut| Omission {
            name: name.clone(),
            what: op.clone(),
            why: why.clone(),
        };
        self.left_out().iter().map(omission).collect()
    }
}
