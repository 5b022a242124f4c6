//! Models that stay on the device: weights, caches and activations, from the tokens to the next one.
//!
//! [`Model::load`] reads a model of any format that [`source::open`](crate::checkpoint::source::open) opens
//! and puts its weights into device memory. A [`Session`] has the caches of one text and all buffers that
//! a step needs. It is bound once: a decoded token is one submission and one read-back of the token, without an
//! allocation or a compilation.
//!
//! ```text
//! Blueprint → layers.rs: a graph of ops over tensors → arena.rs: tensors to buffers → bind.rs: bound ops
//! ```

mod arena;
mod balance;
mod bind;
mod encoder;
mod error;
mod graph;
mod inputs;
mod layers;
mod model;
mod observe;
mod options;
#[cfg(feature = "text")]
mod perplexity;
mod pooling;
mod profile;
mod read;
mod runner;
mod sampling;
mod segment;
mod session;
mod staged;
mod statistics;
mod texts;
mod weights;

pub use encoder::{EncoderOptions, SentenceEncoder};
pub use error::RunError;
pub use inputs::LinearInputs;
pub use model::Model;
pub use observe::{ModelObserver, ObserveError};
pub use options::{LoadOptions, SessionOptions};
#[cfg(feature = "text")]
pub use perplexity::Perplexity;
pub use pooling::{Pooling, PoolingError};
pub use profile::KindCost;
pub use sampling::Sampling;
pub use session::Session;
pub use staged::{Input, InputRows, InputSums, Stage, StagedRun};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use statistics::columns;
pub use statistics::{ModelStatistics, ResumeError};
