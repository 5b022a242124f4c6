//! What the demo compares: ways to store the encoder's matrices and to take their inputs, and the
//! layers that multiply with them on the GPU.

use lowbit::compress::calibrate::{ActivationRange, Method, Observer, Statistics};
use lowbit::compress::smooth::{self, Linear, Options};
use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, Granularity, Quantization, Sizes,
    StaticScale, WeightFormat,
};
use lowbit::host::Host;
use lowbit::ops::DeviceWeights;
use lowbit_models::bert::{Dense, Encoder, Error};
use std::cell::RefCell;

/// What becomes of the inputs of a linear layer.
#[derive(Clone, Copy, PartialEq)]
pub enum Inputs {
    /// They stay f32.
    Float,
    /// int8, with a scale and zero point for each token that are taken from it: inputs after GELU
    /// lie almost all on one side of 0.
    Dynamic,
    /// int8, with a scale for each layer, fixed on calibration sentences.
    Static,
    /// The same after SmoothQuant has moved outliers of the inputs into the weights.
    Smooth,
}

/// A format by the name it has in the report.
pub struct Recipe {
    pub name: &'static str,
    pub format: WeightFormat,
    pub inputs: Inputs,
    /// The least cosine to the f32 recipe that any sentence must keep.
    pub floor: Option<f64>,
}

/// The recipes, `f32` first: the others are held against it. Plain `2:4` keeps f16
/// values; `2:4+int4` has the groups and zero points of the dense int4.
pub fn recipes() -> Result<[Recipe; 11], Error> {
    let int8 = WeightFormat::int8(Granularity::Channel);
    let int4 = WeightFormat::int4(Granularity::group(64)?).asymmetric();
    let recipe = |name, format| Recipe { name, format, inputs: Inputs::Float, floor: None };
    let quantized = |name, format, inputs| Recipe { inputs, ..recipe(name, format) };
    Ok([
        recipe("f32", WeightFormat::f32()),
        recipe("f16", WeightFormat::f16()),
        Recipe { floor: Some(0.999), ..recipe("int8-channel", int8) },
        recipe("int4-g64-asym", int4),
        recipe("2:4", WeightFormat::f16().two_four()),
        recipe("2:4+int8", int8.two_four()),
        recipe("2:4+int4", int4.two_four()),
        Recipe { floor: Some(0.998), ..quantized("w8a8-dynamic", int8, Inputs::Dynamic) },
        Recipe { floor: Some(0.98), ..quantized("w8a8-static", int8, Inputs::Static) },
        Recipe { floor: Some(0.98), ..quantized("w8a8-static-smooth", int8, Inputs::Smooth) },
        Recipe { floor: Some(0.93), ..quantized("w4a8-dynamic", int4, Inputs::Dynamic) },
    ])
}

/// What calibration sentences say of the inputs of each layer, by [`Dense::index`].
pub struct Calibration {
    statistics: Vec<Statistics>,
    /// The same for each channel, of which smoothing wants the largest magnitudes.
    channels: Vec<Statistics>,
    /// Rows of inputs, to search smoothing factors by.
    samples: Vec<Vec<f32>>,
}

/// Rows of inputs that are kept of each layer, spread over the sentences.
const SAMPLES: usize = 64;

impl Calibration {
    /// Runs the sentences through the encoder in f32 and observes every layer's inputs on the GPU.
    pub fn new<'a>(
        host: &Host,
        encoder: &Encoder,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let compressed = Compressed::new(host, encoder, &recipes()?[0], None)?;
        let layers = encoder.linears().map(|dense| {
            let tensor = Statistics::new(Observer::tensor(&dense.name, dense.k))?;
            let channels = Statistics::new(Observer::channels(&dense.name, dense.k))?;
            Ok((tensor, channels, Vec::new()))
        });
        let layers: Result<Vec<(Statistics, Statistics, Vec<f32>)>, Error> = layers.collect();
        let layers = RefCell::new(layers?);
        for text in texts {
            encoder.embed(text, &|dense: &Dense, x, m| {
                let (statistics, channels, samples) = &mut layers.borrow_mut()[dense.index];
                host.observe(statistics, x)?;
                host.observe(channels, x)?;
                // Two tokens a sentence, not always the first ones.
                let at = samples.len() / dense.k.max(1);
                for row in [at % m, (at * 7 + m / 2) % m] {
                    if samples.len() < SAMPLES * dense.k {
                        samples.extend(&x[row * dense.k..][..dense.k]);
                    }
                }
                compressed.linear(dense, x, m)
            })?;
        }
        let mut made = Self { statistics: Vec::new(), channels: Vec::new(), samples: Vec::new() };
        for (statistics, channels, samples) in layers.into_inner() {
            made.statistics.push(statistics);
            made.channels.push(channels);
            made.samples.push(samples);
        }
        Ok(made)
    }

    /// The scale of a layer's inputs, and what a step of its codes is.
    fn scale(&self, dense: &Dense) -> Result<StaticScale, Error> {
        let format = ActivationFormat::int8(ActivationGranularity::Tensor).asymmetric();
        Ok(self.statistics[dense.index].calibrate(Method::MinMax, format)?.scheme())
    }

    /// Smoothing factors and the scale of smoothed inputs, of layers that share them.
    fn smooth(&self, layers: &[&Dense]) -> Result<(Vec<f32>, StaticScale), Error> {
        let Some(first) = layers.first() else { return Err("no layers to smooth".into()) };
        let linears: Vec<_> =
            layers.iter().map(|dense| Linear { weights: &dense.weight, rows: dense.n }).collect();
        let samples = &self.samples[first.index];
        let absmax = Some(self.channels[first.index].absmax()?);
        let options = Options { absmax, ..Options::default() };
        let found = smooth::search(samples, first.k, &linears, &options)?;
        // The range that is left, with its zero point.
        let channels = self.channels[first.index].channels().iter().zip(found.factors());
        let range = channels.fold(ActivationRange::default(), |range, (channel, factor)| {
            let smoothed = ActivationRange::new(channel.min() / factor, channel.max() / factor);
            smoothed.map_or(range, |smoothed| range.union(smoothed))
        });
        Ok((found.factors().to_vec(), range.scheme(false)))
    }
}

/// One matrix on the device, and what becomes of its inputs.
struct Layer {
    weights: DeviceWeights,
    quantization: Option<Quantization>,
    /// What inputs are divided by, where they are smoothed.
    factors: Option<Vec<f32>>,
}

/// Every matrix of the encoder in one format, in device memory.
pub struct Compressed<'a> {
    host: &'a Host,
    /// By [`Dense::index`].
    layers: Vec<Layer>,
    pub sizes: Sizes,
}

impl<'a> Compressed<'a> {
    /// Uploads f32 and prunes, quantizes and packs on the GPU.
    pub fn new(
        host: &'a Host,
        encoder: &Encoder,
        recipe: &Recipe,
        calibration: Option<&Calibration>,
    ) -> Result<Self, Error> {
        let calibrated = || calibration.ok_or("static scales need a calibration");
        let mut layers = Vec::new();
        let mut sizes = Sizes::default();
        let linears: Vec<&Dense> = encoder.linears().collect();
        let mut smoothed = None;
        for dense in &linears {
            let (mut quantization, mut factors) = (None, None);
            match recipe.inputs {
                Inputs::Float => {}
                Inputs::Dynamic => {
                    let token = ActivationFormat::int8(ActivationGranularity::Token).asymmetric();
                    quantization = Some(Quantization::Dynamic(token));
                }
                Inputs::Static => {
                    quantization = Some(Quantization::Static(calibrated()?.scale(dense)?));
                }
                Inputs::Smooth => {
                    // Query, key and value share their inputs, and so their factors.
                    let sharing = encoder.sharing(dense);
                    if sharing.first().is_some_and(|first| first.index == dense.index) {
                        smoothed = Some(calibrated()?.smooth(&sharing)?);
                    }
                    let (found, scale) = smoothed.clone().ok_or("layers out of order")?;
                    quantization = Some(Quantization::Static(scale));
                    factors = Some(found);
                }
            }
            let weight = match &factors {
                Some(factors) => smooth::scale_columns(&dense.weight, factors)?,
                None => dense.weight.clone(),
            };
            let weights = host
                .compress(&weight, dense.n, dense.k, &recipe.format)
                .map_err(|error| format!("{} as {}: {error}", dense.name, recipe.format))?;
            sizes = sizes + weights.sizes();
            layers.push(Layer { weights, quantization, factors });
        }
        Ok(Self { host, layers, sizes })
    }

    /// The weights of a layer.
    #[allow(dead_code, reason = "tests compare them")]
    pub fn weights(&self, dense: &Dense) -> &DeviceWeights {
        &self.layers[dense.index].weights
    }

    /// What becomes of a layer's inputs.
    #[allow(dead_code, reason = "tests do the same on the host")]
    pub fn inputs(&self, dense: &Dense) -> (Option<Quantization>, Option<&[f32]>) {
        let layer = &self.layers[dense.index];
        (layer.quantization, layer.factors.as_deref())
    }

    /// One linear layer on the GPU.
    pub fn linear(&self, dense: &Dense, x: &[f32], m: usize) -> Result<Vec<f32>, Error> {
        let Layer { weights, quantization, factors } = &self.layers[dense.index];
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

    /// [`Encoder::embed`], its linear layers on the GPU.
    pub fn embed(&self, encoder: &Encoder, text: &str) -> Result<Vec<f32>, Error> {
        encoder.embed(text, &|dense: &Dense, x, m| self.linear(dense, x, m))
    }
}

/// Rows of X, each column divided by its factor.
pub fn divided(x: &[f32], factors: &[f32]) -> Vec<f32> {
    let rows = x.chunks_exact(factors.len().max(1));
    rows.flat_map(|row| row.iter().zip(factors).map(|(x, factor)| x / factor)).collect()
}
