//! Models of any format as plain tensors.

#[cfg(feature = "onnx")]
use super::Data;
use super::{Item, ItemKind, Model, ModelSource, SourceError};
use crate::checkpoint::ModelFile;
#[cfg(feature = "onnx")]
use crate::checkpoint::{bytes::FileBytes, model::Place};
#[cfg(feature = "onnx")]
use std::collections::BTreeMap;
use std::collections::BTreeSet;

impl Model {
    /// Returns the model as a [`ModelFile`]. A safetensors model is that already, also where it has
    /// weights that lowbit compressed. Tensors of GGUF files stay where they are in the mapped files; those
    /// of ONNX files are copied into memory.
    ///
    /// # Errors
    /// Returns [`SourceError::AlreadyQuantized`] if another format has quantized weights, which a
    /// [`ModelFile`] cannot hold.
    pub fn into_model_file(self) -> Result<ModelFile, SourceError> {
        if let Self::Safetensors(model) = self {
            return Ok(model);
        }
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let items = self.items()?;
        if let Some(mut error) = quantized(&items) {
            // The method says more than the format in which its weights are read.
            if let (Self::Quantized(model), SourceError::AlreadyQuantized { stored, .. }) =
                (&self, &mut error)
            {
                *stored = model.stored();
            }
            return Err(error);
        }
        match self {
            Self::Safetensors(model) => Ok(model),
            // Its configuration names a method, but no tensor is quantized.
            Self::Quantized(model) => Ok(model.into_file()),
            Self::Gguf(model) => model.into_plain().ok_or_else(|| already(Vec::new())),
            #[cfg(feature = "onnx")]
            Self::Onnx(_) => {
                let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
                for item in &items {
                    let ItemKind::Plain(dtype) = item.kind else { continue };
                    let Data::Plain(bytes) = self.read(&item.name)? else { continue };
                    let (file, range) = (files.len(), 0..bytes.len());
                    let place = Place { file, dtype, shape: item.shape.clone(), range };
                    tensors.insert(item.name.clone(), place);
                    files.push((item.name.clone(), FileBytes::Read(bytes.into_owned())));
                }
                Ok(ModelFile::from_plain(files, tensors, self.metadata()))
            }
        }
    }
}

/// Returns an error if there are quantized weights.
fn quantized(items: &[Item]) -> Option<SourceError> {
    let quantized: Vec<&Item> =
        items.iter().filter(|item| !matches!(item.kind, ItemKind::Plain(_))).collect();
    if quantized.is_empty() { None } else { Some(already(quantized)) }
}

fn already(quantized: Vec<&Item>) -> SourceError {
    let stored: BTreeSet<&str> = quantized.iter().map(|item| item.stored.as_str()).collect();
    SourceError::AlreadyQuantized {
        count: quantized.len(),
        stored: stored.into_iter().collect::<Vec<_>>().join(", "),
        first: quantized.first().map_or_else(String::new, |item| item.name.clone()),
    }
}
