//! What decoders with rotary embeddings and RMS normalizations share. A file for each architecture says in
//! what it differs.

use super::reader::{Defaults, Name, Reader, Sizes, name};
use super::tensors::Bias;
use super::{
    ArchitectureError, Attention, Blueprint, Embedding, Feed, Gated, Head, Layer, Linear, Norm,
    Rotary,
};
use lowbit::format::ActivationFunction;

/// The token embedding.
const TOKENS: Name = name("embed_tokens.weight", "token_embd.weight");
/// The normalization before attention.
pub(super) const ATTENTION_NORM: Name = name("input_layernorm", "attn_norm");
/// The normalization before the feed-forward block.
pub(super) const FEED_NORM: Name = name("post_attention_layernorm", "ffn_norm");
const QUERY: Name = name("self_attn.q_proj", "attn_q");
const KEY: Name = name("self_attn.k_proj", "attn_k");
const VALUE: Name = name("self_attn.v_proj", "attn_v");
const OUTPUT: Name = name("self_attn.o_proj", "attn_output");
const QUERY_NORM: Name = name("self_attn.q_norm", "attn_q_norm");
const KEY_NORM: Name = name("self_attn.k_norm", "attn_k_norm");
const GATE: Name = name("mlp.gate_proj", "ffn_gate");
const UP: Name = name("mlp.up_proj", "ffn_up");
const DOWN: Name = name("mlp.down_proj", "ffn_down");
const FINAL_NORM: Name = name("norm", "output_norm");

/// A decoder that is being read.
pub(super) struct Decoder<'a> {
    pub reader: &'a Reader<'a>,
    pub sizes: Sizes,
    /// What the factors of normalizations lack.
    pub weight_offset: f32,
    /// What stands before the names of its tensors in files of `transformers`: `model.`.
    prefix: String,
}

/// In what the attention of a layer differs from that of other architectures.
pub(super) struct AttentionKind<'a> {
    /// Whether queries, keys and values have biases.
    pub bias: Bias,
    /// Whether the output has one.
    pub output_bias: Bias,
    /// Whether each head of queries and keys is normalized.
    pub head_norms: bool,
    pub rotary: &'a Rotary,
    pub window: Option<usize>,
    pub scale: f32,
    pub soft_cap: Option<f32>,
}

/// Metadata of GGUF files that changes what is computed, in ways that the architectures here do not have.
const UNKNOWN_EFFECTS: [&str; 12] = [
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.output_scale",
    "attention.temperature_length",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "logit_scale",
    "residual_scale",
    "rope.dimension_sections",
    "rope.scaling.alpha",
    "router_logit_softcapping",
];

impl<'a> Decoder<'a> {
    pub fn new(reader: &'a Reader<'a>, defaults: &Defaults) -> Result<Self, ArchitectureError> {
        let prefix = if reader.is_gguf() {
            let config = &reader.config;
            if let Some(key) = UNKNOWN_EFFECTS.into_iter().find(|key| config.has(key)) {
                return Err(config.unsupported(key, "a model without it"));
            }
            config.expect_flag("attention.causal", true, true)?;
            String::new()
        } else {
            reader.prefix(TOKENS.hf, "model.")?
        };
        let sizes = Sizes::read(reader, defaults, &format!("{prefix}{}", reader.pick(TOKENS)))?;
        Ok(Self { reader, sizes, weight_offset: 0.0, prefix })
    }

    /// Returns what stands before the numbers of layers.
    fn layers_prefix(&self) -> String {
        if self.reader.is_gguf() { "blk.".to_owned() } else { format!("{}layers.", self.prefix) }
    }

    /// Returns the name of a module of a layer.
    pub fn module(&self, at: usize, name: Name) -> String {
        format!("{}{at}.{}", self.layers_prefix(), self.reader.pick(name))
    }

    /// Returns a linear layer of a layer, from `k` columns to `n`.
    pub fn linear(
        &self,
        at: usize,
        name: Name,
        shape: (usize, usize),
        bias: Bias,
    ) -> Result<Linear, ArchitectureError> {
        self.reader.tensors.linear(&self.module(at, name), shape, bias)
    }

    fn rms(&self, module: &str, len: usize) -> Result<Norm, ArchitectureError> {
        self.reader.tensors.rms_norm(module, len, self.sizes.epsilon, self.weight_offset)
    }

    /// Returns a normalization of a layer's residual.
    pub fn norm(&self, at: usize, name: Name) -> Result<Option<Norm>, ArchitectureError> {
        self.rms(&self.module(at, name), self.sizes.hidden).map(Some)
    }

    /// Returns what scores are multiplied with: 1/√head_dim, if a GGUF file does not name it.
    pub fn scale(&self) -> Result<f32, ArchitectureError> {
        let config = &self.reader.config;
        if self.reader.is_gguf()
            && let Some(scale) = config.optional_positive("attention.scale")?
        {
            return Ok(scale as f32);
        }
        Ok((1.0 / (self.sizes.head_dim as f64).sqrt()) as f32)
    }

    /// Checks that a GGUF file names none of these settings, which only other architectures here have.
    pub fn expect_none(&self, keys: &[&str]) -> Result<(), ArchitectureError> {
        let config = &self.reader.config;
        match keys.iter().find(|key| self.reader.is_gguf() && config.has(key)) {
            Some(key) => Err(config.unsupported(key, "a model without it")),
            None => Ok(()),
        }
    }

    /// Returns the attention of a layer.
    pub fn attention(
        &self,
        at: usize,
        kind: AttentionKind<'_>,
    ) -> Result<Attention, ArchitectureError> {
        let Sizes { hidden, heads, kv_heads, head_dim, .. } = self.sizes;
        let (queries, keys) = self.sizes.columns(&self.reader.config)?;
        let head_norm =
            |name| kind.head_norms.then(|| self.rms(&self.module(at, name), head_dim)).transpose();
        Ok(Attention {
            heads,
            kv_heads,
            head_dim,
            query: self.linear(at, QUERY, (queries, hidden), kind.bias)?,
            key: self.linear(at, KEY, (keys, hidden), kind.bias)?,
            value: self.linear(at, VALUE, (keys, hidden), kind.bias)?,
            output: self.linear(at, OUTPUT, (hidden, queries), kind.output_bias)?,
            query_norm: head_norm(QUERY_NORM)?,
            key_norm: head_norm(KEY_NORM)?,
            rotary: Some(kind.rotary.clone()),
            scale: kind.scale,
            soft_cap: kind.soft_cap,
            causal: true,
            window: kind.window,
            relative_bias: None,
        })
    }

    /// Returns the gated feed-forward block of a layer.
    pub fn gated(
        &self,
        at: usize,
        function: ActivationFunction,
        bias: Bias,
    ) -> Result<Feed, ArchitectureError> {
        let Sizes { hidden, feed, .. } = self.sizes;
        Ok(Feed::Gated(Gated {
            gate: self.linear(at, GATE, (feed, hidden), bias)?,
            up: self.linear(at, UP, (feed, hidden), bias)?,
            down: self.linear(at, DOWN, (hidden, feed), bias)?,
            function,
        }))
    }

    /// Returns the activation function that a `config.json` names, or SiLU, which GGUF files do not name.
    pub fn silu(&self) -> Result<ActivationFunction, ArchitectureError> {
        let silu = ActivationFunction::Silu;
        if self.reader.is_gguf() {
            return Ok(silu);
        }
        self.reader.config.function("hidden_act", Some(silu))
    }

    /// Returns the blueprint. `layer` makes the layers; `tied` is whether a `config.json` that does not say
    /// it means that the head has the embedding's matrix.
    pub fn blueprint(
        &self,
        family: &'static str,
        tied: bool,
        layer: impl FnMut(usize) -> Result<Layer, ArchitectureError>,
    ) -> Result<Blueprint, ArchitectureError> {
        let Sizes { hidden, vocab, context, layers, .. } = self.sizes;
        let Reader { tensors, .. } = self.reader;
        let own = |name| format!("{}{}", self.prefix, self.reader.pick(name));
        let tokens = tensors.matrix(&own(TOKENS), vocab, hidden)?;
        let head = match self.head(tied)? {
            None => Linear { matrix: tokens.clone(), bias: None },
            Some(module) => tensors.linear(&module, (vocab, hidden), Bias::Never)?,
        };
        let blueprint = Blueprint {
            family,
            hidden,
            vocab,
            context,
            embedding: Embedding {
                tokens,
                scale: 1.0,
                positions: None,
                types: None,
                norm: None,
                projection: None,
            },
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            final_norm: Some(self.rms(&own(FINAL_NORM), hidden)?),
            head: Some(Head { linear: head, soft_cap: None, scale: 1.0 }),
        };
        self.check_used(&blueprint)?;
        Ok(blueprint)
    }

    fn check_used(&self, blueprint: &Blueprint) -> Result<(), ArchitectureError> {
        if self.reader.is_gguf() {
            return self.reader.all_used(blueprint, &[""], |_| false);
        }
        let layers = self.layers_prefix();
        // Files of old versions hold the frequencies that the configuration gives.
        let harmless = |name: &str| name.ends_with(".rotary_emb.inv_freq");
        self.reader.all_used(blueprint, &[&layers], harmless)
    }

    /// Returns the module of the head, or `None` if it has the embedding's matrix.
    fn head(&self, tied: bool) -> Result<Option<String>, ArchitectureError> {
        let Reader { tensors, config, .. } = self.reader;
        if self.reader.is_gguf() {
            return Ok(tensors.has("output.weight").then(|| "output".to_owned()));
        }
        if config.flag("tie_word_embeddings", tied)? {
            return Ok(None);
        }
        // Beside the decoder, which may be a part of a larger model.
        let outer = self.prefix.strip_suffix("model.").unwrap_or(&self.prefix);
        let beside = format!("{outer}lm_head");
        let there = tensors.has(&format!("{beside}.weight"));
        Ok(Some(if there { beside } else { "lm_head".to_owned() }))
    }
}
