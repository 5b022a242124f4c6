//! Which weights of a file are compressed, and to which formats.

use super::recipe::{Pattern, Recipe, Rule};
use super::roles::{Role, Roles};
use crate::checkpoint::{Foreign, ModelFile, Tensor, TensorKind, foreign, matrix_shape};
use crate::layerwise::Treatment;
use lowbit::compress::Scheme;
use serde_json::Value;

/// A weight to compress and the scheme by which it is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Chosen<'a> {
    /// The weight.
    pub tensor: Tensor<'a>,
    /// Its format, and the rule that makes it.
    pub scheme: Scheme,
}

impl<'a> Chosen<'a> {
    /// Creates the choice of a scheme for a weight.
    pub fn new(tensor: Tensor<'a>, scheme: Scheme) -> Self {
        Self { tensor, scheme }
    }
}

/// A choice of the tensors to compress.
#[derive(Clone, Debug, Default)]
pub struct SelectRequest {
    /// Which tensors get which format.
    pub recipe: Recipe,
    /// Tensors that stay as they are, whatever the recipe says.
    pub exclude: Vec<Pattern>,
}

impl SelectRequest {
    /// Asks for one scheme: for the weights of linear layers, or for what the patterns match if there
    /// are any.
    pub fn one(scheme: Scheme, tensors: Vec<Pattern>) -> Self {
        let tensors = (!tensors.is_empty()).then_some(tensors);
        Self {
            recipe: Recipe {
                rules: vec![Rule {
                    tensors,
                    scheme: Some(scheme),
                    treatment: Treatment::default(),
                }],
            },
            exclude: vec![],
        }
    }
}

/// The weights of a file to compress.
#[derive(Debug)]
#[non_exhaustive]
pub struct Selection<'a> {
    /// The weights, by name.
    pub weights: Vec<Chosen<'a>>,
    /// The patterns that match no tensor of the file that could be compressed.
    pub unmatched: Vec<String>,
}

/// The reason why there are no weights to compress.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// Another tool has quantized the file.
    #[error("its weights are quantized already, with {} ({})", .0.format, .0.evidence)]
    Foreign(Foreign),
    /// Every weight that is asked for is compressed.
    #[error("the file is already compressed")]
    AlreadyCompressed,
    /// The file has no float matrices.
    #[error("the file has no F32, F16 or BF16 tensor of two or more dimensions")]
    NoWeights,
    /// The file has float matrices, and none of them is named as the weight of a linear layer.
    #[error("no tensor of the file is known as the weight of a linear layer")]
    NoLinear {
        /// The names of the float matrices.
        weights: Vec<String>,
    },
    /// The linear layers of the architecture are stored as `[K, N]`.
    #[error(
        "the weights of this architecture (`{name}`) are stored as [K, N], and formats are [N, K]"
    )]
    Turned {
        /// The first such weight.
        name: String,
    },
    /// The file has weights, and none of them is wanted.
    #[error("no weight of the file is selected")]
    NoneSelected {
        /// The names of the weights.
        weights: Vec<String>,
    },
}

/// Returns the weights of a file that a request is about: F32, F16 and BF16 tensors of two or more
/// dimensions that a pattern matches, or that are the weights of linear layers. `config` is the
/// `config.json` of the model, if there is one. Weights that are compressed already stay as they are.
///
/// # Errors
/// Returns [`SelectError`] if there are none, or if another tool has quantized the file.
pub fn select<'a>(
    model: &'a ModelFile,
    config: Option<&Value>,
    request: &SelectRequest,
) -> Result<Selection<'a>, SelectError> {
    let kinds = model.plain().map(|tensor| {
        let Tensor { name, dtype, shape, .. } = tensor;
        TensorKind { name, dtype, shape }
    });
    if let Some(foreign) = foreign(config, kinds) {
        return Err(SelectError::Foreign(foreign));
    }
    let is_matrix = |tensor: &Tensor<'_>| tensor.is_float() && matrix_shape(tensor.shape).is_some();
    let matrices: Vec<Tensor<'_>> = model.plain().filter(is_matrix).collect();
    if matrices.is_empty() {
        let compressed = !model.compressed().is_empty();
        return Err(if compressed {
            SelectError::AlreadyCompressed
        } else {
            SelectError::NoWeights
        });
    }
    let roles = Roles::new(config);
    let is_excluded = |name: &str| request.exclude.iter().any(|pattern| pattern.matches(name));
    let mut turned = None;
    let mut weights = Vec::new();
    for tensor in &matrices {
        let role = roles.of(tensor.name, tensor.shape);
        let about = |rule: &&Rule| match &rule.tensors {
            None => role != Role::Other,
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(tensor.name)),
        };
        let rule = request.recipe.rules.iter().find(about).filter(|_| !is_excluded(tensor.name));
        match rule {
            Some(Rule { scheme: Some(_), tensors: None, .. }) if role == Role::Turned => {
                turned.get_or_insert(tensor.name);
            }
            Some(&Rule { scheme: Some(scheme), .. }) => {
                weights.push(Chosen { tensor: *tensor, scheme })
            }
            _ => {}
        }
    }
    if let Some(name) = turned {
        return Err(SelectError::Turned { name: name.to_owned() });
    }
    let patterns = request.recipe.rules.iter().flat_map(|rule| rule.tensors.iter().flatten());
    let patterns: Vec<&Pattern> = patterns.chain(&request.exclude).collect();
    if weights.is_empty() {
        let asked = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        if model.compressed().keys().any(|name| asked(name) && !is_excluded(name)) {
            return Err(SelectError::AlreadyCompressed);
        }
        let weights = matrices.iter().map(|tensor| tensor.name.to_owned()).collect();
        if !patterns.is_empty() {
            return Err(SelectError::NoneSelected { weights });
        }
        let compressed = !model.compressed().is_empty();
        return Err(if compressed {
            SelectError::AlreadyCompressed
        } else {
            SelectError::NoLinear { weights }
        });
    }
    let unmatched = |pattern: &&&Pattern| !matrices.iter().any(|t| pattern.matches(t.name));
    let unmatched = patterns.iter().filter(unmatched).map(ToString::to_string).collect();
    Ok(Selection { weights, unmatched })
}
