//! The weights of a model that are compressed, and what each candidate makes of them: made once, and kept in a folder.

use super::{Doing, ExploreError, Job, Steps};
use crate::architecture::Matrix;
use crate::checkpoint::source::{Item, ItemKind, ModelSource, Overlay};
use crate::checkpoint::{Content, ModelFile, read_compressed, write_model};
use crate::compress::{Recipe, Rule, SelectRequest};
use crate::device::{Stage, StagedRun};
use crate::layerwise::{
    LayerwiseRunError, Loaded, Plan, Treatment, WeightReport, load, make, plans, statistics,
};
use lowbit::format::{PackedWeights, WeightFormat};
use lowbit::host::Host;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The key of a file's metadata under which the reports of its weights are.
const REPORTS: &str = "lowbit.explore.reports";

/// A weight of which the format is to be found.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub name: String,
    pub n: usize,
    pub k: usize,
    /// The number of its stage.
    pub stage: usize,
    /// The bytes that it has as it is.
    pub bytes: usize,
}

/// The weights of a model.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Those that are explored, in the order in which they run.
    pub weights: Vec<Weight>,
    /// Weights of linear layers that are not, with the reason.
    pub left_out: Vec<(String, String)>,
}

/// What a candidate makes of a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub bytes: usize,
    /// `‖X(W − Ŵ)ᵀ‖ / ‖XWᵀ‖`.
    pub error: f64,
}

/// Finds the weights of linear layers that texts run through.
pub(super) fn weights(job: &Job<'_>, run: &StagedRun) -> Result<Weights, ExploreError> {
    // The format does not matter: it is asked which weights a recipe for all linear layers is about.
    let scheme = Some(WeightFormat::f32().into());
    let rule = Rule { tensors: None, scheme, treatment: Treatment::default() };
    let recipe = Recipe { rules: vec![rule] };
    let request = SelectRequest { recipe, exclude: job.exclude.clone() };
    let mut linear: BTreeSet<String> = plans(job.source, &request)?.plans.into_keys().collect();
    let items = job.source.items()?;
    let items: BTreeMap<&str, &Item> =
        items.iter().map(|item| (item.name.as_str(), item)).collect();
    let mut found = Weights::default();
    for (stage, of) in Stage::all(job.blueprint).into_iter().enumerate() {
        for layer in run.inputs(of).iter().flat_map(|input| &input.linears) {
            let Matrix { tensor: name, transposed, .. } = &layer.matrix;
            let (true, Some(item)) = (linear.remove(name), items.get(name.as_str())) else {
                continue;
            };
            let (&[n, k], false) = (&item.shape[..], *transposed && is_plain(item)) else {
                found
                    .left_out
                    .push((name.clone(), "it is no matrix that is stored as [N, K]".into()));
                continue;
            };
            if job.candidates.iter().all(|candidate| candidate.misfit(n, k).is_some()) {
                found
                    .left_out
                    .push((name.clone(), "no candidate has a format for its shape".into()));
                continue;
            }
            found.weights.push(Weight { name: name.clone(), n, k, stage, bytes: item.bytes });
        }
    }
    let unseen = linear.into_iter().map(|name| (name, "no text runs through it".into()));
    found.left_out.extend(unseen);
    if found.weights.is_empty() { Err(ExploreError::NoWeights) } else { Ok(found) }
}

fn is_plain(item: &Item) -> bool {
    matches!(item.kind, ItemKind::Plain(_))
}

/// The folder in which compressed weights are kept.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub folder: &'a Path,
    pub weights: &'a [Weight],
}

impl Kept<'_> {
    fn file(&self, stage: usize, candidate: usize) -> PathBuf {
        self.folder.join(format!("stage-{stage:04}-candidate-{candidate:02}.safetensors"))
    }

    /// Returns the weights of a stage that a candidate has a format for.
    fn fitting(&self, job: &Job<'_>, stage: usize, candidate: usize) -> Vec<&Weight> {
        let Some(candidate) = job.candidates.get(candidate) else { return Vec::new() };
        if candidate.scheme().is_none() {
            return Vec::new();
        }
        let of = self.weights.iter().filter(|weight| weight.stage == stage);
        of.filter(|weight| candidate.misfit(weight.n, weight.k).is_none()).collect()
    }

    /// Makes what is not in the folder yet: the texts run through the model as it is, one stage after the other, and
    /// all candidates of a stage's weights are made with what is seen of their inputs.
    pub async fn make(
        &self,
        host: &Arc<Host>,
        job: &Job<'_>,
        steps: &mut Steps<'_>,
    ) -> Result<(), ExploreError> {
        let stages = Stage::all(job.blueprint);
        let numbers = 0..job.candidates.len();
        let missing: Vec<Vec<usize>> = (0..stages.len())
            .map(|stage| {
                let made = |candidate: usize| self.file(stage, candidate).is_file();
                let to_make = |candidate| !self.fitting(job, stage, candidate).is_empty();
                numbers.clone().filter(|&c| to_make(c) && !made(c)).collect()
            })
            .collect();
        let Some(last) = missing.iter().rposition(|missing| !missing.is_empty()) else {
            let all = self.weights.len() * job.made_candidates();
            steps.done(all);
            return Ok(());
        };
        let items = job.source.items()?;
        let items: BTreeMap<&str, &Item> =
            items.iter().map(|item| (item.name.as_str(), item)).collect();
        let mut run = StagedRun::new(host, job.blueprint, job.texts, job.rows)?;
        for (index, (&stage, missing)) in stages.iter().zip(&missing).enumerate() {
            let count = self.weights.iter().filter(|weight| weight.stage == index).count();
            steps.done(count * (job.made_candidates() - missing.len().min(job.made_candidates())));
            if index > last {
                continue;
            }
            if !missing.is_empty() {
                steps.say(Doing::Observing(stage));
                let inputs = run.inputs(stage);
                let seen = statistics::observe(&run, job.source, &inputs, false).await?;
                let seen: BTreeMap<&str, &statistics::InputStatistics> = inputs
                    .iter()
                    .zip(&seen)
                    .filter_map(|(input, seen)| Some((input, seen.as_ref()?)))
                    .flat_map(|(input, seen)| {
                        input.weights().into_iter().map(move |name| (name, seen))
                    })
                    .collect();
                let mut loaded: BTreeMap<&str, Loaded> = BTreeMap::new();
                for weight in self.weights.iter().filter(|weight| weight.stage == index) {
                    if let Some(item) = items.get(weight.name.as_str()) {
                        loaded.insert(&weight.name, load(job.source, item)?);
                    }
                }
                for &candidate in missing {
                    self.make_one(job, (index, candidate), &loaded, &seen, steps)?;
                    let fitting = self.fitting(job, index, candidate).len();
                    steps.done(count.saturating_sub(fitting));
                }
            }
            if index < last {
                steps.say(Doing::Advancing(stage));
                run.advance(job.source).await?;
            }
        }
        Ok(())
    }

    /// Makes one candidate of a stage's weights.
    fn make_one(
        &self,
        job: &Job<'_>,
        (stage, number): (usize, usize),
        loaded: &BTreeMap<&str, Loaded>,
        seen: &BTreeMap<&str, &statistics::InputStatistics>,
        steps: &mut Steps<'_>,
    ) -> Result<(), ExploreError> {
        let Some(candidate) = job.candidates.get(number) else { return Ok(()) };
        let Some(scheme) = candidate.scheme() else { return Ok(()) };
        let plan = Plan { scheme, treatment: candidate.treatment().clone() };
        let mut made: Vec<(&str, &[usize], PackedWeights)> = Vec::new();
        let mut reports: Vec<WeightReport> = Vec::new();
        for weight in self.fitting(job, stage, number) {
            let name = weight.name.as_str();
            let Some(values) = loaded.get(name) else { continue };
            steps.say(Doing::Making { weight: name, candidate: candidate.name() });
            let seen = seen.get(name).copied();
            let (packed, report) = make::weight(name, values, seen, &plan, None)?;
            made.push((name, &values.shape, packed));
            reports.push(report);
            steps.done(1);
        }
        let path = self.file(stage, number);
        let reports = serde_json::to_string(&reports).map_err(|error| {
            LayerwiseRunError::Folder { doing: "write", path: path.clone(), source: error.into() }
        })?;
        let contents: Vec<(&str, Content<'_>)> = made
            .iter()
            .map(|(name, shape, weights)| (*name, Content::Compressed { shape, weights }))
            .collect();
        Ok(write_model(path, &contents, &BTreeMap::from([(REPORTS.to_owned(), reports)]))?)
    }

    /// Returns what was made: for each weight the candidates. One that a weight cannot take is `None`.
    pub fn made(&self, job: &Job<'_>) -> Result<Vec<Vec<Option<Made>>>, ExploreError> {
        let mut found: BTreeMap<(String, usize), Made> = BTreeMap::new();
        let stages: BTreeSet<usize> = self.weights.iter().map(|weight| weight.stage).collect();
        for stage in stages {
            for candidate in 0..job.candidates.len() {
                if self.fitting(job, stage, candidate).is_empty() {
                    continue;
                }
                let path = self.file(stage, candidate);
                let file = ModelFile::open(&path)?;
                let reports = file.metadata().get(REPORTS).map(String::as_str).unwrap_or_default();
                let reports: Vec<WeightReport> =
                    serde_json::from_str(reports).map_err(|_| LayerwiseRunError::Other { path })?;
                for report in reports {
                    let error = report.output_error.unwrap_or(report.weight_error);
                    found.insert((report.name, candidate), Made { bytes: report.bytes, error });
                }
            }
        }
        let of = |weight: &Weight| {
            let candidates = job.candidates.iter().enumerate();
            candidates
                .map(|(index, candidate)| match candidate.scheme() {
                    None => Some(Made { bytes: weight.bytes, error: 0.0 }),
                    Some(_) => found.get(&(weight.name.clone(), index)).copied(),
                })
                .collect()
        };
        Ok(self.weights.iter().map(of).collect())
    }

    /// Puts a model together from what was made: `chosen` has the candidates of weights by their numbers. Others stay
    /// as they are.
    pub fn assemble<'m>(
        &self,
        job: &Job<'m>,
        chosen: &BTreeMap<usize, usize>,
    ) -> Result<Overlay<'m>, ExploreError> {
        let source: &'m dyn ModelSource = job.source;
        let mut overlay = Overlay::new(source);
        let mut files: BTreeMap<(usize, usize), ModelFile> = BTreeMap::new();
        for (&weight, &number) in chosen {
            let Some(weight) = self.weights.get(weight) else { continue };
            if job.candidates.get(number).is_none_or(|candidate| candidate.scheme().is_none()) {
                continue;
            }
            let file = match files.entry((weight.stage, number)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    entry.insert(ModelFile::open(self.file(weight.stage, number))?)
                }
            };
            let packed = read_compressed(file, &weight.name)?;
            overlay.put_packed(&weight.name, vec![weight.n, weight.k], packed, None)?;
        }
        Ok(overlay)
    }
}
