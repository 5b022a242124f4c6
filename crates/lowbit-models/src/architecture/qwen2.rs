//! Qwen2 and Qwen2.5: biases of queries, keys and values, and in some models windows from some layer on.

use super::decoder::{ATTENTION_NORM, AttentionKind, Decoder, FEED_NORM};
use super::reader::{Defaults, Reader};
use super::tensors::Bias;
use super::{ArchitectureError, Blueprint, Feed, Layer, Norms, Pairs, windows};

/// The first layer with a window, where the settings do not name it.
const FIRST: usize = 28;

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let decoder = Decoder::new(reader, &Defaults::default())?;
    let function = decoder.silu()?;
    let feed = |at| decoder.gated(at, function, Bias::Never);
    let kind =
        Kind { family: "qwen2", bias: Bias::Always, output_bias: Bias::Never, head_norms: false };
    kind.read(&decoder, &windows(&decoder)?, feed)
}

/// An architecture of the Qwen series.
pub(super) struct Kind {
    pub family: &'static str,
    pub bias: Bias,
    pub output_bias: Bias,
    pub head_norms: bool,
}

impl Kind {
    pub fn read(
        self,
        decoder: &Decoder<'_>,
        windows: &[Option<usize>],
        feed: impl Fn(usize) -> Result<Feed, ArchitectureError>,
    ) -> Result<Blueprint, ArchitectureError> {
        decoder.expect_none(&["attention.sliding_window", "final_logit_softcapping"])?;
        let rotary = decoder.reader.rotary(&decoder.sizes, Pairs::Split)?;
        let scale = decoder.scale()?;
        decoder.blueprint(self.family, false, |at| {
            let kind = AttentionKind {
                bias: self.bias,
                output_bias: self.output_bias,
                head_norms: self.head_norms,
                rotary: &rotary,
                window: windows.get(at).copied().flatten(),
                scale,
                soft_cap: None,
            };
            Ok(Layer {
                attention: decoder.attention(at, kind)?,
                attention_norms: Norms {
                    input: decoder.norm(at, ATTENTION_NORM)?,
                    ..Norms::default()
                },
                feed: feed(at)?,
                feed_norms: Norms { input: decoder.norm(at, FEED_NORM)?, ..Norms::default() },
            })
        })
    }
}

/// Returns the window of each layer.
pub(super) fn windows(decoder: &Decoder<'_>) -> Result<Vec<Option<usize>>, ArchitectureError> {
    let (config, layers) = (&decoder.reader.config, decoder.sizes.layers);
    if decoder.reader.is_gguf() {
        return Ok(Vec::new());
    }
    if !config.flag("use_sliding_window", false)? {
        return match windows::types(config, layers)? {
            Some(types) if types.contains(&true) => {
                Err(config.wrong("layer_types", "`full_attention` where there is no window"))
            }
            _ => Ok(Vec::new()),
        };
    }
    let window = windows::window(config)?;
    let first = config.optional_index("max_window_layers")?.unwrap_or(FIRST);
    Ok(match windows::types(config, layers)? {
        Some(types) => types.iter().map(|sliding| window.filter(|_| *sliding)).collect(),
        None => (0..layers).map(|at| window.filter(|_| at >= first)).collect(),
    })
}
