//! Measures recipes whole, and chooses one.

use super::kept::{Kept, Made, Weight};
use super::result::{Assessed, CandidateOfWeight, Chosen, Exploration, LeftOut};
use super::sizes::{Sizes, joints};
use super::solver::{Cost, Frontier};
use super::state::{State, Whole};
use super::{Candidate, Doing, ExploreError, Job, KNEE, Limit, Steps};
use crate::checkpoint::source::ModelSource;
use crate::checksum::fnv;
use crate::evaluate::{Evaluation, Measured};
use crate::layerwise::{self, Identity, Plan};
use lowbit::host::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What belongs to the candidates of each weight; `None` for those that it cannot be.
type Table<'s, T> = &'s [Vec<Option<T>>];

/// How often the gap between a size that loses too much and one that does not is halved.
const HALVINGS: usize = 4;

/// A recipe and what was measured of it. The recipe is the numbers of the weights' candidates.
struct Point {
    chosen: Vec<usize>,
    assessed: Assessed,
    /// Whether all weights have one candidate.
    uniform: bool,
}

/// Returns what candidates cost.
fn costs(made: &[Vec<Option<Made>>], losses: &[Vec<Option<f64>>]) -> Vec<Vec<Option<Cost>>> {
    let cost = |(made, loss): (&Option<Made>, &Option<f64>)| {
        Some(Cost { bytes: (*made)?.bytes, loss: (*loss)? })
    };
    let of = |(made, losses): (&Vec<Option<Made>>, &Vec<Option<f64>>)| {
        made.iter().zip(losses).map(cost).collect()
    };
    made.iter().zip(losses).map(of).collect()
}

/// Returns costs by which codes are preferred for inputs with a share of the products of those that may become codes: the
/// inputs whose codes lose least for each product. Floats are no candidates of these.
fn codes_preferred(
    job: &Job<'_>,
    weights: &[Weight],
    costs: &[Vec<Option<Cost>>],
    share: f64,
) -> Vec<Vec<Option<Cost>>> {
    let is_codes = |index: usize| {
        job.candidates.get(index).is_some_and(|candidate| candidate.activations().is_some())
    };
    // For each input that may become codes: its number, its products, and the least that it loses more than with floats.
    let mut inputs: Vec<(usize, f64, f64)> = Vec::new();
    for (weight, costs) in weights.iter().zip(costs) {
        let least = |codes: bool| {
            let these = costs.iter().enumerate().filter(|(index, _)| is_codes(*index) == codes);
            let these = these.filter_map(|(index, cost)| Some((job.made_as(index), (*cost)?.loss)));
            these.collect::<BTreeMap<usize, f64>>()
        };
        let floats = least(false);
        let codes = least(true);
        let more = |(made, loss): (&usize, &f64)| loss - floats.get(made).unwrap_or(loss);
        let Some(more) = codes.iter().map(more).min_by(f64::total_cmp) else { continue };
        let products = weight.n as f64 * weight.k as f64;
        match inputs.last_mut().filter(|(input, _, _)| *input == weight.input) {
            Some((_, all, lost)) => (*all, *lost) = (*all + products, *lost + more),
            None => inputs.push((weight.input, products, more)),
        }
    }
    inputs.sort_by(|a, b| (a.2 / a.1).total_cmp(&(b.2 / b.1)));
    let all: f64 = inputs.iter().map(|(_, products, _)| products).sum();
    let mut taken = 0.0;
    let mut preferred = BTreeSet::new();
    for (input, products, _) in inputs {
        if taken < share * all {
            preferred.insert(input);
            taken += products;
        }
    }
    let of = |(weight, costs): (&Weight, &Vec<Option<Cost>>)| {
        let codes = preferred.contains(&weight.input);
        let costs = costs.iter().enumerate();
        costs.map(|(index, cost)| cost.filter(|_| !codes || is_codes(index))).collect()
    };
    weights.iter().zip(costs).map(of).collect()
}

/// A search for the best recipe.
pub(super) struct Search<'s> {
    host: &'s Arc<Host>,
    job: &'s Job<'s>,
    kept: &'s Kept<'s>,
    sizes: &'s Sizes<'s>,
    made: &'s [Vec<Option<Made>>],
    /// What each candidate of each weight is predicted to lose.
    losses: &'s [Vec<Option<f64>>],
    frontier: Frontier,
    /// Mixtures with more codes as inputs than a small loss asks for: on half of the products, and on all that can be.
    with_codes: Vec<Frontier>,
    evaluation: Evaluation,
    state: State,
    steps: Steps<'s>,
    points: Vec<Point>,
    left_out: Vec<LeftOut>,
}

/// A choice, and what it is in the end.
pub(super) struct Decision {
    chosen: Vec<usize>,
    assessed: Assessed,
    loss_put_together: f64,
}

fn key(chosen: &[usize]) -> String {
    chosen.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

impl<'s> Search<'s> {
    /// Solves for all sizes, and runs the model as it is.
    pub async fn new(
        host: &'s Arc<Host>,
        job: &'s Job<'s>,
        kept: &'s Kept<'s>,
        sizes: &'s Sizes<'s>,
        (made, losses): (Table<'s, Made>, Table<'s, f64>),
        state: State,
        mut steps: Steps<'s>,
    ) -> Result<Self, ExploreError> {
        let (inputs, kinds) = joints(kept.weights, &job.candidates);
        let costs = costs(made, losses);
        let frontier = Frontier::joined(&costs, &inputs, &kinds).ok_or(ExploreError::NoWeights)?;
        let mut with_codes = Vec::new();
        if job.candidates.iter().any(|candidate| candidate.activations().is_some()) {
            for share in [0.5, 1.0] {
                let costs = codes_preferred(job, kept.weights, &costs, share);
                with_codes.extend(Frontier::joined(&costs, &inputs, &kinds));
            }
        }
        steps.say(Doing::Measuring("the model as it is"));
        let texts = job.eval.to_vec();
        let evaluation = Evaluation::new(host, job.source, job.blueprint, texts).await?;
        let (points, left_out) = (Vec::new(), Vec::new());
        Ok(Self {
            host,
            job,
            kept,
            sizes,
            made,
            losses,
            frontier,
            with_codes,
            evaluation,
            state,
            steps,
            points,
            left_out,
        })
    }

    /// Returns the recipes of at most so many bytes with codes as inputs of more layers than a small loss asks for.
    fn with_codes_at(&self, bytes: usize) -> Vec<Vec<usize>> {
        let Some(bytes) = bytes.checked_sub(self.sizes.others) else { return Vec::new() };
        self.with_codes.iter().filter_map(|frontier| frontier.at(bytes)).collect()
    }

    /// Returns the recipe with the least predicted loss among those with at most so many bytes.
    fn at(&self, bytes: usize) -> Option<Vec<usize>> {
        self.frontier.at(bytes.checked_sub(self.sizes.others)?)
    }

    fn predicted(&self, chosen: &[usize]) -> f64 {
        let of =
            |(losses, &index): (&Vec<Option<f64>>, &usize)| losses.get(index).copied().flatten();
        self.losses.iter().zip(chosen).filter_map(of).sum()
    }

    fn assessed(&self, recipe: String, chosen: &[usize], whole: Whole) -> Assessed {
        Assessed {
            recipe,
            bytes: self.sizes.bytes(chosen),
            bits_per_weight: self.sizes.bits_per_weight(chosen),
            value: whole.measured.value,
            loss: whole.measured.loss,
            predicted_loss: self.predicted(chosen),
            latency_ms: whole.latency_ms,
            bytes_per_token: self.sizes.bytes_per_token(chosen),
            picojoules_per_token: self.sizes.picojoules(chosen),
        }
    }

    async fn whole(&self, model: &dyn ModelSource) -> Result<Whole, ExploreError> {
        let measured: Measured = self.evaluation.measure(self.host, model).await?;
        let latency_ms = self.evaluation.latency(self.host, model).await?;
        Ok(Whole { measured, latency_ms })
    }

    /// Puts a recipe together and measures it, unless that was done.
    async fn measure(&mut self, chosen: &[usize], name: Option<&str>) -> Result<(), ExploreError> {
        if self.points.iter().any(|point| point.chosen == chosen) {
            return Ok(());
        }
        let bits = self.sizes.bits_per_weight(chosen);
        let shown = name.map_or_else(|| format!("a mixed recipe of {bits:.2} bits"), str::to_owned);
        let key = key(chosen);
        let whole = match self.state.model(&key) {
            Some(whole) => whole,
            None => {
                self.steps.say(Doing::Measuring(&shown));
                let all = chosen.iter().copied().enumerate().collect();
                let model = self.kept.assemble(self.job, &all, true)?;
                let whole = self.whole(&model).await?;
                self.state.keep_model(&key, whole)?;
                whole
            }
        };
        self.steps.done(1);
        let recipe = match name {
            Some(name) => name.to_owned(),
            None => self.sizes.recipe(chosen)?.to_string(),
        };
        let assessed = self.assessed(recipe, chosen, whole);
        let chosen = chosen.to_vec();
        self.points.push(Point { chosen, assessed, uniform: name.is_some() });
        Ok(())
    }

    /// Measures all candidates as recipes for all weights, and mixed recipes of their sizes, of the size of the
    /// limit and of some between the smallest and the largest.
    pub async fn measure_all(&mut self) -> Result<(), ExploreError> {
        let job = self.job;
        let (mut budgets, mut of_codes) = (Vec::new(), Vec::new());
        for (index, candidate) in job.candidates.iter().enumerate() {
            let missing = self.made.iter().filter(|made| !matches!(made.get(index), Some(Some(_))));
            let missing = missing.count();
            if missing > 0 {
                let why = format!("{missing} of {} weights cannot be it", self.made.len());
                self.left_out.push(LeftOut { name: candidate.name().to_owned(), why });
                continue;
            }
            let chosen = vec![index; self.made.len()];
            budgets.push(self.sizes.bytes(&chosen));
            if candidate.activations().is_some() {
                of_codes.push(self.sizes.bytes(&chosen));
            }
            self.measure(&chosen, Some(candidate.name())).await?;
        }
        let (least, most) = (self.frontier.least(), self.frontier.most());
        let others = self.sizes.others;
        // Sizes with equal ratios: what is gained by a byte grows as models become smaller.
        let ratio = most as f64 / least.max(1) as f64;
        for point in 0..job.points {
            let part = (point + 1) as f64 / (job.points + 1) as f64;
            budgets.push(others + (least as f64 * ratio.powf(part)) as usize);
        }
        budgets.extend(self.sizes.budget(job.limit));
        // Codes never lose less, so that only a latency asks for them at other sizes.
        if matches!(job.limit, Some(Limit::Latency(_))) {
            of_codes.clone_from(&budgets);
        }
        let mut recipes: Vec<Vec<usize>> = budgets.into_iter().filter_map(|b| self.at(b)).collect();
        recipes.extend(of_codes.into_iter().flat_map(|bytes| self.with_codes_at(bytes)));
        recipes.sort();
        recipes.dedup();
        recipes.retain(|chosen| self.points.iter().all(|point| point.chosen != *chosen));
        recipes.sort_by_key(|chosen| self.sizes.bytes(chosen));
        self.steps.more(recipes.len());
        for chosen in recipes {
            self.measure(&chosen, None).await?;
        }
        Ok(())
    }

    /// Chooses a recipe by what was measured, and applies it to the model.
    pub async fn choose(&mut self) -> Result<Decision, ExploreError> {
        match self.job.limit {
            None => self.smallest(KNEE).await,
            Some(Limit::Loss(percent)) => self.smallest(percent).await,
            Some(limit @ (Limit::Size(_) | Limit::Bits(_))) => {
                let budget = self.sizes.budget(Some(limit)).unwrap_or(usize::MAX);
                let best = self.best(|point| point.assessed.bytes <= budget);
                match best {
                    Some(chosen) => self.apply(chosen).await,
                    None => Err(ExploreError::NoWeights),
                }
            }
            Some(Limit::Latency(asked)) => {
                // As applied it may take longer than put together, and then the next best is tried.
                let mut refused: Vec<Vec<usize>> = Vec::new();
                loop {
                    let may = |point: &Point| {
                        point.assessed.latency_ms <= asked && !refused.contains(&point.chosen)
                    };
                    let Some(chosen) = self.best(may) else {
                        let all = self.points.iter().map(|point| point.assessed.latency_ms);
                        let least = all.fold(f64::INFINITY, f64::min);
                        return Err(ExploreError::Latency { asked, least });
                    };
                    let decision = self.apply(chosen.clone()).await?;
                    if decision.assessed.latency_ms <= asked {
                        return Ok(decision);
                    }
                    refused.push(chosen);
                }
            }
        }
    }

    /// Returns the recipe that loses least among some; of those that lose the same, the smaller.
    fn best(&self, may: impl Fn(&Point) -> bool) -> Option<Vec<usize>> {
        let those = self.points.iter().filter(|point| may(point));
        let best = those.min_by(|a, b| {
            let (a, b) = (&a.assessed, &b.assessed);
            a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes))
        });
        best.map(|point| point.chosen.clone())
    }

    /// Chooses the smallest recipe that loses at most so much. The size is raised as long as the recipe, once it is
    /// applied, loses more.
    async fn smallest(&mut self, percent: f64) -> Result<Decision, ExploreError> {
        for _ in 0..HALVINGS {
            let keeps = |point: &&Point| point.assessed.loss <= percent;
            let bytes = |point: &Point| point.assessed.bytes;
            let Some(above) = self.points.iter().filter(keeps).map(bytes).min() else { break };
            let below = self.points.iter().filter(|point| !keeps(point)).map(bytes);
            let below = below.filter(|&bytes| bytes < above).max();
            let least = self.sizes.others + self.frontier.least();
            let below = below.unwrap_or(least);
            let Some(chosen) = self.at(below + (above - below) / 2) else { break };
            if self.points.iter().any(|point| point.chosen == chosen) {
                break;
            }
            self.steps.more(1);
            self.measure(&chosen, None).await?;
        }
        let mut those: Vec<(usize, f64, Vec<usize>)> = self
            .points
            .iter()
            .filter(|point| point.assessed.loss <= percent)
            .map(|point| (point.assessed.bytes, point.assessed.loss, point.chosen.clone()))
            .collect();
        those.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut least = f64::INFINITY;
        for (_, loss, chosen) in those {
            // A larger recipe that loses more has no chance where a smaller one had none.
            if loss > least {
                continue;
            }
            let decision = self.apply(chosen).await?;
            if decision.assessed.loss <= percent {
                return Ok(decision);
            }
            least = least.min(loss);
        }
        let all = self.points.iter().map(|point| point.assessed.loss);
        Err(ExploreError::Loss { asked: percent, least: all.fold(f64::INFINITY, f64::min) })
    }

    /// Compresses the model by a recipe, layer by layer, and measures it.
    async fn apply(&mut self, chosen: Vec<usize>) -> Result<Decision, ExploreError> {
        let job = self.job;
        let recipe = self.sizes.recipe(&chosen)?.to_string();
        let put_together = self.points.iter().find(|point| point.chosen == chosen);
        let loss_put_together = put_together.map_or(f64::NAN, |point| point.assessed.loss);
        let name = format!("applied {}", key(&chosen));
        let weights = self.kept.weights.len();
        let whole = match self.state.model(&name) {
            Some(whole) => {
                self.steps.done(weights);
                whole
            }
            None => {
                let plans = self.kept.weights.iter().zip(&chosen).filter_map(|(weight, &index)| {
                    let candidate: &Candidate = job.candidates.get(index)?;
                    let (scheme, treatment) = (candidate.scheme()?, candidate.treatment().clone());
                    Some((weight.name.clone(), Plan { scheme, treatment }))
                });
                let plans: BTreeMap<String, Plan> = plans.collect();
                let folder = job.folder.join(format!("applied-{:016x}", fnv(name.bytes())));
                let identity = Identity { recipe: recipe.clone(), ..job.identity.clone() };
                let run = layerwise::Job {
                    source: job.source,
                    blueprint: job.blueprint,
                    plans,
                    texts: job.texts,
                    statistics: None,
                    rows: job.rows,
                    loops: layerwise::Loops::default(),
                    folder: Some((folder, identity)),
                };
                let steps = &mut self.steps;
                let mut tell = |doing: layerwise::Doing<'_>| match doing {
                    layerwise::Doing::Observing(stage) => steps.say(Doing::Observing(stage)),
                    layerwise::Doing::Advancing(stage) => steps.say(Doing::Advancing(stage)),
                    layerwise::Doing::Compressing(name) => steps.say(Doing::Compressing(name)),
                    layerwise::Doing::Compressed(_) => steps.done(1),
                };
                let (model, _) = layerwise::run(Some(self.host), &run, &mut tell).await?;
                self.steps.say(Doing::Measuring("the chosen recipe, applied"));
                let whole = self.whole(&model).await?;
                self.state.keep_model(&name, whole)?;
                whole
            }
        };
        self.steps.done(1);
        let assessed = self.assessed(recipe, &chosen, whole);
        Ok(Decision { chosen, assessed, loss_put_together })
    }

    /// Returns everything that was found.
    pub fn finish(self, decision: Decision) -> Exploration {
        let mut candidates = Vec::new();
        let rows = self.kept.weights.iter().zip(self.made).zip(self.losses);
        for (((weight, made), losses), &chosen) in rows.zip(&decision.chosen) {
            for (index, candidate) in self.job.candidates.iter().enumerate() {
                let (Some(Some(made)), Some(Some(loss))) = (made.get(index), losses.get(index))
                else {
                    continue;
                };
                candidates.push(CandidateOfWeight {
                    weight: weight.name.clone(),
                    candidate: candidate.name().to_owned(),
                    bytes: made.bytes,
                    output_error: made.error,
                    predicted_loss: *loss,
                    chosen: index == chosen,
                });
            }
        }
        let (uniform, mixed): (Vec<Point>, Vec<Point>) =
            self.points.into_iter().partition(|point| point.uniform);
        let assessed = |points: Vec<Point>| -> Vec<Assessed> {
            let mut all: Vec<Assessed> = points.into_iter().map(|point| point.assessed).collect();
            all.sort_by_key(|assessed| assessed.bytes);
            all
        };
        let kept = self.kept.weights.iter().map(|weight| weight.bytes).sum::<usize>();
        Exploration {
            metric: self.evaluation.metric(),
            value: self.evaluation.value(),
            bytes: self.sizes.others + kept,
            elements: self.sizes.elements,
            chosen: Chosen {
                assessed: decision.assessed,
                loss_put_together: decision.loss_put_together,
            },
            uniform: assessed(uniform),
            mixed: assessed(mixed),
            candidates,
            left_out: self.left_out,
        }
    }
}
