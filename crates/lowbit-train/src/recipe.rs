//! Recipes: what to train on, how, and what to compare. docs/training.md has the table of fields.

use crate::fake::Ranges;
use crate::prune::{Criterion, Pattern, Scope};
use crate::train::{TrainError, TrainSettings};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A recipe file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A run for each.
    pub seeds: Vec<u64>,
    /// What to train on.
    pub data: DataRecipe,
    /// Outputs of the layers between inputs and classes. The default is LeNet-300-100.
    #[serde(default = "lenet")]
    pub hidden: Vec<usize>,
    /// How to train before anything is compressed.
    #[serde(default)]
    pub train: TrainSettings,
    /// Quantization-aware training.
    pub qat: Option<QatRecipe>,
    /// Pruning while training.
    pub prune: Option<PruneRecipe>,
    /// Lottery tickets.
    pub tickets: Option<TicketsRecipe>,
    /// Compressed gradients.
    pub gradients: Option<GradientsRecipe>,
}

fn lenet() -> Vec<usize> {
    vec![300, 100]
}

/// What to train on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// The name in results.
    pub name: String,
    /// The folder of the idx files. Without it, examples are made up for tests, and the name is `clusters`.
    pub folder: Option<PathBuf>,
    /// The greatest number of examples to train on.
    #[serde(default = "all")]
    pub train: usize,
    /// The greatest number of examples to measure with.
    #[serde(default = "all")]
    pub test: usize,
    /// Examples taken from those to train on, for early stopping.
    #[serde(default)]
    pub validation: usize,
}

fn all() -> usize {
    usize::MAX
}

/// Quantization-aware training.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QatRecipe {
    /// How to train with fake quantization, after the training without it.
    pub train: TrainSettings,
    /// Examples that ranges are fitted to.
    #[serde(default = "thousand")]
    pub calibration: usize,
    /// Whether a network without quantization trains as long.
    #[serde(default = "yes")]
    pub dense_control: bool,
    /// The formats that are compared.
    pub formats: Vec<QatFormat>,
}

fn thousand() -> usize {
    1000
}

fn yes() -> bool {
    true
}

/// A format of weights and inputs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QatFormat {
    /// The name after `ptq-` and `qat-`.
    pub name: String,
    /// The format of weights.
    pub weights: String,
    /// The format of inputs, with one scale for all.
    pub inputs: Option<String>,
    /// Where scales come from.
    #[serde(default)]
    pub ranges: Ranges,
}

/// Pruning while training.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRecipe {
    /// How to train while pruning, after the training without it.
    pub train: TrainSettings,
    /// The methods that are compared, beside a dense network that trains as long.
    pub methods: Vec<PruneMethod>,
}

/// When masks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Once, before the training while pruning.
    OneShot,
    /// More and more in the first `until` of the steps, by the cubic schedule.
    Gradual,
    /// All the time.
    Constant,
}

/// A way to prune.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneMethod {
    /// The name in results.
    pub name: String,
    /// How kept weights lie.
    #[serde(default)]
    pub pattern: Pattern,
    /// The fraction of weights that is pruned, unless the pattern says so.
    #[serde(default)]
    pub sparsity: f64,
    /// Which weights compete.
    #[serde(default)]
    pub scope: Scope,
    /// What weights are worth.
    #[serde(default)]
    pub criterion: Criterion,
    /// When masks are made.
    pub schedule: ScheduleKind,
    /// Steps between masks.
    #[serde(default = "hundred")]
    pub every: u32,
    /// The fraction of steps after which gradual pruning is done.
    #[serde(default = "most")]
    pub until: f64,
    /// Whether pruned weights may come back.
    #[serde(default)]
    pub dynamic: bool,
    /// SR-STE's decay of pruned weights.
    #[serde(default)]
    pub decay: f64,
}

fn hundred() -> u32 {
    100
}

fn most() -> f64 {
    0.7
}

/// Lottery tickets by iterative magnitude pruning.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketsRecipe {
    /// Rounds of pruning.
    pub rounds: u32,
    /// The fraction of the weights left that a round prunes.
    #[serde(default = "fifth")]
    pub fraction: f64,
    /// The fraction of the last layer.
    #[serde(default = "tenth")]
    pub output_fraction: f64,
    /// The step to whose weights a round rewinds; 0 for the initial ones.
    #[serde(default)]
    pub rewind_step: u32,
    /// The rounds after which controls are trained too: the ticket's mask with other initial weights, and a
    /// random mask with the ticket's.
    #[serde(default)]
    pub controls: Vec<u32>,
}

fn fifth() -> f64 {
    0.2
}

fn tenth() -> f64 {
    0.1
}

/// Compressed gradients.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientsRecipe {
    /// How to train.
    pub train: TrainSettings,
    /// The ranks that share a batch.
    #[serde(default = "four")]
    pub ranks: u32,
    /// Names of methods: `f32`, `qsgd8`, `qsgd4`, `qsgd2`, `sign`, `top` and `power`, with `-ef` for error
    /// feedback.
    pub methods: Vec<String>,
    /// Numbers that share a norm of QSGD.
    #[serde(default = "bucket")]
    pub bucket: usize,
    /// The fraction of numbers that `top` sends.
    #[serde(default = "hundredth")]
    pub top: f64,
    /// The columns of PowerSGD's factors.
    #[serde(default = "two")]
    pub power: usize,
}

fn four() -> u32 {
    4
}

fn bucket() -> usize {
    512
}

fn hundredth() -> f64 {
    0.01
}

fn two() -> usize {
    2
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Returns [`TrainError::File`] or [`TrainError::Recipe`].
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|error| TrainError::File {
            path: path.to_owned(),
            action: "read",
            error,
        })?;
        Self::parse(&text)
            .map_err(|error| TrainError::Recipe(format!("{}: {error}", path.display())))
    }

    /// Parses a recipe.
    ///
    /// # Errors
    /// Returns [`TrainError::Recipe`].
    pub fn parse(text: &str) -> Result<Self, TrainError> {
        let recipe: Self =
            toml::from_str(text).map_err(|error| TrainError::Recipe(error.to_string()))?;
        if recipe.seeds.is_empty() {
            return Err(TrainError::Recipe("a recipe needs at least one seed".into()));
        }
        if recipe.hidden.contains(&0) {
            return Err(TrainError::Recipe("a hidden layer needs at least one output".into()));
        }
        Ok(recipe)
    }
}
