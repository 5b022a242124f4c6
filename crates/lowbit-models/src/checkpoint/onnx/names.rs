//! Names of parameters, as the model had them before the export.

/// The suffixes that exporters and quantizers append to the name of a parameter.
const SUFFIXES: [&str; 14] = [
    "_q",
    "_f",
    "_quantized",
    "_dequantized",
    "_quant",
    "_int8",
    "_uint8",
    "_int4",
    "_uint4",
    "_Q4",
    "_Q8",
    "_transposed",
    "_DequantizeLinear_Output",
    "_DequantizeLinear",
];

/// Returns the name of the parameter `….KIND` (`weight`, `bias`) that the name of a tensor contains.
pub(super) fn parameter<'a>(name: &'a str, kind: &str) -> Option<&'a str> {
    let name = without_suffixes(name);
    let module = name.strip_suffix(kind)?.strip_suffix('.')?;
    (!module.is_empty()).then_some(name)
}

/// Returns whether an exporter, or somebody who built the graph, made up the name of a tensor:
/// `onnx::MatMul_12`, `/fc/Constant_output_0`, `val_3`, `W`. Parameters have the names of modules and
/// words.
pub(super) fn is_made(name: &str) -> bool {
    if name.contains("::") || name.starts_with('/') {
        return true;
    }
    let numbered = |name: &str| {
        let digits = name.trim_end_matches(|c: char| c.is_ascii_digit());
        digits.len() < name.len() && (digits.is_empty() || digits.ends_with('_'))
    };
    !name.contains('.') && (name.chars().count() <= 2 || numbered(name))
}

/// Returns the name of a parameter that is not called `….weight`, without the suffix of a quantizer, or
/// `None` if the name is made up. `float` states that the tensor holds the parameter itself. Codes have
/// a name of their own kind: without the suffix of a quantizer, only a dotted one is that of a parameter.
pub(super) fn kept(name: &str, float: bool) -> Option<&str> {
    let bare = without_suffixes(name);
    let named = float || bare.len() < name.len() || name.contains('.');
    (named && !bare.is_empty() && !is_made(bare)).then_some(bare)
}

fn without_suffixes(mut name: &str) -> &str {
    while let Some(short) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = short;
    }
    name
}

/// Returns the module in the name of a node: `/encoder/layer.0/query/MatMul` is in
/// `encoder.layer.0.query`. Quantizers keep the last part or append to it.
pub(super) fn scope(node: &str) -> Option<String> {
    let (module, own) = node.strip_prefix('/')?.rsplit_once('/')?;
    let layer = ["MatMul", "Gemm", "Gather", "Conv"].iter().any(|op| own.starts_with(op));
    (layer && !module.is_empty()).then(|| module.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        for (name, want) in [
            ("a.b.weight", Some("a.b.weight")),
            ("a.weight_q", Some("a.weight")),
            ("a.weight_transposed_quantized", Some("a.weight")),
            ("a.weight_scale", None),
            ("a.weight_ih_l0", None),
            ("a.bias", None),
            ("weight", None),
            (".weight", None),
            ("lightweight", None),
            ("onnx::MatMul_123_quantized", None),
        ] {
            assert_eq!(parameter(name, "weight"), want, "{name}");
        }
        assert_eq!(parameter("a.bias_quantized", "bias"), Some("a.bias"));
    }

    #[test]
    fn made_up_names() {
        for made in
            ["onnx::MatMul_12", "val_3", "MatMul_7", "42", "W", "b1", "/fc/Constant_output_0"]
        {
            assert!(is_made(made), "{made}");
            assert_eq!(kept(made, true), None, "{made}");
        }
        for named in
            ["text_projection", "visual.proj", "attn.A", "layers.0", "eps", "a.w_1", "kernel"]
        {
            assert!(!is_made(named), "{named}");
            assert_eq!(kept(named, true), Some(named), "{named}");
        }
        assert_eq!(kept("text_projection_quantized", false), Some("text_projection"));
        assert_eq!(kept("emb.table_q", false), Some("emb.table"));
        assert_eq!(kept("onnx::MatMul_12_quantized", false), None);
        assert_eq!(kept("codes", false), None);
    }

    #[test]
    fn scopes() {
        for (node, want) in [
            ("/a/layer.0/query/MatMul", Some("a.layer.0.query")),
            ("/a/MatMul_quant", Some("a")),
            ("/lm_head/MatMul_Q4", Some("lm_head")),
            ("/a/fc/Gemm", Some("a.fc")),
            ("/a/fc/Add", None),
            ("/MatMul", None),
            ("//MatMul", None),
            ("node_MatMul_48", None),
            ("", None),
        ] {
            assert_eq!(scope(node).as_deref(), want, "{node}");
        }
    }
}
