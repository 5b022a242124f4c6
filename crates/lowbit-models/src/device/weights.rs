//! Reads the weights of a blueprint and puts them into device memory.
//!
//! Projections that share their input become one matrix if they have one format: queries, keys and values
//! by stacking their rows, gate and up by interleaving them.

use super::balance::Balance;
use super::graph::{MatrixId, Store, VectorId};
use super::inputs::Codes;
use super::read::{Join, Read, Reader, joined};
use super::segment::{Entry, Segment};
use super::{LoadOptions, RunError};
use crate::architecture::{
    Attention, Blueprint, Embedding, Feed, Gated, Layer, Linear, Matrix, Norm, Norms, RelativeBias,
    Rotary, RotaryScaling,
};
use crate::checkpoint::source::ModelSource;
use crate::schemes::has_kernels;
use lowbit::compress::{Scheme, quantize_scheme};
use lowbit::format::{
    self, ActivationFunction, PackedWeights, Quantization, RotaryTable, StaticScale, WeightFormat,
};
use lowbit::host::Host;
use lowbit::ops::DeviceWeights;
use std::collections::HashMap;

/// A matrix with its bias, whose result goes to the columns from `column` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub matrix: MatrixId,
    pub bias: Option<VectorId>,
    pub column: u32,
    /// How many linear layers the matrix is.
    pub layers: usize,
    /// How the file says that the input becomes codes.
    pub codes: Option<Codes>,
    /// Whether it says that of some of several layers only, or different things, so that the input stays floats.
    pub unlike: bool,
    /// The reciprocals of the factors by which the file says that the input is divided.
    pub factors: Option<MatrixId>,
}

impl Part {
    /// Makes one of a linear layer whose input has no factors.
    fn of(matrix: MatrixId, bias: Option<VectorId>, codes: Option<Codes>) -> Self {
        Self { matrix, bias, column: 0, layers: 1, codes, unlike: false, factors: None }
    }
}

/// The vectors of a normalization.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormVectors {
    pub weight: VectorId,
    pub bias: Option<VectorId>,
}

/// The vectors of [`Norms`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NormsVectors {
    pub input: Option<NormVectors>,
    pub output: Option<NormVectors>,
    pub sum: Option<NormVectors>,
}

/// The weights of a layer.
#[derive(Clone, Debug)]
pub(super) struct LayerWeights {
    pub qkv: Vec<Part>,
    /// What scores are multiplied with because queries and keys were balanced; 1 if they were not.
    pub score_factor: f32,
    pub output: Part,
    pub query_key_norms: Option<(VectorId, VectorId)>,
    pub attention_norms: NormsVectors,
    pub feed: FeedWeights,
    pub feed_norms: NormsVectors,
}

/// The weights of a feed-forward block.
#[derive(Clone, Debug)]
pub(super) enum FeedWeights {
    Plain {
        up: Part,
        down: Part,
        function: ActivationFunction,
    },
    /// The rows of gate and up are interleaved in one matrix.
    Fused {
        both: Part,
        down: Part,
        function: ActivationFunction,
    },
    /// The rows of all experts are stacked, those of gate and up interleaved.
    Experts {
        router: Part,
        both: MatrixId,
        down: MatrixId,
        function: ActivationFunction,
    },
    /// Gate and up have different formats.
    Apart {
        gate: Part,
        up: Part,
        down: Part,
        function: ActivationFunction,
    },
}

/// The weights of a model in device memory.
#[derive(Debug)]
pub(super) struct Weights {
    pub store: Store,
    /// The embedding. `None` if it is not part of what was loaded.
    pub tokens: Option<MatrixId>,
    pub positions: Option<MatrixId>,
    pub embedding_norm: Option<NormVectors>,
    pub projection: Option<Part>,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Option<NormVectors>,
    pub head: Option<Part>,
    /// The bias by relative position of all layers, and how far it reaches.
    pub relative_bias: Option<(VectorId, u32)>,
    /// The rotations that occur, and their tables.
    pub rotations: Vec<(Rotary, RotaryTable)>,
}

impl Weights {
    /// Returns the bytes of device memory that they take.
    pub fn bytes(&self) -> u64 {
        let matrices = self.store.matrices.iter().map(DeviceWeights::device_bytes).sum::<u64>();
        matrices + self.store.vectors.iter().map(|vector| vector.size()).sum::<u64>()
    }

    /// Returns the parts of all linear layers but experts.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = self.projection.into_iter().chain(self.head).collect();
        for layer in &self.layers {
            parts.extend(&layer.qkv);
            parts.push(layer.output);
            match layer.feed {
                FeedWeights::Plain { up, down, .. } => parts.extend([up, down]),
                FeedWeights::Fused { both, down, .. } => parts.extend([both, down]),
                FeedWeights::Experts { router, .. } => parts.push(router),
                FeedWeights::Apart { gate, up, down, .. } => parts.extend([gate, up, down]),
            }
        }
        parts
    }

    /// Reads and uploads everything of a segment that the blueprint names. `progress` is called with the
    /// number of parts that are on the device, and of all parts.
    pub async fn load(
        host: &Host,
        model: &dyn ModelSource,
        (blueprint, segment): (&Blueprint, &Segment),
        options: &LoadOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, RunError> {
        let (reader, store) = (Reader::new(model)?, Store::default());
        let mut loader = Loader { host, reader, options, store, shared: HashMap::new() };
        let tokens_matrix = &blueprint.embedding.tokens;
        let steps = segment.layers.len() + 2;
        let (mut tokens, mut positions, mut embedding_norm, mut projection) =
            (None, None, None, None);
        if segment.entry == Entry::Tokens {
            let Embedding { positions: places, types, norm, projection: linear, .. } =
                &blueprint.embedding;
            tokens = Some(loader.whole(tokens_matrix).await?);
            positions = match places {
                Some((matrix, _)) => Some(loader.positions(matrix, types.as_ref()).await?),
                None if types.is_some() => {
                    let what = "an embedding with kinds of tokens and without positions".into();
                    return Err(RunError::Unsupported { what, next: "" });
                }
                None => None,
            };
            embedding_norm = loader.norm(norm.as_ref(), 1.0).await?;
            if let Some(linear) = linear {
                projection = Some(loader.part(&[linear], Join::Stack, None).await?);
            }
        }
        // The residual is kept divided by the scale of the embedding: see `layers.rs`.
        let factor = 1.0 / blueprint.embedding.scale;
        progress(1, steps);
        let mut layers = Vec::with_capacity(segment.layers.len());
        for (index, layer) in segment.layers_of(blueprint).iter().enumerate() {
            layers.push(loader.layer(layer, factor).await?);
            progress(index + 2, steps);
        }
        let (mut final_norm, mut head) = (None, None);
        if segment.ends {
            final_norm = loader.norm(blueprint.final_norm.as_ref(), 1.0).await?;
            head = match &blueprint.head {
                Some(head)
                    if head.linear.matrix == *tokens_matrix && head.linear.bias.is_none() =>
                {
                    Some(Part::of(loader.whole(tokens_matrix).await?, None, None))
                }
                Some(head) => {
                    let matrix = loader.whole(&head.linear.matrix).await?;
                    let bias = loader.biases(&[&head.linear], None).await?;
                    let (codes, _) = loader.codes(&[&head.linear]).await?;
                    Some(Part::of(matrix, bias, codes))
                }
                None => None,
            };
        }
        let relative = blueprint.layers.iter().find_map(|l| l.attention.relative_bias.as_ref());
        let heads = blueprint.layers.first().map_or(0, |layer| layer.attention.heads);
        let relative_bias = match relative {
            Some(bias) => {
                Some((loader.relative_bias(bias, heads).await?, bias.max_distance as u32))
            }
            None => None,
        };
        let mut rotations: Vec<(Rotary, RotaryTable)> = Vec::new();
        for rotary in blueprint.layers.iter().filter_map(|l| l.attention.rotary.as_ref()) {
            if rotations.iter().all(|(known, _)| known != rotary) {
                rotations.push((rotary.clone(), loader.table(rotary)?));
            }
        }
        progress(steps, steps);
        Ok(Self {
            store: loader.store,
            tokens,
            positions,
            embedding_norm,
            projection,
            layers,
            final_norm,
            head,
            relative_bias,
            rotations,
        })
    }
}

struct Loader<'a> {
    host: &'a Host,
    reader: Reader<'a>,
    options: &'a LoadOptions,
    store: Store,
    /// Matrices that are whole tensors, which embedding and head may share.
    shared: HashMap<Matrix, MatrixId>,
}

impl Loader<'_> {
    async fn upload(&mut self, packed: &PackedWeights) -> Result<MatrixId, RunError> {
        let weights = self.host.upload_async(packed).await?;
        self.store.matrices.push(weights);
        Ok(MatrixId(self.store.matrices.len() - 1))
    }

    /// Uploads a matrix that is not compressed on the way: embedding or head.
    async fn whole(&mut self, matrix: &Matrix) -> Result<MatrixId, RunError> {
        if let Some(&id) = self.shared.get(matrix) {
            return Ok(id);
        }
        self.refuse_factors(matrix)?;
        let Read::Packed(packed) = self.reader.read(matrix, None)? else {
            return Err(RunError::tensor(&matrix.tensor, "it cannot be read"));
        };
        let id = self.upload(&packed).await?;
        self.shared.insert(matrix.clone(), id);
        Ok(id)
    }

    /// Refuses the factors of what takes no linear layer's input, or that of a mixture of experts.
    fn refuse_factors(&self, matrix: &Matrix) -> Result<(), RunError> {
        if self.reader.factors(matrix)?.is_none() {
            return Ok(());
        }
        let what = format!("the smoothing of the inputs of {}", matrix.tensor);
        let next = "; compress that weight without --smooth";
        Err(RunError::Unsupported { what, next })
    }

    /// Uploads the table of positions, to which the row of the first kind of token is added.
    async fn positions(
        &mut self,
        matrix: &Matrix,
        types: Option<&Matrix>,
    ) -> Result<MatrixId, RunError> {
        let Some(types) = types else { return self.whole(matrix).await };
        let (mut values, kind) =
            (self.reader.floats(&matrix.tensor)?, self.reader.floats(&types.tensor)?);
        let k = self.reader.columns(&matrix.tensor)?;
        let first = kind.get(..k).filter(|first| !first.is_empty());
        let first = first.ok_or_else(|| RunError::tensor(&types.tensor, "it has no rows"))?;
        for row in values.chunks_mut(k) {
            row.iter_mut().zip(first).for_each(|(value, kind)| *value += kind);
        }
        let n = values.len() / k;
        let packed = PackedWeights::quantize(&values, n, k, &WeightFormat::f32());
        let packed = packed.map_err(|error| RunError::tensor(&matrix.tensor, error))?;
        self.upload(&packed).await
    }

    async fn vector_of(&mut self, values: &[f32]) -> Result<VectorId, RunError> {
        let buffer = self.host.storage_async(bytemuck::cast_slice(values)).await?;
        self.store.vectors.push(buffer);
        Ok(VectorId(self.store.vectors.len() - 1))
    }

    /// Uploads the vectors of a normalization whose result is multiplied by `factor`. The offset of its
    /// weights is kept apart if the factor is 1.
    async fn norm(
        &mut self,
        norm: Option<&Norm>,
        factor: f32,
    ) -> Result<Option<NormVectors>, RunError> {
        let Some(norm) = norm else { return Ok(None) };
        let mut weight = self.reader.vector(&norm.weight)?;
        if factor != 1.0 {
            weight.iter_mut().for_each(|w| *w = (*w + norm.weight_offset) * factor);
        }
        let weight = self.vector_of(&weight).await?;
        let bias = match &norm.bias {
            Some(bias) => {
                let mut bias = self.reader.vector(bias)?;
                bias.iter_mut().for_each(|b| *b *= factor);
                Some(self.vector_of(&bias).await?)
            }
            None => None,
        };
        Ok(Some(NormVectors { weight, bias }))
    }

    async fn norms(&mut self, norms: &Norms, factor: f32) -> Result<NormsVectors, RunError> {
        Ok(NormsVectors {
            input: self.norm(norms.input.as_ref(), 1.0).await?,
            output: self.norm(norms.output.as_ref(), factor).await?,
            sum: self.norm(norms.sum.as_ref(), 1.0).await?,
        })
    }

    /// Uploads the biases of joined layers, if any has one.
    async fn biases(
        &mut self,
        linears: &[&Linear],
        join: Option<Join>,
    ) -> Result<Option<VectorId>, RunError> {
        self.scaled_biases(linears, join, &[]).await
    }

    /// Does the same as [`biases`](Self::biases), and multiplies those of the first layers by powers of two.
    async fn scaled_biases(
        &mut self,
        linears: &[&Linear],
        join: Option<Join>,
        exponents: &[&[i32]],
    ) -> Result<Option<VectorId>, RunError> {
        if linears.iter().all(|linear| linear.bias.is_none()) {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(linears.len());
        for (index, linear) in linears.iter().enumerate() {
            let mut part = match &linear.bias {
                Some(bias) => self.reader.vector(bias)?,
                None => vec![0.0; self.reader.rows(&linear.matrix)?],
            };
            if let Some(exponents) = exponents.get(index) {
                part.iter_mut().zip(*exponents).for_each(|(b, &e)| *b *= 2f32.powi(e));
            }
            parts.push(part);
        }
        let joined = match (join, &parts[..]) {
            (Some(Join::Interleave), [gate, up]) => {
                gate.iter().zip(up).flat_map(|(gate, up)| [*gate, *up]).collect()
            }
            _ => parts.concat(),
        };
        Ok(Some(self.vector_of(&joined).await?))
    }

    /// Returns how the file says that the input of layers becomes codes, if it says the same of all of them, and
    /// uploads the scale that it fixes. Returns also whether it does not say the same of all.
    async fn codes(&mut self, linears: &[&Linear]) -> Result<(Option<Codes>, bool), RunError> {
        // Weights that are compressed on the way are no longer those of the file.
        if self.options.scheme.is_some() {
            return Ok((None, false));
        }
        let mut all = Vec::with_capacity(linears.len());
        for linear in linears {
            all.push(self.reader.quantization(&linear.matrix)?);
        }
        if all.windows(2).any(|two| two[0] != two[1]) {
            return Ok((None, true));
        }
        let Some(&Some(how)) = all.first() else { return Ok((None, false)) };
        let given = match how {
            Quantization::Dynamic(_) => None,
            Quantization::Static(StaticScale { scale, zero_point }) => {
                let words = [scale.to_bits(), zero_point as u32];
                self.store.vectors.push(self.host.storage_async(&words).await?);
                Some(VectorId(self.store.vectors.len() - 1))
            }
        };
        Ok((Some(Codes { how, given }), false))
    }

    /// Uploads the reciprocals of the factors by which the file says that the input of layers is divided.
    async fn factors(&mut self, linears: &[&Linear]) -> Result<Option<MatrixId>, RunError> {
        let mut all = Vec::with_capacity(linears.len());
        for linear in linears {
            all.push(self.reader.factors(&linear.matrix)?);
        }
        let Some(Linear { matrix, .. }) = linears.first() else { return Ok(None) };
        if all.windows(2).any(|two| two[0] != two[1]) {
            let name = &matrix.tensor;
            let what = format!("an input that layers divide by different factors ({name})");
            let next = "; compress all layers that share an input with --smooth, or none";
            return Err(RunError::Unsupported { what, next });
        }
        let Some(Some(factors)) = all.first() else { return Ok(None) };
        let values: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
        let packed = PackedWeights::quantize(&values, 1, values.len(), &WeightFormat::f32());
        let packed = packed.map_err(|error| RunError::tensor(&matrix.tensor, error))?;
        Ok(Some(self.upload(&packed).await?))
    }

    async fn place(
        &mut self,
        read: Read,
        name: &str,
        scheme: Option<&Scheme>,
    ) -> Result<MatrixId, RunError> {
        match (read, scheme) {
            (Read::Floats { values, n, k }, Some(scheme)) if has_kernels(scheme) => {
                let weights = self.host.compress_async(&values, n, k, &scheme.format()).await?;
                self.store.matrices.push(weights);
                Ok(MatrixId(self.store.matrices.len() - 1))
            }
            (Read::Floats { values, n, k }, Some(scheme)) => {
                let packed = quantize_scheme(&values, n, k, scheme);
                let packed = packed.map_err(|error| RunError::tensor(name, error))?;
                self.upload(&packed).await
            }
            (Read::Floats { .. }, None) => Err(RunError::tensor(name, "it cannot be read")),
            (Read::Packed(packed), _) => self.upload(&packed).await,
        }
    }

    /// Uploads linear layers that share their input: as one matrix where they can be joined.
    async fn parts(&mut self, linears: &[&Linear], join: Join) -> Result<Vec<Part>, RunError> {
        Ok(self.balanced_parts(linears, join, None).await?.0)
    }

    /// Does the same as [`parts`](Self::parts) with queries, keys and values that are balanced, if that is exact.
    /// Returns also whether they are.
    async fn balanced_parts(
        &mut self,
        linears: &[&Linear],
        join: Join,
        balance: Option<&Balance>,
    ) -> Result<(Vec<Part>, bool), RunError> {
        let scheme = self.options.scheme;
        let scheme = scheme.as_ref();
        let mut reads = Vec::with_capacity(linears.len());
        for linear in linears {
            reads.push(self.reader.read(&linear.matrix, scheme)?);
        }
        let (reads, balanced) = match balance {
            Some(balance) => balance.apply(reads, scheme),
            None => (reads, false),
        };
        let exponents = balance.filter(|_| balanced).map(Balance::exponents);
        let exponents = exponents.as_ref().map_or(&[][..], |exponents| exponents);
        let reads = joined(reads, join)?;
        let one = reads.len() < linears.len();
        let name = |index: usize| linears[index].matrix.tensor.clone();
        let factors = self.factors(linears).await?;
        let (mut parts, mut column) = (Vec::new(), 0);
        for (index, read) in reads.into_iter().enumerate() {
            let matrix = self.place(read, &name(index), scheme).await?;
            let of = if one { linears } else { &linears[index..=index] };
            let from = if one { 0 } else { index.min(exponents.len()) };
            let bias = self.scaled_biases(of, one.then_some(join), &exponents[from..]).await?;
            let (codes, unlike) = self.codes(of).await?;
            parts.push(Part { matrix, bias, column, layers: of.len(), codes, unlike, factors });
            column += self.store.matrices[matrix.0].n() as u32;
        }
        Ok((parts, balanced))
    }

    async fn part(
        &mut self,
        linears: &[&Linear],
        join: Join,
        column: Option<u32>,
    ) -> Result<Part, RunError> {
        let parts = self.parts(linears, join).await?;
        let part = parts.first().copied().ok_or(RunError::Empty)?;
        Ok(Part { column: column.unwrap_or(0), ..part })
    }

    async fn layer(&mut self, layer: &Layer, factor: f32) -> Result<LayerWeights, RunError> {
        self.reader.end_layer();
        let Attention { query, key, value, output, query_norm, key_norm, .. } = &layer.attention;
        let query_key_norms = match (query_norm, key_norm) {
            (Some(query), Some(key)) => {
                let (query, key) =
                    (self.reader.vector(&query.weight)?, self.reader.vector(&key.weight)?);
                Some((self.vector_of(&query).await?, self.vector_of(&key).await?))
            }
            _ => None,
        };
        let balance = match &key.bias {
            Some(bias) => Balance::new(&layer.attention, &self.reader.vector(bias)?),
            None => None,
        };
        let linears = [query, key, value];
        let (qkv, balanced) = self.balanced_parts(&linears, Join::Stack, balance.as_ref()).await?;
        let score_factor = balance.filter(|_| balanced).map_or(1.0, |b| b.score_factor());
        Ok(LayerWeights {
            qkv,
            score_factor,
            output: self.part(&[output], Join::Stack, None).await?,
            query_key_norms,
            attention_norms: self.norms(&layer.attention_norms, factor).await?,
            feed: self.feed(&layer.feed).await?,
            feed_norms: self.norms(&layer.feed_norms, factor).await?,
        })
    }

    async fn feed(&mut self, feed: &Feed) -> Result<FeedWeights, RunError> {
        match feed {
            Feed::Plain { up, down, function } => Ok(FeedWeights::Plain {
                up: self.part(&[up], Join::Stack, None).await?,
                down: self.part(&[down], Join::Stack, None).await?,
                function: *function,
            }),
            Feed::Gated(Gated { gate, up, down, function }) => {
                let parts = self.parts(&[gate, up], Join::Interleave).await?;
                let (down, function) = (self.part(&[down], Join::Stack, None).await?, *function);
                Ok(match parts[..] {
                    [gate, up] => FeedWeights::Apart { gate, up, down, function },
                    [both, ..] => FeedWeights::Fused { both, down, function },
                    [] => return Err(RunError::Empty),
                })
            }
            Feed::Experts { router, experts, .. } => {
                let matrix = self.whole(&router.matrix).await?;
                let router = Part::of(matrix, self.biases(&[router], None).await?, None);
                let scheme = self.options.scheme;
                let (mut both, mut down) = (Vec::new(), Vec::new());
                for Gated { gate, up, down: last, .. } in experts {
                    if [gate, up, last].iter().any(|linear| linear.bias.is_some()) {
                        let what = "a bias of experts".into();
                        return Err(RunError::Unsupported { what, next: "" });
                    }
                    for linear in [gate, up, last] {
                        self.refuse_factors(&linear.matrix)?;
                    }
                    let pair = vec![
                        self.reader.read(&gate.matrix, scheme.as_ref())?,
                        self.reader.read(&up.matrix, scheme.as_ref())?,
                    ];
                    both.extend(joined(pair, Join::Interleave)?);
                    down.push(self.reader.read(&last.matrix, scheme.as_ref())?);
                }
                let name = experts.first().map_or("", |expert| &*expert.gate.matrix.tensor);
                let function = experts.first().map(|expert| expert.function).unwrap_or_default();
                let mut all = Vec::with_capacity(2);
                for reads in [both, down] {
                    let mut joined = joined(reads, Join::Stack)?;
                    let (Some(read), true) = (joined.pop(), joined.is_empty()) else {
                        let what = format!("a mixture of experts of different formats ({name})");
                        let next = "; --format compresses them to one";
                        return Err(RunError::Unsupported { what, next });
                    };
                    all.push(self.place(read, name, scheme.as_ref()).await?);
                }
                let [both, down] = all[..] else { return Err(RunError::Empty) };
                Ok(FeedWeights::Experts { router, both, down, function })
            }
        }
    }

    /// Describes the table of a rotation.
    fn table(&self, rotary: &Rotary) -> Result<RotaryTable, RunError> {
        let table = RotaryTable::new(rotary.base, rotary.dim);
        Ok(match rotary.scaling {
            RotaryScaling::None => table,
            RotaryScaling::Linear(factor) => {
                table.with_scaling(format::RotaryScaling::Linear { factor })
            }
            RotaryScaling::Llama3 { factor, low, high, original_context } => {
                table.with_scaling(format::RotaryScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_positions: original_context,
                })
            }
            RotaryScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                let table = table.with_scaling(format::RotaryScaling::Yarn {
                    factor,
                    beta_fast,
                    beta_slow,
                    original_positions: original_context,
                    truncate: true,
                });
                match attention_factor {
                    Some(factor) => table.with_attention_factor(factor),
                    None => table,
                }
            }
            RotaryScaling::Divisors(ref vector) => table
                .with_divisors(self.reader.vector(vector)?.into_iter().map(f64::from).collect()),
        })
    }

    /// Uploads the bias of each head at each distance up to `max_distance` on either side; those further
    /// away share a bucket.
    async fn relative_bias(
        &mut self,
        bias: &RelativeBias,
        heads: usize,
    ) -> Result<VectorId, RunError> {
        let table = self.reader.floats(&bias.table.tensor)?;
        if heads == 0 || table.len() != bias.buckets.saturating_mul(heads) {
            let need = format!("it must have {} rows of {heads} columns", bias.buckets);
            return Err(RunError::tensor(&bias.table.tensor, need));
        }
        let reach = bias.max_distance;
        let mut values = Vec::with_capacity(heads * (2 * reach + 1));
        for head in 0..heads {
            for other in 0..=2 * reach {
                values.push(table[bias.bucket(reach, other) * heads + head]);
            }
        }
        self.vector_of(&values).await
    }
}
