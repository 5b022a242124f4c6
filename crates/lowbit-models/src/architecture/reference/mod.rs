//! A slow and plain forward pass in f64, which takes nothing from kernels: the oracle of what runs on a device.
//!
//! It reads the tensors that a [`Blueprint`] names, dequantizes them with the oracle of the kernel crate and
//! computes everything in f64, layer by layer, over whole sequences. Where papers and programs leave open
//! what is meant, this is the definition.

mod attention;
mod load;

use super::{Blueprint, Embedding, Feed, Gated, Norm, Norms};
use crate::checkpoint::source::{ModelSource, SourceError};
use load::Loader;
use lowbit::reference::apply;
use std::collections::BTreeMap;

/// The reason why a forward pass cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A compressed weight cannot be dequantized.
    #[error("`{name}`")]
    Weights {
        /// The weight.
        name: String,
        /// The reason.
        source: lowbit::reference::ReferenceError,
    },
    /// The model has no such tensor, or not one of numbers.
    #[error("there is no tensor `{name}` of numbers")]
    NoTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the blueprint implies.
    #[error("`{name}` is {have:?}, and not {need}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        have: Vec<usize>,
        /// The shape that is needed.
        need: String,
    },
    /// The heads of an attention do not fit together.
    #[error("{heads} heads of queries and {kv_heads} of keys, with {head_dim} columns each")]
    Heads {
        /// Heads of queries.
        heads: usize,
        /// Heads of keys and values.
        kv_heads: usize,
        /// Columns of a head.
        head_dim: usize,
    },
    /// A token or a position has no row in its table.
    #[error("there is no row {row} in `{name}`")]
    NoRow {
        /// The table.
        name: String,
        /// The row.
        row: usize,
    },
    /// There are not as many flags as tokens.
    #[error("{have} flags of a mask for {need} tokens")]
    Mask {
        /// The number of flags.
        have: usize,
        /// The number of tokens.
        need: usize,
    },
    /// Logits of a model without a head.
    #[error("the model is an encoder: it has no logits")]
    NoHead,
}

/// Returns the last residual of each token, normalized: `[tokens, hidden]`. A token at which `seen` is false
/// is seen by no other.
///
/// # Errors
/// Returns [`ReferenceError`] if the tensors are not those of the blueprint, or if a token or its position is
/// beyond them.
pub fn hidden(
    model: &dyn ModelSource,
    blueprint: &Blueprint,
    tokens: &[u32],
    seen: &[bool],
) -> Result<Vec<f64>, ReferenceError> {
    run(&Loader::new(model)?, blueprint, tokens, seen)
}

/// Returns what every linear layer takes of these tokens, the head apart: rows one after the other, by the name
/// of the layer's weight. Layers whose weights are parts of one tensor take turns.
///
/// # Errors
/// Returns the errors of [`hidden`].
pub fn inputs(
    model: &dyn ModelSource,
    blueprint: &Blueprint,
    tokens: &[u32],
) -> Result<BTreeMap<String, Vec<f64>>, ReferenceError> {
    let mut loader = Loader::new(model)?;
    loader.keep_inputs();
    run(&loader, blueprint, tokens, &vec![true; tokens.len()])?;
    Ok(loader.inputs())
}

fn run(
    loader: &Loader<'_>,
    blueprint: &Blueprint,
    tokens: &[u32],
    seen: &[bool],
) -> Result<Vec<f64>, ReferenceError> {
    if seen.len() != tokens.len() {
        return Err(ReferenceError::Mask { have: seen.len(), need: tokens.len() });
    }
    let columns = blueprint.hidden;
    let mut residual = embed(loader, &blueprint.embedding, columns, tokens)?;
    loader.forget();
    for layer in &blueprint.layers {
        residual = block(loader, &layer.attention_norms, residual, columns, |x| {
            attention::run(loader, &layer.attention, x, columns, seen)
        })?;
        residual = block(loader, &layer.feed_norms, residual, columns, |x| {
            feed(loader, &layer.feed, x, columns)
        })?;
        loader.forget();
    }
    norm(loader, blueprint.final_norm.as_ref(), residual, columns)
}

/// Returns the logits of each token: `[tokens, vocab]`.
///
/// # Errors
/// Returns [`ReferenceError::NoHead`], or the errors of [`hidden`].
pub fn logits(
    model: &dyn ModelSource,
    blueprint: &Blueprint,
    tokens: &[u32],
) -> Result<Vec<f64>, ReferenceError> {
    if blueprint.head.is_none() {
        return Err(ReferenceError::NoHead);
    }
    result(&Loader::new(model)?, blueprint, tokens)
}

/// Returns the logits of each token, or the last residual of an encoder, if the inputs of linear layers are
/// rounded to codes wherever the file fixes the scale of these.
///
/// # Errors
/// Returns the errors of [`hidden`].
pub fn rounded(
    model: &dyn ModelSource,
    blueprint: &Blueprint,
    tokens: &[u32],
) -> Result<Vec<f64>, ReferenceError> {
    let mut loader = Loader::new(model)?;
    loader.round_inputs();
    result(&loader, blueprint, tokens)
}

/// Returns the logits of each token, or the last residual if there is no head.
fn result(
    loader: &Loader<'_>,
    blueprint: &Blueprint,
    tokens: &[u32],
) -> Result<Vec<f64>, ReferenceError> {
    let hidden = run(loader, blueprint, tokens, &vec![true; tokens.len()])?;
    let Some(head) = &blueprint.head else { return Ok(hidden) };
    let dense = loader.dense(&head.linear, blueprint.vocab, blueprint.hidden)?;
    let scaled = dense.run(&hidden).into_iter().map(|logit| logit * f64::from(head.scale));
    Ok(match head.soft_cap.map(f64::from) {
        None => scaled.collect(),
        Some(cap) => scaled.map(|logit| cap * (logit / cap).tanh()).collect(),
    })
}

/// Returns the first residual.
fn embed(
    loader: &Loader<'_>,
    embedding: &Embedding,
    hidden: usize,
    tokens: &[u32],
) -> Result<Vec<f64>, ReferenceError> {
    let columns = match &embedding.projection {
        None => hidden,
        Some(_) => loader.columns(&embedding.tokens)?,
    };
    let table = loader.matrix(&embedding.tokens, None, columns)?;
    let positions = match &embedding.positions {
        Some((matrix, first)) => Some((loader.matrix(matrix, None, columns)?, matrix, *first)),
        None => None,
    };
    let kind = match &embedding.types {
        Some(matrix) => Some(loader.matrix(matrix, None, columns)?.row(0, matrix)?),
        None => None,
    };
    let mut rows = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let row = usize::try_from(*token).unwrap_or(usize::MAX);
        let mut sum = table.row(row, &embedding.tokens)?;
        sum.iter_mut().for_each(|x| *x *= f64::from(embedding.scale));
        if let Some((positions, matrix, first)) = &positions {
            add(&mut sum, &positions.row(first.saturating_add(at), matrix)?);
        }
        if let Some(kind) = &kind {
            add(&mut sum, kind);
        }
        rows.extend(sum);
    }
    let rows = norm(loader, embedding.norm.as_ref(), rows, columns)?;
    match &embedding.projection {
        None => Ok(rows),
        Some(linear) => Ok(loader.dense(linear, hidden, columns)?.run(&rows)),
    }
}

fn add(sum: &mut [f64], other: &[f64]) {
    sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
}

fn norm(
    loader: &Loader<'_>,
    norm: Option<&Norm>,
    x: Vec<f64>,
    len: usize,
) -> Result<Vec<f64>, ReferenceError> {
    match norm {
        None => Ok(x),
        Some(norm) => Ok(loader.norm(norm, len)?.run(&x)),
    }
}

/// Returns the residual after a block.
fn block(
    loader: &Loader<'_>,
    norms: &Norms,
    mut residual: Vec<f64>,
    len: usize,
    run: impl FnOnce(&[f64]) -> Result<Vec<f64>, ReferenceError>,
) -> Result<Vec<f64>, ReferenceError> {
    let input = norm(loader, norms.input.as_ref(), residual.clone(), len)?;
    let output = norm(loader, norms.output.as_ref(), run(&input)?, len)?;
    add(&mut residual, &output);
    norm(loader, norms.sum.as_ref(), residual, len)
}

/// Returns the output of a feed-forward block.
fn feed(
    loader: &Loader<'_>,
    feed: &Feed,
    x: &[f64],
    hidden: usize,
) -> Result<Vec<f64>, ReferenceError> {
    match feed {
        Feed::Plain { up, down, function } => {
            let (up, columns) = loader.any_dense(up, hidden)?;
            let between: Vec<f64> = up.run(x).into_iter().map(|v| apply(*function, v)).collect();
            Ok(loader.dense(down, hidden, columns)?.run(&between))
        }
        Feed::Gated(block) => gated(loader, block, x, hidden),
        Feed::Experts { router, experts, used, normalize } => {
            let router = loader.dense(router, experts.len(), hidden)?;
            let mut y = Vec::new();
            for row in x.chunks_exact(hidden.max(1)) {
                let mut sum = vec![0.0; hidden];
                for (expert, weight) in route(&router.run(row), *used, *normalize) {
                    let Some(block) = experts.get(expert) else { continue };
                    let output = gated(loader, block, row, hidden)?;
                    sum.iter_mut().zip(output).for_each(|(sum, x)| *sum += weight * x);
                }
                y.extend(sum);
            }
            Ok(y)
        }
    }
}

/// Returns the experts that a row takes, with their weights. Of two experts with the same logit the first is
/// taken.
fn route(logits: &[f64], used: usize, normalize: bool) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let mut weights: Vec<(usize, f64)> =
        logits.iter().map(|logit| (logit - largest).exp() / sum).enumerate().collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1));
    weights.truncate(used);
    if normalize {
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        weights.iter_mut().for_each(|(_, weight)| *weight /= sum);
    }
    weights
}

fn gated(
    loader: &Loader<'_>,
    block: &Gated,
    x: &[f64],
    hidden: usize,
) -> Result<Vec<f64>, ReferenceError> {
    let (gate, columns) = loader.any_dense(&block.gate, hidden)?;
    let up = loader.dense(&block.up, columns, hidden)?.run(x);
    let gate = gate.run(x).into_iter().map(|v| apply(block.function, v));
    let between: Vec<f64> = gate.zip(up).map(|(gate, up)| gate * up).collect();
    Ok(loader.dense(&block.down, hidden, columns)?.run(&between))
}
