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
pub(super) fn parameter<'a>(mut name: &'a str, kind: &str) -> Option<&'a str> {
    while let Some(short) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = short;
    }
    let module = name.strip_suffix(kind)?.strip_suffix('.')?;
    (!module.is_empty()).then_some(name)
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
