//! What encoders of BERT's kind share: biases everywhere, and normalizations after the blocks. A file for each
//! architecture says in what it differs.

use super::config::Config;
use super::reader::{Name, Reader, Sizes, name};
use super::tensors::Bias;
use super::{
    ArchitectureError, Attention, Blueprint, Embedding, Feed, Layer, Linear, Matrix, Norm, Norms,
    RelativeBias,
};
use lowbit::format::ActivationFunction;

/// The token embedding.
const TOKENS: Name = name("embeddings.word_embeddings.weight", "token_embd.weight");
const POSITIONS: Name = name("embeddings.position_embeddings.weight", "position_embd.weight");
const TYPES: Name = name("embeddings.token_type_embeddings.weight", "token_types.weight");
const NORM: Name = name("embeddings.LayerNorm", "token_embd_norm");

/// The names of the modules of a layer.
pub(super) struct Names {
    /// What stands before the number of a layer.
    pub layers: Name,
    pub query: Name,
    pub key: Name,
    pub value: Name,
    pub output: Name,
    pub attention_norm: Name,
    pub up: Name,
    pub down: Name,
    pub feed_norm: Name,
}

/// The names of BERT.
pub(super) const BERT: Names = Names {
    layers: name("encoder.layer.", "blk."),
    query: name("attention.self.query", "attn_q"),
    key: name("attention.self.key", "attn_k"),
    value: name("attention.self.value", "attn_v"),
    output: name("attention.output.dense", "attn_output"),
    attention_norm: name("attention.output.LayerNorm", "attn_output_norm"),
    up: name("intermediate.dense", "ffn_up"),
    down: name("output.dense", "ffn_down"),
    feed_norm: name("output.LayerNorm", "layer_output_norm"),
};

/// An encoder that is being read.
pub(super) struct Encoder<'a> {
    pub reader: &'a Reader<'a>,
    pub sizes: Sizes,
    pub function: ActivationFunction,
    /// The columns of the embedding.
    pub embedding: usize,
    /// The rows of the table of kinds of tokens; 0 if there is none.
    pub types: usize,
    /// The row of position 0.
    pub first_position: usize,
    /// The tensors whose names start with this are the encoder's.
    pub prefix: String,
    pub names: &'static Names,
}

impl<'a> Encoder<'a> {
    /// Reads the settings of BERT, which others share.
    pub fn new(reader: &'a Reader<'a>) -> Result<Self, ArchitectureError> {
        let config = &reader.config;
        if reader.is_gguf() {
            return Self::of_metadata(reader);
        }
        config.expect_flag("is_decoder", false, false)?;
        config.expect_flag("add_cross_attention", false, false)?;
        if config.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
            return Err(config.unsupported("position_embedding_type", "`absolute`"));
        }
        let hidden = config.count("hidden_size")?;
        let heads = config.count("num_attention_heads")?;
        let sizes = Sizes {
            hidden,
            vocab: config.count("vocab_size")?,
            context: config.count("max_position_embeddings")?,
            layers: reader.layers("num_hidden_layers")?,
            heads,
            kv_heads: heads,
            head_dim: config.divide(("hidden_size", hidden), ("num_attention_heads", heads))?,
            feed: config.count("intermediate_size")?,
            epsilon: config.positive_or("layer_norm_eps", Some(1e-12))? as f32,
        };
        Ok(Self {
            reader,
            sizes,
            function: config.function("hidden_act", Some(ActivationFunction::Gelu))?,
            embedding: hidden,
            types: config.count_or("type_vocab_size", Some(2))?,
            first_position: 0,
            prefix: Self::prefix(reader)?,
            names: &BERT,
        })
    }

    /// Returns what stands before the names of the encoder's tensors in a file of `transformers`.
    pub fn prefix(reader: &Reader<'_>) -> Result<String, ArchitectureError> {
        reader.prefix(TOKENS.hf, "")
    }

    fn of_metadata(reader: &'a Reader<'a>) -> Result<Self, ArchitectureError> {
        let Reader { config, tensors, .. } = reader;
        config.expect_flag("attention.causal", false, false)?;
        let rows = |tensor| tensors.shape(tensor).map(|shape| shape.first().copied().unwrap_or(0));
        let vocab = rows(TOKENS.gguf)?;
        let sizes = Sizes::of_metadata(reader, vocab, "attention.layer_norm_epsilon")?;
        if sizes.kv_heads != sizes.heads {
            let need = format!("{}, one for each head,", sizes.heads);
            return Err(config.unsupported("attention.head_count_kv", need));
        }
        let types = if tensors.has(TYPES.gguf) { rows(TYPES.gguf)? } else { 0 };
        Ok(Self {
            reader,
            sizes,
            // Such files do not name it. The models from which they are converted have this one.
            function: ActivationFunction::Gelu,
            embedding: sizes.hidden,
            types,
            first_position: 0,
            prefix: String::new(),
            names: &BERT,
        })
    }

    /// Returns the name of a module of the encoder.
    pub fn own(&self, name: Name) -> String {
        format!("{}{}", self.prefix, self.reader.pick(name))
    }

    fn module(&self, at: usize, name: Name) -> String {
        let layers = self.reader.pick(self.names.layers);
        format!("{}{layers}{at}.{}", self.prefix, self.reader.pick(name))
    }

    fn linear(
        &self,
        at: usize,
        name: Name,
        shape: (usize, usize),
    ) -> Result<Linear, ArchitectureError> {
        self.reader.tensors.linear(&self.module(at, name), shape, Bias::Always)
    }

    fn norm_after(&self, at: usize, name: Name) -> Result<Norms, ArchitectureError> {
        let Sizes { hidden, epsilon, .. } = self.sizes;
        let sum = self.reader.tensors.layer_norm(&self.module(at, name), hidden, epsilon)?;
        Ok(Norms { sum: Some(sum), ..Norms::default() })
    }

    fn layer(
        &self,
        at: usize,
        relative_bias: Option<RelativeBias>,
    ) -> Result<Layer, ArchitectureError> {
        let Self { sizes: Sizes { hidden, heads, head_dim, feed, .. }, names, .. } = *self;
        let square = (hidden, hidden);
        Ok(Layer {
            attention: Attention {
                heads,
                kv_heads: heads,
                head_dim,
                query: self.linear(at, names.query, square)?,
                key: self.linear(at, names.key, square)?,
                value: self.linear(at, names.value, square)?,
                output: self.linear(at, names.output, square)?,
                query_norm: None,
                key_norm: None,
                rotary: None,
                scale: (1.0 / (head_dim as f64).sqrt()) as f32,
                soft_cap: None,
                causal: false,
                window: None,
                relative_bias,
            },
            attention_norms: self.norm_after(at, names.attention_norm)?,
            feed: Feed::Plain {
                up: self.linear(at, names.up, (feed, hidden))?,
                down: self.linear(at, names.down, (hidden, feed))?,
                function: self.function,
            },
            feed_norms: self.norm_after(at, names.feed_norm)?,
        })
    }

    fn types(&self) -> Result<Option<Matrix>, ArchitectureError> {
        if self.types == 0 {
            return Ok(None);
        }
        self.reader.tensors.matrix(&self.own(TYPES), self.types, self.embedding).map(Some)
    }

    fn embedding_norm(&self) -> Result<Norm, ArchitectureError> {
        self.reader.tensors.layer_norm(&self.own(NORM), self.embedding, self.sizes.epsilon)
    }

    /// Returns the blueprint.
    pub fn blueprint(
        &self,
        family: &'static str,
        projection: Option<Linear>,
        relative_bias: Option<&RelativeBias>,
    ) -> Result<Blueprint, ArchitectureError> {
        let Sizes { hidden, vocab, context, layers, .. } = self.sizes;
        let tensors = &self.reader.tensors;
        let positions = tensors.matrix(&self.own(POSITIONS), context, self.embedding)?;
        let left = context.checked_sub(self.first_position).filter(|left| *left > 0);
        let left = left.ok_or_else(|| {
            let need = format!("more than {}, the row of the first position", self.first_position);
            self.reader.config.wrong("max_position_embeddings", need)
        })?;
        let blueprint = Blueprint {
            family,
            hidden,
            vocab,
            context: left,
            embedding: Embedding {
                tokens: tensors.matrix(&self.own(TOKENS), vocab, self.embedding)?,
                scale: 1.0,
                positions: Some((positions, self.first_position)),
                types: self.types()?,
                norm: Some(self.embedding_norm()?),
                projection,
            },
            layers: (0..layers)
                .map(|at| self.layer(at, relative_bias.cloned()))
                .collect::<Result<_, _>>()?,
            final_norm: None,
            head: None,
        };
        // Other tensors are heads for tasks that are not computed here.
        let parts = [self.own(self.names.layers), self.own(name("embeddings.", "token_"))];
        let [layers, embeddings] = parts.each_ref().map(String::as_str);
        self.reader.all_used(&blueprint, &[layers, embeddings], |name| {
            name.ends_with("embeddings.position_ids") || name.ends_with("embeddings.token_type_ids")
        })?;
        Ok(blueprint)
    }
}

/// Returns the row of the first position in models that start after that of padding.
pub(super) fn after_padding(config: &Config<'_>) -> Result<usize, ArchitectureError> {
    Ok(config.optional_index("pad_token_id")?.unwrap_or(1) + 1)
}
