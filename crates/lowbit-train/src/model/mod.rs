//! Networks whose linear layers can be masked and fake-quantized.

mod linear;
mod mlp;
mod quantize;

pub use linear::{CompressedLinear, Masking};
pub use mlp::Mlp;
pub use quantize::{
    FoldedLayer, QuantizeSettings, average_bits, fold_layers, quantize_for_training, round_weights,
};

use burn::module::Module;
use burn::tensor::Tensor;

/// A classifier that training knows how to compress.
pub trait Network: Module + 'static {
    /// A batch of examples.
    type Input: Clone;

    /// Returns the logits of a batch, `[examples, classes]`.
    fn logits(&self, input: Self::Input) -> Tensor<2>;

    /// Returns the layers whose weights are compressed, in the order of the forward pass.
    fn layers(&self) -> Vec<&CompressedLinear>;

    /// Returns the same layers, to change them.
    fn layers_mut(&mut self) -> Vec<&mut CompressedLinear>;

    /// Returns what each of these layers takes for a batch, `[rows, columns]`.
    fn layer_inputs(&self, input: Self::Input) -> Vec<Tensor<2>>;
}

/// Returns the numbers of a tensor, in row-major order.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.inner().into_data().iter().collect()
}
