//! Which linear layers take the same input, by the names of their weights.

/// What the names of weights that take one input start with, and how they end.
const SHARED: [(&str, &[&str]); 8] = [
    ("attention.self.", &["query", "key", "value"]),
    ("attn.", &["q", "k", "v"]),
    ("attention.", &["q_lin", "k_lin", "v_lin"]),
    ("self_attn.", &["q_proj", "k_proj", "v_proj"]),
    ("mlp.", &["gate_proj", "up_proj"]),
    // An expert of a mixture.
    ("", &[".gate_proj", ".up_proj"]),
    // Files that were imported from GGUF.
    (".attn_", &["q", "k", "v"]),
    (".ffn_", &["gate", "up"]),
];

/// Returns a name for the input X of a weight. Weights that take the same X give the same name:
/// query, key and value of an attention share theirs, as gate and up of a feed-forward block do, and any other
/// weight has its own.
///
/// ```
/// use lowbit_models::shared_input;
/// let stem = "encoder.layer.0.attention.self.";
/// assert_eq!(shared_input("encoder.layer.0.attention.self.key.weight"), stem);
/// assert_eq!(shared_input("encoder.layer.0.output.dense.weight"), "encoder.layer.0.output.dense.weight");
/// ```
pub fn shared_input(weight: &str) -> &str {
    let Some(name) = weight.strip_suffix(".weight") else { return weight };
    let of = |(stem, ends): &(&str, &[&str])| {
        let before = ends.iter().find_map(|end| name.strip_suffix(end))?;
        before.ends_with(stem).then_some(before)
    };
    SHARED.iter().find_map(of).unwrap_or(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keys_and_values_share_their_input() {
        for (stem, parts) in [
            ("bert.encoder.layer.3.attention.self.", ["query", "key", "value"]),
            ("encoder.layer.1.attention.attn.", ["q", "k", "v"]),
            ("transformer.layer.0.attention.", ["q_lin", "k_lin", "v_lin"]),
            ("model.layers.7.self_attn.", ["q_proj", "k_proj", "v_proj"]),
            ("blk.12.attn_", ["q", "k", "v"]),
        ] {
            for part in parts {
                assert_eq!(shared_input(&format!("{stem}{part}.weight")), stem);
            }
        }
        for alone in [
            "value.weight",
            "a.attention.output.dense.weight",
            "a.query.weight",
            "",
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "blk.0.attn_output.weight",
            "h.0.attn.c_attn.weight",
        ] {
            assert_eq!(shared_input(alone), alone);
        }
    }

    /// The input of attention is not that of the feed-forward block, nor that of another expert.
    #[test]
    fn gate_and_up_share_their_input() {
        let expert = |number: u32, part: &str| {
            format!("model.layers.0.mlp.experts.{number}.{part}_proj.weight")
        };
        let (gate, up) = (expert(1, "gate"), expert(1, "up"));
        assert_eq!(shared_input(&gate), shared_input(&up));
        for other in [expert(1, "down"), expert(2, "up"), expert(11, "up")] {
            assert_ne!(shared_input(&gate), shared_input(&other));
        }
        let (gate, up) =
            ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight");
        assert_eq!(shared_input(gate), shared_input(up));
        assert_ne!(shared_input(gate), shared_input("model.layers.0.self_attn.q_proj.weight"));
        let (gate, up) = ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight");
        assert_eq!(shared_input(gate), shared_input(up));
        assert_ne!(shared_input(up), shared_input("blk.0.attn_q.weight"));
    }
}
