use super::numbers;
use crate::fake::FakeQuantizer;
use crate::prune::Mask;
use crate::random::{Purpose, Random};
use burn::module::{Module, Param};
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// What the gradient of a masked weight is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Masking {
    /// Nothing is masked.
    #[default]
    Off,
    /// 0: pruned weights stay pruned.
    Fixed,
    /// As if it were not masked, so that it may come back (straight-through).
    Through,
}

/// A linear layer `Y = X · Wᵀ + b` with weights `[outputs, inputs]`, as lowbit's kernels read them; burn's own
/// layer has them transposed, and groups of columns would not be neighbors. Weights may be masked, and
/// then fake-quantized; inputs may be fake-quantized.
#[derive(Module, Debug)]
pub struct CompressedLinear {
    /// The weights, before masking and quantization.
    pub weight: Param<Tensor<2>>,
    /// The bias, which is never compressed.
    pub bias: Param<Tensor<1>>,
    /// 1 where a weight is kept, otherwise 0.
    mask: Param<Tensor<2>>,
    /// Quantizes the weights.
    pub weight_quantizer: Option<FakeQuantizer>,
    /// Quantizes what the layer takes.
    pub input_quantizer: Option<FakeQuantizer>,
    #[module(skip)]
    masking: Masking,
}

impl CompressedLinear {
    /// Creates a layer with the initialization of Glorot and Bengio: normal weights with variance
    /// 2/(inputs + outputs), and biases of 0. Numbers come from [`Random`], so that a seed means the same
    /// weights on every backend and thread; burn's generator belongs to the device.
    pub fn new(seed: u64, layer: u32, inputs: usize, outputs: usize, device: &Device) -> Self {
        let random = Random::new(seed, Purpose::Weights(layer));
        let deviation = (2.0 / (inputs + outputs) as f64).sqrt() as f32;
        let weights =
            (0..inputs * outputs).map(|at| deviation * random.normal(at as u64)).collect();
        let bias = Param::from_tensor(Tensor::zeros([outputs], device));
        Self::with_weights(weights, bias, inputs, outputs, device)
    }

    fn with_weights(
        weights: Vec<f32>,
        bias: Param<Tensor<1>>,
        inputs: usize,
        outputs: usize,
        device: &Device,
    ) -> Self {
        let shape = [outputs, inputs];
        let mask = Param::from_tensor(Tensor::ones(shape, device)).set_require_grad(false);
        Self {
            weight: Param::from_data(TensorData::new(weights, shape), device),
            bias,
            mask,
            weight_quantizer: None,
            input_quantizer: None,
            masking: Masking::Off,
        }
    }

    /// Returns the number of outputs and of inputs.
    pub fn shape(&self) -> [usize; 2] {
        self.weight.lazy_shape().dims()
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Returns whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how weights are masked.
    pub fn masking(&self) -> Masking {
        self.masking
    }

    /// Sets how weights are masked, by the mask that there is.
    pub fn set_masking(&mut self, masking: Masking) {
        self.masking = masking;
    }

    /// Returns the mask.
    pub fn mask(&self) -> Mask {
        let [rows, columns] = self.shape();
        let kept = numbers(self.mask.val());
        Mask::new(rows, columns, |at| kept[at] != 0.0)
    }

    /// Returns the weights as they are stored, before masking.
    pub fn raw_weights(&self) -> Vec<f32> {
        numbers(self.weight.val())
    }

    /// Returns the weights after masking, before quantization.
    pub fn masked_weights(&self) -> Vec<f32> {
        numbers(self.masked().inner())
    }

    /// Returns the weights that the mask prunes, and 0 in place of the others; not part of the graph.
    pub fn pruned_weights(&self) -> Tensor<2> {
        let weight = self.weight.val().inner();
        weight.clone() - weight * self.mask.val().inner()
    }

    /// Sets the mask, and what gradients masked weights get.
    pub fn set_mask(&mut self, mask: &Mask, masking: Masking) {
        let device = self.weight.lazy_device();
        let data = TensorData::new(mask.to_floats(), self.shape());
        let values = Tensor::<2>::from_data(data, &device.inner());
        self.mask = self.mask.clone().map(|old| {
            let values = values.clone();
            let values = if old.is_autodiff() { values.autodiff() } else { values };
            values.set_require_grad(false)
        });
        self.masking = masking;
    }

    /// Sets the weights, before masking.
    pub fn set_weights(&mut self, weights: Vec<f32>) {
        let device = self.weight.lazy_device().inner();
        let weights = Tensor::<2>::from_data(TensorData::new(weights, self.shape()), &device);
        self.replace_weights(weights);
    }

    fn replace_weights(&mut self, weights: Tensor<2>) {
        self.weight = self.weight.clone().map(|old| {
            let weights = if old.is_autodiff() { weights.autodiff() } else { weights };
            weights.set_require_grad(old.is_require_grad())
        });
    }

    /// Returns the weights after masking, as part of the graph.
    fn masked(&self) -> Tensor<2> {
        let weight = self.weight.val();
        match self.masking {
            Masking::Off => weight,
            Masking::Fixed => weight * self.mask.val(),
            // w + (w·m − w) is exactly w where m is 1, and 0 where it is 0.
            Masking::Through => {
                let change = (weight.clone() * self.mask.val() - weight.clone()).detach();
                weight + change
            }
        }
    }

    /// Returns the weights that the layer multiplies with, as part of the graph.
    pub fn effective(&self) -> Tensor<2> {
        match &self.weight_quantizer {
            None => self.masked(),
            Some(quantizer) => quantizer.forward(self.masked()),
        }
    }

    /// Applies the layer to `[rows, inputs]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = match &self.input_quantizer {
            None => x,
            Some(quantizer) => quantizer.forward(x),
        };
        linear(x, self.effective().transpose(), Some(self.bias.val()))
    }
}
