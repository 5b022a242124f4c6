//! Writes what an ONNX file holds as a model file of this crate.

use super::{OnnxError, OnnxFile, OnnxTensor, OnnxWeight};
use crate::checkpoint::{CompressedInfo, Entry, IoError, ModelWriter};
use crate::progress::Step;
use std::collections::BTreeMap;
use std::path::Path;

impl OnnxWeight {
    /// Returns the format and shape of the weight, as a model file's index states them.
    pub fn info(&self) -> CompressedInfo {
        CompressedInfo { format: self.format, shape: self.shape.clone() }
    }

    /// Returns the number of bytes of the weight when imported.
    ///
    /// # Errors
    /// Returns [`IoError`] if the matrix is too large for the format.
    pub fn bytes(&self) -> Result<usize, IoError> {
        Ok(self.info().geometry(&self.name)?.sizes().total())
    }
}

impl OnnxTensor {
    /// Returns the number of bytes of the tensor when imported.
    pub fn bytes(&self) -> usize {
        // The product does not overflow: opening the file checked the size in bits.
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes all weights and tensors of `model` to a safetensors file at `path`: weights compressed as
/// they are, everything else as plain tensors.
///
/// # Errors
/// Returns [`OnnxError`] if the file cannot be written or a weight has a scale that cannot be
/// stored. Nothing is written in that case.
pub fn import(
    model: &OnnxFile,
    path: impl AsRef<Path>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<(), OnnxError> {
    let mut writer = ModelWriter::create(path, entries(model), &BTreeMap::new())?;
    for weight in model.weights() {
        progress(Step::Started(&weight.name));
        writer.write_compressed(&weight.name, &model.read_weight(&weight.name)?)?;
        progress(Step::Finished(&weight.name));
    }
    for tensor in model.tensors() {
        progress(Step::Started(&tensor.name));
        writer.write_plain(&tensor.name, &model.read_tensor(&tensor.name)?)?;
        progress(Step::Finished(&tensor.name));
    }
    Ok(writer.finish()?)
}

/// Declares what the new file contains.
fn entries(model: &OnnxFile) -> BTreeMap<String, Entry> {
    let weights = model
        .weights()
        .iter()
        .map(|weight| (weight.name.clone(), Entry::Compressed(weight.info())));
    let tensors = model.tensors().iter().map(|tensor| {
        let entry = Entry::Plain { dtype: tensor.dtype, shape: tensor.shape.clone() };
        (tensor.name.clone(), entry)
    });
    weights.chain(tensors).collect()
}
