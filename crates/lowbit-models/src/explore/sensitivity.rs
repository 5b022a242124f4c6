//! How much an error of a layer costs at the end.
//!
//! The model runs with one weight changed alone, or with the weights of one layer, or those of one role in all layers,
//! and its outputs are compared with those of the model as it is. What is lost is taken as a factor times the square of
//! the weight's relative output error, and losses of several weights as adding up.
//!
//! Where candidates have codes for activations, the model runs with an input as codes too, or with those of a layer or a role,
//! and weights that change little. What it loses more than these weights do is what the codes of the input lose.

use super::kept::{Kept, Made, Weight};
use super::{Candidate, Doing, ExploreError, Job, Steps};
use crate::architecture::Blueprint;
use crate::checkpoint::source::ModelSource;
use crate::device::{LoadOptions, Model, RunError, SessionOptions};
use crate::evaluate::Evaluation;
use crate::explore::state::State;
use lowbit::format::ActivationFormat;
use lowbit::host::Host;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Up to so many weights, each is changed alone. If there are more, the layers and the roles are.
const ALONE: usize = 64;
/// The logits of the model as it is that are kept at most: 256 MiB of them.
const LOGITS: usize = 1 << 26;

/// What the outputs of a model are compared with.
pub(super) enum Outputs {
    /// The vectors of sentences.
    Vectors(Evaluation),
    /// Logits of tokens.
    Logits { texts: Vec<Vec<u32>>, vocab: usize, logits: Vec<f32> },
}

impl Outputs {
    /// Runs the model as it is.
    pub async fn new(
        host: &Arc<Host>,
        source: &dyn ModelSource,
        blueprint: &Blueprint,
        texts: &[Vec<u32>],
    ) -> Result<Self, RunError> {
        if blueprint.head.is_none() {
            let texts = texts.to_vec();
            return Ok(Self::Vectors(Evaluation::new(host, source, blueprint, texts).await?));
        }
        let vocab = blueprint.vocab.max(1);
        let mut left = (LOGITS / vocab).max(2);
        let mut some = Vec::new();
        for text in texts {
            let text: Vec<u32> = text.iter().copied().take(left).collect();
            left -= text.len();
            if text.len() > 1 {
                some.push(text);
            }
        }
        let mut logits = Vec::new();
        run(host, source, &some, |rows| logits.extend_from_slice(rows)).await?;
        Ok(Self::Logits { texts: some, vocab, logits })
    }

    /// Returns how far the outputs of a model are from those of the model as it is, in per cent: for vectors the mean
    /// of 1 − cosine, which is half their squared distance at length 1, for logits the mean Kullback–Leibler divergence
    /// of the tokens' probabilities, by which the logarithm of the perplexity rises where the model as it is
    /// predicts as well as it claims.
    pub async fn divergence(
        &self,
        host: &Arc<Host>,
        source: &dyn ModelSource,
    ) -> Result<f64, RunError> {
        match self {
            Self::Vectors(evaluation) => Ok(evaluation.measure(host, source).await?.loss.max(0.0)),
            Self::Logits { texts, vocab, logits } => {
                let (mut sum, mut rows, mut seen) = (0.0, 0usize, 0usize);
                run(host, source, texts, |now| {
                    let before = logits.get(seen..).unwrap_or_default();
                    let pairs = before.chunks_exact(*vocab).zip(now.chunks_exact(*vocab));
                    for (before, now) in pairs {
                        sum += kullback_leibler(before, now);
                        rows += 1;
                    }
                    seen += now.len();
                })
                .await?;
                Ok(100.0 * sum / rows.max(1) as f64)
            }
        }
    }
}

async fn run(
    host: &Arc<Host>,
    source: &dyn ModelSource,
    texts: &[Vec<u32>],
    each: impl FnMut(&[f32]),
) -> Result<(), RunError> {
    let model = Model::from_source(host, source, &LoadOptions::default(), &|_, _| ()).await?;
    let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
    let options = SessionOptions::default().with_slots(longest).with_logit_rows(32);
    model.perplexity(texts, &options, each, |_| ()).await.map(|_| ())
}

/// Returns `Σ p ln(p / q)` of the probabilities p and q of two rows of logits.
fn kullback_leibler(p: &[f32], q: &[f32]) -> f64 {
    let total = |row: &[f32]| -> f64 {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
        f64::from(most) + sum.ln()
    };
    let (of_p, of_q) = (total(p), total(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
        p.exp() * (p - q)
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// Returns the candidate with which a weight is probed: of those that change it, the one in the middle by the error. Those
/// that differ in activations only count once.
fn probing(job: &Job<'_>, candidates: &[Option<Made>]) -> Option<(usize, f64)> {
    let errors = candidates.iter().enumerate();
    let errors: BTreeMap<usize, (usize, f64)> = errors
        .filter_map(|(index, made)| Some((job.made_as(index), (index, made.as_ref()?.error))))
        .filter(|(_, (_, error))| *error > 0.0)
        .collect();
    let mut errors: Vec<(usize, f64)> = errors.into_values().collect();
    errors.sort_by(|a, b| a.1.total_cmp(&b.1));
    errors.get(errors.len() / 2).copied()
}

/// The name of a role: that of a weight, with `*` for its numbers.
fn role(name: &str) -> String {
    let parts = name.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { "*" } else { part }
    });
    parts.collect::<Vec<_>>().join(".")
}

/// The blocks of weights that are changed together.
struct Blocks {
    /// The names of blocks with the weights.
    blocks: BTreeMap<String, Vec<usize>>,
    /// The names of each weight's blocks: itself, or its layer and its role.
    of: Vec<Vec<String>>,
}

/// Returns the names of the blocks of a weight, or of the input of which it is the first weight.
fn names(weight: &Weight, alone: bool) -> Vec<String> {
    if alone {
        return vec![format!("weight {}", weight.name)];
    }
    vec![format!("stage {}", weight.stage), format!("role {}", role(&weight.name))]
}

fn blocks(weights: &[Weight]) -> Blocks {
    let alone = weights.len() <= ALONE;
    Blocks::new(weights.iter().map(|weight| names(weight, alone)).collect())
}

impl Blocks {
    fn new(of: Vec<Vec<String>>) -> Self {
        Self { blocks: members(&of), of }
    }
}

/// Returns the blocks by name with the numbers of their members.
fn members(of: &[Vec<String>]) -> BTreeMap<String, Vec<usize>> {
    let mut blocks: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, names) in of.iter().enumerate() {
        for name in names {
            blocks.entry(name.clone()).or_default().push(index);
        }
    }
    blocks
}

/// Returns the number of times that the model runs to measure sensitivities.
pub(super) fn runs(weights: &[Weight]) -> usize {
    blocks(weights).blocks.len()
}

/// Measures how much weights matter, and codes of their inputs. Returns what is lost by each candidate of each weight, in
/// per cent: a factor of the weight times the square of the relative output error, and the weight's share of what the
/// codes of its input lose. A candidate that a weight cannot take is `None`.
pub(super) async fn measure(
    host: &Arc<Host>,
    job: &Job<'_>,
    kept: &Kept<'_>,
    made: &[Vec<Option<Made>>],
    state: &mut State,
    steps: &mut Steps<'_>,
) -> Result<Vec<Vec<Option<f64>>>, ExploreError> {
    let mut probing = Probing { host, job, kept, state, steps, outputs: None };
    let factors = probing.weights(made).await?;
    let mut losses: Vec<Vec<Option<f64>>> = made
        .iter()
        .zip(&factors)
        .map(|(made, factor)| {
            let loss = |made: &Made| factor * made.error * made.error;
            made.iter().map(|made| made.as_ref().map(loss)).collect()
        })
        .collect();
    let mut formats: Vec<ActivationFormat> = Vec::new();
    for format in job.candidates.iter().filter_map(Candidate::activations) {
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    let of_weights = losses.clone();
    for format in formats {
        let of_inputs = probing.codes(format, &of_weights).await?;
        for (weight, losses) in kept.weights.iter().zip(&mut losses) {
            let Some(lost) = of_inputs.get(&weight.input) else { continue };
            let takers = kept.weights.iter().filter(|other| other.input == weight.input).count();
            for (candidate, loss) in job.candidates.iter().zip(losses) {
                if let (Some(loss), true) = (loss, candidate.activations() == Some(format)) {
                    *loss += lost / takers.max(1) as f64;
                }
            }
        }
    }
    Ok(losses)
}

/// Runs of the model with some of it changed.
struct Probing<'p, 's> {
    host: &'p Arc<Host>,
    job: &'p Job<'p>,
    kept: &'p Kept<'p>,
    state: &'p mut State,
    steps: &'p mut Steps<'s>,
    outputs: Option<Outputs>,
}

impl Probing<'_, '_> {
    /// Returns the divergence with candidates of some weights, and codes for inputs if `codes` says so.
    async fn divergence(
        &mut self,
        name: &str,
        chosen: &BTreeMap<usize, usize>,
        codes: bool,
    ) -> Result<f64, ExploreError> {
        let found = self.state.divergence(name);
        let divergence = match found {
            Some(divergence) => divergence,
            None => {
                self.steps.say(Doing::Probing(name));
                let (host, job) = (self.host, self.job);
                let outputs = match self.outputs.take() {
                    Some(outputs) => outputs,
                    None => Outputs::new(host, job.source, job.blueprint, job.probes).await?,
                };
                let changed = self.kept.assemble(job, chosen, codes)?;
                let divergence = outputs.divergence(host, &changed).await?;
                self.outputs = Some(outputs);
                self.state.keep_divergence(name, divergence)?;
                divergence
            }
        };
        self.steps.done(1);
        Ok(divergence)
    }

    /// Returns a factor for each weight: what is lost is the factor times the square of the relative output error.
    async fn weights(&mut self, made: &[Vec<Option<Made>>]) -> Result<Vec<f64>, ExploreError> {
        let Blocks { blocks, of } = blocks(self.kept.weights);
        let probes: Vec<Option<(usize, f64)>> =
            made.iter().map(|made| probing(self.job, made)).collect();
        let mut measured: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, weights) in &blocks {
            let probe = |&weight: &usize| Some((weight, (*probes.get(weight)?)?.0));
            let chosen = weights.iter().filter_map(probe).collect();
            measured.insert(name, self.divergence(name, &chosen, false).await?);
        }
        let squares: Vec<f64> =
            probes.iter().map(|probe| probe.map_or(0.0, |(_, e)| e * e)).collect();
        Ok(fit(&squares, &of, &measured))
    }

    /// Returns what codes of a format lose, by the numbers of inputs. `losses` are those of weights by their candidates.
    async fn codes(
        &mut self,
        format: ActivationFormat,
        losses: &[Vec<Option<f64>>],
    ) -> Result<BTreeMap<usize, f64>, ExploreError> {
        let kept = self.kept;
        let alone = kept.weights.len() <= ALONE;
        let (mut inputs, mut of, mut carriers) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for weights in kept.weights.chunk_by(|a, b| a.input == b.input) {
            let these = losses.get(at..at + weights.len()).unwrap_or_default();
            let carrier = carrier(self.job, format, these);
            if let (Some((chosen, lost)), Some(first)) = (carrier, weights.first()) {
                let names = names(first, alone).into_iter();
                of.push(names.map(|name| format!("{name}, input as {format}")).collect());
                let chosen = chosen.into_iter().enumerate();
                let chosen: Vec<_> = chosen.map(|(index, number)| (at + index, number)).collect();
                carriers.push((chosen, lost));
                inputs.push(first.input);
            }
            at += weights.len();
        }
        let Blocks { blocks, of } = Blocks::new(of);
        self.steps.more(blocks.len());
        let mut measured: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, members) in &blocks {
            let members = members.iter().filter_map(|&member| carriers.get(member));
            let chosen = members.clone().flat_map(|(chosen, _)| chosen.iter().copied()).collect();
            let of_weights: f64 = members.map(|(_, lost)| lost).sum();
            let divergence = self.divergence(name, &chosen, true).await?;
            measured.insert(name, (divergence - of_weights).max(0.0));
        }
        let lost = fit(&vec![1.0; inputs.len()], &of, &measured);
        Ok(inputs.into_iter().zip(lost).collect())
    }
}

/// Returns the candidates of an input's weights with which codes are probed: of those that have them and go with each
/// other, the ones that lose least by themselves; and what they lose.
fn carrier(
    job: &Job<'_>,
    format: ActivationFormat,
    losses: &[Vec<Option<f64>>],
) -> Option<(Vec<usize>, f64)> {
    let with_codes = job.candidates.iter().filter(|c| c.activations() == Some(format));
    let all = with_codes.filter_map(|first| {
        let (mut chosen, mut lost) = (Vec::with_capacity(losses.len()), 0.0);
        for losses in losses {
            let candidates = losses.iter().zip(&job.candidates).enumerate();
            let there = candidates.filter(|(_, (_, candidate))| candidate.goes_with(first));
            let there = there.filter_map(|(index, (loss, _))| Some((index, (*loss)?)));
            let (index, loss) = there.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
            chosen.push(index);
            lost += loss;
        }
        Some((chosen, lost))
    });
    all.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// Finds factors of weights such that the sum of `factor · square` of every block is what was measured of the block. A
/// weight's factor is the product of a number for each of its blocks, which are found one after the other, again and
/// again (iterative proportional fitting). Where layers and roles do not add up to the same total, both are scaled to
/// the mean of the two.
fn fit(squares: &[f64], of: &[Vec<String>], measured: &BTreeMap<&str, f64>) -> Vec<f64> {
    const ROUNDS: usize = 64;
    let kinds = of.first().map_or(0, Vec::len);
    let mut factors = vec![1.0; squares.len()];
    let mut totals = Vec::with_capacity(kinds);
    let mut groups = Vec::with_capacity(kinds);
    for kind in 0..kinds {
        let mut group: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, names) in of.iter().enumerate() {
            if let Some(name) = names.get(kind) {
                group.entry(name).or_default().push(index);
            }
        }
        let wanted = |name: &str| measured.get(name).copied().unwrap_or(0.0);
        totals.push(group.keys().map(|name| wanted(name)).sum::<f64>());
        groups.push(group);
    }
    let mean = totals.iter().sum::<f64>() / kinds.max(1) as f64;
    let rounds = if kinds > 1 { ROUNDS } else { 1 };
    for _ in 0..rounds {
        for (group, total) in groups.iter().zip(&totals) {
            for (name, weights) in group {
                let measured = measured.get(name).copied().unwrap_or(0.0);
                let wanted = if *total > 0.0 { measured * mean / total } else { 0.0 };
                let product = |&weight: &usize| Some(factors.get(weight)? * squares.get(weight)?);
                let have: f64 = weights.iter().filter_map(product).sum();
                let by = if have > 0.0 { wanted / have } else { 0.0 };
                for &weight in weights {
                    if let Some(factor) = factors.get_mut(weight) {
                        *factor *= by;
                    }
                }
            }
        }
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_no_numbers() {
        assert_eq!(role("blk.12.attn_q.weight"), "blk.*.attn_q.weight");
        assert_eq!(
            role("encoder.layer.0.output.dense.weight"),
            "encoder.layer.*.output.dense.weight"
        );
    }

    /// Factors that are products of a number for the layer and one for the role are found again.
    #[test]
    fn factors_come_from_layers_and_roles() {
        let (layers, roles) = ([3.0, 0.5, 1.25], [0.1, 4.0]);
        let squares: Vec<f64> = (0..6).map(|i| 0.01 + 0.003 * f64::from(i)).collect();
        let of: Vec<Vec<String>> =
            (0..6).map(|i| vec![format!("l{}", i / 2), format!("r{}", i % 2)]).collect();
        let truth: Vec<f64> = (0..6).map(|i| layers[i / 2] * roles[i % 2]).collect();
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for ((names, factor), square) in of.iter().zip(&truth).zip(&squares) {
            for name in names {
                *sums.entry(name).or_default() += factor * square;
            }
        }
        for (found, truth) in fit(&squares, &of, &sums).iter().zip(&truth) {
            assert!((found / truth - 1.0).abs() < 1e-9, "{found} {truth}");
        }
        // Each weight by itself.
        let alone: Vec<Vec<String>> = (0..6).map(|i| vec![format!("w{i}")]).collect();
        let sums = alone.iter().zip(truth.iter().zip(&squares));
        let sums = sums.map(|(names, (factor, square))| (names[0].as_str(), factor * square));
        for (found, truth) in fit(&squares, &alone, &sums.collect()).iter().zip(&truth) {
            assert!((found / truth - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn divergence_is_zero_for_the_same_probabilities() {
        let p = [0.0f32, 1.0, -2.0];
        assert!(kullback_leibler(&p, &p.map(|x| x + 3.0)) < 1e-7);
        // p = (1/2, 1/2) and q = (1/4, 3/4): ln 2 / 2 + ln(2/3) / 2.
        let want = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        let found = kullback_leibler(&[1.0, 1.0], &[0.0, 3f32.ln()]);
        assert!((found - want).abs() < 1e-7, "{found}");
    }
}
