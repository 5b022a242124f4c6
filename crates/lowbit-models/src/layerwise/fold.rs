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
use crate::architecture::{Blueprint, Feed, Gated, Layer, Linear, Norm, Vector};
use crate::device::{Input, Stage};
use lowbit::compress::Scheme;
use lowbit::compress::layerwise::{LayerwiseError, awq};
use std::collections::{BTreeMap, BTreeSet};

/// The number of exponents that are tried.
const GRID: usize = 20;

/// What makes an input.
enum Maker<'a> {
    Norm(&'a Norm),
    /// The rows of a linear layer.
    Rows(&'a Linear),
}

/// Finds the factors of every input of a stage whose weights are made by AWQ, and applies them to weights, norms and
/// statistics. Returns the weights for which factors were looked for.
pub(super) fn fold(
    work: &Work<'_, '_>,
    stage: Stage,
    inputs: &[Input],
    seen: &mut [Option<InputStatistics>],
    loaded: &mut BTreeMap<String, Loaded>,
    result: &mut StageResult,
) -> Result<BTreeSet<String>, LayerwiseRunError> {
    let mut folded = BTreeSet::new();
    let Stage::Layer(index) = stage else { return Ok(folded) };
    let Some(layer) = work.blueprint.layers.get(index) else { return Ok(folded) };
    let attention = &layer.attention;
    // Inputs that rows make come first: their factors change rows of weights whose columns are scaled afterwards.
    let mut order: Vec<(&Linear, Maker<'_>)> = Vec::new();
    if attention.heads == attention.kv_heads {
        order.push((&attention.output, Maker::Rows(&attention.value)));
    }
    if let Feed::Gated(Gated { up, down, .. }) = &layer.feed {
        order.push((down, Maker::Rows(up)));
    }
    order.extend(norms(layer).into_iter().map(|(first, norm)| (first, Maker::Norm(norm))));
    for (linear, maker) in order {
        let place = inputs.iter().position(|input| input.linears.contains(linear));
        let Some((place, input)) = place.and_then(|at| Some((at, inputs.get(at)?))) else {
            continue;
        };
        let Some(Some(seen)) = seen.get_mut(place) else { continue };
        if one(work, input, &maker, seen, loaded, result)? {
            folded.extend(input.weights().into_iter().map(str::to_owned));
        }
    }
    Ok(folded)
}

/// Returns the normalizations of a layer that make an input of linear layers, each with the first of these.
fn norms(layer: &Layer) -> Vec<(&Linear, &Norm)> {
    let first = match &layer.feed {
        Feed::Plain { up, .. } => Some(up),
        Feed::Gated(Gated { gate, .. }) => Some(gate),
        Feed::Experts { .. } => None,
    };
    let attention = (Some(&layer.attention.query), &layer.attention_norms.input);
    let norms = [attention, (first, &layer.feed_norms.input)].into_iter();
    norms.filter_map(|(first, norm)| Some((first?, norm.as_ref()?))).collect()
}

/// Returns the normalization that makes an input of a stage, if factors can be folded into it.
pub(crate) fn norm<'b>(blueprint: &'b Blueprint, stage: Stage, input: &Input) -> Option<&'b Norm> {
    let Stage::Layer(index) = stage else { return None };
    let mut norms = norms(blueprint.layers.get(index)?).into_iter();
    let (_, norm) = norms.find(|(first, _)| input.linears.contains(first))?;
    is_whole(norm).then_some(norm)
}

/// Returns whether the vectors of a normalization are tensors of their own: a part cannot be changed by itself.
fn is_whole(norm: &Norm) -> bool {
    norm.weight.part.is_none() && norm.bias.as_ref().is_none_or(|bias| bias.part.is_none())
}

/// Finds the factors of the columns of weights that take one input.
pub(crate) fn factors(
    weights: &[&Loaded],
    seen: &InputStatistics,
    scheme: &Scheme,
) -> Result<Vec<f32>, LayerwiseError> {
    let k = weights.first().map_or(0, |weight| weight.k);
    let matrices: Vec<(&[f32], usize)> =
        weights.iter().map(|weight| (&weight.values[..], weight.n)).collect();
    Ok(awq(&matrices, k, &seen.gram, &seen.mean_abs(), scheme, GRID)?.factors)
}

/// Multiplies the columns of a weight by factors.
pub(crate) fn scale(weight: &mut Loaded, factors: &[f32]) {
    for row in weight.values.chunks_mut(weight.k.max(1)) {
        row.iter_mut().zip(factors).for_each(|(w, s)| *w *= s);
    }
}

/// A vector of a normalization, and how it is divided by factors.
pub(crate) type Divided<'n> = (&'n Vector, Box<dyn Fn(f32, f32) -> f32>);

/// Returns how the vectors of a normalization are divided by factors, so that what it makes is.
pub(crate) fn divided(norm: &Norm) -> Vec<Divided<'_>> {
    let offset = norm.weight_offset;
    let mut all: Vec<Divided<'_>> =
        vec![(&norm.weight, Box::new(move |w, s| (w + offset) / s - offset))];
    all.extend(norm.bias.as_ref().map(|bias| -> Divided<'_> { (bias, Box::new(|b, s| b / s)) }));
    all
}

/// Does the same as [`fold`] for one input. Returns whether factors were looked for.
fn one(
    work: &Work<'_, '_>,
    input: &Input,
    maker: &Maker<'_>,
    seen: &mut InputStatistics,
    loaded: &mut BTreeMap<String, Loaded>,
    result: &mut StageResult,
) -> Result<bool, LayerwiseRunError> {
    let names = input.weights();
    let plans: Vec<_> = names.iter().filter_map(|name| work.plans.get(*name)).collect();
    let all_awq = plans.iter().all(|plan| plan.treatment.method == Method::Awq);
    let Some(plan) = plans.first().filter(|_| all_awq && plans.len() == names.len()) else {
        return Ok(false);
    };
    if plans.iter().any(|other| other.scheme != plan.scheme) {
        return Ok(false);
    }
    let norms_only = plans.iter().any(|plan| plan.treatment.fold == Fold::Norms);
    if norms_only && matches!(maker, Maker::Rows(_)) {
        return Ok(false);
    }
    // A part of a tensor, or of a vector, cannot be changed by itself.
    let whole = match maker {
        Maker::Norm(norm) => is_whole(norm),
        Maker::Rows(linear) => {
            linear.matrix.rows.is_none()
                && linear.bias.as_ref().is_none_or(|bias| bias.part.is_none())
                && loaded.contains_key(&linear.matrix.tensor)
        }
    };
    if !whole {
        return Ok(false);
    }
    let weights: Vec<&Loaded> = names.iter().filter_map(|name| loaded.get(*name)).collect();
    if weights.is_empty() {
        return Ok(false);
    }
    let factors =
        factors(&weights, seen, &plan.scheme).map_err(|source| LayerwiseRunError::Weight {
            name: names.first().copied().unwrap_or_default().to_owned(),
            source,
        })?;
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(true);
    }
    match maker {
        Maker::Norm(norm) => {
            for (vector, with) in divided(norm) {
                change(work, result, vector, &factors, with)?;
            }
        }
        Maker::Rows(linear) => {
            if let Some(bias) = &linear.bias {
                change(work, result, bias, &factors, |b, s| b / s)?;
            }
            if let Some(weight) = loaded.get_mut(&linear.matrix.tensor) {
                let rows = weight.values.chunks_mut(weight.k.max(1));
                for (row, s) in rows.zip(&factors) {
                    row.iter_mut().for_each(|w| *w /= s);
                }
            }
        }
    }
    for name in &names {
        if let Some(weight) = loaded.get_mut(*name) {
            scale(weight, &factors);
        }
    }
    seen.divide(&factors)
        .map_err(|source| LayerwiseRunError::Weight { name: names.join(", "), source })?;
    Ok(true)
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
