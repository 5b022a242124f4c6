//! Runs texts through a model stage by stage: the embedding, each layer, and the end. What a stage leaves is kept on
//! the host for the next one, so that one stage's weights are on the device at a time, and weights may change
//! between two stages.

use super::bind::gram_spec;
use super::graph::{Graph, Op, Rows, Tensor};
use super::layers::{Size, build_segment};
use super::observe::{Found, found};
use super::runner::Runner;
use super::segment::{Entry, Segment};
use super::texts::{describe, fitting};
use super::{LoadOptions, Model, RunError};
use crate::architecture::{Blueprint, Linear};
use crate::checkpoint::source::ModelSource;
use lowbit::format::CacheFormat;
use lowbit::host::{Host, ReadBack};
use lowbit::ops::{FloatType, GramSpec};
use lowbit::wgpu;
use std::ops::Range;
use std::sync::Arc;

/// A part of a model that runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From tokens to the first residual.
    Embedding,
    /// A layer, by its number.
    Layer(usize),
    /// The last normalization and the head.
    End,
}

impl Stage {
    /// Returns the inputs of its linear layers, in the order in which they run.
    pub fn inputs(self, blueprint: &Blueprint) -> Vec<Input> {
        let mut part = blueprint.clone();
        let layer = match self {
            Self::Layer(layer) => blueprint.layers.get(layer).cloned(),
            Self::Embedding | Self::End => None,
        };
        part.layers = layer.into_iter().collect();
        if self != Self::Embedding {
            part.embedding.projection = None;
        }
        if self != Self::End {
            part.head = None;
        }
        let linears = |group: Vec<&Linear>| Input { linears: group.into_iter().cloned().collect() };
        part.inputs().into_iter().map(linears).collect()
    }

    /// Returns all stages of a model, in the order in which they run.
    pub fn all(blueprint: &Blueprint) -> Vec<Self> {
        let layers = (0..blueprint.layers.len()).map(Self::Layer);
        std::iter::once(Self::Embedding).chain(layers).chain([Self::End]).collect()
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Layer(layer) => write!(f, "layer {layer}"),
            Self::End => f.write_str("head"),
        }
    }
}

/// The linear layers that take one input of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The layers.
    pub linears: Vec<Linear>,
}

impl Input {
    /// Returns the names of the weights, each once.
    pub fn weights(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for linear in &self.linears {
            let name = linear.matrix.tensor.as_str();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// The rows of an input in one step.
#[derive(Clone, Copy, Debug)]
pub struct InputRows<'a> {
    /// The number of the input in [`StagedRun::inputs`].
    pub index: usize,
    /// Its columns.
    pub columns: usize,
    /// X, `[rows, columns]`.
    pub x: &'a [f32],
}

/// XᵀX of an input over all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InputSums {
    /// The number of the input in [`StagedRun::inputs`].
    pub index: usize,
    /// Its columns.
    pub columns: usize,
    /// The rows of X.
    pub rows: u64,
    /// The upper triangle row by row, in units of 2^[`GRAM_UNIT`](lowbit::ops::GRAM_UNIT).
    pub sums: Vec<i128>,
}

/// Texts that share a step, and the residual that the last stage left of them.
#[derive(Debug)]
struct Batch {
    texts: Vec<Vec<u32>>,
    residual: Vec<u32>,
    /// The rows that are still to be added to it.
    pending: Option<Vec<u32>>,
}

impl Batch {
    fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }
}

/// Texts on their way through a model.
#[derive(Debug)]
pub struct StagedRun {
    host: Arc<Host>,
    blueprint: Blueprint,
    rows: usize,
    batches: Vec<Batch>,
    /// The stage whose input the batches hold.
    next: Stage,
}

impl StagedRun {
    /// Prepares to run texts through a model, each by itself. Texts share a step of up to `rows` tokens. Texts
    /// without tokens are left out.
    ///
    /// # Errors
    /// Returns [`RunError`] if there is no token, a text is longer than a step or than the model has positions, or
    /// a token is not in the vocabulary.
    pub fn new(
        host: &Arc<Host>,
        blueprint: &Blueprint,
        texts: &[Vec<u32>],
        rows: usize,
    ) -> Result<Self, RunError> {
        Self::in_steps(host, blueprint, texts, rows, false)
    }

    /// Does the same as [`new`](Self::new), with a step for each text, so that what is seen of a text does not depend on
    /// the texts beside it: sums over parts of a text then add up to the sums over the whole, to the last bit.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn one_by_one(
        host: &Arc<Host>,
        blueprint: &Blueprint,
        texts: &[Vec<u32>],
        rows: usize,
    ) -> Result<Self, RunError> {
        Self::in_steps(host, blueprint, texts, rows, true)
    }

    fn in_steps(
        host: &Arc<Host>,
        blueprint: &Blueprint,
        texts: &[Vec<u32>],
        rows: usize,
        apart: bool,
    ) -> Result<Self, RunError> {
        let vocab = blueprint.vocab;
        let slots = rows.min(blueprint.context);
        if u32::try_from(rows).map_or(true, |rows| !(1..1 << 20).contains(&rows)) {
            return Err(RunError::Options(format!("rows = {rows} is outside of 1…1048575")));
        }
        for text in texts {
            if let Some(&token) = text.iter().find(|&&token| token as usize >= vocab) {
                return Err(RunError::Token { token, vocab });
            }
            if text.len() > slots {
                return Err(RunError::Full { need: text.len(), slots });
            }
        }
        let texts: Vec<Vec<u32>> = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        if texts.is_empty() {
            return Err(RunError::Empty);
        }
        let mut batches = Vec::new();
        let mut rest = &texts[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(if apart { 1 } else { fitting(rest, rows) });
            batches.push(Batch { texts: now.to_vec(), residual: Vec::new(), pending: None });
            rest = later;
        }
        Ok(Self {
            host: host.clone(),
            blueprint: blueprint.clone(),
            rows,
            batches,
            next: Stage::Embedding,
        })
    }

    /// Returns the number of tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(Batch::tokens).sum()
    }

    /// Returns the number of steps that a stage takes.
    pub fn steps(&self) -> usize {
        self.batches.len()
    }

    /// Returns the stage that runs next.
    pub fn next(&self) -> Stage {
        self.next
    }

    /// Returns the inputs of the linear layers of a stage, in the order in which they run.
    pub fn inputs(&self, stage: Stage) -> Vec<Input> {
        stage.inputs(&self.blueprint)
    }

    /// Runs the next stage with the weights of `source`, and calls `each` with the input of each of its linear
    /// layers in every step. The texts stay where they are.
    ///
    /// # Errors
    /// Returns [`RunError`] if the weights cannot be loaded, the file says that an input becomes codes, or the device
    /// fails; also what `each` returns.
    pub async fn observe(
        &self,
        source: &dyn ModelSource,
        each: &mut dyn FnMut(InputRows<'_>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        self.watched(source, Watch::Rows, each).await.map(|_| ())
    }

    /// Runs the next stage with the weights of `source`, and sums XᵀX of the input of each of its linear layers on
    /// the device. The texts stay where they are.
    ///
    /// # Errors
    /// Returns [`RunError`] if the weights cannot be loaded, the file says that an input becomes codes, an input is not
    /// finite, or the device fails.
    pub async fn grams(&self, source: &dyn ModelSource) -> Result<Vec<InputSums>, RunError> {
        self.watched(source, Watch::Grams, &mut |_| Ok(())).await
    }

    /// Does what [`observe`](Self::observe) and [`grams`](Self::grams) do, in one run.
    ///
    /// # Errors
    /// Returns the errors of both.
    pub async fn observe_with_grams(
        &self,
        source: &dyn ModelSource,
        each: &mut dyn FnMut(InputRows<'_>) -> Result<(), RunError>,
    ) -> Result<Vec<InputSums>, RunError> {
        self.watched(source, Watch::Both, each).await
    }

    async fn watched(
        &self,
        source: &dyn ModelSource,
        watch: Watch,
        each: &mut dyn FnMut(InputRows<'_>) -> Result<(), RunError>,
    ) -> Result<Vec<InputSums>, RunError> {
        let prepared = self.prepare(source, watch).await?;
        let end = prepared.runner.body.len();
        for batch in &self.batches {
            prepared.start(self, batch)?;
            let mut done = 0;
            for &Found { at, index, input, .. } in &prepared.inputs {
                // Later steps may change the input in place.
                let words = prepared.run(done..at, batch.tokens(), Some(input)).await?;
                let x = bytemuck::cast_slice(&words);
                each(InputRows { index, columns: prepared.columns(input), x })?;
                done = at;
            }
            if watch.grams() {
                prepared.run(done..end, batch.tokens(), None).await?;
            }
        }
        let mut all = Vec::with_capacity(prepared.grams.len());
        for gram in &prepared.grams {
            let shape = &prepared.runner.built.body.shapes[gram.input.0];
            let spec = gram_spec(shape);
            let sums = prepared.run(0..0, 1, Some(gram.sums)).await?;
            let status = prepared.run(0..0, 1, Some(gram.status)).await?;
            let sums = spec.decode(&sums, &status).map_err(|source| {
                let inputs = self.inputs(self.next);
                let names = inputs.get(gram.index).map(Input::weights).unwrap_or_default();
                let weight = names.first().copied().unwrap_or_default().to_owned();
                RunError::Gram { weight, source }
            })?;
            let (columns, rows) = (shape.columns as usize, self.tokens() as u64);
            all.push(InputSums { index: gram.index, columns, rows, sums });
        }
        Ok(all)
    }

    /// Runs the next stage with the weights of `source`, and moves the texts on to the one after it. Nothing comes
    /// after the end.
    ///
    /// # Errors
    /// Returns [`RunError`] if the weights cannot be loaded, or the device fails. The texts are where they were then.
    pub async fn advance(&mut self, source: &dyn ModelSource) -> Result<(), RunError> {
        let prepared = self.prepare(source, Watch::Nothing).await?;
        let mut streams = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            prepared.start(self, batch)?;
            let (built, tokens) = (&prepared.runner.built, batch.tokens());
            let steps = 0..prepared.runner.body.len();
            let residual = prepared.run(steps, tokens, Some(built.last)).await?;
            let pending = match built.pending {
                Some(pending) => Some(prepared.run(0..0, tokens, Some(pending)).await?),
                None => None,
            };
            streams.push((residual, pending));
        }
        for (batch, (residual, pending)) in self.batches.iter_mut().zip(streams) {
            (batch.residual, batch.pending) = (residual, pending);
        }
        let layers = self.blueprint.layers.len();
        self.next = match self.next {
            Stage::Embedding if layers > 0 => Stage::Layer(0),
            Stage::Layer(layer) if layer + 1 < layers => Stage::Layer(layer + 1),
            _ => Stage::End,
        };
        Ok(())
    }

    /// Loads the weights of the next stage, and binds its graph.
    async fn prepare(&self, source: &dyn ModelSource, watch: Watch) -> Result<Prepared, RunError> {
        let pending = self.batches.iter().any(|batch| batch.pending.is_some());
        let (entry, layers, ends) = match self.next {
            Stage::Embedding => (Entry::Tokens, 0..0, false),
            Stage::Layer(layer) => (Entry::Stream { pending }, layer..layer + 1, false),
            Stage::End => (Entry::Stream { pending }, 0..0, true),
        };
        let segment = Segment { entry, layers, ends };
        let options = LoadOptions::default();
        let blueprint = self.blueprint.clone();
        let whole = (blueprint, &segment);
        let model = Model::of_segment(&self.host, source, whole, &options, &|_, _| ()).await?;
        let rows = self.rows as u32;
        let cache = CacheFormat::F32;
        let size = Size { rows, slots: rows, cache, logit_rows: 1, counted: false };
        let (blueprint, weights) = (&model.blueprint, &model.weights);
        let mut built = build_segment(blueprint, weights, &options, size, &segment)?;
        let (mut inputs, mut grams) = (Vec::new(), Vec::new());
        if watch != Watch::Nothing {
            let (found, mut head) = found(&mut built, weights)?;
            let graph = &mut built.body;
            for found in &found {
                let shape = &mut graph.shapes[found.input.0];
                if shape.stored != Rows::Float(FloatType::F32) || found.listed.is_some() {
                    let what = "observing the inputs of experts, or inputs that are codes,".into();
                    return Err(RunError::Unsupported { what, next: "" });
                }
                shape.kept |= watch.rows();
            }
            if watch.grams() {
                grams = summed(graph, &found)?;
            }
            if watch.rows() {
                inputs = found;
                // Before each input there are now the sums of those before it.
                let sums = if watch.grams() { 1 } else { 0 };
                for (number, found) in inputs.iter_mut().enumerate() {
                    found.at += number * sums;
                }
            }
            graph.ops.append(&mut head);
        }
        let widest = inputs.iter().map(|found| found.input).chain([built.last]);
        let widest = widest.map(|tensor| built.body.shapes[tensor.0].columns).max().unwrap_or(0);
        let sums = grams.iter().map(|gram| built.body.shapes[gram.sums.0].columns as usize).max();
        let words = self.rows.saturating_mul(widest as usize).max(sums.unwrap_or(0));
        let runner = Runner::new(&model, built, size).await?;
        let read_back = self.host.read_back_async(words).await?;
        Ok(Prepared { model, runner, inputs, grams, read_back })
    }
}

/// The things that may be wanted of the inputs of linear layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Nothing,
    /// Their rows.
    Rows,
    /// XᵀX.
    Grams,
    /// Their rows, and XᵀX.
    Both,
}

impl Watch {
    fn rows(self) -> bool {
        matches!(self, Self::Rows | Self::Both)
    }

    fn grams(self) -> bool {
        matches!(self, Self::Grams | Self::Both)
    }
}

/// Where the sums of an input are.
struct Sums {
    index: usize,
    input: Tensor,
    sums: Tensor,
    status: Tensor,
}

/// Adds sums of XᵀX to a graph: of each input before the first layer that takes it.
fn summed(graph: &mut Graph, found: &[Found]) -> Result<Vec<Sums>, RunError> {
    let mut grams = Vec::with_capacity(found.len());
    // From the last to the first, so that places stay what they are.
    for &Found { at, index, input, .. } in found.iter().rev() {
        let words = gram_spec(&graph.shapes[input.0]).sums_bytes() / 4;
        let columns = u32::try_from(words).map_err(|_| {
            let columns = graph.shapes[input.0].columns;
            RunError::Options(format!("XᵀX of {columns} columns does not fit into a buffer"))
        })?;
        let sums = graph.kept(1, columns, Rows::Words);
        let status = graph.kept(1, GramSpec::STATUS_BYTES as u32 / 4, Rows::Words);
        graph.ops.insert(at.min(graph.ops.len()), Op::Gram { input, sums, status });
        grams.push(Sums { index, input, sums, status });
    }
    grams.reverse();
    Ok(grams)
}

/// A stage that is loaded and bound.
struct Prepared {
    model: Model,
    runner: Runner,
    /// The inputs of linear layers, in the order of the steps.
    inputs: Vec<Found>,
    grams: Vec<Sums>,
    read_back: ReadBack,
}

impl Prepared {
    /// Writes what a step starts from.
    fn start(&self, run: &StagedRun, batch: &Batch) -> Result<(), RunError> {
        let (model, built) = (&self.model, &self.runner.built);
        match built.entry {
            None => self.runner.write(model, built.ids, &batch.texts.concat())?,
            Some(entry) => {
                self.runner.write(model, entry.residual, &batch.residual)?;
                if let (Some(tensor), Some(words)) = (entry.pending, &batch.pending) {
                    self.runner.write(model, tensor, words)?;
                }
            }
        }
        for &(window, tensor) in &built.rows {
            let lengths = batch.texts.iter().map(Vec::len);
            let words = describe(&model.blueprint, lengths, window, run.rows);
            self.runner.write(model, tensor, &words)?;
        }
        Ok(())
    }

    /// Runs steps of the stage, and then reads rows of a tensor of 32-bit elements, if there is one.
    async fn run(
        &self,
        steps: Range<usize>,
        rows: usize,
        tensor: Option<Tensor>,
    ) -> Result<Vec<u32>, RunError> {
        let host = &self.model.host;
        let steps = self.runner.body.get(steps).unwrap_or_default();
        let mut recorded = Ok(());
        let record = |encoder: &mut wgpu::CommandEncoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            recorded = steps.iter().try_for_each(|step| step.record(&mut pass, rows as u32));
        };
        let from = self.runner.buffer(tensor.unwrap_or(self.runner.built.last))?;
        let words = tensor.map_or(0, |tensor| rows * self.columns(tensor));
        let words = host.submit_and_read_async(record, from, words, &self.read_back).await?;
        recorded?;
        Ok(words)
    }

    fn columns(&self, tensor: Tensor) -> usize {
        self.runner.built.body.shapes[tensor.0].columns as usize
    }
}
