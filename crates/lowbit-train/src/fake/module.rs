use super::{FakeFormat, fake_quantize};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

/// Where scales and zero points come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranges {
    /// They are learned: LSQ, and LSQ+ for zero points.
    #[default]
    Learned,
    /// They are fitted to values once, and stay as they are.
    Observed,
    /// They are those of the values at hand.
    Dynamic,
}

/// Fake-quantizes what passes through it.
#[derive(Module, Debug)]
pub struct FakeQuantizer {
    /// The scales, of the shape [`FakeFormat::scales`]. Dynamic ranges do not use them.
    pub scales: Param<Tensor<2>>,
    /// The zero points, as floats so that learning can move them by less than 1.
    pub zeros: Param<Tensor<2>>,
    #[module(skip)]
    format: FakeFormat,
    #[module(skip)]
    ranges: Ranges,
}

impl FakeQuantizer {
    /// Creates a quantizer of `[rows, columns]` values whose ranges are fitted to the values themselves
    /// (least squares). Learned ranges start from them.
    pub fn fitted(x: Tensor<2>, format: FakeFormat, ranges: Ranges) -> Self {
        let ([rows, columns], device) = (x.dims(), x.device());
        let values: Vec<f32> = x.into_data().iter().collect();
        let (scales, zeros) = format.fitted(&values, columns);
        Self::with_ranges(format, ranges, (scales, zeros), format.scales(rows, columns), &device)
    }

    /// Creates a quantizer from scales and zero points.
    pub fn with_ranges(
        format: FakeFormat,
        ranges: Ranges,
        (scales, zeros): (Vec<f32>, Vec<f32>),
        shape: [usize; 2],
        device: &Device,
    ) -> Self {
        let learned = ranges == Ranges::Learned;
        let param = |values: Vec<f32>, learned: bool| {
            let param = Param::from_data(TensorData::new(values, shape), device);
            param.set_require_grad(learned)
        };
        let zeros = param(zeros, learned && !format.is_symmetric());
        Self { scales: param(scales, learned), zeros, format, ranges }
    }

    /// Returns the format.
    pub fn format(&self) -> FakeFormat {
        self.format
    }

    /// Returns where scales come from.
    pub fn ranges(&self) -> Ranges {
        self.ranges
    }

    /// Returns the scales and zero points that `x` is quantized with.
    pub fn scales_of(&self, x: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        if self.ranges != Ranges::Dynamic {
            return (self.scales.val(), self.zeros.val());
        }
        let ([rows, columns], device) = (x.dims(), x.device());
        let values: Vec<f32> = x.clone().inner().into_data().iter().collect();
        let (scales, zeros) = self.format.ranges(&values, columns);
        let shape = self.format.scales(rows, columns);
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), &device);
        (tensor(scales), tensor(zeros))
    }

    /// Fake-quantizes values.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (scales, zeros) = self.scales_of(&x);
        fake_quantize(x, scales, zeros, self.format, self.ranges == Ranges::Learned)
    }
}
