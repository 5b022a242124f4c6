//! The weights of a model that are compressed, and what each candidate makes of them: made once, and kept in a folder.

use super::{Candidate, Doing, ExploreError, Job, Steps};
use crate::architecture::{Matrix, Norm};
use crate::checkpoint::source::{Item, ItemKind, ModelSource, Overlay};
use crate::checkpoint::{Content, Dtype, ModelFile, read_compressed, write_model};
use crate::compress::{Recipe, Rule, SelectRequest};
use crate::device::{Stage, StagedRun};
use crate::layerwise::{
    LayerwiseRunError, Loaded, Plan, Treatment, WeightReport, dynamic, floats, fold, load, make,
    plans, statistics,
};
use lowbit::compress::dequantize;
use lowbit::compress::layerwise::LayerwiseError;
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
    /// The number of the input that it takes in [`Weights::inputs`]. Those of an input follow each other.
    pub input: usize,
    /// The bytes that it has as it is.
    pub bytes: usize,
}

/// An input of weights.
#[derive(Debug)]
pub(super) struct InputOf {
    /// Whether all layers that take it are explored, each once: only then it may become codes, or be divided by factors.
    pub whole: bool,
    /// The normalization that makes it, if factors can be folded into that.
    pub norm: Option<Norm>,
}

/// The weights of a model.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Those that are explored, in the order in which they run.
    pub weights: Vec<Weight>,
    /// What they take.
    pub inputs: Vec<InputOf>,
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
    // How many inputs each weight takes.
    let mut takers: BTreeMap<&str, usize> = BTreeMap::new();
    for input in job.blueprint.inputs() {
        let names: BTreeSet<&str> =
            input.iter().map(|linear| linear.matrix.tensor.as_str()).collect();
        names.into_iter().for_each(|name| *takers.entry(name).or_default() += 1);
    }
    let mut found = Weights::default();
    for (stage, of) in Stage::all(job.blueprint).into_iter().enumerate() {
        for taken in run.inputs(of) {
            let (input, before) = (found.inputs.len(), found.weights.len());
            for layer in &taken.linears {
                let Matrix { tensor: name, transposed, .. } = &layer.matrix;
                let (true, Some(item)) = (linear.remove(name), items.get(name.as_str())) else {
                    continue;
                };
                let (&[n, k], false) = (&item.shape[..], *transposed && is_plain(item)) else {
                    let why = "it is no matrix that is stored as [N, K]".into();
                    found.left_out.push((name.clone(), why));
                    continue;
                };
                if job.candidates.iter().all(|candidate| candidate.misfit(n, k).is_some()) {
                    let why = "no candidate has a format for its shape".into();
                    found.left_out.push((name.clone(), why));
                    continue;
                }
                let (name, bytes) = (name.clone(), item.bytes);
                found.weights.push(Weight { name, n, k, stage, input, bytes });
            }
            if found.weights.len() > before {
                let names = taken.weights();
                let once = names.iter().all(|name| takers.get(*name) == Some(&1));
                let whole = once && found.weights.len() - before == names.len();
                let norm = fold::norm(job.blueprint, of, &taken).filter(|_| whole).cloned();
                found.inputs.push(InputOf { whole, norm });
            }
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
    pub inputs: &'a [InputOf],
    /// The factors of AWQ by the numbers of an input and of the candidate that the weights are made for, once everything is
    /// made. Weights that have them are those of columns that were multiplied.
    pub factors: BTreeMap<(usize, usize), Vec<f32>>,
}

/// The name under which a file has the factors of an input.
fn factors_name(input: usize) -> String {
    format!("lowbit.explore.factors.{input}")
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
        of.filter(|weight| candidate.no_format(weight.n, weight.k).is_none()).collect()
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
                let first = |&candidate: &usize| job.made_as(candidate) == candidate;
                numbers.clone().filter(first).filter(|&c| to_make(c) && !made(c)).collect()
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
                let of_stage = |weight: &&Weight| weight.stage == index;
                let norms = self.weights.iter().filter(of_stage);
                let norms = norms.filter_map(|weight| self.inputs.get(weight.input)?.norm.as_ref());
                let folds = norms.count() > 0 && missing.iter().any(|&number| job.is_awq(number));
                let seen = statistics::observe(&run, job.source, &inputs, folds).await?;
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
        let fitting = self.fitting(job, stage, number);
        let factors = self.found_factors(job, number, &fitting, loaded, seen)?;
        // The inputs of weights with factors, divided by them.
        let mut divided: BTreeMap<usize, statistics::InputStatistics> = BTreeMap::new();
        let mut made: Vec<(&str, &[usize], PackedWeights)> = Vec::new();
        let mut reports: Vec<WeightReport> = Vec::new();
        for weight in fitting {
            let name = weight.name.as_str();
            let Some(values) = loaded.get(name) else { continue };
            steps.say(Doing::Making { weight: name, candidate: candidate.name() });
            let seen = seen.get(name).copied();
            let (packed, report) = match (factors.get(&weight.input), seen) {
                (Some(factors), Some(seen)) => {
                    let seen = match divided.entry(weight.input) {
                        Entry::Occupied(entry) => entry.into_mut(),
                        Entry::Vacant(entry) => {
                            let mut seen = seen.clone();
                            seen.divide(factors).map_err(|source| failed(name, source))?;
                            entry.insert(seen)
                        }
                    };
                    let mut scaled = values.clone();
                    fold::scale(&mut scaled, factors);
                    make::weight(name, &scaled, Some(seen), &plan, None)?
                }
                _ => make::weight(name, values, seen, &plan, None)?,
            };
            made.push((name, &values.shape, packed));
            reports.push(report);
            steps.done(1);
        }
        let path = self.file(stage, number);
        let reports = serde_json::to_string(&reports).map_err(|error| {
            LayerwiseRunError::Folder { doing: "write", path: path.clone(), source: error.into() }
        })?;
        let floats: Vec<(String, [usize; 1], Vec<u8>)> = factors
            .iter()
            .map(|(&input, factors)| {
                let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
                (factors_name(input), [factors.len()], bytes)
            })
            .collect();
        let mut contents: Vec<(&str, Content<'_>)> = made
            .iter()
            .map(|(name, shape, weights)| (*name, Content::Compressed { shape, weights }))
            .collect();
        contents.extend(floats.iter().map(|(name, shape, bytes)| {
            (name.as_str(), Content::Plain { dtype: Dtype::F32, shape, bytes })
        }));
        Ok(write_model(path, &contents, &BTreeMap::from([(REPORTS.to_owned(), reports)]))?)
    }

    /// Finds the factors of AWQ of the inputs that a normalization makes and whose weights all have the candidate's format.
    /// Inputs for which factors of 1 are best have none.
    fn found_factors(
        &self,
        job: &Job<'_>,
        number: usize,
        fitting: &[&Weight],
        loaded: &BTreeMap<&str, Loaded>,
        seen: &BTreeMap<&str, &statistics::InputStatistics>,
    ) -> Result<BTreeMap<usize, Vec<f32>>, ExploreError> {
        let mut found = BTreeMap::new();
        let scheme = job.candidates.get(number).and_then(Candidate::scheme);
        let Some(scheme) = scheme.filter(|_| job.is_awq(number)) else { return Ok(found) };
        for weights in fitting.chunk_by(|a, b| a.input == b.input) {
            let Some(first) = weights.first() else { continue };
            let all = self.weights.iter().filter(|weight| weight.input == first.input).count();
            let of = self.inputs.get(first.input).filter(|input| input.norm.is_some());
            let (Some(_), true) = (of, weights.len() == all) else { continue };
            let values: Vec<&Loaded> =
                weights.iter().filter_map(|weight| loaded.get(weight.name.as_str())).collect();
            let Some(seen) = seen.get(first.name.as_str()) else { continue };
            let factors = fold::factors(&values, seen, &scheme)
                .map_err(|source| failed(&first.name, source))?;
            if factors.iter().any(|&factor| factor != 1.0) {
                found.insert(first.input, factors);
            }
        }
        Ok(found)
    }

    /// Returns what was made: for each weight the candidates. One that a weight cannot take is `None`, and so are those
    /// that go with none of another weight with the same input. Keeps the factors of AWQ.
    pub fn made(&mut self, job: &Job<'_>) -> Result<Vec<Vec<Option<Made>>>, ExploreError> {
        let mut found: BTreeMap<(String, usize), Made> = BTreeMap::new();
        let stages: BTreeSet<usize> = self.weights.iter().map(|weight| weight.stage).collect();
        for stage in stages {
            for candidate in (0..job.candidates.len()).filter(|&c| job.made_as(c) == c) {
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
                for weight in self.weights.iter().filter(|weight| weight.stage == stage) {
                    if let Some(tensor) = file.tensor(&factors_name(weight.input)) {
                        self.factors.insert((weight.input, candidate), tensor.to_f32()?);
                    }
                }
            }
        }
        let items = job.source.items()?;
        let of = |weight: &Weight| {
            let candidates = job.candidates.iter().enumerate();
            let mut made: Vec<Option<Made>> = candidates
                .map(|(index, candidate)| match candidate.scheme() {
                    None => Some(Made { bytes: weight.bytes, error: 0.0 }),
                    Some(_) => found.get(&(weight.name.clone(), job.made_as(index))).copied(),
                })
                .collect();
            // A normalization with factors is f32, which is counted with the first weight that takes what it makes.
            for (index, made) in made.iter_mut().enumerate() {
                let factors = self.factors.contains_key(&(weight.input, job.made_as(index)));
                let mut weights = self.weights.iter();
                let first = weights.find(|other| other.input == weight.input);
                let first = first.is_some_and(|first| first.name == weight.name);
                let norm = self.inputs.get(weight.input).and_then(|input| input.norm.as_ref());
                if let (Some(made), Some(norm), true) = (made, norm, factors && first) {
                    for (vector, _) in fold::divided(norm) {
                        if let Some(item) = items.iter().find(|item| item.name == vector.tensor) {
                            made.bytes += (4 * item.elements()).saturating_sub(item.bytes);
                        }
                    }
                }
            }
            made
        };
        let mut made: Vec<Vec<Option<Made>>> = self.weights.iter().map(of).collect();
        possible(job, self.weights, self.inputs, &mut made);
        Ok(made)
    }

    /// Returns the candidate of all weights of an input if they go with each other.
    fn agree(&self, job: &Job<'_>, input: usize, chosen: &BTreeMap<usize, usize>) -> bool {
        let these = self.weights.iter().enumerate().filter(|(_, weight)| weight.input == input);
        let mut these = these.map(|(index, _)| job.candidates.get(*chosen.get(&index)?));
        let Some(Some(first)) = these.next() else { return false };
        these.all(|other| other.is_some_and(|other| other.goes_with(first)))
    }

    /// Puts a model together from what was made: `chosen` has the candidates of weights by their numbers. Others stay
    /// as they are. Inputs become codes where `codes` says it and the candidates of all weights that take them do. The
    /// factors of AWQ are folded where all weights of the input have them; a weight that has them alone is put as the
    /// floats that it stands for.
    pub fn assemble<'m>(
        &self,
        job: &Job<'m>,
        chosen: &BTreeMap<usize, usize>,
        codes: bool,
    ) -> Result<Overlay<'m>, ExploreError> {
        let source: &'m dyn ModelSource = job.source;
        let mut overlay = Overlay::new(source);
        let mut files: BTreeMap<(usize, usize), ModelFile> = BTreeMap::new();
        let mut folded: BTreeMap<usize, &[f32]> = BTreeMap::new();
        for (&index, &number) in chosen {
            let (Some(weight), Some(candidate)) =
                (self.weights.get(index), job.candidates.get(number))
            else {
                continue;
            };
            if candidate.scheme().is_none() {
                continue;
            }
            let made_as = job.made_as(number);
            let file = match files.entry((weight.stage, made_as)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    entry.insert(ModelFile::open(self.file(weight.stage, made_as))?)
                }
            };
            let packed = read_compressed(file, &weight.name)?;
            let agree = self.agree(job, weight.input, chosen);
            let shape = vec![weight.n, weight.k];
            match self.factors.get(&(weight.input, made_as)) {
                Some(factors) if !agree => {
                    let mut values = dequantize(&packed);
                    values.iter_mut().zip(factors.iter().cycle()).for_each(|(w, s)| *w /= s);
                    overlay.put_floats(&weight.name, shape, &values)?;
                    continue;
                }
                Some(factors) => {
                    folded.insert(weight.input, factors);
                }
                None => {}
            }
            let activations = candidate.activations().filter(|_| codes && agree);
            overlay.put_packed(&weight.name, shape, packed, activations.map(dynamic))?;
        }
        let items = if folded.is_empty() { Vec::new() } else { source.items()? };
        for (input, factors) in folded {
            let norm = self.inputs.get(input).and_then(|input| input.norm.as_ref());
            for (vector, with) in norm.map(fold::divided).unwrap_or_default() {
                let Some(item) = items.iter().find(|item| item.name == vector.tensor) else {
                    continue;
                };
                let mut values = floats(source, item)?;
                values.iter_mut().zip(factors).for_each(|(value, s)| *value = with(*value, *s));
                overlay.put_floats(&item.name, item.shape.clone(), &values)?;
            }
        }
        Ok(overlay)
    }
}

fn failed(name: &str, source: LayerwiseError) -> LayerwiseRunError {
    LayerwiseRunError::Weight { name: name.to_owned(), source }
}

/// Takes out what no weight can be: candidates with codes where not all that takes the input is explored or can be
/// multiplied with them, and those that go with no candidate of another weight with the same input.
pub(super) fn possible(
    job: &Job<'_>,
    weights: &[Weight],
    inputs: &[InputOf],
    made: &mut [Vec<Option<Made>>],
) {
    for (weight, made) in weights.iter().zip(&mut *made) {
        let whole = inputs.get(weight.input).is_some_and(|input| input.whole);
        for (candidate, made) in job.candidates.iter().zip(made) {
            let codes = candidate.activations().is_some() && !whole;
            if codes || candidate.misfit(weight.n, weight.k).is_some() {
                *made = None;
            }
        }
    }
    let mut rest = made;
    for group in weights.chunk_by(|a, b| a.input == b.input) {
        let (these, later) = rest.split_at_mut(group.len().min(rest.len()));
        rest = later;
        for (index, candidate) in job.candidates.iter().enumerate() {
            let some = |made: &Vec<Option<Made>>| {
                let mut there = made.iter().zip(&job.candidates);
                there.any(|(made, other)| made.is_some() && other.goes_with(candidate))
            };
            if !these.iter().all(some) {
                these.iter_mut().filter_map(|made| made.get_mut(index)).for_each(|made| {
                    *made = None;
                });
            }
        }
    }
}
