//! AWQ's factors: columns of weights are multiplied by them, and what makes the columns' inputs is divided by them,
//! where that changes nothing else.
//!
//! | inputs of | factors go into |
//! |---|---|
//! | queries, keys and values; gate and up | the normalization before them |
//! | the output of attention | the rows of the values, if each head has values of its own |
//! | the last layer of a gated block | the rows of up |

use super::statistics::InputStatistics;
use super::{Fold, LayerwiseRunError, Loaded, Method, StageResult, Work, floats};
use crate::architecture::{Feed, Gated, Linear, Norm, Vector};
use crate::device::{Input, Stage};
use lowbit::compress::layerwise::awq;
use std::collections::BTreeMap;

/// The number of exponents that are tried.
const GRID: usize = 20;

/// What makes an input.
enum Maker<'a> {
    Norm(&'a Norm),
    /// The rows of a linear layer.
    Rows(&'a Linear),
}

/// Finds the factors of every input of a stage whose weights are made by AWQ, and applies them to weights, norms and
/// statistics.
pub(super) fn fold(
    work: &Work<'_, '_>,
    stage: Stage,
    inputs: &[Input],
    seen: &mut [Option<InputStatistics>],
    loaded: &mut BTreeMap<String, Loaded>,
    result: &mut StageResult,
) -> Result<(), LayerwiseRunError> {
    let Stage::Layer(index) = stage else { return Ok(()) };
    let Some(layer) = work.blueprint.layers.get(index) else { return Ok(()) };
    let attention = &layer.attention;
    // Inputs that rows make come first: their factors change rows of weights whose columns are scaled afterwards.
    let mut order: Vec<(&Linear, Maker<'_>)> = Vec::new();
    if attention.heads == attention.kv_heads {
        order.push((&attention.output, Maker::Rows(&attention.value)));
    }
    if let Feed::Gated(Gated { up, down, .. }) = &layer.feed {
        order.push((down, Maker::Rows(up)));
    }
    if let Some(norm) = &layer.attention_norms.input {
        order.push((&attention.query, Maker::Norm(norm)));
    }
    let first = match &layer.feed {
        Feed::Plain { up, .. } => Some(up),
        Feed::Gated(Gated { gate, .. }) => Some(gate),
        Feed::Experts { .. } => None,
    };
    if let (Some(first), Some(norm)) = (first, &layer.feed_norms.input) {
        order.push((first, Maker::Norm(norm)));
    }
    for (linear, maker) in order {
        let place = inputs.iter().position(|input| input.linears.contains(linear));
        let Some((place, input)) = place.and_then(|at| Some((at, inputs.get(at)?))) else {
            continue;
        };
        let Some(Some(seen)) = seen.get_mut(place) else { continue };
        one(work, input, &maker, seen, loaded, result)?;
    }
    Ok(())
}

/// Does the same for one input.
fn one(
    work: &Work<'_, '_>,
    input: &Input,
    maker: &Maker<'_>,
    seen: &mut InputStatistics,
    loaded: &mut BTreeMap<String, Loaded>,
    result: &mut StageResult,
) -> Result<(), LayerwiseRunError> {
    let names = input.weights();
    let plans: Vec<_> = names.iter().filter_map(|name| work.plans.get(*name)).collect();
    let all_awq = plans.iter().all(|plan| plan.treatment.method == Method::Awq);
    let Some(plan) = plans.first().filter(|_| all_awq && plans.len() == names.len()) else {
        return Ok(());
    };
    if plans.iter().any(|other| other.scheme != plan.scheme) {
        return Ok(());
    }
    let norms_only = plans.iter().any(|plan| plan.treatment.fold == Fold::Norms);
    if norms_only && matches!(maker, Maker::Rows(_)) {
        return Ok(());
    }
    // A part of a tensor, or of a vector, cannot be changed by itself.
    let whole = match maker {
        Maker::Norm(norm) => {
            norm.weight.part.is_none() && norm.bias.as_ref().is_none_or(|b| b.part.is_none())
        }
        Maker::Rows(linear) => {
            linear.matrix.rows.is_none()
                && linear.bias.as_ref().is_none_or(|bias| bias.part.is_none())
                && loaded.contains_key(&linear.matrix.tensor)
        }
    };
    if !whole {
        return Ok(());
    }
    let Some(k) = names.first().and_then(|name| loaded.get(*name)).map(|weight| weight.k) else {
        return Ok(());
    };
    let weights: Vec<(&[f32], usize)> = names
        .iter()
        .filter_map(|name| loaded.get(*name))
        .map(|weight| (&weight.values[..], weight.n))
        .collect();
    let found = awq(&weights, k, &seen.gram, &seen.mean_abs(), &plan.scheme, GRID);
    let found = found.map_err(|source| LayerwiseRunError::Weight {
        name: names.first().copied().unwrap_or_default().to_owned(),
        source,
    })?;
    if found.factors.iter().all(|&factor| factor == 1.0) {
        return Ok(());
    }
    match maker {
        Maker::Norm(norm) => {
            let offset = norm.weight_offset;
            change(work, result, &norm.weight, &found.factors, |w, s| (w + offset) / s - offset)?;
            if let Some(bias) = &norm.bias {
                change(work, result, bias, &found.factors, |b, s| b / s)?;
            }
        }
        Maker::Rows(linear) => {
            if let Some(bias) = &linear.bias {
                change(work, result, bias, &found.factors, |b, s| b / s)?;
            }
            if let Some(weight) = loaded.get_mut(&linear.matrix.tensor) {
                let rows = weight.values.chunks_mut(weight.k.max(1));
                for (row, s) in rows.zip(&found.factors) {
                    row.iter_mut().for_each(|w| *w /= s);
                }
            }
        }
    }
    for name in &names {
        if let Some(weight) = loaded.get_mut(*name) {
            for row in weight.values.chunks_mut(weight.k.max(1)) {
                row.iter_mut().zip(&found.factors).for_each(|(w, s)| *w *= s);
            }
        }
    }
    seen.divide(&found.factors)
        .map_err(|source| LayerwiseRunError::Weight { name: names.concat(), source })
}

/// Changes the elements of a vector of the model.
fn change(
    work: &Work<'_, '_>,
    result: &mut StageResult,
    vector: &Vector,
    factors: &[f32],
    with: impl Fn(f32, f32) -> f32,
) -> Result<(), LayerwiseRunError> {
    let item = work.item(&vector.tensor)?;
    let (shape, mut values) = match result.floats.remove(&vector.tensor) {
        Some(found) => found,
        None => (item.shape.clone(), floats(&work.overlay, item)?),
    };
    values.iter_mut().zip(factors).for_each(|(value, s)| *value = with(*value, *s));
    result.floats.insert(vector.tensor.clone(), (shape, values));
    Ok(())
}
