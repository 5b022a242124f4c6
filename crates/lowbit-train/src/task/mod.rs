//! What the commands do: runs of a recipe, each of which ends in a row.

mod context;
mod gradients;
mod prune;
mod qat;
mod tickets;

#[cfg(test)]
mod tests;

pub use context::{Context, Curve};

use crate::recipe::Recipe;
use crate::report::Row;
use crate::train::TrainError;

/// A part of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Quantization-aware training.
    Qat,
    /// Pruning while training.
    Prune,
    /// Lottery tickets.
    Tickets,
    /// Compressed gradients.
    Gradients,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 4] = [Self::Qat, Self::Prune, Self::Tickets, Self::Gradients];

    /// Returns the name of the section and of the subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qat => "qat",
            Self::Prune => "prune",
            Self::Tickets => "tickets",
            Self::Gradients => "gradients",
        }
    }

    /// Returns whether a recipe has the section of this task.
    pub fn is_in(self, recipe: &Recipe) -> bool {
        match self {
            Self::Qat => recipe.qat.is_some(),
            Self::Prune => recipe.prune.is_some(),
            Self::Tickets => recipe.tickets.is_some(),
            Self::Gradients => recipe.gradients.is_some(),
        }
    }
}

/// Runs a task for every seed, and hands each row to `each` as it comes.
///
/// # Errors
/// Returns [`TrainError`], among others if the recipe has no section for the task.
pub fn run(task: Task, context: &Context, each: &mut dyn FnMut(Row)) -> Result<(), TrainError> {
    for &seed in &context.recipe().seeds {
        match task {
            Task::Qat => qat::run(context, seed, each)?,
            Task::Prune => prune::run(context, seed, each)?,
            Task::Tickets => tickets::run(context, seed, each)?,
            Task::Gradients => gradients::run(context, seed, each)?,
        }
    }
    Ok(())
}

/// Returns a section of the recipe.
fn section<T>(section: &Option<T>, task: Task) -> Result<&T, TrainError> {
    section.as_ref().ok_or_else(|| {
        TrainError::Recipe(format!(
            "the recipe has no section [{}], which says what to run",
            task.name()
        ))
    })
}
