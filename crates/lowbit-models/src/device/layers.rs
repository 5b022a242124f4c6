//! Makes the graph of a model from its blueprint.
//!
//! The residual stays in one tensor, to which the last linear layer of each block adds its result in
//! place. Where that result is normalized first, the next normalization adds it to the residual instead.
//!
//! Models that scale their embedding normalize the result of every block before it is added. Their residual
//! is kept divided by that scale s: the weights of those normalizations are divided by s, and the ε of
//! normalizations of the residual by s², which changes nothing else.

use super::bind::{attention_spec, route_spec};
use super::graph::{Cache, Graph, Heads, MatrixId, Mixture, Op, Rotation, Rows, Tensor};
use super::inputs::{self, Codes};
use super::segment::{Entry, Segment};
use super::weights::{FeedWeights, LayerWeights, NormVectors, Part, Weights};
use super::{LoadOptions, RunError};
use crate::architecture::{
    Attention, Blueprint, Feed, Layer, Norm, NormKind, Norms, Pairs, Rotary,
};
use lowbit::format::{ActivationFunction, CacheFormat};
use lowbit::ops::{Activations, Epilogue, FloatType, HeadNorm, RotaryPairs, SampleSettings};

/// What a graph is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// The largest number of rows of a step.
    pub rows: u32,
    /// Tokens that the caches have room for.
    pub slots: u32,
    /// How keys and values are stored.
    pub cache: CacheFormat,
    /// The largest number of rows whose logits are computed at once.
    pub logit_rows: u32,
    /// Whether the rows of a step are described on the device, as those of one text in order.
    pub counted: bool,
}

/// The graph of a model, and the tensors that are used outside of it.
#[derive(Debug)]
pub(super) struct Built {
    /// The ops from tokens to the last residual.
    pub body: Graph,
    /// How many of the last ops of `body` make the logits of rows that are copied in between, and choose a
    /// token: codes of its input if they are made there, the head, the largest logit, a logit at random.
    pub head_ops: usize,
    /// The settings by which tokens are drawn.
    pub settings: Option<Tensor>,
    /// The tokens of a step.
    pub ids: Tensor,
    /// The number of tokens before the step.
    pub state: Tensor,
    /// The descriptions of the rows, one for each window that occurs.
    pub rows: Vec<(Option<u32>, Tensor)>,
    /// The last residual, normalized if the graph ends the model.
    pub last: Tensor,
    /// What the graph of a segment starts from, unless it starts from tokens.
    pub entry: Option<Stream>,
    /// The tensor that is still to be added to `last`, if the graph does not end the model.
    pub pending: Option<Tensor>,
    /// What the head reads.
    pub head_input: Option<Tensor>,
    /// The logits.
    pub logits: Option<Tensor>,
    /// The caches of the layers.
    pub caches: Vec<Cache>,
}

/// Makes the graph.
///
/// # Errors
/// Returns [`RunError::Unsupported`] if the blueprint asks for what is not built.
pub(super) fn build(
    blueprint: &Blueprint,
    weights: &Weights,
    options: &LoadOptions,
    size: Size,
) -> Result<Built, RunError> {
    build_segment(blueprint, weights, options, size, &Segment::whole(blueprint))
}

/// Makes the graph of a segment, whose weights these are.
///
/// # Errors
/// Returns [`RunError::Unsupported`] if the blueprint asks for what is not built.
pub(super) fn build_segment(
    blueprint: &Blueprint,
    weights: &Weights,
    options: &LoadOptions,
    size: Size,
    segment: &Segment,
) -> Result<Built, RunError> {
    let mut builder = Builder::new(blueprint, weights, options, size)?;
    let mut stream = match segment.entry {
        Entry::Tokens => builder.embedding()?,
        Entry::Stream { pending } => builder.entry(pending),
    };
    let entry = stream;
    for (layer, weights) in segment.layers_of(blueprint).iter().zip(&weights.layers) {
        stream = builder.layer(layer, weights, stream)?;
    }
    let mut built = builder.finish(stream, segment.ends)?;
    built.entry = (segment.entry != Entry::Tokens).then_some(entry);
    Ok(built)
}

/// The residual, and what is still to be added to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub residual: Tensor,
    pub pending: Option<Tensor>,
}

struct Builder<'a> {
    blueprint: &'a Blueprint,
    weights: &'a Weights,
    activations: Activations,
    /// The type of what is between linear layers.
    float: FloatType,
    /// The type of the residual.
    wide: FloatType,
    size: Size,
    graph: Graph,
    ids: Tensor,
    state: Tensor,
    rows: Vec<(Option<u32>, Tensor)>,
    caches: Vec<Cache>,
}

impl<'a> Builder<'a> {
    fn new(
        blueprint: &'a Blueprint,
        weights: &'a Weights,
        options: &LoadOptions,
        size: Size,
    ) -> Result<Self, RunError> {
        let mut graph = Graph::default();
        let ids = graph.kept(size.rows, 1, Rows::Words);
        let state = graph.kept(1, 1, Rows::Words);
        let mut windows: Vec<Option<u32>> = Vec::new();
        for layer in &blueprint.layers {
            let window = layer.attention.window.map(|window| window as u32);
            if !windows.contains(&window) {
                windows.push(window);
            }
        }
        let base = blueprint.embedding.positions.as_ref().map_or(0, |(_, first)| *first as u32);
        let mut rows = Vec::new();
        for (index, &window) in windows.iter().enumerate() {
            let tensor = graph.kept(size.rows, 5, Rows::Words);
            rows.push((window, tensor));
            if size.counted {
                let advance = index + 1 == windows.len();
                graph.ops.push(Op::Positions { rows: tensor, state, window, base, advance });
            }
        }
        let norms = |layer: &Layer| [layer.attention_norms.clone(), layer.feed_norms.clone()];
        let all = || blueprint.layers.iter().flat_map(norms);
        if blueprint.embedding.scale != 1.0 && all().any(|norms| norms.output.is_none()) {
            let what = "a scaled embedding in a model whose blocks are not normalized".into();
            return Err(RunError::Unsupported { what, next: "" });
        }
        // Sums of many blocks lose too much in f16; where every sum is normalized, they do not grow.
        let normalized = all().all(|norms| norms.sum.is_some());
        let float = options.float();
        let wide = if normalized { float } else { FloatType::F32 };
        let activations = options.activations;
        Ok(Self {
            blueprint,
            weights,
            activations,
            float,
            wide,
            size,
            graph,
            ids,
            state,
            rows,
            caches: Vec::new(),
        })
    }

    fn rows_of(&self, float: FloatType) -> Rows {
        Rows::Float(float)
    }

    fn floats(&mut self, columns: u32) -> Tensor {
        let rows = self.rows_of(self.float);
        self.graph.tensor(self.size.rows, columns, rows)
    }

    fn residual(&mut self, columns: u32) -> Tensor {
        let rows = self.rows_of(self.wide);
        self.graph.tensor(self.size.rows, columns, rows)
    }

    /// Returns how the input of linear layers becomes codes, if it does.
    fn codes(&self, parts: &[Part]) -> Option<Codes> {
        inputs::codes(self.weights, self.activations, parts)
    }

    fn hidden(&self) -> u32 {
        self.blueprint.hidden as u32
    }

    fn columns(&self, part: Part) -> u32 {
        self.weights.store.matrices[part.matrix.0].n() as u32
    }

    fn embedding(&mut self) -> Result<Stream, RunError> {
        let embedding = &self.blueprint.embedding;
        let Some(table) = self.weights.tokens else { return Err(RunError::Empty) };
        let columns = self.weights.store.matrices[table.0].k() as u32;
        let words = self.residual(columns);
        let indices = (self.ids, 0);
        self.graph.ops.push(Op::Gather { table, indices, output: words, column: 0 });
        let mut stream = Stream { residual: words, pending: None };
        if let Some(table) = self.weights.positions {
            let Some(&(_, rows)) = self.rows.first() else {
                let what = "a model without layers".into();
                return Err(RunError::Unsupported { what, next: "" });
            };
            let places = self.residual(columns);
            // The list of positions follows the rows.
            let indices = (rows, 16 * u64::from(self.size.rows));
            self.graph.ops.push(Op::Gather { table, indices, output: places, column: 0 });
            stream.pending = Some(places);
        }
        if let (Some(norm), Some(vectors)) = (&embedding.norm, self.weights.embedding_norm) {
            let output = self.residual(columns);
            self.norm(norm, vectors, &mut stream, output);
            stream = Stream { residual: output, pending: None };
        }
        if let Some(projection) = self.weights.projection {
            if stream.pending.is_some() {
                let what = "an embedding that is projected before it is normalized".into();
                return Err(RunError::Unsupported { what, next: "" });
            }
            let input = self.linear_input(stream.residual, &[projection], false)?;
            let output = self.residual(self.hidden());
            self.matmul(projection, input, ActivationFunction::Identity, Epilogue::None, output);
            stream.residual = output;
        }
        Ok(stream)
    }

    /// Adds a normalization of the residual, which first takes up what is still to be added.
    fn norm(&mut self, norm: &Norm, vectors: NormVectors, stream: &mut Stream, output: Tensor) {
        let s = f64::from(self.blueprint.embedding.scale);
        let epsilon = (f64::from(norm.epsilon) / (s * s)) as f32;
        let mut input = stream.residual;
        let mut residual = None;
        if let Some(pending) = stream.pending.take() {
            let columns = self.graph.shapes[stream.residual.0].columns;
            let sum = self.residual(columns);
            residual = Some((stream.residual, sum));
            input = pending;
            stream.residual = sum;
        }
        self.graph.ops.push(Op::Norm {
            kind: kind_of(norm),
            epsilon,
            offset: norm.weight_offset,
            input,
            residual,
            weight: vectors.weight,
            bias: vectors.bias,
            output,
        });
    }

    /// Returns what linear layers take of floats, of which nothing else takes them if `own` is set.
    fn linear_input(
        &mut self,
        input: Tensor,
        parts: &[Part],
        own: bool,
    ) -> Result<Tensor, RunError> {
        let codes = self.codes(parts);
        inputs::linear(&mut self.graph, codes, parts, input, own)
    }

    fn matmul(
        &mut self,
        part: Part,
        input: Tensor,
        function: ActivationFunction,
        epilogue: Epilogue,
        output: Tensor,
    ) {
        let Part { matrix: weights, bias, column, .. } = part;
        self.graph.ops.push(Op::Matmul {
            weights,
            input,
            bias,
            function,
            epilogue,
            output,
            column,
        });
    }

    /// Returns what a block takes: the residual, normalized if the block does so, as the input of a linear
    /// layer.
    fn block_input(
        &mut self,
        norms: &Norms,
        vectors: Option<NormVectors>,
        parts: &[Part],
        stream: &mut Stream,
    ) -> Result<Tensor, RunError> {
        match (&norms.input, vectors) {
            (Some(norm), Some(vectors)) => {
                let rows = inputs::normalized(self.codes(parts), parts, self.float);
                let columns = self.hidden();
                let output = self.graph.tensor(self.size.rows, columns, rows);
                self.norm(norm, vectors, stream, output);
                let is_done = matches!(rows, Rows::Int8(_));
                if is_done { Ok(output) } else { self.linear_input(output, parts, true) }
            }
            _ if stream.pending.is_some() => {
                let what = "a block whose input is a sum that is not normalized".into();
                Err(RunError::Unsupported { what, next: "" })
            }
            // The residual has the type of other floats here, since every sum is normalized.
            _ if self.wide == self.float => self.linear_input(stream.residual, parts, false),
            _ => {
                let what = "f16 activations of a block whose input is not normalized".into();
                Err(RunError::Unsupported { what, next: "" })
            }
        }
    }

    /// Adds the last linear layer of a block, and the residual.
    fn block_output(
        &mut self,
        norms: &Norms,
        vectors: super::weights::NormsVectors,
        part: Part,
        input: Tensor,
        stream: Stream,
    ) -> Result<Stream, RunError> {
        let input = self.linear_input(input, &[part], true)?;
        let columns = self.hidden();
        let none = ActivationFunction::Identity;
        if let (Some(norm), Some(vectors)) = (&norms.output, vectors.output) {
            let result = self.residual(columns);
            self.matmul(part, input, none, Epilogue::None, result);
            let output = self.residual(columns);
            let scaled = self.blueprint.embedding.scale != 1.0;
            self.graph.ops.push(Op::Norm {
                kind: kind_of(norm),
                epsilon: norm.epsilon,
                // It is part of the weights if these were divided by the scale.
                offset: if scaled { 0.0 } else { norm.weight_offset },
                input: result,
                residual: None,
                weight: vectors.weight,
                bias: vectors.bias,
                output,
            });
            return Ok(Stream { pending: Some(output), ..stream });
        }
        self.matmul(part, input, none, Epilogue::Accumulate, stream.residual);
        if let (Some(norm), Some(vectors)) = (&norms.sum, vectors.sum) {
            let output = self.residual(columns);
            let mut sum = stream;
            self.norm(norm, vectors, &mut sum, output);
            return Ok(Stream { residual: output, pending: None });
        }
        Ok(stream)
    }

    fn layer(
        &mut self,
        layer: &Layer,
        weights: &LayerWeights,
        mut stream: Stream,
    ) -> Result<Stream, RunError> {
        let vectors = weights.attention_norms;
        let x =
            self.block_input(&layer.attention_norms, vectors.input, &weights.qkv, &mut stream)?;
        let result = self.attention(&layer.attention, weights, x)?;
        stream =
            self.block_output(&layer.attention_norms, vectors, weights.output, result, stream)?;
        let vectors = weights.feed_norms;
        if let FeedWeights::Experts { .. } = weights.feed {
            return self.experts(layer, weights, stream);
        }
        let first = match weights.feed {
            FeedWeights::Plain { up, .. } => vec![up],
            FeedWeights::Fused { both, .. } => vec![both],
            FeedWeights::Apart { gate, up, .. } => vec![gate, up],
            FeedWeights::Experts { router, .. } => vec![router],
        };
        let x = self.block_input(&layer.feed_norms, vectors.input, &first, &mut stream)?;
        let (result, down) = self.feed(&weights.feed, x);
        self.block_output(&layer.feed_norms, vectors, down, result, stream)
    }

    /// Adds a mixture of experts. Their inputs stay floats.
    fn experts(
        &mut self,
        layer: &Layer,
        weights: &LayerWeights,
        mut stream: Stream,
    ) -> Result<Stream, RunError> {
        let (
            Feed::Experts { experts, used, normalize, .. },
            &FeedWeights::Experts { router, both, down, function },
            Norms { input: Some(norm), output: None, sum: None },
            Some(vectors),
        ) = (&layer.feed, &weights.feed, &layer.feed_norms, weights.feed_norms.input)
        else {
            let what =
                "a mixture of experts with other normalizations than that of its input".into();
            return Err(RunError::Unsupported { what, next: "" });
        };
        let hidden = self.hidden();
        let x = self.floats(hidden);
        self.norm(norm, vectors, &mut stream, x);
        let (count, used) = (experts.len() as u32, *used as u32);
        // Four rows of an expert share what is loaded of its weights.
        let experts = Mixture { count, used, normalize: *normalize, unit: 4 };
        let rows = self.size.rows;
        let logits = self.graph.tensor(rows, count, Rows::Float(FloatType::F32));
        self.matmul(router, x, ActivationFunction::Identity, Epilogue::None, logits);
        let route = route_spec(rows, experts);
        let all = route.list_rows(rows);
        let words = |bytes: u64| (bytes / 4).div_ceil(rows.max(1).into()) as u32;
        let list = self.graph.tensor(rows, words(route.list_bytes()), Rows::Words);
        let choices = self.graph.tensor(rows, words(route.choices_bytes()), Rows::Words);
        self.graph.ops.push(Op::Route { logits, experts, list, choices });
        let columns = |matrix: MatrixId| self.weights.store.matrices[matrix.0].n() as u32 / count;
        let (gated, result) = (columns(both) / 2, columns(down));
        let float = self.rows_of(self.float);
        let middle = self.graph.tensor(all, gated, float);
        self.graph.ops.push(Op::ExpertMatmul {
            weights: both,
            experts,
            list,
            input: x,
            listed: false,
            function,
            epilogue: Epilogue::Gated,
            output: middle,
        });
        let output = self.graph.tensor(all, result, float);
        self.graph.ops.push(Op::ExpertMatmul {
            weights: down,
            experts,
            list,
            input: middle,
            listed: true,
            function: ActivationFunction::Identity,
            epilogue: Epilogue::None,
            output,
        });
        let residual = stream.residual;
        self.graph.ops.push(Op::Combine { input: output, choices, experts, output: residual });
        Ok(stream)
    }

    fn attention(
        &mut self,
        attention: &Attention,
        weights: &LayerWeights,
        x: Tensor,
    ) -> Result<Tensor, RunError> {
        let heads = Heads {
            queries: attention.heads as u32,
            keys: attention.kv_heads as u32,
            columns: attention.head_dim as u32,
        };
        let (query, key) = (heads.queries * heads.columns, heads.keys * heads.columns);
        let input = self.floats(query + 2 * key);
        for &part in &weights.qkv {
            self.matmul(part, x, ActivationFunction::Identity, Epilogue::None, input);
        }
        let Size { slots, cache: format, rows: max_rows, .. } = self.size;
        let layout = format.layout(attention.kv_heads, slots as usize, attention.head_dim)?;
        let mut half = || self.graph.kept(1, layout.words as u32, Rows::Words);
        let cache = Cache { format, slots, keys: half(), values: half() };
        self.caches.push(cache);
        let window = attention.window.map(|window| window as u32);
        let rows = self.rows.iter().find(|(known, _)| *known == window).map(|(_, rows)| *rows);
        let Some(rows) = rows else { return Err(RunError::Empty) };
        let rotation = attention.rotary.as_ref().map(|rotary| self.rotation(rotary));
        let norm = match (&attention.query_norm, &attention.key_norm, weights.query_key_norms) {
            (None, None, _) => None,
            (Some(query), Some(key), Some((query_vector, key_vector)))
                if query.kind == NormKind::Rms
                    && key.kind == NormKind::Rms
                    && (query.epsilon, query.weight_offset) == (key.epsilon, key.weight_offset) =>
            {
                let norm = HeadNorm { epsilon: query.epsilon, offset: query.weight_offset };
                Some((norm, query_vector, key_vector))
            }
            _ => {
                let what = "a normalization of heads that differs for queries and keys".into();
                return Err(RunError::Unsupported { what, next: "" });
            }
        };
        let queries = self.floats(query);
        self.graph.ops.push(Op::Rotary { heads, input, rows, rotation, norm, queries, cache });
        let output = self.floats(query);
        let bias = attention.relative_bias.as_ref().and(self.weights.relative_bias);
        let scale = attention.scale * weights.score_factor;
        let soft_cap = attention.soft_cap.unwrap_or(0.0);
        let reach = bias.map(|(_, reach)| reach);
        let spec = attention_spec(max_rows, heads, &cache, self.float, (scale, soft_cap), reach);
        let words = u32::try_from(spec.scratch_bytes() / 4).unwrap_or(u32::MAX);
        let scratch = self.graph.tensor(1, words, Rows::Words);
        self.graph.ops.push(Op::Attention {
            heads,
            queries,
            rows,
            cache,
            scale,
            soft_cap,
            bias,
            scratch,
            output,
        });
        Ok(output)
    }

    fn rotation(&mut self, rotary: &Rotary) -> Rotation {
        let mut rotations = self.weights.rotations.iter();
        let table = rotations.position(|(known, _)| known == rotary).unwrap_or(0);
        let pairs = match rotary.pairs {
            Pairs::Adjacent => RotaryPairs::Adjacent,
            Pairs::Split => RotaryPairs::HalfSplit,
        };
        Rotation { pairs, columns: rotary.dim as u32, table, positions: self.size.slots }
    }

    /// Returns the input of the last linear layer, and that layer.
    fn feed(&mut self, weights: &FeedWeights, x: Tensor) -> (Tensor, Part) {
        match *weights {
            FeedWeights::Plain { up, down, function } => {
                let output = self.floats(self.columns(up));
                self.matmul(up, x, function, Epilogue::None, output);
                (output, down)
            }
            // It has a graph of its own.
            FeedWeights::Experts { router, .. } => (x, router),
            FeedWeights::Fused { both, down, function } => {
                let output = self.floats(self.columns(both) / 2);
                self.matmul(both, x, function, Epilogue::Gated, output);
                (output, down)
            }
            FeedWeights::Apart { gate, up, down, function } => {
                let columns = self.columns(gate);
                let both = self.floats(2 * columns);
                for part in [gate, up] {
                    self.matmul(part, x, ActivationFunction::Identity, Epilogue::None, both);
                }
                let output = self.floats(columns);
                self.graph.ops.push(Op::Gate { function, input: both, output });
                (output, down)
            }
        }
    }

    /// Adds the tensors that a segment starts from.
    fn entry(&mut self, pending: bool) -> Stream {
        let (rows, columns) = (self.rows_of(self.wide), self.hidden());
        let mut tensor = || self.graph.kept(self.size.rows, columns, rows);
        Stream { residual: tensor(), pending: pending.then(&mut tensor) }
    }

    fn finish(mut self, mut stream: Stream, ends: bool) -> Result<Built, RunError> {
        let last = match (&self.blueprint.final_norm, self.weights.final_norm) {
            _ if !ends => {
                for tensor in [Some(stream.residual), stream.pending].into_iter().flatten() {
                    self.graph.shapes[tensor.0].kept = true;
                }
                stream.residual
            }
            (Some(norm), Some(vectors)) => {
                let rows = match self.weights.head {
                    Some(head) => inputs::normalized(self.codes(&[head]), &[head], self.float),
                    None => Rows::Float(self.wide),
                };
                let last = self.graph.kept(self.size.rows, self.hidden(), rows);
                self.norm(norm, vectors, &mut stream, last);
                last
            }
            _ if stream.pending.is_some() => {
                let what = "a last sum that is not normalized".into();
                return Err(RunError::Unsupported { what, next: "" });
            }
            _ => {
                self.graph.shapes[stream.residual.0].kept = true;
                stream.residual
            }
        };
        let (mut head_input, mut logits, mut head_ops, mut drawing) = (None, None, 0, None);
        if let Some(part) = self.weights.head {
            let stored = self.graph.shapes[last.0].stored;
            let input = self.graph.kept(self.size.logit_rows, self.hidden(), stored);
            let columns = self.columns(part);
            let output =
                self.graph.kept(self.size.logit_rows, columns, Rows::Float(FloatType::F32));
            // Codes that the last norm does not write are made of the rows whose logits are wanted.
            let first = self.graph.ops.len();
            let codes = self.codes(&[part]);
            let taken = if matches!(stored, Rows::Int8(_)) {
                input
            } else {
                inputs::linear(&mut self.graph, codes, &[part], input, true)?
            };
            self.matmul(part, taken, ActivationFunction::Identity, Epilogue::None, output);
            let settings = self.graph.kept(1, SampleSettings::BYTES as u32 / 4, Rows::Words);
            for settings in [None, Some(settings)] {
                self.graph.ops.push(Op::Sample { logits: output, settings, output: self.ids });
            }
            head_ops = self.graph.ops.len() - first;
            (head_input, logits) = (Some(input), Some(output));
            drawing = Some(settings);
        }
        Ok(Built {
            body: self.graph,
            head_ops,
            settings: drawing,
            ids: self.ids,
            state: self.state,
            rows: self.rows,
            last,
            entry: None,
            pending: stream.pending,
            head_input,
            logits,
            caches: self.caches,
        })
    }
}

fn kind_of(norm: &Norm) -> lowbit::ops::NormKind {
    match norm.kind {
        NormKind::Rms => lowbit::ops::NormKind::Rms,
        NormKind::Layer => lowbit::ops::NormKind::Layer,
    }
}
