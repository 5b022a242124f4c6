//! GPT-2: layer normalizations, learned positions, queries, keys and values in one matrix, and matrices that
//! files of `transformers` hold as `[K, N]`.

use super::reader::{Name, Reader, Sizes, World, name};
use super::tensors::Bias;
use super::{
    ArchitectureError, Attention, Blueprint, Embedding, Feed, Head, Layer, Linear, Matrix, Norm,
    Norms, Vector,
};
use lowbit::format::ActivationFunction;
use std::ops::Range;

const TOKENS: Name = name("wte.weight", "token_embd.weight");
const POSITIONS: Name = name("wpe.weight", "position_embd.weight");
const LAYERS: Name = name("h.", "blk.");
const QUERY_KEY_VALUE: Name = name("attn.c_attn", "attn_qkv");
const OUTPUT: Name = name("attn.c_proj", "attn_output");
const UP: Name = name("mlp.c_fc", "ffn_up");
const DOWN: Name = name("mlp.c_proj", "ffn_down");
const ATTENTION_NORM: Name = name("ln_1", "attn_norm");
const FEED_NORM: Name = name("ln_2", "ffn_norm");
const FINAL_NORM: Name = name("ln_f", "output_norm");

struct Gpt2<'a> {
    reader: &'a Reader<'a>,
    sizes: Sizes,
    prefix: String,
    function: ActivationFunction,
    /// Whether scores are divided by √head_dim, and whether by the number of the layer.
    scaled: (bool, bool),
}

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let model = Gpt2::new(reader)?;
    let Sizes { hidden, vocab, context, layers, .. } = model.sizes;
    let own = |name| format!("{}{}", model.prefix, reader.pick(name));
    let tokens = reader.tensors.matrix(&own(TOKENS), vocab, hidden)?;
    let head = match model.head()? {
        None => Linear { matrix: tokens.clone(), bias: None },
        Some(module) => reader.tensors.linear(&module, (vocab, hidden), Bias::Never)?,
    };
    let blueprint = Blueprint {
        family: "gpt2",
        hidden,
        vocab,
        context,
        embedding: Embedding {
            tokens,
            scale: 1.0,
            positions: Some((reader.tensors.matrix(&own(POSITIONS), context, hidden)?, 0)),
            types: None,
            norm: None,
            projection: None,
        },
        layers: (0..layers).map(|at| model.layer(at)).collect::<Result<_, _>>()?,
        final_norm: Some(model.norm(&own(FINAL_NORM))?),
        head: Some(Head { linear: head, soft_cap: None, scale: 1.0 }),
    };
    match reader.world {
        World::Gguf => reader.all_used(&blueprint, &[""], |_| false)?,
        World::Hf => {
            // Files of old versions hold the causal mask.
            let mask =
                |name: &str| name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
            reader.all_used(&blueprint, &[&own(LAYERS)], mask)?;
        }
    }
    Ok(blueprint)
}

impl<'a> Gpt2<'a> {
    fn new(reader: &'a Reader<'a>) -> Result<Self, ArchitectureError> {
        let config = &reader.config;
        if reader.is_gguf() {
            let rows = reader.tensors.shape(TOKENS.gguf)?.first().copied().unwrap_or(0);
            let sizes = Sizes::of_metadata(reader, rows, "attention.layer_norm_epsilon")?;
            if sizes.kv_heads != sizes.heads {
                let need = format!("{}, one for each head,", sizes.heads);
                return Err(config.unsupported("attention.head_count_kv", need));
            }
            let (prefix, function) = (String::new(), ActivationFunction::GeluTanh);
            return Ok(Self { reader, sizes, prefix, function, scaled: (true, false) });
        }
        config.expect_flag("add_cross_attention", false, false)?;
        let hidden = config.count("n_embd")?;
        let heads = config.count("n_head")?;
        let sizes = Sizes {
            hidden,
            vocab: config.count("vocab_size")?,
            context: config.count("n_positions")?,
            layers: reader.layers("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: config.divide(("n_embd", hidden), ("n_head", heads))?,
            feed: config.count_or("n_inner", hidden.checked_mul(4))?,
            epsilon: config.positive_or("layer_norm_epsilon", Some(1e-5))? as f32,
        };
        let function =
            config.function("activation_function", Some(ActivationFunction::GeluTanh))?;
        let scaled = (
            config.flag("scale_attn_weights", true)?,
            config.flag("scale_attn_by_inverse_layer_idx", false)?,
        );
        let prefix = reader.prefix(TOKENS.hf, "transformer.")?;
        Ok(Self { reader, sizes, prefix, function, scaled })
    }

    /// Returns the module of the head, or `None` if it has the embedding's matrix.
    fn head(&self) -> Result<Option<String>, ArchitectureError> {
        let Reader { tensors, config, .. } = self.reader;
        if self.reader.is_gguf() {
            return Ok(tensors.has("output.weight").then(|| "output".to_owned()));
        }
        let tied = config.flag("tie_word_embeddings", true)?;
        Ok((!tied).then(|| "lm_head".to_owned()))
    }

    fn module(&self, at: usize, name: Name) -> String {
        let layers = self.reader.pick(LAYERS);
        format!("{}{layers}{at}.{}", self.prefix, self.reader.pick(name))
    }

    fn norm(&self, module: &str) -> Result<Norm, ArchitectureError> {
        self.reader.tensors.layer_norm(module, self.sizes.hidden, self.sizes.epsilon)
    }

    /// Returns a linear layer from `k` columns to `n`, or what some rows of it are.
    fn linear(
        &self,
        at: usize,
        name: Name,
        (n, k): (usize, usize),
        rows: Option<Range<usize>>,
    ) -> Result<Linear, ArchitectureError> {
        let module = self.module(at, name);
        let tensor = format!("{module}.weight");
        let tensors = &self.reader.tensors;
        let compressed = tensors.is_compressed(&tensor)?;
        let transposed = !self.reader.is_gguf() && !compressed;
        if transposed {
            tensors.matrix(&tensor, k, n)?;
        } else {
            tensors.matrix(&tensor, n, k)?;
        }
        // Tools differ in whether they compress a matrix as `[K, N]` or as `[N, K]`. A square one is taken to
        // be as that of queries, keys and values in the same layer, which shows it.
        if compressed && !self.reader.is_gguf() && n == k {
            let witness = format!("{}.weight", self.module(at, QUERY_KEY_VALUE));
            if !tensors.is_compressed(&witness)? {
                return Err(ArchitectureError::WrongTensor {
                    name: tensor,
                    have: "compressed, with axes in an order that nothing tells".to_owned(),
                    need: format!("compressed beside `{witness}`, which shows it"),
                });
            }
        }
        let bias = tensors.vector(&format!("{module}.bias"), n)?;
        let bias = Some(Vector { part: rows.clone(), ..bias });
        Ok(Linear { matrix: Matrix { tensor, rows, transposed }, bias })
    }

    fn layer(&self, at: usize) -> Result<Layer, ArchitectureError> {
        let Sizes { hidden, heads, head_dim, feed, .. } = self.sizes;
        let whole =
            hidden.checked_mul(3).ok_or_else(|| self.reader.config.wrong("n_embd", "less"))?;
        let third = |part: usize| {
            let rows = part * hidden..(part + 1) * hidden;
            self.linear(at, QUERY_KEY_VALUE, (whole, hidden), Some(rows))
        };
        let (by_size, by_layer) = self.scaled;
        let mut scale = 1.0;
        if by_size {
            scale /= (head_dim as f64).sqrt();
        }
        if by_layer {
            scale /= (at + 1) as f64;
        }
        let before = |name| {
            let input = Some(self.norm(&self.module(at, name))?);
            Ok::<_, ArchitectureError>(Norms { input, ..Norms::default() })
        };
        Ok(Layer {
            attention: Attention {
                heads,
                kv_heads: heads,
                head_dim,
                query: third(0)?,
                key: third(1)?,
                value: third(2)?,
                output: self.linear(at, OUTPUT, (hidden, hidden), None)?,
                query_norm: None,
                key_norm: None,
                rotary: None,
                scale: scale as f32,
                soft_cap: None,
                causal: true,
                window: None,
                relative_bias: None,
            },
            attention_norms: before(ATTENTION_NORM)?,
            feed: Feed::Plain {
                up: self.linear(at, UP, (feed, hidden), None)?,
                down: self.linear(at, DOWN, (hidden, feed), None)?,
                function: self.function,
            },
            feed_norms: before(FEED_NORM)?,
        })
    }
}
