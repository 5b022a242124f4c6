//! BERT. GGUF files of RoBERTa and DistilBERT are of this architecture, too.

use super::encoder::Encoder;
use super::reader::Reader;
use super::{ArchitectureError, Blueprint};

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    Encoder::new(reader)?.blueprint("bert", None, None)
}
