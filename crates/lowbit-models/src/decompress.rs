//! Turns the compressed weights of a model back into plain f32 tensors.

use crate::checkpoint::source::{Data, ItemKind, ModelSource, SourceError};
use crate::checkpoint::{Dtype, Entry, ModelWriter, Output};
use crate::progress::Step;
use lowbit::compress::dequantize;

/// Writes the compressed weights of `model` as F32 tensors of their original shapes, and a copy of every
/// other tensor. Returns the number of copied tensors.
///
/// If columns of a weight were multiplied with factors for a smoothed X, they are divided by them
/// again.
///
/// # Errors
/// Returns [`SourceError`] if the output cannot be written, or if a weight of `model` is damaged or has no
/// format. Nothing is written in that case.
pub fn decompress(
    model: &dyn ModelSource,
    output: impl Into<Output>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<usize, SourceError> {
    if let Some(error) = model.refusal() {
        return Err(error);
    }
    let items = model.items()?;
    let entries = items.iter().map(|item| {
        let dtype = if let ItemKind::Plain(dtype) = item.kind { dtype } else { Dtype::F32 };
        (item.name.clone(), Entry::Plain { dtype, shape: item.shape.clone() })
    });
    let mut writer = ModelWriter::create(output, entries.collect(), &model.metadata())?;
    let mut copied = 0;
    for item in &items {
        match model.read(&item.name)? {
            Data::Plain(bytes) => {
                writer.write_plain(&item.name, &bytes)?;
                copied += 1;
            }
            Data::Compressed(weights) => {
                progress(Step::Started(&item.name));
                let mut values = dequantize(&weights);
                if let Some(factors) = model.activations(&item.name)?.and_then(|x| x.factors) {
                    values.iter_mut().zip(factors.iter().cycle()).for_each(|(w, s)| *w /= s);
                }
                let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
                writer.write_plain(&item.name, &bytes)?;
                progress(Step::Finished(&item.name));
            }
        }
    }
    writer.finish()?;
    Ok(copied)
}
