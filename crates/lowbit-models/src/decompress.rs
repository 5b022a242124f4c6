//! Turns the compressed weights of a model file back into plain f32 tensors.

use crate::checkpoint::{Dtype, Entry, IoError, ModelFile, ModelWriter, read_compressed};
use crate::progress::Step;
use lowbit::compress::dequantize;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes a file that holds the compressed weights of `model` as F32 tensors of their original
/// shapes, and a copy of every other tensor. Returns the number of copied tensors.
///
/// If columns of a weight were multiplied with factors for a smoothed X, they are divided by them
/// again.
///
/// # Errors
/// Returns [`IoError`] if the file cannot be written or if a weight of `model` is damaged. Nothing
/// is written in that case.
pub fn decompress(
    model: &ModelFile,
    path: impl AsRef<Path>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<usize, IoError> {
    let mut writer = ModelWriter::create(path, entries(model), model.metadata())?;
    let mut copied = 0;
    for tensor in model.plain() {
        writer.write_plain(tensor.name, tensor.bytes)?;
        copied += 1;
    }
    for name in model.compressed().keys() {
        progress(Step::Started(name));
        let mut values = dequantize(&read_compressed(model, name)?);
        if let Some(factors) = model.activations(name)?.and_then(|x| x.factors) {
            values.iter_mut().zip(factors.iter().cycle()).for_each(|(w, s)| *w /= s);
        }
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        writer.write_plain(name, &bytes)?;
        progress(Step::Finished(name));
    }
    writer.finish()?;
    Ok(copied)
}

/// Declares what the new file contains.
fn entries(model: &ModelFile) -> BTreeMap<String, Entry> {
    let plain = model.plain().map(|tensor| {
        let entry = Entry::Plain { dtype: tensor.dtype, shape: tensor.shape.to_vec() };
        (tensor.name.to_owned(), entry)
    });
    let weights = model.compressed().iter().map(|(name, info)| {
        (name.clone(), Entry::Plain { dtype: Dtype::F32, shape: info.shape.clone() })
    });
    plain.chain(weights).collect()
}
