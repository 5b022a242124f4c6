//! What a tensor does in a network, as far as its name says it.

use std::fmt;

/// What a tensor does in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// A vector for each token of the vocabulary.
    TokenEmbedding,
    /// A vector for each position.
    PositionEmbedding,
    /// A vector for each kind of token.
    TypeEmbedding,
    /// The factors or offsets of a normalization.
    Norm,
    /// The queries of attention.
    Query,
    /// The keys of attention.
    Key,
    /// The values of attention.
    Value,
    /// Queries, keys and values of attention in one matrix.
    QueryKeyValue,
    /// The matrix after attention.
    AttentionOutput,
    /// The gate of a feed-forward layer.
    Gate,
    /// The first matrix of a feed-forward layer.
    Up,
    /// Gate and first matrix of a feed-forward layer in one.
    GateUp,
    /// The last matrix of a feed-forward layer.
    Down,
    /// The matrix that chooses among experts.
    Router,
    /// The matrix that makes logits of the last layer's output.
    Head,
    /// A vector that is added to a product.
    Bias,
    /// The matrix between the embeddings and the first layer, where they have other sizes.
    EmbeddingProjection,
    /// The matrix after the last layer of an encoder, for its first token.
    Pooler,
    /// A number for each distance of two positions, which is added to the scores of attention.
    PositionBias,
    /// What the frequencies of a rotary embedding are divided by.
    RotaryDivisors,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenEmbedding => "token embedding",
            Self::PositionEmbedding => "position embedding",
            Self::TypeEmbedding => "type embedding",
            Self::Norm => "norm",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::QueryKeyValue => "query, key, value",
            Self::AttentionOutput => "attention output",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::GateUp => "gate, up",
            Self::Down => "down",
            Self::Router => "router",
            Self::Head => "head",
            Self::Bias => "bias",
            Self::EmbeddingProjection => "embedding projection",
            Self::Pooler => "pooler",
            Self::PositionBias => "position bias",
            Self::RotaryDivisors => "rotary divisors",
        })
    }
}

impl Role {
    /// Returns whether it is that of a matrix by which a layer multiplies, and which is compressed unless
    /// something else is asked for. Routers stay as they are: they are small, and what they choose matters.
    pub const fn is_linear(self) -> bool {
        match self {
            Self::Query
            | Self::Key
            | Self::Value
            | Self::QueryKeyValue
            | Self::AttentionOutput
            | Self::Gate
            | Self::Up
            | Self::GateUp
            | Self::Down
            | Self::Head
            | Self::EmbeddingProjection
            | Self::Pooler => true,
            Self::TokenEmbedding
            | Self::PositionEmbedding
            | Self::TypeEmbedding
            | Self::Norm
            | Self::Router
            | Self::Bias
            | Self::PositionBias
            | Self::RotaryDivisors => false,
        }
    }

    /// Returns the role of a tensor by its name, as GGUF files and the models of `transformers` have them,
    /// or `None` if the name does not say it.
    pub fn of(name: &str) -> Option<Self> {
        let (module, parameter) = name.rsplit_once('.').unwrap_or((name, ""));
        let module = match parameter {
            "bias" | "beta" => return Some(Self::Bias),
            "weight" | "gamma" => module,
            _ => name,
        };
        let mut parts = module.rsplit('.');
        let (own, parent) = (parts.next()?, parts.next().unwrap_or_default());
        let grand = parts.next().unwrap_or_default();
        Some(match own {
            "token_embd" | "embed_tokens" | "word_embeddings" | "tok_embeddings" | "wte" => {
                Self::TokenEmbedding
            }
            "position_embd" | "position_embeddings" | "embed_positions" | "wpe" => {
                Self::PositionEmbedding
            }
            "token_types" | "token_type_embeddings" => Self::TypeEmbedding,
            "relative_attention_bias" => Self::PositionBias,
            "rope_freqs" => Self::RotaryDivisors,
            "embeddings_project" => Self::EmbeddingProjection,
            "attn_q" | "q_proj" | "query" | "q_lin" | "q_attn" => Self::Query,
            "attn_k" | "k_proj" | "key" | "k_lin" => Self::Key,
            "attn_v" | "v_proj" | "value" | "v_lin" => Self::Value,
            "q" if parent == "attn" => Self::Query,
            "k" if parent == "attn" => Self::Key,
            "v" if parent == "attn" => Self::Value,
            "attn_qkv" | "qkv_proj" | "query_key_value" | "c_attn" | "Wqkv" => Self::QueryKeyValue,
            "attn_output" | "o_proj" | "out_proj" | "out_lin" => Self::AttentionOutput,
            "o" if parent == "attn" => Self::AttentionOutput,
            "dense" if parent == "output" && grand == "attention" => Self::AttentionOutput,
            "dense" if matches!(parent, "attention" | "self_attn" | "self_attention") => {
                Self::AttentionOutput
            }
            "c_proj" if matches!(parent, "attn" | "self_attn" | "crossattention") => {
                Self::AttentionOutput
            }
            "ffn_gate" | "ffn_gate_exps" | "ffn_gate_shexp" | "gate_proj" | "w1" => Self::Gate,
            "gate_up_proj" => Self::GateUp,
            "ffn_up" | "ffn_up_exps" | "ffn_up_shexp" | "up_proj" | "fc1" | "c_fc" | "lin1"
            | "w3" | "dense_h_to_4h" => Self::Up,
            "dense" if parent == "intermediate" => Self::Up,
            "ffn_down" | "ffn_down_exps" | "ffn_down_shexp" | "down_proj" | "fc2" | "lin2"
            | "w2" | "dense_4h_to_h" => Self::Down,
            "dense" if parent == "output" => Self::Down,
            "c_proj" if parent == "mlp" => Self::Down,
            "dense" if parent == "pooler" => Self::Pooler,
            "ffn_gate_inp" | "router" => Self::Router,
            "gate" if matches!(parent, "mlp" | "block_sparse_moe" | "feed_forward") => Self::Router,
            "lm_head" | "embed_out" => Self::Head,
            "output" if parent.is_empty() => Self::Head,
            _ if is_norm(own) => Self::Norm,
            _ => return None,
        })
    }
}

fn is_norm(module: &str) -> bool {
    let lower = module.to_ascii_lowercase();
    lower.contains("norm") || matches!(&*lower, "ln" | "ln_1" | "ln_2" | "ln_f" | "layer_norm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_roles() {
        for (name, role) in [
            ("token_embd.weight", Some(Role::TokenEmbedding)),
            ("blk.0.attn_q.weight", Some(Role::Query)),
            ("blk.0.attn_q.bias", Some(Role::Bias)),
            ("blk.11.attn_q_norm.weight", Some(Role::Norm)),
            ("blk.3.attn_output.weight", Some(Role::AttentionOutput)),
            ("blk.3.ffn_down_exps.weight", Some(Role::Down)),
            ("blk.3.ffn_gate_inp.weight", Some(Role::Router)),
            ("output_norm.weight", Some(Role::Norm)),
            ("output.weight", Some(Role::Head)),
            ("rope_freqs.weight", Some(Role::RotaryDivisors)),
            ("token_types.weight", Some(Role::TypeEmbedding)),
            ("encoder.layer.0.attention.attn.q.weight", Some(Role::Query)),
            ("encoder.relative_attention_bias.weight", Some(Role::PositionBias)),
            ("gpt_neox.layers.0.attention.dense.weight", Some(Role::AttentionOutput)),
            ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", Some(Role::Down)),
            ("model.layers.0.block_sparse_moe.gate.weight", Some(Role::Router)),
            ("model.layers.0.block_sparse_moe.experts.3.w2.weight", Some(Role::Down)),
            ("model.layers.0.mlp.gate_proj.weight", Some(Role::Gate)),
            ("model.layers.0.mlp.gate.weight", Some(Role::Router)),
            ("model.layers.0.post_attention_layernorm.weight", Some(Role::Norm)),
            ("encoder.layer.0.attention.output.dense.weight", Some(Role::AttentionOutput)),
            ("encoder.layer.0.output.dense.weight", Some(Role::Down)),
            ("encoder.layer.0.intermediate.dense.weight", Some(Role::Up)),
            ("encoder.layer.0.output.LayerNorm.gamma", Some(Role::Norm)),
            ("encoder.layer.0.output.LayerNorm.beta", Some(Role::Bias)),
            ("h.0.attn.c_attn.weight", Some(Role::QueryKeyValue)),
            ("h.0.attn.c_proj.weight", Some(Role::AttentionOutput)),
            ("h.0.mlp.c_proj.weight", Some(Role::Down)),
            ("h.0.ln_1.weight", Some(Role::Norm)),
            ("pooler.dense.weight", Some(Role::Pooler)),
            ("weight", None),
            ("", None),
        ] {
            assert_eq!(Role::of(name), role, "{name}");
        }
    }
}
