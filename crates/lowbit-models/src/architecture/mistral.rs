//! Mistral: Llama with a window in every layer. GGUF files of it are Llama's, without the window.

use super::llama::Kind;
use super::reader::{Defaults, Reader};
use super::tensors::Bias;
use super::{ArchitectureError, Blueprint, windows};

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let kind = Kind {
        family: "mistral",
        defaults: Defaults { kv_heads: Some(8), ..Defaults::default() },
        bias: Bias::Never,
        feed_bias: Bias::Never,
        window: windows::window(&reader.config)?,
    };
    kind.read(reader)
}
