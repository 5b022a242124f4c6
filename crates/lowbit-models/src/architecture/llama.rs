//! Llama 2 and 3, and SmolLM2.

use super::decoder::{ATTENTION_NORM, AttentionKind, Decoder, FEED_NORM};
use super::reader::{Defaults, Reader};
use super::tensors::Bias;
use super::{ArchitectureError, Blueprint, Layer, Norms, Pairs};

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let (bias, feed_bias) = if reader.is_gguf() {
        (Bias::IfPresent, Bias::IfPresent)
    } else {
        let flag = |key| reader.config.flag(key, false).map(Bias::when);
        (flag("attention_bias")?, flag("mlp_bias")?)
    };
    let kind =
        Kind { family: "llama", defaults: Defaults::default(), bias, feed_bias, window: None };
    kind.read(reader)
}

/// Llama, and what differs from it only in this.
pub(super) struct Kind {
    pub family: &'static str,
    pub defaults: Defaults,
    pub bias: Bias,
    pub feed_bias: Bias,
    pub window: Option<usize>,
}

impl Kind {
    pub fn read(self, reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
        let decoder = Decoder::new(reader, &self.defaults)?;
        if reader.is_gguf() && reader.config.optional_index("expert_count")?.is_some_and(|n| n > 0)
        {
            return Err(reader.config.unsupported("expert_count", "a model without experts"));
        }
        decoder.expect_none(&["attention.sliding_window", "final_logit_softcapping"])?;
        // Converters to GGUF reorder the rows of queries and keys, so that pairs are adjacent.
        let rotary = reader.rotary(&decoder.sizes, Pairs::Adjacent)?;
        let function = decoder.silu()?;
        let scale = decoder.scale()?;
        decoder.blueprint(self.family, false, |at| {
            let kind = AttentionKind {
                bias: self.bias,
                output_bias: self.bias,
                head_norms: false,
                rotary: &rotary,
                window: self.window,
                scale,
                soft_cap: None,
            };
            Ok(Layer {
                attention: decoder.attention(at, kind)?,
                attention_norms: Norms {
                    input: decoder.norm(at, ATTENTION_NORM)?,
                    ..Norms::default()
                },
                feed: decoder.gated(at, function, self.feed_bias)?,
                feed_norms: Norms { input: decoder.norm(at, FEED_NORM)?, ..Norms::default() },
            })
        })
    }
}
