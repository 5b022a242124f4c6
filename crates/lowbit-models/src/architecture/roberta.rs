//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions start after that of padding.

use super::encoder::{Encoder, after_padding};
use super::reader::Reader;
use super::{ArchitectureError, Blueprint};

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let mut encoder = Encoder::new(reader)?;
    encoder.first_position = after_padding(&reader.config)?;
    encoder.blueprint("roberta", None, None)
}
