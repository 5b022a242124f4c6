//! What a transformer is, as data: the description that the device layer builds a model from.
//!
//! One file for each family of architectures reads a model's configuration and states only what is
//! particular to it. It names tensors; nothing here reads or computes with them.

mod bert;
mod config;
mod decoder;
mod distilbert;
mod electra;
mod encoder;
mod error;
mod gemma3;
mod gpt2;
mod llama;
mod mistral;
mod mpnet;
mod names;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod reader;
pub mod reference;
mod roberta;
mod rotary;
mod tensors;
mod windows;

pub use error::ArchitectureError;

use crate::checkpoint::source::{Family, ModelSource, Role};
use config::Config;
use lowbit::format::ActivationFunction;
use reader::{Reader, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tensors::Tensors;

/// A transformer: a stack of layers between an embedding and, for a language model, a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// The name of the family: `llama`, `qwen3`, `bert`.
    pub family: &'static str,
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// What turns tokens into the first residual.
    pub embedding: Embedding,
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// The normalization after the last layer.
    pub final_norm: Option<Norm>,
    /// What turns the last residual into logits. `None` if the model is an encoder.
    pub head: Option<Head>,
}

/// A matrix that is a tensor of the model's file, or some rows of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// The name of the tensor.
    pub tensor: String,
    /// The rows `[N, K]` of the tensor that form the matrix, or `None` for all. A tensor of more than two
    /// dimensions is a matrix with the columns of its last, also if it is compressed: its
    /// [`PackedWeights`](lowbit::format::PackedWeights) then have longer rows, of which each holds several of
    /// these one after the other.
    pub rows: Option<Range<usize>>,
    /// Whether the file stores a plain tensor as `[K, N]`, as GPT-2's Conv1D does. Compressed weights are
    /// `[N, K]` in any case.
    pub transposed: bool,
}

/// A vector that is a tensor of the model's file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vector {
    /// The name of the tensor.
    pub tensor: String,
    /// The elements that form the vector, or `None` for all.
    pub part: Option<Range<usize>>,
}

/// A linear layer `Y = X · Wᵀ + b`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// W, `[outputs, inputs]`.
    pub matrix: Matrix,
    /// b.
    pub bias: Option<Vector>,
}

/// How a normalization treats its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `x / √(mean(x²) + ε) · w`.
    Rms,
    /// `(x − mean(x)) / √(var(x) + ε) · w + b`.
    Layer,
}

/// A normalization.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// How the row is treated.
    pub kind: NormKind,
    /// The factors w.
    pub weight: Vector,
    /// The offsets b.
    pub bias: Option<Vector>,
    /// ε.
    pub epsilon: f32,
    /// The number that is added to the factors: 1 for Gemma's safetensors files, otherwise 0.
    pub weight_offset: f32,
}

/// What turns tokens into the first residual.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// A row for each token.
    pub tokens: Matrix,
    /// What rows of `tokens` are multiplied with.
    pub scale: f32,
    /// A row for each position: the matrix, and the row of position 0.
    pub positions: Option<(Matrix, usize)>,
    /// A row for each kind of token; row 0 is added to every token.
    pub types: Option<Matrix>,
    /// The normalization of the sum, which has the columns of `tokens`.
    pub norm: Option<Norm>,
    /// A linear layer after that, from the columns of `tokens` to `hidden` (ELECTRA).
    pub projection: Option<Linear>,
}

/// What turns the last residual into logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// W, `[vocab, hidden]`; the embedding's matrix if the two are tied.
    pub linear: Linear,
    /// Logits become `cap · tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
    /// What logits are multiplied with before that.
    pub scale: f32,
}

/// Attention and then a feed-forward block, each added to the residual.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The attention.
    pub attention: Attention,
    /// Where the attention's input or output is normalized.
    pub attention_norms: Norms,
    /// The feed-forward block.
    pub feed: Feed,
    /// Where the block's input or output is normalized.
    pub feed_norms: Norms,
}

/// Where a block f with residual r is normalized: r becomes `sum(r + output(f(input(r))))`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Norms {
    /// The normalization of what the block takes.
    pub input: Option<Norm>,
    /// The normalization of what the block gives, before it is added (Gemma).
    pub output: Option<Norm>,
    /// The normalization of the sum (BERT).
    pub sum: Option<Norm>,
}

/// Multi-head attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values, of which `heads` is a multiple.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// The queries, `[heads · head_dim, hidden]`.
    pub query: Linear,
    /// The keys, `[kv_heads · head_dim, hidden]`.
    pub key: Linear,
    /// The values, `[kv_heads · head_dim, hidden]`.
    pub value: Linear,
    /// The output, `[hidden, heads · head_dim]`.
    pub output: Linear,
    /// The normalization of each head of the queries (Qwen3, Gemma 3).
    pub query_norm: Option<Norm>,
    /// The normalization of each head of the keys.
    pub key_norm: Option<Norm>,
    /// The rotation of queries and keys.
    pub rotary: Option<Rotary>,
    /// What scores are multiplied with, usually 1/√head_dim.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// How many tokens a token sees at most, itself included.
    pub window: Option<usize>,
    /// The bias of scores by the distance of two positions (MPNet).
    pub relative_bias: Option<RelativeBias>,
}

/// A bias by relative position in logarithmic buckets, as T5 has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelativeBias {
    /// A row for each bucket, a column for each head.
    pub table: Matrix,
    /// The number of buckets.
    pub buckets: usize,
    /// The distance from which on all distances share a bucket.
    pub max_distance: usize,
}

/// Which columns of a head a rotation takes as a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairs {
    /// Columns 2j and 2j + 1.
    Adjacent,
    /// Columns j and j + dim/2.
    Split,
}

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// The leading columns of a head that are rotated.
    pub dim: usize,
    /// Which of them form pairs.
    pub pairs: Pairs,
    /// Pair j rotates by position / base^(2j/dim) before scaling.
    pub base: f64,
    /// How the angles are scaled.
    pub scaling: RotaryScaling,
}

/// How the angles of a rotary embedding are scaled for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// Positions are divided by this factor.
    Linear(f64),
    /// Long wavelengths are divided by a factor, short ones are kept (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths longer than `original_context / low` are divided.
        low: f64,
        /// Wavelengths shorter than `original_context / high` are kept.
        high: f64,
        /// The context that the model was first trained for.
        original_context: f64,
    },
    /// YaRN.
    Yarn {
        /// The factor.
        factor: f64,
        /// The context that the model was first trained for.
        original_context: f64,
        /// Rotations above which angles are kept.
        beta_fast: f64,
        /// Rotations below which angles are divided.
        beta_slow: f64,
        /// What cosines and sines are multiplied with, if it is not 0.1 · ln(factor) + 1.
        attention_factor: Option<f64>,
    },
    /// The frequency of each pair is divided by an element of this vector (`rope_freqs.weight`).
    Divisors(Vector),
}

/// A feed-forward block.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// `down(function(up(x)))`.
    Plain {
        /// The first linear layer.
        up: Linear,
        /// The second.
        down: Linear,
        /// The function between them.
        function: ActivationFunction,
    },
    /// `down(function(gate(x)) · up(x))`.
    Gated(Gated),
    /// A weighted sum of the gated blocks that a router chooses for each row.
    Experts {
        /// The router, `[experts, hidden]`: its logits become probabilities by softmax.
        router: Linear,
        /// The experts.
        experts: Vec<Gated>,
        /// How many experts a row takes: those with the largest probabilities.
        used: usize,
        /// Whether the probabilities of those that are taken are divided by their sum.
        normalize: bool,
    },
}

/// `down(function(gate(x)) · up(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// The gate.
    pub gate: Linear,
    /// What the gate multiplies.
    pub up: Linear,
    /// The last linear layer.
    pub down: Linear,
    /// What the gate's result goes through.
    pub function: ActivationFunction,
}

/// How the blueprint of an architecture is read.
type Read = fn(&Reader<'_>) -> Result<Blueprint, ArchitectureError>;

/// The architectures by their `model_type` in a `config.json`, with the start of the names of their classes.
const HF: [(&str, &str, Read); 15] = [
    ("bert", "Bert", bert::read),
    ("camembert", "Camembert", roberta::read),
    ("distilbert", "DistilBert", distilbert::read),
    ("electra", "Electra", electra::read),
    ("gemma3", "Gemma3", gemma3::read_text),
    ("gemma3_text", "Gemma3Text", gemma3::read),
    ("gpt2", "GPT2", gpt2::read),
    ("llama", "Llama", llama::read),
    ("mistral", "Mistral", mistral::read),
    ("mpnet", "MPNet", mpnet::read),
    ("qwen2", "Qwen2", qwen2::read),
    ("qwen3", "Qwen3", qwen3::read),
    ("qwen3_moe", "Qwen3Moe", qwen3_moe::read),
    ("roberta", "Roberta", roberta::read),
    ("xlm-roberta", "XLMRoberta", roberta::read),
];

/// The architectures by their `general.architecture` in GGUF files.
const GGUF: [(&str, Read); 7] = [
    ("bert", bert::read),
    ("gemma3", gemma3::read),
    ("gpt2", gpt2::read),
    ("llama", llama::read),
    ("qwen2", qwen2::read),
    ("qwen3", qwen3::read),
    ("qwen3moe", qwen3_moe::read),
];

/// Reads what a model is: from `config.json` and the names that `transformers` gives tensors, or from the
/// metadata and the names of a GGUF file, also of one that was imported into a file of lowbit's own.
///
/// Every tensor that the blueprint names is in the model and has the shape that the blueprint implies. No
/// weight is read.
///
/// # Errors
/// Returns [`ArchitectureError`] if the architecture or one of its settings is not supported, or if the tensors
/// are not those that the settings describe.
pub fn read(model: &dyn ModelSource) -> Result<Blueprint, ArchitectureError> {
    if let Some(refusal) = model.refusal() {
        return Err(refusal.into());
    }
    let tensors = Tensors::new(model.items()?);
    if model.family() == Family::Gguf {
        return read_gguf(model, model.config(), tensors);
    }
    // A file that was imported from GGUF has the names and the metadata of that.
    if let Some(metadata) = model.metadata().get("gguf.metadata") {
        let metadata: Value =
            serde_json::from_str(metadata).map_err(|_| ArchitectureError::NoConfig)?;
        return read_gguf(model, &metadata, tensors);
    }
    if model.config().is_null() {
        return Err(ArchitectureError::NoConfig);
    }
    let config = Config::new(model.config(), "");
    let class = model.architecture().unwrap_or_default();
    let found = match config.text("model_type")? {
        Some(name) => HF.iter().find(|known| known.0 == name).ok_or(name),
        // The first files of BERT have no type.
        None if class.is_empty() => return Err(ArchitectureError::Unnamed { key: "model_type" }),
        None => {
            let ends = ["Model", "For", "LMHead"];
            let fits = |known: &&(_, &str, _)| {
                let rest = class.strip_prefix(known.1);
                rest.is_some_and(|rest| ends.iter().any(|end| rest.starts_with(end)))
            };
            HF.iter().find(fits).ok_or(class)
        }
    };
    match found {
        Ok((_, _, read)) => read(&Reader { world: World::Hf, config, tensors, model }),
        Err(name) => {
            Err(ArchitectureError::Unknown { name: name.to_owned(), known: known().collect() })
        }
    }
}

/// Returns every `model_type` of a `config.json` that [`read()`] knows.
pub fn known() -> impl Iterator<Item = &'static str> {
    HF.iter().map(|known| known.0)
}

/// Returns what the tensors of a model do: by its blueprint if its configuration names an architecture that
/// [`read()`] knows and fits the tensors, otherwise by their names ([`Role::of`]).
pub fn roles(model: &dyn ModelSource) -> BTreeMap<String, Role> {
    let blueprint = read(model).ok();
    let items = model.items().unwrap_or_default();
    let named = items.into_iter().filter_map(|item| Some((item.name, item.role?)));
    let mut roles: BTreeMap<String, Role> = named.collect();
    let known = blueprint.iter().flat_map(Blueprint::roles);
    roles.extend(known.map(|(name, role)| (name.to_owned(), role)));
    roles
}

fn read_gguf(
    model: &dyn ModelSource,
    metadata: &Value,
    tensors: Tensors,
) -> Result<Blueprint, ArchitectureError> {
    const KEY: &str = "general.architecture";
    let name = Config::new(metadata, "").text(KEY)?;
    let name = name.ok_or(ArchitectureError::Unnamed { key: KEY })?;
    let config = Config::new(metadata, &format!("{name}."));
    match GGUF.iter().find(|known| known.0 == name) {
        Some((_, read)) => read(&Reader { world: World::Gguf, config, tensors, model }),
        None => Err(ArchitectureError::Unknown {
            name: name.to_owned(),
            known: GGUF.iter().map(|known| known.0).collect(),
        }),
    }
}

impl Blueprint {
    /// Returns all linear layers, in the order in which they run, in groups that take the same input: queries,
    /// keys and values; gate and up; the router of a mixture with gate and up of every expert. The inputs of the
    /// last layers of all experts of a mixture are one group too, since they are rows of one matrix.
    pub fn inputs(&self) -> Vec<Vec<&Linear>> {
        let mut inputs: Vec<Vec<&Linear>> = Vec::new();
        inputs.extend(self.embedding.projection.as_ref().map(|linear| vec![linear]));
        for Layer { attention, feed, .. } in &self.layers {
            inputs.push(vec![&attention.query, &attention.key, &attention.value]);
            inputs.push(vec![&attention.output]);
            match feed {
                Feed::Plain { up, down, .. } => inputs.extend([vec![up], vec![down]]),
                Feed::Gated(Gated { gate, up, down, .. }) => {
                    inputs.extend([vec![gate, up], vec![down]]);
                }
                Feed::Experts { router, experts, .. } => {
                    let pairs = experts.iter().flat_map(|expert| [&expert.gate, &expert.up]);
                    inputs.push(std::iter::once(router).chain(pairs).collect());
                    inputs.push(experts.iter().map(|expert| &expert.down).collect());
                }
            }
        }
        inputs.extend(self.head.as_ref().map(|head| vec![&head.linear]));
        inputs
    }

    /// Returns the names of all tensors that it names.
    pub fn tensors(&self) -> BTreeSet<&str> {
        self.roles().into_keys().collect()
    }

    /// Returns what each tensor that it names does. A tensor that does several things, as an embedding to which
    /// the head is tied, has the role of the first.
    pub fn roles(&self) -> BTreeMap<&str, Role> {
        let mut names = BTreeMap::new();
        names::of_blueprint(self, &mut names);
        names
    }
}
