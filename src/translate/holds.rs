//! What each binding holds, by the name that the shaders give it.

use crate::gpu::Shader;

/// What a variable holds; `None` for one that no shader of this crate has.
pub(super) fn of(shader: &Shader, variable: &str) -> Option<&'static str> {
    let has = |folder: &str| shader.fragments.iter().any(|f| f.name.starts_with(folder));
    let fake = has("fake/");
    Some(match variable {
        "p" | "params" => "parameters of the dispatch",
        "count_low" => "number of rows, modulo 1024, in the first word",
        "count_high" => "number of rows, divided by 1024, in the first word",
        "x" if has("integer/") => {
            "X, quantized: rows of codes, scales, zero points and sums of blocks"
        }
        "x" => "X, row-major from element x_offset (fake: x_at) on; f16 in pairs",
        "codes" => "codes of W, in the device layout",
        "side" => "records of side data of W: 2:4 metadata, scales, zero points",
        "bias" => "the bias, f32, a value a column of Y",
        "y" if fake => "Y: X quantized and dequantized, or the gradient of X",
        "y" if has("observe/") => {
            "the observation: counts of what is not finite, ranges, sums, bins"
        }
        "y" if has("activations/sums") => "rows of quantized Y, whose codes are there already",
        "y" if has("activations/") => "rows of codes, scales, zero points and sums of blocks",
        "y" => "Y, row-major from element y_offset on; f16 in pairs, codes in fours",
        "weights" => "W, f32, row-major from word weight_at on",
        "given" => "the given 2:4 mask: a word of metadata a row and block",
        "extremes" => {
            "two words a group: the bits of the greatest x and of the greatest −x, at least 0"
        }
        "status" => "the first offending index of each kind of fault",
        "canonical_codes" => "codes of W, in the canonical layout",
        "metadata" => "2:4 metadata of W, in the canonical layout",
        "scales" => "scales: f32, or f16 in pairs where W is repacked so",
        "zeros" if fake => "zero points, f32",
        "zeros" => "zero points, a byte each",
        "indices" => "numbers of rows to gather, u32",
        "output" => "dequantized rows, from word output_at on; f16 in pairs",
        "ranges" => "the range of all of X, as ordered keys, or the given scale and zero point",
        "dy_in" => "the gradient of Y, row-major from element dy_at on; f16 in pairs",
        "scale_partials" => "partial sums of the gradients of scales",
        "outside_partials" => "partial sums of the gradients of zero points",
        "ds" => "gradients of scales, f32",
        "dz" => "gradients of zero points, f32",
        "halves" => "every f16, in pairs",
        "wrong" => "how many of them the device converts otherwise",
        "source" => "memory to read",
        "sink" => "memory to write",
        _ => return None,
    })
}
