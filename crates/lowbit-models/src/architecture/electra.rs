//! ELECTRA: BERT with an embedding of other columns, which a linear layer follows.

use super::encoder::Encoder;
use super::reader::{Reader, name};
use super::tensors::Bias;
use super::{ArchitectureError, Blueprint};

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let mut encoder = Encoder::new(reader)?;
    let hidden = encoder.sizes.hidden;
    encoder.embedding = reader.config.count_or("embedding_size", Some(128))?;
    let mut projection = None;
    if encoder.embedding != hidden {
        let module = encoder.own(name("embeddings_project", ""));
        let shape = (hidden, encoder.embedding);
        projection = Some(reader.tensors.linear(&module, shape, Bias::Always)?);
    }
    encoder.blueprint("electra", projection, None)
}
