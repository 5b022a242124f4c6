//! Changes of a whole model that keep its function, or make it smaller.
//!
//! - [`rotate()`] turns the residual stream and the heads of values by Hadamard matrices, so that no channel is
//!   much larger than the others; the network computes the same.
//! - [`cut()`] removes rows of feed-forward blocks and attention heads, so that matrices shrink.
//! - [`permute()`] folds an order of the columns of a weight into the layer before it.
//!
//! Each reads a model of floats and returns the tensors that change. [`Changed::over`] puts them over the model,
//! which can then be loaded, compressed or written. No device is needed for any of this.
//!
//! ```no_run
//! use lowbit_models::checkpoint::source;
//! use lowbit_models::transform;
//!
//! let model = source::open("model")?;
//! let changed = transform::rotate(&model, 0)?;
//! let rotated = changed.over(&model)?;
//! // lowbit_models::device::Model::from_source(&host, &rotated, …)
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cut;
mod error;
mod hadamard;
mod permute;
mod rotate;
mod tensors;

pub use cut::{Cut, InputNorms, Keep, cut};
pub use error::TransformError;
pub use hadamard::Hadamard;
pub use permute::{Permuted, permute};
pub use rotate::rotate;

use crate::architecture;
use crate::checkpoint::source::{Family, ModelSource, Overlay, SourceError};
use serde_json::Value;
use std::collections::BTreeMap;

/// What changes of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// Tensors that replace those of the same name, or that are new: their shapes and their elements, row-major.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// The whole configuration afterwards, if it changes: `config.json`, or the metadata of a model with the names
    /// of a GGUF file.
    pub config: Option<Value>,
}

impl Changed {
    /// Returns the changed model.
    ///
    /// # Errors
    /// Returns [`SourceError::WrongReplacement`] if a tensor has not as many elements as its shape.
    pub fn over<'a>(&self, model: &'a dyn ModelSource) -> Result<Overlay<'a>, SourceError> {
        let mut overlay = Overlay::new(model);
        for (name, (shape, values)) in &self.tensors {
            overlay.put_floats(name, shape.clone(), values)?;
        }
        if let Some(config) = &self.config {
            overlay.put_config(config.clone());
        }
        Ok(overlay)
    }

    /// Checks that the tensors of the changed model are those that its configuration describes.
    fn check(self, model: &dyn ModelSource) -> Result<Self, TransformError> {
        let mut shapes = Overlay::new(model);
        for (name, (shape, _)) in &self.tensors {
            shapes.put_shape(name, shape.clone());
        }
        if let Some(config) = &self.config {
            shapes.put_config(config.clone());
        }
        architecture::read(&shapes)?;
        Ok(self)
    }
}

/// Which names a model has for its tensors and settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// The names of `transformers`.
    Hf,
    /// The names of GGUF files.
    Gguf,
}

/// Returns the names of a model, and its settings: `config.json`, or the metadata of a GGUF file.
fn settings(model: &dyn ModelSource) -> (World, Value) {
    if model.family() == Family::Gguf {
        return (World::Gguf, model.config().clone());
    }
    // A file that was imported from GGUF has the metadata of that.
    let metadata = model.metadata();
    let imported = metadata.get("gguf.metadata").and_then(|text| serde_json::from_str(text).ok());
    match imported {
        Some(settings) => (World::Gguf, settings),
        None => (World::Hf, model.config().clone()),
    }
}
