//! Writes a model of any format as a model of this crate.

use super::{Data, Item, ItemKind, ModelSource, SourceError};
use crate::checkpoint::{CompressedInfo, Entry, ModelWriter, Output};
use crate::progress::Step;
use std::collections::{BTreeMap, BTreeSet};

/// Writes everything that `model` contains to safetensors files: weights compressed as they are, with
/// their codes and scales, and everything else as plain tensors. One item is in memory at a time.
///
/// # Errors
/// Returns [`SourceError`] if lowbit has no format for a weight, if a weight is damaged, or if the output
/// cannot be written. Nothing is written in that case. [`Readable`](super::Readable) leaves out what cannot be read.
pub fn import(
    model: &dyn ModelSource,
    output: impl Into<Output>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<(), SourceError> {
    if let Some(error) = model.refusal() {
        return Err(error);
    }
    let items = model.items()?;
    let mut entries = BTreeMap::new();
    let mut activations = BTreeMap::new();
    for item in &items {
        let entry = match &item.kind {
            ItemKind::Plain(dtype) => Entry::Plain { dtype: *dtype, shape: item.shape.clone() },
            ItemKind::Compressed(format) => {
                Entry::Compressed(CompressedInfo { format: *format, shape: item.shape.clone() })
            }
            ItemKind::Unsupported(_) => return Err(unsupported(&items)),
        };
        entries.insert(item.name.clone(), entry);
        if let Some(found) = model.activations(&item.name)? {
            activations.insert(item.name.clone(), found);
        }
    }
    let metadata = model.metadata();
    let mut writer = ModelWriter::create_with_activations(output, entries, activations, &metadata)?;
    for item in &items {
        progress(Step::Started(&item.name));
        match model.read(&item.name)? {
            Data::Plain(bytes) => writer.write_plain(&item.name, &bytes)?,
            Data::Compressed(weights) => writer.write_compressed(&item.name, &weights)?,
        }
        progress(Step::Finished(&item.name));
    }
    Ok(writer.finish()?)
}

/// Returns an error that names everything that has no format.
fn unsupported(items: &[Item]) -> SourceError {
    let (mut stored, mut first, mut count) = (BTreeSet::new(), None, 0);
    for item in items {
        if let ItemKind::Unsupported(why) = &item.kind {
            stored.insert(item.stored.as_str());
            count += 1;
            first.get_or_insert((item.name.clone(), why.clone()));
        }
    }
    let (first, why) = first.unwrap_or_default();
    let stored = stored.into_iter().collect::<Vec<_>>().join(", ");
    SourceError::UnsupportedWeights { count, stored, first, why }
}
