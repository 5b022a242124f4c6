//! Which linear layers take the same input, by the names that BERT's weights have.

/// Returns a name for the input X of a weight. Weights that take the same X give the same name:
/// query, key and value of an attention share theirs, and any other weight has its own.
///
/// ```
/// use lowbit_models::shared_input;
/// let stem = "encoder.layer.0.attention.self.";
/// assert_eq!(shared_input("encoder.layer.0.attention.self.key.weight"), stem);
/// assert_eq!(shared_input("encoder.layer.0.output.dense.weight"), "encoder.layer.0.output.dense.weight");
/// ```
pub fn shared_input(weight: &str) -> &str {
    let ends = ["query.weight", "key.weight", "value.weight"];
    let stem = ends.iter().find_map(|end| weight.strip_suffix(end));
    stem.filter(|stem| stem.ends_with("attention.self.")).unwrap_or(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keys_and_values_share_their_input() {
        let stem = "bert.encoder.layer.3.attention.self.";
        for part in ["query", "key", "value"] {
            assert_eq!(shared_input(&format!("{stem}{part}.weight")), stem);
        }
        for alone in ["value.weight", "a.attention.output.dense.weight", "a.query.weight", ""] {
            assert_eq!(shared_input(alone), alone);
        }
    }
}
