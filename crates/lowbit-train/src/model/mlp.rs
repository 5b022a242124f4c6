use super::{CompressedLinear, Network};
use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

/// Linear layers with a ReLU between them.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<CompressedLinear>,
}

impl Mlp {
    /// Creates a network with the given widths, from inputs to classes.
    pub fn new(seed: u64, widths: &[usize], device: &Device) -> Self {
        let pairs = widths.windows(2).zip(0..);
        let layers = pairs
            .map(|(pair, layer)| CompressedLinear::new(seed, layer, pair[0], pair[1], device))
            .collect();
        Self { layers }
    }

    /// Returns LeNet-300-100 (LeCun et al. 1998): 266,610 parameters for 28×28 pixels and 10 classes.
    pub fn lenet_300_100(seed: u64, device: &Device) -> Self {
        Self::new(seed, &[784, 300, 100, 10], device)
    }

    /// Calls `each` with every layer and what it takes.
    fn pass(&self, mut x: Tensor<2>, mut each: impl FnMut(&Tensor<2>)) -> Tensor<2> {
        for (at, layer) in self.layers.iter().enumerate() {
            if at > 0 {
                x = relu(x);
            }
            each(&x);
            x = layer.forward(x);
        }
        x
    }
}

impl Network for Mlp {
    type Input = Tensor<2>;

    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        self.pass(input, |_| {})
    }

    fn layers(&self) -> Vec<&CompressedLinear> {
        self.layers.iter().collect()
    }

    fn layers_mut(&mut self) -> Vec<&mut CompressedLinear> {
        self.layers.iter_mut().collect()
    }

    fn layer_inputs(&self, input: Tensor<2>) -> Vec<Tensor<2>> {
        let mut inputs = Vec::new();
        self.pass(input, |x| inputs.push(x.clone()));
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenet_has_its_parameters() {
        let device = Device::flex();
        let model = Mlp::lenet_300_100(1, &device);
        let masks: usize = model.layers().iter().map(|layer| layer.len()).sum();
        assert_eq!(masks, 266_200);
        assert_eq!(model.num_params() - masks, 266_610);
        let same = Mlp::lenet_300_100(1, &device);
        assert_eq!(model.layers()[2].raw_weights(), same.layers()[2].raw_weights());
        let other = Mlp::lenet_300_100(2, &device);
        assert_ne!(model.layers()[2].raw_weights(), other.layers()[2].raw_weights());
    }
}
