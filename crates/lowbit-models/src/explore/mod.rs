//! Finds the best level of compression of a model: a candidate for each weight.
//!
//! [`run`] works in steps, each of which is kept in a folder, so that an interrupted run goes on where it was:
//!
//! 1. The calibration texts run through the model as it is, one stage after the other. Every candidate of every weight
//!    is made from what is seen of the weight's input, and its relative output error e is known.
//! 2. The model runs on some texts with weights changed alone, or block by block, and its outputs are compared with
//!    those of the model as it is. This gives a factor f for each weight. It also runs with inputs as codes; what that
//!    loses beyond what the weights do is a number for each input and format.
//! 3. What a recipe loses is predicted as the sum of f · e² over the weights, and of the numbers of inputs that become
//!    codes: losses are taken to add up. The best recipes by this prediction are found for all sizes ([`Frontier`]).
//! 4. Some of them, and each candidate as the recipe for all weights, are put together and measured whole on other
//!    texts. The best one that keeps the [`Limit`] is chosen by what was measured.
//! 5. The chosen recipe is applied to the model layer by layer ([`layerwise::run`]), and measured again.

mod candidate;
mod energy;
mod error;
mod kept;
mod result;
mod search;
mod sensitivity;
mod sizes;
mod solver;
mod state;

pub use candidate::{Candidate, DEFAULT};
pub use energy::picojoules;
pub use error::ExploreError;
pub use result::{Assessed, CandidateOfWeight, Chosen, Exploration, LeftOut};
pub use solver::{BUCKETS, Cost, Frontier};

use crate::architecture::Blueprint;
use crate::checkpoint::source::ModelSource;
use crate::compress::Pattern;
use crate::device::{Stage, StagedRun};
use crate::layerwise::{self, Folder, Identity, Method};
use kept::{Kept, Made, Weights};
use lowbit::host::Host;
use search::Search;
use sizes::Sizes;
use state::State;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the chosen recipe has to keep. Without one, it is the smallest that loses at most 1 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The bytes of the model's tensors, at most.
    Size(u64),
    /// The bits of an explored weight on average, at most.
    Bits(f64),
    /// The loss in per cent of the metric, at most.
    Loss(f64),
    /// The milliseconds of a token, at most.
    Latency(f64),
}

/// The largest loss if there is no limit, in per cent.
pub const KNEE: f64 = 1.0;

/// A model to explore.
#[derive(Debug)]
pub struct Job<'a> {
    /// The model.
    pub source: &'a dyn ModelSource,
    /// What it is.
    pub blueprint: &'a Blueprint,
    /// What may become of each weight.
    pub candidates: Vec<Candidate>,
    /// Weights that stay as they are.
    pub exclude: Vec<Pattern>,
    /// The tokens of the calibration texts.
    pub texts: &'a [Vec<u32>],
    /// The tokens of texts on which sensitivities are measured. For a language model they should be few, because the
    /// logits of all of them are kept: at most 256 MiB, and what is beyond that is left out.
    pub probes: &'a [Vec<u32>],
    /// The tokens of the texts on which recipes are measured.
    pub eval: &'a [Vec<u32>],
    /// The largest number of tokens of a step.
    pub rows: usize,
    /// What the chosen recipe has to keep.
    pub limit: Option<Limit>,
    /// How many sizes between the smallest and the largest are measured, beside those of the candidates as recipes for
    /// all weights.
    pub points: usize,
    /// The folder in which results are kept until [`remove_folder`].
    pub folder: PathBuf,
    /// What the folder is of. Its `recipe` should name the candidates and the texts.
    pub identity: Identity,
}

impl Job<'_> {
    /// Returns the number of candidates that are made.
    fn made_candidates(&self) -> usize {
        let made = self.candidates.iter().enumerate();
        made.filter(|(index, c)| c.scheme().is_some() && self.made_as(*index) == *index).count()
    }

    /// Returns the number of the first candidate that has the same weights: they are made once.
    fn made_as(&self, candidate: usize) -> usize {
        let Some(this) = self.candidates.get(candidate) else { return candidate };
        let first = self.candidates.iter().position(|other| other.has_weights_of(this));
        first.unwrap_or(candidate)
    }

    /// Returns whether a candidate is made by AWQ.
    fn is_awq(&self, candidate: usize) -> bool {
        self.candidates
            .get(candidate)
            .is_some_and(|candidate| candidate.treatment().method == Method::Awq)
    }
}

/// What [`run`] is doing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Doing<'a> {
    /// Texts run through a stage, so that the inputs of its layers are seen.
    Observing(Stage),
    /// Texts run through a stage on their way to the next.
    Advancing(Stage),
    /// A candidate of a weight is being made.
    Making {
        /// The weight.
        weight: &'a str,
        /// The candidate.
        candidate: &'a str,
    },
    /// The model runs with a block of weights changed: the weight, stage or role.
    Probing(&'a str),
    /// A whole model is being measured.
    Measuring(&'a str),
    /// The chosen recipe is being applied.
    Compressing(&'a str),
}

/// The steps of a run, and who is told of them.
pub(crate) struct Steps<'a> {
    done: usize,
    all: usize,
    tell: &'a mut dyn FnMut(usize, usize, Option<Doing<'_>>),
}

impl Steps<'_> {
    fn say(&mut self, doing: Doing<'_>) {
        (self.tell)(self.done, self.all, Some(doing));
    }

    fn done(&mut self, steps: usize) {
        self.done += steps;
        self.all = self.all.max(self.done);
        (self.tell)(self.done, self.all, None);
    }

    fn more(&mut self, steps: usize) {
        self.all += steps;
    }
}

/// Explores a model. `progress` gets the number of steps that are done, the number that are known of, and what is being
/// done if that changed.
///
/// # Errors
/// Returns [`ExploreError`] if there are no texts, no recipe keeps the limit, or something fails. What was made and
/// measured stays in the folder of the job, and another run with the same job goes on after it.
pub async fn run(
    host: &Arc<Host>,
    job: &Job<'_>,
    progress: &mut dyn FnMut(usize, usize, Option<Doing<'_>>),
) -> Result<Exploration, ExploreError> {
    for (texts, what) in
        [(job.texts, "calibration"), (job.probes, "probing"), (job.eval, "evaluation")]
    {
        if texts.iter().all(Vec::is_empty) {
            return Err(ExploreError::NoTexts(what));
        }
    }
    if job.candidates.len() < 2 || job.made_candidates() == 0 {
        return Err(ExploreError::NoCandidates);
    }
    let texts = StagedRun::new(host, job.blueprint, job.texts, job.rows)?;
    let Weights { weights, inputs, left_out } = kept::weights(job, &texts)?;
    drop(texts);
    // A budget that cannot be kept is refused before the work: sizes follow from formats and shapes.
    let mut sizes_only: Vec<Vec<Option<Made>>> = weights
        .iter()
        .map(|weight| {
            let of = |candidate: &Candidate| {
                let bytes = match candidate.scheme() {
                    None => weight.bytes,
                    Some(scheme) => {
                        scheme.format().geometry(weight.n, weight.k).ok()?.sizes().total()
                    }
                };
                Some(Made { bytes, error: 0.0 })
            };
            job.candidates.iter().map(of).collect()
        })
        .collect();
    kept::possible(job, &weights, &inputs, &mut sizes_only);
    let alone = |(_, made): &(&kept::Weight, &Vec<Option<Made>>)| made.iter().all(Option::is_none);
    if let Some((weight, _)) = weights.iter().zip(&sizes_only).find(alone) {
        return Err(ExploreError::NoneGoes { name: weight.name.clone() });
    }
    Sizes::new(job, &weights, &sizes_only)?.check(job.limit)?;

    Folder::open(&job.folder, &job.identity)?;
    let mut state = State::open(&job.folder)?;
    let factors = BTreeMap::new();
    let mut kept = Kept { folder: &job.folder, weights: &weights, inputs: &inputs, factors };
    let probing = sensitivity::runs(&weights);
    let all = weights.len() * (job.made_candidates() + 1) + probing + job.candidates.len() + 1;
    let mut steps = Steps { done: 0, all, tell: progress };
    kept.make(host, job, &mut steps).await?;
    let made = kept.made(job)?;
    let losses = sensitivity::measure(host, job, &kept, &made, &mut state, &mut steps).await?;
    let sizes = Sizes::new(job, &weights, &made)?;
    let mut search = Search::new(host, job, &kept, &sizes, (&made, &losses), state, steps).await?;
    search.measure_all().await?;
    let chosen = search.choose().await?;
    let mut found = search.finish(chosen);
    let left_out = left_out.into_iter().map(|(name, why)| LeftOut { name, why });
    found.left_out.splice(0..0, left_out);
    Ok(found)
}

/// Removes the folder of a run whose result was written.
///
/// # Errors
/// Returns [`ExploreError`] if the operating system does not let it be removed.
pub fn remove_folder(path: &Path) -> Result<(), ExploreError> {
    Ok(layerwise::remove_folder(path)?)
}
