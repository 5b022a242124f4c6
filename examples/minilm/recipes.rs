//! What the demo compares: seven ways to store the encoder's matrices, and the layers
//! that multiply with them on the GPU.

use crate::bert::{Dense, Encoder, Error};
use lowbit::format::{Granularity, Sizes, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::DeviceWeights;

/// A format by the name it has in the report.
pub struct Recipe {
    pub name: &'static str,
    pub format: WeightFormat,
    /// The least cosine to the f32 recipe that any sentence must keep.
    pub floor: Option<f64>,
}

/// The recipes, `f32` first: the others are held against it. Plain `2:4` keeps f16
/// values; `2:4+int4` has the groups and zero points of the dense int4.
pub fn recipes() -> Result<[Recipe; 7], Error> {
    let int8 = WeightFormat::int8(Granularity::Channel);
    let int4 = WeightFormat::int4(Granularity::group(64)?).asymmetric();
    let recipe = |name, format| Recipe { name, format, floor: None };
    Ok([
        recipe("f32", WeightFormat::f32()),
        recipe("f16", WeightFormat::f16()),
        Recipe { floor: Some(0.999), ..recipe("int8-channel", int8) },
        recipe("int4-g64-asym", int4),
        recipe("2:4", WeightFormat::f16().two_four()),
        recipe("2:4+int8", int8.two_four()),
        recipe("2:4+int4", int4.two_four()),
    ])
}

/// Every matrix of the encoder in one format, in device memory.
pub struct Compressed<'a> {
    host: &'a Host,
    /// By [`Dense::index`].
    pub weights: Vec<DeviceWeights>,
    pub sizes: Sizes,
}

impl<'a> Compressed<'a> {
    /// Uploads f32 and prunes, quantizes and packs on the GPU.
    pub fn new(host: &'a Host, encoder: &Encoder, format: &WeightFormat) -> Result<Self, Error> {
        let mut weights = Vec::new();
        let mut sizes = Sizes::default();
        for dense in encoder.linears() {
            let compressed = host
                .compress(&dense.weight, dense.n, dense.k, format)
                .map_err(|error| format!("{} as {format}: {error}", dense.name))?;
            sizes = sizes + compressed.sizes();
            weights.push(compressed);
        }
        Ok(Self { host, weights, sizes })
    }

    /// [`Encoder::embed`], its linear layers on the GPU.
    pub fn embed(&self, encoder: &Encoder, text: &str) -> Result<Vec<f32>, Error> {
        encoder.embed(text, &|dense: &Dense, x, m| {
            let weights = &self.weights[dense.index];
            self.host
                .matmul(x, m, weights, Some(&dense.bias))
                .map_err(|error| format!("{}: {error}", dense.name).into())
        })
    }
}
