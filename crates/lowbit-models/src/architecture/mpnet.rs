//! MPNet: scores have a bias by relative position, which all layers share; positions start after that of
//! padding; there are no kinds of tokens.

use super::encoder::{BERT, Encoder, Names};
use super::reader::{Reader, name};
use super::{ArchitectureError, Blueprint, RelativeBias};

const NAMES: Names = Names {
    query: name("attention.attn.q", ""),
    key: name("attention.attn.k", ""),
    value: name("attention.attn.v", ""),
    output: name("attention.attn.o", ""),
    attention_norm: name("attention.LayerNorm", ""),
    ..BERT
};

/// The buckets of relative positions, and the distance from which on all share one. `transformers` computes
/// with these, whatever the settings say.
const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;
/// The position of padding, likewise.
const PADDING: usize = 1;

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let config = &reader.config;
    const KEY: &str = "relative_attention_num_buckets";
    if config.count_or(KEY, Some(BUCKETS))? != BUCKETS {
        return Err(config.unsupported(KEY, BUCKETS));
    }
    let mut encoder = Encoder::new(reader)?;
    encoder.types = 0;
    encoder.first_position = PADDING + 1;
    encoder.names = &NAMES;
    let table = encoder.own(name("encoder.relative_attention_bias.weight", ""));
    let table = reader.tensors.matrix(&table, BUCKETS, encoder.sizes.heads)?;
    let bias = RelativeBias { table, buckets: BUCKETS, max_distance: MAX_DISTANCE };
    encoder.blueprint("mpnet", None, Some(&bias))
}
