//! What an exploration found.

use crate::evaluate::Metric;
use serde::{Deserialize, Serialize};

/// A recipe that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessed {
    /// The name of the candidate that all weights have, or the recipe as TOML.
    pub recipe: String,
    /// The bytes of the model's tensors, those that stay as they are among them.
    pub bytes: usize,
    /// The bits of an explored weight on average.
    pub bits_per_weight: f64,
    /// The metric.
    pub value: f64,
    /// The loss beside the model as it is, in per cent of its metric.
    pub loss: f64,
    /// The loss that was predicted, in per cent.
    pub predicted_loss: f64,
    /// The milliseconds of a token.
    pub latency_ms: f64,
    /// The bytes that are read for a token.
    pub bytes_per_token: usize,
    /// An estimate of the energy of a token in picojoules, derived from bytes and operations and not measured.
    pub picojoules_per_token: f64,
}

/// The recipe that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The recipe as it was measured in the end: compressed layer by layer, each with the inputs that it has in the
    /// compressed model. Its `recipe` is TOML.
    #[serde(flatten)]
    pub assessed: Assessed,
    /// What the recipe lost when it was put together from weights that were compressed with the inputs of the model as it
    /// is, as all other recipes are.
    pub loss_put_together: f64,
}

/// A candidate of a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateOfWeight {
    /// The weight.
    pub weight: String,
    /// The candidate.
    pub candidate: String,
    /// The bytes of the weight.
    pub bytes: usize,
    /// `‖X(W − Ŵ)ᵀ‖ / ‖XWᵀ‖`.
    pub output_error: f64,
    /// The loss of the model that is predicted of it, in per cent.
    pub predicted_loss: f64,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// Something that is not part of the search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// A weight, or a candidate as a recipe for all weights.
    pub name: String,
    /// The reason.
    pub why: String,
}

/// What an exploration found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exploration {
    /// The metric.
    pub metric: Metric,
    /// The metric of the model as it is.
    pub value: f64,
    /// The bytes of the model's tensors as it is.
    pub bytes: usize,
    /// The number of elements of the weights that are explored.
    pub elements: usize,
    /// The recipe that was chosen.
    pub chosen: Chosen,
    /// The candidates as recipes for all weights.
    pub uniform: Vec<Assessed>,
    /// The other recipes that were measured, from the smallest to the largest.
    pub mixed: Vec<Assessed>,
    /// The candidates of all weights.
    pub candidates: Vec<CandidateOfWeight>,
    /// Weights and recipes that are not part of the search.
    pub left_out: Vec<LeftOut>,
}
