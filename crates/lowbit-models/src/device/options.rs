//! How a model is loaded, and what a session has room for.

use lowbit::compress::Scheme;
use lowbit::format::CacheFormat;
use lowbit::ops::{Activations, FloatType};

/// How a model is loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The format that the weights of linear layers are compressed to while they are loaded; `None` leaves
    /// them as they are in the file. Embedding and head stay as they are.
    pub scheme: Option<Scheme>,
    /// The type of activations. int8 is the type of the inputs of those linear layers whose weights have a
    /// format that takes it; everything else is then f32. With floats, layers whose inputs a file of lowbit's own
    /// says to be int8 take codes, with the scales of the file if it fixes them; those of a mixture of experts
    /// take floats.
    pub activations: Activations,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { scheme: None, activations: FloatType::F32.into() }
    }
}

impl LoadOptions {
    /// Compresses the weights of linear layers.
    #[must_use]
    pub fn with_scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = Some(scheme);
        self
    }

    /// Sets the type of activations.
    #[must_use]
    pub fn with_activations(mut self, activations: impl Into<Activations>) -> Self {
        self.activations = activations.into();
        self
    }

    /// Returns the type of everything that is not the input of a linear layer.
    pub(super) fn float(&self) -> FloatType {
        match self.activations {
            Activations::Float(float) => float,
            Activations::Int8(_) => FloatType::F32,
        }
    }
}

/// What a session has room for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Tokens that the caches have room for. A session of a model with a table of positions has room for no more
    /// than these.
    pub slots: usize,
    /// How keys and values are stored. int4 keys and values are rotated by a Hadamard transform.
    pub cache: CacheFormat,
    /// The largest number of tokens that are read at once. `None` lets activations take a twentieth of
    /// what the weights take, within 32…512.
    pub chunk: Option<usize>,
    /// The largest number of rows whose logits are computed at once.
    pub logit_rows: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { slots: 2048, cache: CacheFormat::F32, chunk: None, logit_rows: 1 }
    }
}

impl SessionOptions {
    /// Sets the number of tokens that there is room for.
    #[must_use]
    pub fn with_slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// Sets how keys and values are stored.
    #[must_use]
    pub fn with_cache(mut self, cache: CacheFormat) -> Self {
        self.cache = cache;
        self
    }

    /// Sets the largest number of tokens that are read at once.
    #[must_use]
    pub fn with_chunk(mut self, chunk: usize) -> Self {
        self.chunk = Some(chunk);
        self
    }

    /// Sets the largest number of rows whose logits are computed at once.
    #[must_use]
    pub fn with_logit_rows(mut self, rows: usize) -> Self {
        self.logit_rows = rows;
        self
    }
}
