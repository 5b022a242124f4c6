//! Qwen3: normalized heads, whose size is named, and no biases unless the configuration has them.

use super::decoder::Decoder;
use super::qwen2::{Kind, windows};
use super::reader::{Defaults, Reader};
use super::tensors::Bias;
use super::{ArchitectureError, Blueprint};

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let defaults = Defaults { head_dim: Some(128), ..Defaults::default() };
    let decoder = Decoder::new(reader, &defaults)?;
    let function = decoder.silu()?;
    let feed = |at| decoder.gated(at, function, Bias::Never);
    kind("qwen3", reader)?.read(&decoder, &windows(&decoder)?, feed)
}

/// Returns what the attention of the series is.
pub(super) fn kind(family: &'static str, reader: &Reader<'_>) -> Result<Kind, ArchitectureError> {
    let bias = if reader.is_gguf() {
        Bias::IfPresent
    } else {
        Bias::when(reader.config.flag("attention_bias", false)?)
    };
    Ok(Kind { family, bias, output_bias: bias, head_norms: true })
}
