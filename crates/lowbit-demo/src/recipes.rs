//! What the demo compares: ways to store the encoder's matrices and to take their inputs.

use lowbit::compress::layerwise::Pattern;
use lowbit::format::{FormatError, Granularity, WeightFormat};
use lowbit_models::layerwise::{Method, Treatment};

/// What becomes of the inputs of the linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// They stay f32.
    Float,
    /// They become int8, with a scale and a zero point taken from each token at run time.
    Dynamic,
    /// They become int8. Each layer has one scale, fixed on calibration text.
    Static,
    /// Static scales, after SmoothQuant has moved outliers of the inputs into the weights.
    Smooth,
}

/// A weight format and a way to take inputs, by the name that they have in the report.
pub struct Recipe {
    pub name: &'static str,
    pub format: WeightFormat,
    pub inputs: Inputs,
    /// How the weights are made of passages of a novel, if not by rounding and magnitude.
    pub treatment: Option<Treatment>,
    /// The least cosine to the f32 recipe that any sentence must keep.
    pub floor: Option<f64>,
}

/// Returns the recipes. `f32` comes first, because the others are compared with it. `2:4` keeps f16
/// values; `2:4+int4` has the groups and zero points of the dense int4.
pub fn recipes() -> Result<[Recipe; 13], FormatError> {
    let int8 = WeightFormat::int8(Granularity::Channel);
    let int4 = WeightFormat::int4(Granularity::group(64)?).asymmetric();
    let recipe = |name, format| {
        let (inputs, treatment, floor) = (Inputs::Float, None, None);
        Recipe { name, format, inputs, treatment, floor }
    };
    let quantized = |name, format, inputs| Recipe { inputs, ..recipe(name, format) };
    let sparse_gpt = Treatment { sparsity: Pattern::TWO_FOUR, ..Treatment::of(Method::SparseGpt) };
    Ok([
        recipe("f32", WeightFormat::f32()),
        recipe("f16", WeightFormat::f16()),
        Recipe { floor: Some(0.999), ..recipe("int8-channel", int8) },
        recipe("int4-g64-asym", int4),
        Recipe { treatment: Some(Treatment::of(Method::Gptq)), ..recipe("int4-gptq", int4) },
        recipe("2:4", WeightFormat::f16().two_four()),
        Recipe {
            treatment: Some(sparse_gpt),
            ..recipe("2:4-sparsegpt", WeightFormat::f16().two_four())
        },
        recipe("2:4+int8", int8.two_four()),
        recipe("2:4+int4", int4.two_four()),
        Recipe { floor: Some(0.998), ..quantized("w8a8-dynamic", int8, Inputs::Dynamic) },
        Recipe { floor: Some(0.98), ..quantized("w8a8-static", int8, Inputs::Static) },
        Recipe { floor: Some(0.98), ..quantized("w8a8-static-smooth", int8, Inputs::Smooth) },
        Recipe { floor: Some(0.93), ..quantized("w4a8-dynamic", int4, Inputs::Dynamic) },
    ])
}
