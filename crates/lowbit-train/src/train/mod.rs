//! The loop over steps: gradients, compression, the optimizer, masks, evaluation, early stop, checkpoints.

mod adam8;
mod checkpoint;
mod error;
mod evaluate;
mod memory;
mod reduce;
mod settings;
mod source;
mod trainer;

#[cfg(test)]
mod tests;

pub use adam8::{BlockwiseAdam, BlockwiseState};
pub use checkpoint::{Checkpoint, write_whole};
pub use error::TrainError;
pub use evaluate::{Score, evaluate};
pub use memory::{peak_bytes, reset_peak};
pub use settings::{Decay, OptimizerKind, TrainSettings};
pub use source::{Part, Source};
pub use trainer::{Event, Point, Progress, Trainer};
