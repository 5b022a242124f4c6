//! Which weights are pruned, and when.
//!
//! Everything here works on slices; [`Pruner`] applies it to a network while it trains.

mod mask;
mod pruner;
mod schedule;
mod select;

pub use mask::Mask;
pub use pruner::{Criterion, PruneSettings, Pruner, masks};
pub use schedule::{PruneError, Schedule};
pub use select::{Pattern, Scope, Scores, select, select_random};
