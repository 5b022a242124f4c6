//! DistilBERT: BERT with names of its own, and without kinds of tokens.

use super::encoder::{Encoder, Names};
use super::reader::{Reader, Sizes, name};
use super::{ArchitectureError, Blueprint};
use lowbit::format::ActivationFunction;

const NAMES: Names = Names {
    layers: name("transformer.layer.", ""),
    query: name("attention.q_lin", ""),
    key: name("attention.k_lin", ""),
    value: name("attention.v_lin", ""),
    output: name("attention.out_lin", ""),
    attention_norm: name("sa_layer_norm", ""),
    up: name("ffn.lin1", ""),
    down: name("ffn.lin2", ""),
    feed_norm: name("output_layer_norm", ""),
};

/// ε, which the settings do not name.
const EPSILON: f32 = 1e-12;

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let config = &reader.config;
    let (hidden, heads) = (config.count("dim")?, config.count("n_heads")?);
    let sizes = Sizes {
        hidden,
        vocab: config.count("vocab_size")?,
        context: config.count("max_position_embeddings")?,
        layers: reader.layers("n_layers")?,
        heads,
        kv_heads: heads,
        head_dim: config.divide(("dim", hidden), ("n_heads", heads))?,
        feed: config.count("hidden_dim")?,
        epsilon: EPSILON,
    };
    let encoder = Encoder {
        reader,
        sizes,
        function: config.function("activation", Some(ActivationFunction::Gelu))?,
        embedding: hidden,
        types: 0,
        first_position: 0,
        prefix: Encoder::prefix(reader)?,
        names: &NAMES,
    };
    encoder.blueprint("distilbert", None, None)
}
