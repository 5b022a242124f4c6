//! Quantizing all layers of a network: for training, after training, and for good.

use super::{Network, numbers};
use crate::fake::{FakeFormat, FakeQuantizer, FoldError, Given, Ranges, fold};
use lowbit::compress::{CompressError, dequantize, quantize};
use lowbit::format::{PackedWeights, WeightFormat};

/// The weights and activations that are fake-quantized in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizeSettings {
    /// The format of weights.
    pub weights: Option<FakeFormat>,
    /// The format of what layers take. It must have one scale for all of it.
    pub inputs: Option<FakeFormat>,
    /// Where scales of weights come from.
    pub weight_ranges: Ranges,
    /// Where scales of inputs come from.
    pub input_ranges: Ranges,
}

/// A layer as lowbit's kernels take it.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldedLayer {
    /// The weights.
    pub weights: PackedWeights,
    /// The bias.
    pub bias: Vec<f32>,
}

/// Gives every layer quantizers whose ranges are fitted to its weights, and to what it takes for the
/// examples of `input`.
#[must_use]
pub fn quantize_for_training<N: Network>(
    mut model: N,
    input: N::Input,
    settings: QuantizeSettings,
) -> N {
    let inputs = model.layer_inputs(input);
    for (layer, x) in model.layers_mut().into_iter().zip(inputs) {
        let w = layer.effective();
        layer.weight_quantizer =
            settings.weights.map(|format| FakeQuantizer::fitted(w, format, settings.weight_ranges));
        layer.input_quantizer =
            settings.inputs.map(|format| FakeQuantizer::fitted(x, format, settings.input_ranges));
    }
    model
}

/// Rounds the weights of every layer after training, by lowbit's own rule, and returns the packed ones.
///
/// # Errors
/// Returns [`CompressError`] if a weight is not finite, or the format has no rule.
pub fn round_weights<N: Network>(
    model: &mut N,
    format: &WeightFormat,
) -> Result<Vec<PackedWeights>, CompressError> {
    let round = |layer: &mut super::CompressedLinear| {
        let [n, k] = layer.shape();
        let packed = quantize(&layer.masked_weights(), n, k, format)?;
        layer.set_weights(dequantize(&packed));
        Ok(packed)
    };
    model.layers_mut().into_iter().map(round).collect()
}

/// Packs every layer that has a quantizer for its weights, as it was trained. With `two_four`, only the
/// kept weights of 2:4 masks are stored.
///
/// # Errors
/// Returns [`FoldError`].
pub fn fold_layers<N: Network>(model: &N, two_four: bool) -> Result<Vec<FoldedLayer>, FoldError> {
    let mut folded = Vec::new();
    for layer in model.layers() {
        let Some(quantizer) = &layer.weight_quantizer else { continue };
        let [n, k] = layer.shape();
        let w = layer.masked_weights();
        let weight = layer.weight.val().inner();
        let (scales, zeros) = if quantizer.ranges() == Ranges::Dynamic {
            quantizer.format().ranges(&w, k)
        } else {
            let (scales, zeros) = quantizer.scales_of(&weight);
            (numbers(scales), numbers(zeros))
        };
        let format = match FakeFormat::new(quantizer.format().format().two_four()) {
            Ok(sparse) if two_four => sparse,
            _ => quantizer.format(),
        };
        let given = Given { scales: &scales, zeros: &zeros };
        let weights = fold(&w, n, k, format, given)?;
        folded.push(FoldedLayer { weights, bias: numbers(layer.bias.val()) });
    }
    Ok(folded)
}

/// Returns the bits that packed matrices take for each of their weights.
pub fn average_bits<'a>(packed: impl Iterator<Item = &'a PackedWeights>) -> f64 {
    let (bytes, weights) = packed.fold((0usize, 0usize), |(bytes, weights), packed| {
        (bytes + packed.geometry().sizes().total(), weights + packed.n() * packed.k())
    });
    8.0 * bytes as f64 / weights.max(1) as f64
}
