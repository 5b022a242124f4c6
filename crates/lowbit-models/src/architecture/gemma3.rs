//! Gemma 3, its text model: windows in most layers, with a rotary embedding of their own; normalizations
//! around both blocks, whose factors lack 1 in files of `transformers`; and a scaled embedding.

use super::config::Config;
use super::decoder::{ATTENTION_NORM, AttentionKind, Decoder};
use super::reader::{Defaults, Name, Reader, World, name};
use super::tensors::Bias;
use super::{
    ArchitectureError, Blueprint, Layer, Norms, Pairs, Rotary, RotaryScaling, rotary, windows,
};
use lowbit::format::ActivationFunction;

/// One layer of this many attends to all tokens, if the settings do not name those that do.
const PATTERN: usize = 6;
/// The bases of rotary embeddings that the settings do not name.
const GLOBAL_BASE: f64 = 1_000_000.0;
const LOCAL_BASE: f64 = 10_000.0;
/// The layers of the 27B model, whose GGUF files do not say that its scores are scaled in another way.
const LAYERS_27B: usize = 62;

const ATTENTION_OUTPUT_NORM: Name = name("post_attention_layernorm", "post_attention_norm");
const FEED_NORM: Name = name("pre_feedforward_layernorm", "ffn_norm");
const FEED_OUTPUT_NORM: Name = name("post_feedforward_layernorm", "post_ffw_norm");

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    // Files leave out what the smallest model has.
    let defaults = Defaults {
        vocab: Some(262_208),
        context: Some(131_072),
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        epsilon: Some(1e-6),
    };
    let mut decoder = Decoder::new(reader, &defaults)?;
    decoder.weight_offset = if reader.is_gguf() { 0.0 } else { 1.0 };
    let particular = match reader.world {
        World::Hf => Particular::of_config(&reader.config, &decoder)?,
        World::Gguf => Particular::of_metadata(&reader.config, &decoder)?,
    };
    let mut blueprint = decoder.blueprint("gemma3", true, |at| {
        let window = particular.window.filter(|_| particular.sliding.get(at) == Some(&true));
        let kind = AttentionKind {
            bias: particular.bias,
            output_bias: particular.bias,
            head_norms: true,
            rotary: if window.is_some() { &particular.local } else { &particular.global },
            window,
            scale: particular.scale,
            soft_cap: None,
        };
        Ok(Layer {
            attention: decoder.attention(at, kind)?,
            attention_norms: Norms {
                input: decoder.norm(at, ATTENTION_NORM)?,
                output: decoder.norm(at, ATTENTION_OUTPUT_NORM)?,
                sum: None,
            },
            feed: decoder.gated(at, particular.function, Bias::Never)?,
            feed_norms: Norms {
                input: decoder.norm(at, FEED_NORM)?,
                output: decoder.norm(at, FEED_OUTPUT_NORM)?,
                sum: None,
            },
        })
    })?;
    blueprint.embedding.scale = (blueprint.hidden as f64).sqrt() as f32;
    if let Some(head) = &mut blueprint.head {
        head.soft_cap = particular.head_cap;
    }
    Ok(blueprint)
}

/// Reads the text model of one that takes images, too.
pub(super) fn read_text(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    const KEY: &str = "text_config";
    if !reader.config.has(KEY) {
        return read(reader);
    }
    let config = reader.config.section(KEY)?;
    let Reader { world, model, .. } = *reader;
    read(&Reader { world, config, tensors: reader.tensors.clone(), model })
}

fn head_cap(config: &Config<'_>) -> Result<Option<f32>, ArchitectureError> {
    Ok(config.optional_positive("final_logit_softcapping")?.map(|cap| cap as f32))
}

/// In what the architecture differs.
struct Particular {
    window: Option<usize>,
    /// The layers that have it.
    sliding: Vec<bool>,
    local: Rotary,
    global: Rotary,
    scale: f32,
    /// What logits are capped at.
    head_cap: Option<f32>,
    bias: Bias,
    function: ActivationFunction,
}

/// Returns which layers have a window if one of `pattern` has none.
fn pattern(layers: usize, pattern: usize) -> Vec<bool> {
    (1..=layers).map(|number| !number.is_multiple_of(pattern)).collect()
}

impl Particular {
    fn of_config(config: &Config<'_>, decoder: &Decoder<'_>) -> Result<Self, ArchitectureError> {
        let sizes = &decoder.sizes;
        config.expect_flag("use_bidirectional_attention", false, false)?;
        let sliding = match windows::types(config, sizes.layers)? {
            Some(types) => types,
            None => {
                let every = config.count_or("sliding_window_pattern", Some(PATTERN))?;
                pattern(sizes.layers, every)
            }
        };
        let nested = config.section("rope_parameters")?;
        let (mut everywhere, inside) =
            (nested.section("full_attention")?, nested.section("sliding_attention")?);
        if everywhere.is_empty() && inside.is_empty() && !nested.is_empty() {
            return Err(config.wrong("rope_parameters", "`full_attention` and `sliding_attention`"));
        }
        // The old setting is only for layers without a window.
        if everywhere.is_empty() {
            everywhere = config.section("rope_scaling")?;
        }
        let rotary = |section: &Config<'_>, old_base, usual| {
            let base = config.positive_or(old_base, Some(usual))?;
            rotary::of_section(config, section, base, sizes.head_dim, sizes.context)
        };
        let scalar = config.positive_or("query_pre_attn_scalar", Some(256.0))?;
        // `transformers` has the setting, but computes nothing with it.
        if config.has("attn_logit_softcapping") {
            return Err(config.unsupported("attn_logit_softcapping", "a model without it"));
        }
        // The old name is that of other models.
        let function = ["hidden_activation", "hidden_act"].into_iter().find(|key| config.has(key));
        Ok(Self {
            window: windows::window(config)?,
            sliding,
            local: rotary(&inside, "rope_local_base_freq", LOCAL_BASE)?,
            global: rotary(&everywhere, "rope_theta", GLOBAL_BASE)?,
            scale: (1.0 / scalar.sqrt()) as f32,
            head_cap: head_cap(config)?,
            bias: Bias::when(config.flag("attention_bias", false)?),
            function: config.function(
                function.unwrap_or("hidden_activation"),
                Some(ActivationFunction::GeluTanh),
            )?,
        })
    }

    fn of_metadata(config: &Config<'_>, decoder: &Decoder<'_>) -> Result<Self, ArchitectureError> {
        let sizes = &decoder.sizes;
        let window = config.optional_count("attention.sliding_window")?;
        let every = config.count_or("attention.sliding_window_pattern", Some(PATTERN))?;
        let mut global = rotary::of_metadata(config, sizes.head_dim, sizes.context, Pairs::Split)?;
        if matches!(global.scaling, RotaryScaling::Yarn { .. }) {
            return Err(config.unsupported("rope.scaling.type", "`none` or `linear`"));
        }
        if !config.has("rope.freq_base") {
            global.base = GLOBAL_BASE;
        }
        let base = config.positive_or("rope.freq_base_swa", Some(LOCAL_BASE))?;
        let local = Rotary { base, scaling: RotaryScaling::None, ..global.clone() };
        let columns = if sizes.layers == LAYERS_27B {
            config
                .divide(("embedding_length", sizes.hidden), ("attention.head_count", sizes.heads))?
        } else {
            sizes.head_dim
        };
        let scale = config.optional_positive("attention.scale")?;
        Ok(Self {
            window,
            sliding: pattern(sizes.layers, every),
            local,
            global,
            scale: scale.unwrap_or(1.0 / (columns as f64).sqrt()) as f32,
            head_cap: head_cap(config)?,
            bias: Bias::Never,
            function: ActivationFunction::GeluTanh,
        })
    }
}
