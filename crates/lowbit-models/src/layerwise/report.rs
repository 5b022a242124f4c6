//! What compressing a weight layer by layer gave.

use serde::{Deserialize, Serialize};

/// What became of one weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WeightReport {
    /// The weight.
    pub name: String,
    /// `[rows, columns]`.
    pub shape: [usize; 2],
    /// The method, with `-actorder` if columns were taken by the size of their inputs.
    pub method: String,
    /// The format.
    pub format: String,
    /// `dense`, `2:4` and the like, or the part of the weights that is pruned.
    pub sparsity: String,
    /// The format of the codes that the layer's input becomes; `None` if it stays floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<String>,
    /// The bytes of the compressed weight.
    pub bytes: usize,
    /// The bytes of the weight as f32.
    pub bytes_before: usize,
    /// `‖W − Ŵ‖₂ / ‖W‖₂`.
    pub weight_error: f64,
    /// `‖X(W − Ŵ)ᵀ‖₂ / ‖XWᵀ‖₂` if weights are rounded to nearest, and pruned by magnitude. `None` if the layer's
    /// input was not observed.
    pub output_error_before: Option<f64>,
    /// `‖X(W − Ŵ)ᵀ‖₂ / ‖XWᵀ‖₂` as compressed.
    pub output_error: Option<f64>,
    /// The tokens of which X consists.
    pub tokens: u64,
    /// What the user should know, as sentences without a full stop.
    pub warnings: Vec<String>,
}
