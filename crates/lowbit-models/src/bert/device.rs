//! An encoder whose linear layers run on a GPU, in any weight format and with float or 8-bit inputs.

use super::{Dense, Encoder, Error};
use lowbit::compress::calibrate::{Method, Observer, Statistics};
use lowbit::compress::smooth::{self, Linear, Options, scale_columns};
use lowbit::format::Quantization;
use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, Sizes, StaticScale, WeightFormat,
};
use lowbit::host::Host;
use lowbit::ops::DeviceWeights;
use std::cell::RefCell;

/// What becomes of the inputs of the linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inputs {
    /// They stay f32.
    Float,
    /// They become int8. Scale and zero point are taken from each token at run time, because the
    /// inputs after GELU lie almost all on one side of 0.
    Dynamic,
    /// They become int8. Each layer has one scale, fixed on calibration text.
    Static,
    /// Static scales, after SmoothQuant has moved outliers of the inputs into the weights.
    Smooth,
}

/// What calibration text shows of the inputs of each layer.
pub struct Samples {
    /// The samples of each layer, by [`Dense::index`].
    layers: Vec<LayerSamples>,
}

struct LayerSamples {
    tensor: Statistics,
    channels: Statistics,
    /// Rows of inputs, on which smoothing factors are searched for.
    rows: Vec<f32>,
}

/// The number of rows that are kept of each layer, spread over the texts.
const ROWS: usize = 64;

impl Samples {
    /// Runs the texts through the encoder in f32 and observes every layer's inputs on the GPU.
    ///
    /// # Errors
    /// Returns an error if the device fails, or if a weight or an input is not finite.
    pub fn new<'a>(
        host: &Host,
        encoder: &Encoder,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let f32 = DeviceEncoder::new(host, encoder, WeightFormat::f32(), Inputs::Float, None)?;
        let layers = encoder.linears().map(|dense| {
            let tensor = Statistics::new(Observer::tensor(&dense.name, dense.k))?;
            let channels = Statistics::new(Observer::channels(&dense.name, dense.k))?;
            Ok(LayerSamples { tensor, channels, rows: Vec::new() })
        });
        let layers: Result<Vec<LayerSamples>, Error> = layers.collect();
        let layers = RefCell::new(layers?);
        for text in texts {
            encoder.embed(text, &|dense: &Dense, x, m| {
                // A tokenizer may find no tokens in a text.
                if m == 0 {
                    return Ok(Vec::new());
                }
                let LayerSamples { tensor, channels, rows } = &mut layers.borrow_mut()[dense.index];
                host.observe(tensor, x)?;
                host.observe(channels, x)?;
                // Two tokens of each text, not always the first ones.
                let at = rows.len() / dense.k.max(1);
                for row in [at % m, (at * 7 + m / 2) % m] {
                    if rows.len() < ROWS * dense.k {
                        rows.extend(&x[row * dense.k..][..dense.k]);
                    }
                }
                f32.linear(dense, x, m)
            })?;
        }
        Ok(Self { layers: layers.into_inner() })
    }

    fn layer(&self, dense: &Dense) -> Result<&LayerSamples, Error> {
        Ok(self.layers.get(dense.index).ok_or("the samples are of another encoder")?)
    }

    /// Returns the static scale and zero point of a layer's inputs.
    fn scale(&self, dense: &Dense) -> Result<StaticScale, Error> {
        let format = ActivationFormat::int8(ActivationGranularity::Tensor).asymmetric();
        Ok(self.layer(dense)?.tensor.calibrate(Method::MinMax, format)?.scheme())
    }

    /// Returns the smoothing factors of layers that share their inputs, and the static scale of the
    /// smoothed inputs.
    fn smooth(&self, layers: &[&Dense]) -> Result<(Vec<f32>, StaticScale), Error> {
        let Some(first) = layers.first() else { return Err("no layers to smooth".into()) };
        let linears: Vec<_> =
            layers.iter().map(|dense| Linear { weights: &dense.weight, rows: dense.n }).collect();
        let LayerSamples { channels, rows, .. } = self.layer(first)?;
        let options = Options { absmax: Some(channels.absmax()?), ..Options::default() };
        let found = smooth::search(rows, first.k, &linears, &options)?;
        let ranges = channels.ranges(Method::MinMax, false)?;
        let range = smooth::smoothed_range(&ranges, found.factors())?;
        Ok((found.factors().to_vec(), range.scheme(false)))
    }
}

/// What becomes of the input of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerInput {
    /// How it becomes 8-bit codes; `None` if it stays f32.
    pub quantization: Option<Quantization>,
    /// What its columns are divided by first; `None` if it is not smoothed.
    pub factors: Option<Vec<f32>>,
}

struct Layer {
    weights: DeviceWeights,
    input: LayerInput,
}

/// The linear layers of an encoder in one weight format, in device memory.
pub struct DeviceEncoder<'a> {
    host: &'a Host,
    encoder: &'a Encoder,
    /// The layers, by [`Dense::index`].
    layers: Vec<Layer>,
    sizes: Sizes,
}

impl<'a> DeviceEncoder<'a> {
    /// Uploads the weights as f32 and prunes, quantizes and packs them on the GPU. `samples` are
    /// needed for `Inputs::Static` and `Inputs::Smooth`.
    ///
    /// # Errors
    /// Returns an error if the device fails, if a weight cannot be stored in the format, or if
    /// samples are needed and missing.
    pub fn new(
        host: &'a Host,
        encoder: &'a Encoder,
        format: WeightFormat,
        inputs: Inputs,
        samples: Option<&Samples>,
    ) -> Result<Self, Error> {
        let samples = || samples.ok_or("static scales need samples of the inputs");
        let mut layers = Vec::new();
        let mut sizes = Sizes::default();
        let mut smoothed: Option<LayerInput> = None;
        for dense in encoder.linears() {
            let quantized = |how| LayerInput { quantization: Some(how), factors: None };
            let input = match inputs {
                Inputs::Float => LayerInput::default(),
                Inputs::Dynamic => {
                    let token = ActivationFormat::int8(ActivationGranularity::Token).asymmetric();
                    quantized(Quantization::Dynamic(token))
                }
                Inputs::Static => quantized(Quantization::Static(samples()?.scale(dense)?)),
                Inputs::Smooth => {
                    // Query, key and value share their inputs, and therefore their factors.
                    let sharing = encoder.sharing(dense);
                    if sharing.first().is_some_and(|first| first.index == dense.index) {
                        let (factors, scale) = samples()?.smooth(&sharing)?;
                        smoothed = Some(LayerInput {
                            quantization: Some(Quantization::Static(scale)),
                            factors: Some(factors),
                        });
                    }
                    smoothed.clone().ok_or("layers out of order")?
                }
            };
            let scaled = match &input.factors {
                Some(factors) => Some(scale_columns(&dense.weight, factors)?),
                None => None,
            };
            let weight = scaled.as_ref().unwrap_or(&dense.weight);
            let weights = host
                .compress(weight, dense.n, dense.k, &format)
                .map_err(|error| format!("{} as {format}: {error}", dense.name))?;
            sizes = sizes + weights.sizes();
            layers.push(Layer { weights, input });
        }
        Ok(Self { host, encoder, layers, sizes })
    }

    /// Returns the sizes of all weights together.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Returns the weights of a layer of this encoder.
    pub fn weights(&self, dense: &Dense) -> Option<&DeviceWeights> {
        self.layers.get(dense.index).map(|layer| &layer.weights)
    }

    /// Returns what becomes of the input of a layer of this encoder.
    pub fn input(&self, dense: &Dense) -> Option<&LayerInput> {
        self.layers.get(dense.index).map(|layer| &layer.input)
    }

    /// Runs a linear layer on the GPU: `[m, k]` in, `[m, n]` out.
    ///
    /// # Errors
    /// Returns an error if `dense` is not a layer of this encoder, if `x` has the wrong length, or if
    /// the device fails.
    pub fn linear(&self, dense: &Dense, x: &[f32], m: usize) -> Result<Vec<f32>, Error> {
        let layer = self.layers.get(dense.index).ok_or("the layer is of another encoder")?;
        let Layer { weights, input: LayerInput { quantization, factors } } = layer;
        let smooth = factors.as_ref().map(|factors| divided(x, factors));
        let x = smooth.as_deref().unwrap_or(x);
        let bias = Some(&dense.bias[..]);
        let y = match quantization {
            None => self.host.matmul(x, m, weights, bias),
            Some(how) => {
                let function = ActivationFunction::Identity;
                self.host.quantized_matmul(x, m, weights, bias, *how, function)
            }
        };
        y.map_err(|error| format!("{}: {error}", dense.name).into())
    }

    /// Returns the embedding of a text, as [`Encoder::embed`] does, with the linear layers on the
    /// GPU.
    ///
    /// # Errors
    /// Returns the errors of [`Encoder::embed`] and [`linear`](Self::linear).
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, Error> {
        self.encoder.embed(text, &|dense: &Dense, x, m| self.linear(dense, x, m))
    }
}

/// Divides each column of X by its factor.
fn divided(x: &[f32], factors: &[f32]) -> Vec<f32> {
    let rows = x.chunks_exact(factors.len().max(1));
    rows.flat_map(|row| row.iter().zip(factors).map(|(x, factor)| x / factor)).collect()
}
