//! Which tensors of a model are the weights of linear layers: by its architecture where `config.json`
//! names one that is known, else by the names of the tensors.

use crate::checkpoint::source::Role as Named;
use serde_json::Value;

/// The linear layers of some architectures.
struct Architecture {
    /// The values of `model_type`.
    types: &'static [&'static str],
    /// The last parts of the names of the modules that are linear layers. What each does is what
    /// [`Named::of`] says.
    linear: &'static [&'static str],
    /// Whether their weights, all but the head, are stored as `[K, N]`.
    kn: bool,
}

const ARCHITECTURES: [Architecture; 6] = [
    Architecture {
        types: &["bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie"],
        linear: &[
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
            "pooler.dense",
            "embeddings_project",
        ],
        kn: false,
    },
    Architecture {
        types: &["distilbert"],
        linear: &["q_lin", "k_lin", "v_lin", "out_lin", "ffn.lin1", "ffn.lin2"],
        kn: false,
    },
    Architecture {
        types: &["mpnet"],
        linear: &["attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"],
        kn: false,
    },
    Architecture {
        types: &[
            "llama",
            "mistral",
            "mixtral",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "phi",
            "phi3",
            "smollm3",
            "gemma3",
            "qwen2_moe",
            "qwen3_moe",
            "olmo",
            "olmo2",
            "stablelm",
            "starcoder2",
            "granite",
            "cohere",
        ],
        linear: &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "qkv_proj",
            "self_attn.dense",
            "gate_proj",
            "up_proj",
            "down_proj",
            "gate_up_proj",
            "mlp.fc1",
            "mlp.fc2",
            "mlp.c_fc",
            "mlp.c_proj",
            "w1",
            "w2",
            "w3",
            "lm_head",
        ],
        kn: false,
    },
    Architecture {
        types: &["gpt_neox"],
        linear: &[
            "query_key_value",
            "attention.dense",
            "dense_h_to_4h",
            "dense_4h_to_h",
            "embed_out",
        ],
        kn: false,
    },
    Architecture {
        types: &["gpt2", "openai-gpt", "imagegpt", "decision_transformer"],
        linear: &[
            "c_attn",
            "q_attn",
            "attn.c_proj",
            "crossattention.c_proj",
            "mlp.c_proj",
            "c_fc",
            "lm_head",
        ],
        kn: true,
    },
];

/// The role of a float tensor in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The weight of a linear layer, `[N, K]`.
    Linear,
    /// The weight of a linear layer that is stored as `[K, N]`.
    Turned,
    /// Anything else: an embedding, a norm, a bias, a table, a buffer, a router.
    Other,
}

/// What decides the roles of a model's tensors.
#[derive(Clone, Copy)]
pub(super) struct Roles(Option<&'static Architecture>);

impl Roles {
    /// Returns the roles of a model by its `config.json`, if there is one.
    pub fn new(config: Option<&Value>) -> Self {
        let model_type = config.and_then(|config| config.get("model_type")).and_then(Value::as_str);
        let known = |a: &&Architecture| model_type.is_some_and(|name| a.types.contains(&name));
        Self(ARCHITECTURES.iter().find(known))
    }

    /// Returns the role of a float tensor.
    pub fn of(self, name: &str, shape: &[usize]) -> Role {
        let named = Named::of(name);
        // An embedding or a router is named as a linear layer may be.
        let other = named.is_some_and(|role| !role.is_linear() && role != Named::Norm);
        if shape.len() != 2 || other {
            return Role::Other;
        }
        let Some(architecture) = self.0 else {
            return if named_like_linear(name) { Role::Linear } else { Role::Other };
        };
        let ends = |module: &str| {
            architecture.linear.iter().any(|linear| {
                let before = module.strip_suffix(linear);
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            })
        };
        let linear = name.strip_suffix(".weight").is_some_and(ends);
        match (linear, architecture.kn && named != Some(Named::Head)) {
            (false, _) => Role::Other,
            (true, false) => Role::Linear,
            (true, true) => Role::Turned,
        }
    }
}

/// Words in the name of a module or of a tensor that is no weight of a linear layer.
const OTHERS: [&str; 20] = [
    "absmax",
    "anchor",
    "bias",
    "buffer",
    "cache",
    "centroid",
    "codebook",
    "freq",
    "lookup",
    "lora_",
    "mask",
    "norm",
    "quant",
    "rotary",
    "running_",
    "scale",
    "statistic",
    "table",
    "zero",
    "position",
];

/// Returns whether a matrix is named as the weights of linear layers are: `….weight`, `….kernel`, `w` and
/// the like, in a module that is not named as an embedding, a norm or a table.
fn named_like_linear(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    let own = parts.next().unwrap_or_default().to_lowercase();
    let module = parts.next().unwrap_or_default().to_lowercase();
    // `weight_g` of a normalized weight holds its lengths.
    let weight = own == "w"
        || own == "kernel"
        || own == "weight"
        || own.ends_with("_weight")
        || own.starts_with("weight_ih")
        || own.starts_with("weight_hh")
        || own.strip_prefix('w').is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
        || is_projection(&own);
    let other = |part: &str| {
        OTHERS.iter().any(|word| part.contains(word)) && !is_projection(part)
            || is_embedding(part)
            || part.strip_prefix("ln").is_some_and(|rest| {
                rest.is_empty()
                    || rest.starts_with('_')
                    || rest.starts_with(|c: char| c.is_ascii_digit())
            })
    };
    weight && !other(&own) && !other(&module)
}

/// Returns whether a module is named as one that multiplies, whatever it is about: `pos_proj`,
/// `embeddings_project`.
fn is_projection(part: &str) -> bool {
    ["proj", "dense", "linear", "mapping"].iter().any(|word| part.contains(word))
}

/// Returns whether a module is named as a table of vectors. GPT-NeoX's `embed_out` is a linear layer.
fn is_embedding(part: &str) -> bool {
    let embedding =
        part.contains("emb") || matches!(part, "wte" | "wpe" | "shared" | "tokens_embed");
    embedding && part != "embed_out" && !is_projection(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_tell() {
        for linear in [
            "w",
            "weight",
            "fc.weight",
            "layer.0.weight",
            "model.layers.0.mlp.up_proj.weight",
            "encoder.layer.1.attention.self.query.weight",
            "lm_head.weight",
            "embed_out.weight",
            "transformer.h.0.mlp.kernel",
            "mlp.w1.weight",
            "attn.in_proj_weight",
            "rnn.weight_ih_l0",
            "time_embedding.linear_1.weight",
            "deberta.pos_proj.weight",
            "text_projection",
        ] {
            assert!(named_like_linear(linear), "{linear}");
        }
        for other in [
            "attn.causal_mask",
            "attn.mask.weight",
            "l.scales",
            "l.weight_scale",
            "l.weight_zero_point",
            "attn.relative_position_bias_table",
            "block.relative_attention_bias.weight",
            "embeddings.word_embeddings.weight",
            "model.embed_tokens.weight",
            "wte.weight",
            "wpe.weight",
            "shared.weight",
            "token_embd.weight",
            "embeddings.position_ids",
            "pos_embed",
            "ln_1.weight",
            "post_attention_layernorm.weight",
            "conv.weight_g",
            "rotary.inv_freq",
            "x.weight_v",
            "codebook.weight",
            "bn.running_mean",
            "positions.weight",
            "anchors",
        ] {
            assert!(!named_like_linear(other), "{other}");
        }
    }

    /// What this module calls a linear layer is one by its name too, and all architectures that are read are here.
    #[test]
    fn the_table_agrees_with_others() {
        for Architecture { types, linear, .. } in &ARCHITECTURES {
            for linear in *linear {
                let role = Named::of(&format!("model.layers.0.{linear}.weight"));
                assert!(role.is_some_and(Named::is_linear), "{types:?}: {linear} is {role:?}");
            }
        }
        for known in crate::architecture::known() {
            assert!(ARCHITECTURES.iter().any(|a| a.types.contains(&known)), "{known}");
        }
    }

    #[test]
    fn architectures_tell() {
        let role = |model_type: &str, name: &str| {
            Roles::new(Some(&json!({ "model_type": model_type }))).of(name, &[4, 4])
        };
        assert_eq!(role("bert", "bert.encoder.layer.0.output.dense.weight"), Role::Linear);
        // Its position bias has the name of a weight, and is no linear layer of this architecture.
        assert_eq!(role("mpnet", "encoder.relative.weight"), Role::Other);
        assert_eq!(role("llama", "model.layers.0.self_attn.q_proj.weight"), Role::Linear);
        assert_eq!(role("llama", "model.layers.0.self_attn.xq_proj.weight"), Role::Other);
        assert_eq!(role("gpt2", "h.0.attn.c_attn.weight"), Role::Turned);
        assert_eq!(role("gpt2", "lm_head.weight"), Role::Linear);
        assert_eq!(role("unheard", "fc.weight"), Role::Linear);
        assert_eq!(role("qwen3_moe", "model.layers.0.mlp.experts.7.up_proj.weight"), Role::Linear);
        // Those who choose among experts, and tables of vectors, whether or not the architecture is known.
        for model_type in ["qwen3_moe", "mixtral", "bert", "unheard"] {
            for other in [
                "model.layers.0.mlp.gate.weight",
                "model.layers.0.block_sparse_moe.gate.weight",
                "blk.0.ffn_gate_inp.weight",
                "token_types.weight",
                "position_embd.weight",
                "embeddings.token_type_embeddings.weight",
            ] {
                assert_eq!(role(model_type, other), Role::Other, "{model_type}: {other}");
            }
        }
        assert_eq!(Roles::new(None).of("blk.0.ffn_gate.weight", &[4, 4]), Role::Linear);
        assert_eq!(Roles::new(None).of("fc.weight", &[4, 4]), Role::Linear);
        assert_eq!(Roles::new(None).of("conv.weight", &[4, 4, 3, 3]), Role::Other);
    }
}
