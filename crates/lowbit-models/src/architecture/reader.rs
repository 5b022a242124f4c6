//! What every architecture reads in the same way.

use super::config::Config;
use super::tensors::Tensors;
use super::{ArchitectureError, Blueprint, Pairs, Rotary, RotaryScaling, rotary};
use crate::checkpoint::source::{Data, ModelSource};

/// Which names tensors and settings have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum World {
    /// The names of Hugging Face's `transformers`.
    Hf,
    /// The names of GGUF files.
    Gguf,
}

/// A model from which a blueprint is made.
pub(super) struct Reader<'a> {
    pub world: World,
    pub config: Config<'a>,
    pub tensors: Tensors,
    pub model: &'a dyn ModelSource,
}

/// The name of a tensor or setting in either world.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub hf: &'static str,
    pub gguf: &'static str,
}

/// Returns a name in either world.
pub(super) const fn name(hf: &'static str, gguf: &'static str) -> Name {
    Name { hf, gguf }
}

impl Reader<'_> {
    pub fn is_gguf(&self) -> bool {
        self.world == World::Gguf
    }

    /// Returns the name that counts in this world.
    pub fn pick(&self, name: Name) -> &'static str {
        match self.world {
            World::Hf => name.hf,
            World::Gguf => name.gguf,
        }
    }

    /// Returns what stands before the names of the model's tensors, which is what stands before `anchor`.
    ///
    /// # Errors
    /// Returns [`ArchitectureError::TwoModels`] if several tensors end with `anchor`. If none does, the
    /// prefix is `usual`, and the tensor is missing when it is looked up.
    pub fn prefix(&self, anchor: &str, usual: &str) -> Result<String, ArchitectureError> {
        let prefix = |name: &str| {
            let prefix = name.strip_suffix(anchor)?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        };
        let mut found = self.tensors.names().filter_map(prefix);
        match (found.next(), found.next()) {
            (Some(first), Some(second)) => Err(ArchitectureError::TwoModels { first, second }),
            (Some(one), None) => Ok(one),
            (None, _) => Ok(usual.to_owned()),
        }
    }

    /// Returns the number of layers, of which there are no more than tensors.
    pub fn layers(&self, key: &str) -> Result<usize, ArchitectureError> {
        let (layers, tensors) = (self.config.count(key)?, self.tensors.len());
        if layers <= tensors {
            return Ok(layers);
        }
        let need = format!("at most {tensors}, the number of tensors");
        Err(self.config.wrong(key, need))
    }

    /// Reads the rotary embedding. `pairs` are those of the GGUF architecture; in files of `transformers`
    /// all models here have split pairs.
    pub fn rotary(&self, sizes: &Sizes, pairs: Pairs) -> Result<Rotary, ArchitectureError> {
        match self.world {
            World::Hf => rotary::of_config(&self.config, sizes.head_dim, sizes.context),
            World::Gguf => {
                let mut rotary =
                    rotary::of_metadata(&self.config, sizes.head_dim, sizes.context, pairs)?;
                if self.tensors.has(ROPE_FREQS) {
                    if rotary.scaling != RotaryScaling::None {
                        return Err(self.config.unsupported(
                            "rope.scaling.type",
                            format_args!("`none` beside a tensor `{ROPE_FREQS}`"),
                        ));
                    }
                    let divisors = self.tensors.vector(ROPE_FREQS, rotary.dim / 2)?;
                    rotary.scaling = RotaryScaling::Divisors(divisors);
                }
                Ok(rotary)
            }
        }
    }

    /// Checks that the blueprint uses every tensor whose name starts with one of the prefixes, except those
    /// for which `harmless` returns true.
    pub fn all_used(
        &self,
        blueprint: &Blueprint,
        prefixes: &[&str],
        harmless: impl Fn(&str) -> bool,
    ) -> Result<(), ArchitectureError> {
        let used = blueprint.tensors();
        for name in self.tensors.names() {
            let own = prefixes.iter().any(|prefix| name.starts_with(prefix));
            // Scales of a quantized KV cache, which a model need not have.
            let cache = name.ends_with(".k_scale") || name.ends_with(".v_scale");
            if own && !used.contains(name) && !cache && !harmless(name) && !self.is_no_bias(name)? {
                let (name, family) = (name.to_owned(), blueprint.family);
                return Err(ArchitectureError::Unused { name, family });
            }
        }
        Ok(())
    }

    /// Returns whether a tensor is a bias of zeros, which some tools write beside the weights that they
    /// quantize.
    fn is_no_bias(&self, name: &str) -> Result<bool, ArchitectureError> {
        let Some(module) = name.strip_suffix(".bias") else { return Ok(false) };
        let weight = format!("{module}.weight");
        if !self.tensors.has(&weight) || !self.tensors.is_compressed(&weight)? {
            return Ok(false);
        }
        Ok(match self.model.read(name)? {
            Data::Plain(bytes) => bytes.iter().all(|byte| *byte == 0),
            Data::Compressed(_) => false,
        })
    }
}

/// The tensor of divisors of a GGUF file.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub hidden: usize,
    pub vocab: usize,
    pub context: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// The columns between the matrices of the feed-forward block.
    pub feed: usize,
    pub epsilon: f32,
}

/// What sizes are if a `config.json` does not name them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults {
    pub vocab: Option<usize>,
    pub context: Option<usize>,
    pub heads: Option<usize>,
    /// As many as there are heads, if it is `None`.
    pub kv_heads: Option<usize>,
    /// The hidden size over the number of heads, if it is `None`.
    pub head_dim: Option<usize>,
    pub epsilon: Option<f64>,
}

impl Sizes {
    /// Reads the sizes of a decoder with RMS normalizations, whose token embedding is `tokens`.
    pub fn read(
        reader: &Reader<'_>,
        defaults: &Defaults,
        tokens: &str,
    ) -> Result<Self, ArchitectureError> {
        match reader.world {
            World::Hf => Self::of_config(reader, defaults),
            World::Gguf => {
                let vocab = *reader.tensors.shape(tokens)?.first().unwrap_or(&0);
                Self::of_metadata(reader, vocab, "attention.layer_norm_rms_epsilon")
            }
        }
    }

    fn of_config(reader: &Reader<'_>, defaults: &Defaults) -> Result<Self, ArchitectureError> {
        let config = &reader.config;
        let hidden = config.count("hidden_size")?;
        let heads = config.count_or("num_attention_heads", defaults.heads)?;
        let kv_default = defaults.kv_heads.unwrap_or(heads);
        let kv_heads = config.count_or("num_key_value_heads", Some(kv_default))?;
        let head_dim = match config.optional_count("head_dim")?.or(defaults.head_dim) {
            Some(given) => given,
            None => config.divide(("hidden_size", hidden), ("num_attention_heads", heads))?,
        };
        config.divide(("num_attention_heads", heads), ("num_key_value_heads", kv_heads))?;
        Ok(Self {
            hidden,
            vocab: config.count_or("vocab_size", defaults.vocab)?,
            context: config.count_or("max_position_embeddings", defaults.context)?,
            layers: reader.layers("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            feed: config.count("intermediate_size")?,
            epsilon: config.positive_or("rms_norm_eps", defaults.epsilon)? as f32,
        })
    }

    /// Reads the sizes of a GGUF file with so many rows of the token embedding.
    pub fn of_metadata(
        reader: &Reader<'_>,
        vocab: usize,
        epsilon: &str,
    ) -> Result<Self, ArchitectureError> {
        let config = &reader.config;
        let hidden = config.count("embedding_length")?;
        let heads = config.count("attention.head_count")?;
        let kv_heads = config.count_or("attention.head_count_kv", Some(heads))?;
        let head_dim = match config.optional_count("attention.key_length")? {
            Some(given) => given,
            None => config.divide(("embedding_length", hidden), ("attention.head_count", heads))?,
        };
        if config.count_or("attention.value_length", Some(head_dim))? != head_dim {
            return Err(config.unsupported(
                "attention.value_length",
                format_args!("{head_dim}, the columns of keys,"),
            ));
        }
        if config.count_or("vocab_size", Some(vocab))? != vocab {
            let need = format!("{vocab}, the rows of the token embedding");
            return Err(config.wrong("vocab_size", need));
        }
        config.divide(("attention.head_count", heads), ("attention.head_count_kv", kv_heads))?;
        Ok(Self {
            hidden,
            vocab,
            context: config.count("context_length")?,
            layers: reader.layers("block_count")?,
            heads,
            kv_heads,
            head_dim,
            feed: config.count("feed_forward_length")?,
            epsilon: config.positive_or(epsilon, None)? as f32,
        })
    }

    /// Returns the columns of all heads of queries, and of keys.
    pub fn columns(&self, config: &Config<'_>) -> Result<(usize, usize), ArchitectureError> {
        let of = |heads: usize| {
            heads.checked_mul(self.head_dim).ok_or_else(|| ArchitectureError::Wrong {
                key: config.name("head_dim"),
                have: self.head_dim.to_string(),
                need: format!("a number of which {heads} heads fit into memory"),
            })
        };
        Ok((of(self.heads)?, of(self.kv_heads)?))
    }
}
