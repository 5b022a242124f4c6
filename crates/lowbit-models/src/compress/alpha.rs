//! The search for one α of a whole model, by what the layers make of rows of their own inputs.
//!
//! The model reads texts stage by stage. Of each input of linear layers the ranges of channels are kept, from which
//! factors follow, and some rows, on which errors are measured: X is divided by the factors and rounded to codes as
//! the model will do it, W is multiplied and rounded to its format, and the outputs are compared with those of the
//! layer as it was:
//!
//! ```text
//! ‖XWᵀ − Q(X/s) Q(W·s)ᵀ‖ / ‖XWᵀ‖
//! ```
//!
//! Every layer counts the same, as large outputs are no more important than small ones. Not to smooth is one of the
//! choices.

use super::activations::{
    ActivationPlan, ActivationPlanError, ActivationRequest, SmoothRequest, check_columns,
};
use super::select::Chosen;
use super::smooth::SmoothingError;
use crate::architecture::Blueprint;
use crate::checkpoint::{LayerRanges, ModelFile, Ranges, matrix_shape};
use crate::device::{InputRows, RunError, Stage, StagedRun};
use lowbit::compress::calibrate::{CalibrateError, Observer, Statistics};
use lowbit::compress::{CompressError, dequantize, quantize_scheme};
use lowbit::format::{ActivationGranularity, Quantization, StaticScale};
use lowbit::host::Host;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// What an α is searched for with.
#[derive(Debug)]
pub struct AlphaSearch<'a> {
    /// What the model is.
    pub blueprint: &'a Blueprint,
    /// The tokens of the texts.
    pub texts: &'a [Vec<u32>],
    /// The largest number of tokens of a step.
    pub step: usize,
    /// How many rows of each input errors are measured on, if there are as many tokens.
    pub rows: usize,
    /// The values of α to try, each within 0…1.
    pub alphas: Vec<f64>,
}

impl AlphaSearch<'_> {
    /// The rows of each input on which errors are measured by default.
    pub const ROWS: usize = 64;

    /// Returns the values of α that are tried by default: 0, 0.05 … 1.
    pub fn usual_alphas() -> Vec<f64> {
        (0..=20).map(|step| f64::from(step) / 20.0).collect()
    }
}

/// The errors of the output of one weight, each as a share of the output.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WeightErrors {
    /// The weight.
    pub name: String,
    /// Without smoothing.
    pub before: f64,
    /// With the α that was found.
    pub found: f64,
    /// The best α of this weight alone, or `None` if it is best without.
    pub best_alpha: Option<f64>,
    /// With that α.
    pub best: f64,
}

/// The α that was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FoundAlpha {
    /// The α, or `None` if no α is better than not smoothing.
    pub alpha: Option<f64>,
    /// Every α that was tried, and the root of the mean of the squares of all weights' errors. `None` is without
    /// smoothing. What weights or scales cannot hold is not among them.
    pub tried: Vec<(Option<f64>, f64)>,
    /// The errors of each weight, in the order in which they run.
    pub weights: Vec<WeightErrors>,
    /// The rows of each input on which errors were measured.
    pub rows: usize,
    /// The statistics of the inputs, by tensors and by channels.
    pub ranges: Ranges,
}

impl FoundAlpha {
    /// Returns the error with an α, or without smoothing, if it was tried.
    pub fn error(&self, alpha: Option<f64>) -> Option<f64> {
        self.tried.iter().find(|(tried, _)| *tried == alpha).map(|(_, error)| *error)
    }
}

/// The reason why no α can be searched for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlphaError {
    /// The texts cannot run through the model.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no plan for the activations.
    #[error(transparent)]
    Plan(Box<ActivationPlanError>),
    /// A weight cannot be smoothed.
    #[error(transparent)]
    Smoothing(#[from] SmoothingError),
    /// A weight cannot be compressed.
    #[error("weight `{name}`")]
    Compress {
        /// The weight.
        name: String,
        /// The reason.
        source: CompressError,
    },
    /// The input of a weight cannot be observed.
    #[error("the input of `{name}`")]
    Observe {
        /// The weight.
        name: String,
        /// The reason.
        source: CalibrateError,
    },
    /// No text runs through a weight.
    #[error("no text runs through `{name}`, so that the error of its output cannot be measured")]
    Unseen {
        /// The weight.
        name: String,
    },
}

impl From<ActivationPlanError> for AlphaError {
    fn from(error: ActivationPlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

/// Searches for the one α with which the outputs of all selected weights are nearest to what they were. `request` says
/// how X becomes codes; factors and static scales follow from its ranges if it has some, or else from the texts. Of
/// equal choices the first is taken, and not to smooth comes first.
///
/// # Errors
/// Returns [`AlphaError`] if the texts cannot run through the model, an input is not finite, a selected weight is not
/// reached, or weights cannot be compressed without smoothing.
pub async fn search_alpha(
    host: &Arc<Host>,
    model: &ModelFile,
    selected: &[Chosen<'_>],
    request: &ActivationRequest<'_>,
    search: &AlphaSearch<'_>,
    progress: &mut dyn FnMut(Stage),
) -> Result<FoundAlpha, AlphaError> {
    let choices: Vec<Option<f64>> =
        std::iter::once(None).chain(search.alphas.iter().copied().map(Some)).collect();
    let mut texts = StagedRun::new(host, search.blueprint, search.texts, search.step)?;
    let rows = search.rows.clamp(1, texts.tokens());
    let mut ranges = Ranges::default();
    let mut measured: Vec<ErrorsOfWeight> = Vec::new();
    for stage in Stage::all(search.blueprint) {
        let left = |name: &str| measured.iter().all(|(known, _)| known != name);
        let inputs = texts.inputs(stage);
        let mut here: Vec<(usize, Chosen<'_>)> = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let weights = input.weights();
            let taken = selected.iter().filter(|chosen| weights.contains(&chosen.tensor.name));
            here.extend(taken.filter(|chosen| left(chosen.tensor.name)).map(|one| (index, *one)));
        }
        if !here.is_empty() {
            progress(stage);
            let seen = observe(&texts, model, &here, rows).await?;
            let known = match request.ranges {
                Some(known) => known,
                None => {
                    add_ranges(&mut ranges, &here, &seen)?;
                    &ranges
                }
            };
            let request = ActivationRequest { ranges: Some(known), ..*request };
            measured.extend(errors(model, &here, &seen, &request, &choices)?);
        }
        if measured.len() == selected.len() || stage == Stage::End {
            break;
        }
        texts.advance(model).await?;
    }
    let reached = |name: &str| measured.iter().any(|(known, _)| known == name);
    if let Some(chosen) = selected.iter().find(|chosen| !reached(chosen.tensor.name)) {
        return Err(AlphaError::Unseen { name: chosen.tensor.name.to_owned() });
    }
    Ok(decide(&choices, &measured, rows, ranges))
}

/// Returns the choice with the least error, and what each weight makes of it.
fn decide(
    choices: &[Option<f64>],
    measured: &[ErrorsOfWeight],
    rows: usize,
    ranges: Ranges,
) -> FoundAlpha {
    let mut tried: Vec<(Option<f64>, f64)> = Vec::new();
    let mut found = (0, f64::INFINITY);
    for (at, &choice) in choices.iter().enumerate() {
        let squares = measured.iter().map(|(_, errors)| errors.get(at).copied().flatten());
        let Some(squares) = squares.collect::<Option<Vec<f64>>>() else { continue };
        let error = (squares.iter().sum::<f64>() / squares.len().max(1) as f64).sqrt();
        tried.push((choice, error));
        if error < found.1 {
            found = (at, error);
        }
    }
    let weights = measured.iter().map(|(name, errors)| {
        let of = |at: usize| errors.get(at).copied().flatten().map_or(f64::INFINITY, f64::sqrt);
        let mut best = (0, of(0));
        for at in 1..errors.len() {
            if of(at) < best.1 {
                best = (at, of(at));
            }
        }
        WeightErrors {
            name: name.clone(),
            before: of(0),
            found: of(found.0),
            best_alpha: choices.get(best.0).copied().flatten(),
            best: best.1,
        }
    });
    let (weights, alpha) = (weights.collect(), choices.get(found.0).copied().flatten());
    FoundAlpha { alpha, tried, weights, rows, ranges }
}

/// The statistics of an input, and some of its rows.
struct Seen {
    columns: usize,
    channels: Statistics,
    /// Rows from all parts of the texts, one after the other.
    x: Vec<f32>,
}

/// Runs the texts through their next stage, and keeps what the weights take, by the numbers of the inputs.
async fn observe(
    texts: &StagedRun,
    model: &ModelFile,
    here: &[(usize, Chosen<'_>)],
    rows: usize,
) -> Result<BTreeMap<usize, Seen>, AlphaError> {
    let tokens = texts.tokens();
    let mut all: BTreeMap<usize, (Seen, usize)> = BTreeMap::new();
    let mut failed = None;
    let names: BTreeMap<usize, &str> =
        here.iter().rev().map(|(index, chosen)| (*index, chosen.tensor.name)).collect();
    let observed = texts
        .observe(model, &mut |InputRows { index, columns, x }| {
            let Some(name) = names.get(&index) else { return Ok(()) };
            let mut add = || -> Result<(), CalibrateError> {
                let (seen, done) = match all.entry(index) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        // Smoothing needs the ranges of channels, not their histograms.
                        let observer = Observer::channels(*name, columns).with_bins(0);
                        let channels = Statistics::new(observer)?;
                        entry.insert((Seen { columns, channels, x: Vec::new() }, 0))
                    }
                };
                seen.channels.observe(x)?;
                for row in x.chunks_exact(columns.max(1)) {
                    // These rows are spread evenly over all tokens.
                    if *done * rows / tokens < (*done + 1) * rows / tokens {
                        seen.x.extend_from_slice(row);
                    }
                    *done += 1;
                }
                Ok(())
            };
            add().map_err(|source| {
                failed = Some(AlphaError::Observe { name: (*name).to_owned(), source });
                RunError::Empty
            })
        })
        .await;
    if let Some(error) = failed {
        return Err(error);
    }
    observed?;
    Ok(all.into_iter().map(|(index, (seen, _))| (index, seen)).collect())
}

/// Adds what was seen of the inputs of weights, under the names of the weights.
fn add_ranges(
    ranges: &mut Ranges,
    here: &[(usize, Chosen<'_>)],
    seen: &BTreeMap<usize, Seen>,
) -> Result<(), AlphaError> {
    for (index, Chosen { tensor, .. }) in here {
        let Some(seen) = seen.get(index) else { continue };
        check_columns(tensor, &seen.channels)?;
        let channels = seen.channels.for_layer(tensor.name);
        // Only dynamic scales can follow from these; they take nothing but the name.
        let layer = LayerRanges::Statistics(Box::new(channels.clone()));
        ranges.layers.insert(tensor.name.to_owned(), layer);
        ranges.channels.insert(tensor.name.to_owned(), channels);
    }
    Ok(())
}

/// A weight, and its squared error with each choice.
type ErrorsOfWeight = (String, Vec<Option<f64>>);

/// Returns the squared error of each weight with each choice, as a share of its squared output. `None` is of a choice
/// that the weight cannot be compressed with. Weights whose outputs are all 0 are exact with any choice.
fn errors(
    model: &ModelFile,
    here: &[(usize, Chosen<'_>)],
    seen: &BTreeMap<usize, Seen>,
    request: &ActivationRequest<'_>,
    choices: &[Option<f64>],
) -> Result<Vec<ErrorsOfWeight>, AlphaError> {
    let chosen: Vec<Chosen<'_>> = here.iter().map(|(_, chosen)| *chosen).collect();
    let mut exact = Vec::with_capacity(here.len());
    for (index, Chosen { tensor, .. }) in here {
        let unseen = || AlphaError::Unseen { name: tensor.name.to_owned() };
        let seen = seen.get(index).ok_or_else(unseen)?;
        check_columns(tensor, &seen.channels)?;
        let w = tensor.to_f32().map_err(SmoothingError::from)?;
        exact.push((seen, products(&w, &seen.x, seen.columns)));
    }
    let mut all: Vec<ErrorsOfWeight> =
        chosen.iter().map(|chosen| (chosen.tensor.name.to_owned(), Vec::new())).collect();
    for choice in choices {
        let smooth = choice.map_or(SmoothRequest::None, SmoothRequest::Alpha);
        let found = ActivationPlan::new(&ActivationRequest { smooth, ..*request }, model, &chosen)
            .map_err(AlphaError::from)
            .and_then(|plan| {
                let weights = chosen.iter().zip(&exact);
                weights.map(|(chosen, (seen, y))| error(&plan, chosen, seen, y)).collect()
            });
        let found: Vec<f64> = match found {
            Ok(found) => found,
            // Without smoothing, weights must be what can be compressed.
            Err(error) if choice.is_none() => return Err(error),
            Err(_) => {
                all.iter_mut().for_each(|(_, errors)| errors.push(None));
                continue;
            }
        };
        all.iter_mut().zip(found).for_each(|((_, errors), error)| errors.push(Some(error)));
    }
    Ok(all)
}

/// Returns the squared error of a weight's output with a plan, as a share of its squared output `y`.
fn error(
    plan: &ActivationPlan,
    Chosen { tensor, scheme }: &Chosen<'_>,
    seen: &Seen,
    y: &[f32],
) -> Result<f64, AlphaError> {
    let (name, k) = (tensor.name, seen.columns);
    let Some((n, _)) = matrix_shape(tensor.shape) else { return Ok(0.0) };
    let smoothing = plan.smoothing.as_ref();
    let w = match smoothing {
        Some(smoothing) => smoothing.weight(tensor)?,
        None => tensor.to_f32().map_err(SmoothingError::from)?,
    };
    let packed = quantize_scheme(&w, n, k, scheme)
        .map_err(|source| AlphaError::Compress { name: name.to_owned(), source })?;
    let mut x = seen.x.clone();
    if let Some(factors) = smoothing.and_then(|smoothing| smoothing.divisors(name)) {
        x.chunks_exact_mut(k.max(1))
            .for_each(|row| row.iter_mut().zip(factors).for_each(|(x, s)| *x /= s));
    }
    if let Some(activations) = plan.layers.get(name) {
        round(&mut x, k, activations.quantization);
    }
    let mut found = products(&dequantize(&packed), &x, k);
    // Rows that were divided by the factors of the layer after it are compared in their own units.
    if let Some(rows) = smoothing.and_then(|smoothing| smoothing.row_divisors(name)) {
        let columns = (seen.x.len() / k.max(1)).max(1);
        let each = found.chunks_exact_mut(columns).zip(rows);
        each.for_each(|(found, s)| found.iter_mut().for_each(|found| *found *= s));
    }
    let (mut error, mut norm) = (0.0, 0.0);
    for (&y, &found) in y.iter().zip(&found) {
        let (y, found) = (f64::from(y), f64::from(found));
        error += (y - found) * (y - found);
        norm += y * y;
    }
    Ok(if norm == 0.0 { 0.0 } else { error / norm })
}

/// Returns `W · Xᵀ`, `[n, m]`.
fn products(w: &[f32], x: &[f32], k: usize) -> Vec<f32> {
    let k = k.max(1);
    w.par_chunks_exact(k).flat_map_iter(|w| x.chunks_exact(k).map(move |x| dot(w, x))).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // As many sums as the registers of a processor hold, so that it need not wait for each.
    const SUMS: usize = 16;
    let mut sums = [0.0f32; SUMS];
    let (mut a, mut b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    for (a, b) in (&mut a).zip(&mut b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Rounds rows of X to what their codes stand for.
fn round(x: &mut [f32], k: usize, how: Quantization) {
    let symmetric = how.format().is_symmetric();
    if let Quantization::Static(scale) = how {
        return round_by(x, symmetric, scale);
    }
    match how.format().granularity() {
        ActivationGranularity::Token => {
            x.chunks_mut(k.max(1)).for_each(|row| round_alone(row, symmetric));
        }
        ActivationGranularity::Group(group) => {
            let groups =
                x.chunks_mut(k.max(1)).flat_map(|row| row.chunks_mut(group.get() as usize));
            groups.for_each(|group| round_alone(group, symmetric));
        }
        // One range for all rows.
        _ => round_alone(x, symmetric),
    }
}

/// Rounds values that share a scale, which follows from them.
fn round_alone(x: &mut [f32], symmetric: bool) {
    let (min, max) = x.iter().fold((0.0f32, 0.0f32), |(min, max), x| (min.min(*x), max.max(*x)));
    // Values that are not finite are refused where they are observed.
    if let Ok(range) = lowbit::compress::calibrate::ActivationRange::new(min, max) {
        round_by(x, symmetric, range.scheme(symmetric));
    }
}

fn round_by(x: &mut [f32], symmetric: bool, StaticScale { scale, zero_point }: StaticScale) {
    let zero = zero_point as f32;
    let least = if symmetric { -127.0 } else { -128.0 };
    for x in x {
        let code = ((*x / scale).round_ties_even() + zero).clamp(least, 127.0);
        *x = (code - zero) * scale;
    }
}

#[cfg(test)]
mod tests;
