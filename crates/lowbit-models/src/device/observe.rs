//! Observes what the linear layers of a model take, while texts run through it.

use super::bind::observe_spec;
use super::graph::{MatrixId, Mixture, Op, Rows, Tensor};
use super::layers::{Built, Size, build};
use super::runner::Runner;
use super::statistics::{ModelStatistics, Observed};
use super::texts::describe;
use super::weights::{FeedWeights, Part, Weights};
use super::{Model, RunError};
use lowbit::compress::calibrate::{Axis, NotFinite, Observer};
use lowbit::format::CacheFormat;
use lowbit::host::{HostError, ReadBack};
use lowbit::ops::ObservePlan;
use lowbit::wgpu;
use std::collections::HashMap;

/// The reason why a text cannot be observed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The text cannot run through the model.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The input of a layer contains NaN or infinities.
    #[error(
        "the input of `{layer}` is not finite: {} NaN and {} infinities, the first at token {}, channel {}",
        at.nan, at.infinite, at.row, at.column
    )]
    NotFinite {
        /// The layer.
        layer: String,
        /// Where and how many. For the last layers of a mixture of experts, rows are those of its list.
        at: NotFinite,
    },
}

/// A model whose steps observe the inputs of all linear layers: the kernels of the observation are part of the
/// graph, and read each input where it lies.
#[derive(Debug)]
pub struct ModelObserver<'m> {
    model: &'m Model,
    rows: u32,
    runner: Runner,
    points: Vec<Point>,
    words: Tensor,
    read_back: ReadBack,
}

/// The observation of one input, or of its channels.
#[derive(Debug)]
struct Point {
    /// The number of the input.
    input: usize,
    axis: Axis,
    plan: ObservePlan,
    /// The mixture whose list the rows are those of.
    listed: Option<Mixture>,
    /// Its words in what is read back.
    start: usize,
}

impl Model {
    /// Makes an observer of texts of up to `rows` tokens, for [`ModelStatistics`] with or without channels:
    /// allocates its buffers, compiles every kernel and binds all ops. The model has to be loaded with float
    /// activations.
    ///
    /// # Errors
    /// Returns [`RunError`] if the inputs of linear layers are codes, `rows` is out of range, or the device
    /// fails.
    pub async fn observer(
        &self,
        rows: usize,
        channels: bool,
    ) -> Result<ModelObserver<'_>, RunError> {
        let rows = match u32::try_from(rows) {
            Ok(rows) if (1..1 << 20).contains(&rows) => rows,
            _ => return Err(RunError::Options(format!("rows = {rows} is outside of 1…1048575"))),
        };
        let cache = CacheFormat::F32;
        let size = Size { rows, slots: rows, cache, logit_rows: 1, counted: false };
        let mut built = build(&self.blueprint, &self.weights, &self.options, size)?;
        let (planned, words) = watch(&mut built, &self.weights, channels)?;
        let mut points = Vec::with_capacity(planned.len());
        for Planned { input, tensor, axis, bins, listed, start } in planned {
            let spec = observe_spec(&built.body.shapes[tensor.0], axis, bins);
            let plan = ObservePlan::new(self.host.kernels(), &spec).await;
            let plan = plan.map_err(|source| RunError::Plan {
                step: format!("observation {input}"),
                source,
            })?;
            points.push(Point { input, axis, plan, listed, start });
        }
        let runner = Runner::new(self, built, size).await?;
        let count = runner.built.body.shapes[words.0].columns as usize;
        let read_back = self.host.read_back_async(count).await?;
        Ok(ModelObserver { model: self, rows, runner, points, words, read_back })
    }
}

impl ModelObserver<'_> {
    /// Returns the largest number of tokens of a text: what there is room for, or the positions that the model
    /// has.
    pub fn longest(&self) -> usize {
        (self.rows as usize).min(self.model.blueprint.context)
    }

    /// Runs a text through the model, and adds what its linear layers take to the statistics: one batch of each
    /// input. A text without tokens is no batch.
    ///
    /// # Errors
    /// Returns [`ObserveError`] if the text has too many tokens or one that is not in the vocabulary, the
    /// statistics are of another model, an input is not finite, or the device fails. Some of the inputs may have
    /// been added then.
    pub async fn observe(
        &mut self,
        statistics: &mut ModelStatistics,
        tokens: &[u32],
    ) -> Result<(), ObserveError> {
        let vocab = self.model.blueprint.vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(RunError::Token { token, vocab }.into());
        }
        let slots = self.longest();
        if tokens.len() > slots {
            return Err(RunError::Full { need: tokens.len(), slots }.into());
        }
        if tokens.is_empty() {
            return Ok(());
        }
        let words = self.step(tokens).await?;
        let rows = tokens.len() as u32;
        for Point { input, axis, plan, listed, start, .. } in &self.points {
            let other = || RunError::Options("the statistics are of another model".into());
            let observed = statistics.0.get_mut(*input).ok_or_else(other)?;
            let Observed { tensor, channels, .. } = observed;
            let (into, layer) = match (axis, channels) {
                (Axis::Tensor, _) => (&mut *tensor, None),
                (_, Some(channels)) => (channels, Some(tensor.layer().to_owned())),
                (_, None) => return Err(other().into()),
            };
            let observer = into.observer();
            let spec = plan.spec();
            if (observer.columns(), observer.bins()) != (spec.k as usize, spec.bins as usize) {
                return Err(other().into());
            }
            let rows = listed.map_or(rows, |experts| rows.saturating_mul(experts.used));
            let end = start + spec.words() as usize;
            let words = words.get(*start..end).unwrap_or_default();
            let batch = plan.batch(rows, words).map_err(HostError::from).map_err(RunError::from)?;
            into.fold(&batch).map_err(RunError::from)?;
            if let Some(at) = into.not_finite() {
                let layer = layer.unwrap_or_else(|| into.layer().to_owned());
                return Err(ObserveError::NotFinite { layer, at });
            }
        }
        Ok(())
    }

    /// Submits a step, and returns the words of all observations.
    async fn step(&self, tokens: &[u32]) -> Result<Vec<u32>, RunError> {
        let (model, built) = (self.model, &self.runner.built);
        self.runner.write(model, built.ids, tokens)?;
        let count = tokens.len() as u32;
        for &(window, tensor) in &built.rows {
            let words = describe(&model.blueprint, [tokens.len()], window, self.rows as usize);
            self.runner.write(model, tensor, &words)?;
        }
        let mut recorded = Ok(());
        let record = |encoder: &mut wgpu::CommandEncoder| {
            recorded = self.runner.record(encoder, count);
        };
        let from = self.runner.buffer(self.words)?;
        let read = self.read_back.words();
        let words = model.host.submit_and_read_async(record, from, read, &self.read_back).await?;
        recorded?;
        Ok(words)
    }
}

/// A point before its kernels are planned.
struct Planned {
    input: usize,
    tensor: Tensor,
    axis: Axis,
    bins: u32,
    listed: Option<Mixture>,
    start: usize,
}

/// An input of linear layers in a graph.
pub(super) struct Found {
    /// The first op that takes it.
    pub at: usize,
    /// Its number among all inputs.
    pub index: usize,
    pub input: Tensor,
    /// The experts and the list of rows, if rows are taken by the list.
    pub listed: Option<(Mixture, Tensor)>,
}

/// Adds observations to a graph: of each input before the first layer that takes it. Returns them with the
/// tensor of their words.
fn watch(
    built: &mut Built,
    weights: &Weights,
    channels: bool,
) -> Result<(Vec<Planned>, Tensor), RunError> {
    let (found, mut head) = found(built, weights)?;
    let graph = &mut built.body;
    let output = graph.kept(1, 0, Rows::Words);
    let (mut words, mut points) = (0, Vec::new());
    let mut before: HashMap<usize, Vec<Op>> = HashMap::new();
    let axes = [Axis::Tensor, Axis::Channel];
    for Found { at, index, input, listed } in found {
        let shape = &graph.shapes[input.0];
        if !matches!(shape.stored, Rows::Float(_)) {
            let message = "layers are observed with float activations, as f32".to_owned();
            return Err(RunError::Options(message));
        }
        for &axis in &axes[..1 + usize::from(channels)] {
            let observer = match axis {
                Axis::Tensor => Observer::tensor("", 1),
                _ => Observer::channels("", 1).with_bins(0),
            };
            let bins = observer.bins() as u32;
            before.entry(at).or_default().push(Op::Observe {
                input,
                listed,
                axis,
                bins,
                output: (output, 4 * words),
            });
            let listed = listed.map(|(experts, _)| experts);
            let start = words as usize;
            points.push(Planned { input: index, tensor: input, axis, bins, listed, start });
            words += observe_spec(shape, axis, bins).words();
        }
    }
    let count = u32::try_from(words).map_err(|_| {
        RunError::Options(format!(
            "{words} words of observations are more than a step has room for"
        ))
    })?;
    graph.shapes[output.0].columns = count;
    let ops = std::mem::take(&mut graph.ops);
    for (at, op) in ops.into_iter().enumerate() {
        graph.ops.extend(before.remove(&at).unwrap_or_default());
        graph.ops.push(op);
    }
    graph.ops.extend(before.into_values().flatten());
    graph.ops.append(&mut head);
    Ok((points, output))
}

/// Finds the input of every linear layer of a graph, from which it takes the ops of the head apart. Rows of lists of
/// experts are not filled up from then on.
pub(super) fn found(
    built: &mut Built,
    weights: &Weights,
) -> Result<(Vec<Found>, Vec<Op>), RunError> {
    let inputs = inputs(weights);
    let mut unseen: HashMap<MatrixId, usize> = HashMap::new();
    for (input, matrices) in inputs.iter().enumerate() {
        unseen.extend(matrices.iter().map(|matrix| (*matrix, input)));
    }
    let graph = &mut built.body;
    let head = graph.ops.split_off(graph.ops.len().saturating_sub(built.head_ops));
    let mut found: Vec<Found> = Vec::new();
    for (at, op) in graph.ops.iter_mut().enumerate() {
        let (matrix, input, listed) = match op {
            Op::Matmul { weights, input, .. } => (*weights, *input, None),
            Op::ExpertMatmul { weights, experts, list, input, listed, .. } => {
                // Rows that fill up the list would be observed too.
                experts.unit = 1;
                (*weights, *input, listed.then_some((*experts, *list)))
            }
            Op::Route { experts, .. } | Op::Combine { experts, .. } => {
                experts.unit = 1;
                continue;
            }
            _ => continue,
        };
        let Some(&index) = unseen.get(&matrix) else { continue };
        unseen.retain(|_, input| *input != index);
        found.push(Found { at, index, input, listed });
    }
    if weights.head.is_some() {
        // The head takes copies of rows; what they are copies of is observed.
        let (at, index) = (graph.ops.len(), inputs.len() - 1);
        found.push(Found { at, index, input: built.last, listed: None });
    }
    if found.len() != inputs.len() {
        let what = "an input of linear layers that no op of the graph takes".into();
        return Err(RunError::Unsupported { what, next: "" });
    }
    Ok((found, head))
}

/// Returns the matrices that take each input, in the order of
/// [`Blueprint::inputs`](crate::architecture::Blueprint::inputs).
fn inputs(weights: &Weights) -> Vec<Vec<MatrixId>> {
    let one = |part: &Part| vec![part.matrix];
    let mut inputs: Vec<Vec<MatrixId>> = Vec::new();
    inputs.extend(weights.projection.as_ref().map(one));
    for layer in &weights.layers {
        inputs.push(layer.qkv.iter().map(|part| part.matrix).collect());
        inputs.push(one(&layer.output));
        inputs.extend(match &layer.feed {
            FeedWeights::Plain { up, down, .. } => [one(up), one(down)],
            FeedWeights::Fused { both, down, .. } => [one(both), one(down)],
            FeedWeights::Apart { gate, up, down, .. } => [vec![gate.matrix, up.matrix], one(down)],
            FeedWeights::Experts { router, both, down, .. } => {
                [vec![router.matrix, *both], vec![*down]]
            }
        });
    }
    inputs.extend(weights.head.as_ref().map(one));
    inputs
}
