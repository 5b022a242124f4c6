//! The operation on burn's tensors.

use super::{FakeFormat, Given};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients as Grads;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};

/// How values are fake-quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeConfig {
    /// The format.
    pub format: FakeFormat,
    /// Whether gradients of scales and zero points are multiplied by LSQ's 1/√(count · steps).
    pub gradient_scale: bool,
}

/// The forward and the backward pass of a backend, without recording them.
pub trait FakeQuantKernels: Backend {
    /// Returns the values `[rows, columns]` fake-quantized with scales and zero points of the shape
    /// [`FakeFormat::scales`].
    fn fake_forward(
        x: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        config: FakeConfig,
    ) -> FloatTensor<Self>;

    /// Returns the gradients of the values, the scales and the zero points.
    fn fake_backward(
        inputs: [FloatTensor<Self>; 3],
        dy: FloatTensor<Self>,
        config: FakeConfig,
    ) -> [FloatTensor<Self>; 3];
}

/// Fake quantization as an operation that records its gradients.
#[backend_extension(Flex, Autodiff)]
pub trait FakeQuantOps: Backend {
    /// Returns the values fake-quantized.
    fn fake_quantize(
        x: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        config: FakeConfig,
    ) -> FloatTensor<Self>;
}

/// Fake-quantizes `[rows, columns]` values with scales and zero points of the shape
/// [`FakeFormat::scales`]. Gradients reach all three. Zero points are ignored if the format is symmetric.
///
/// # Panics
/// Panics if there is another number of scales or zero points.
pub fn fake_quantize(
    x: Tensor<2>,
    scales: Tensor<2>,
    zeros: Tensor<2>,
    format: FakeFormat,
    gradient_scale: bool,
) -> Tensor<2> {
    let [rows, columns] = x.dims();
    // This checks the shapes.
    let shape = format.scales(rows, columns);
    let (scales, zeros) = (scales.reshape(shape), zeros.reshape(shape));
    Tensor::from_dispatch(<Dispatch as FakeQuantOps>::fake_quantize(
        x.into_dispatch(),
        scales.into_dispatch(),
        zeros.into_dispatch(),
        FakeConfig { format, gradient_scale },
    ))
}

/// Returns the numbers of a tensor in row-major order.
fn numbers(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    tensor.to_contiguous()
}

fn slice(tensor: &FloatTensor<Flex>) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or_default()
}

fn tensor(values: Vec<f32>, like: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(values, like.shape()))
}

fn columns(x: &FloatTensor<Flex>) -> usize {
    x.shape().as_slice().last().copied().unwrap_or_default()
}

impl FakeQuantKernels for Flex {
    fn fake_forward(
        x: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        config: FakeConfig,
    ) -> FloatTensor<Self> {
        let [x, scales, zeros] = [x, scales, zeros].map(numbers);
        let given = Given { scales: slice(&scales), zeros: slice(&zeros) };
        tensor(config.format.forward(slice(&x), columns(&x), given), &x)
    }

    fn fake_backward(
        inputs: [FloatTensor<Self>; 3],
        dy: FloatTensor<Self>,
        config: FakeConfig,
    ) -> [FloatTensor<Self>; 3] {
        let ([x, scales, zeros], dy) = (inputs.map(numbers), numbers(dy));
        let given = Given { scales: slice(&scales), zeros: slice(&zeros) };
        let scaled = config.gradient_scale;
        let gradients = config.format.backward(slice(&x), slice(&dy), columns(&x), given, scaled);
        [
            tensor(gradients.x, &x),
            tensor(gradients.scales, &scales),
            tensor(gradients.zeros, &zeros),
        ]
    }
}

impl FakeQuantOps for Flex {
    fn fake_quantize(
        x: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        config: FakeConfig,
    ) -> FloatTensor<Self> {
        Self::fake_forward(x, scales, zeros, config)
    }
}

/// The step of the backward pass.
#[derive(Debug)]
struct FakeQuantBackward;

impl<B: FakeQuantKernels> Backward<B, 3> for FakeQuantBackward {
    type State = ([FloatTensor<B>; 3], FakeConfig);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Grads, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (inputs, config) = ops.state;
        let gradients = B::fake_backward(inputs, dy, config);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: FakeQuantKernels, C: CheckpointStrategy> FakeQuantOps for Autodiff<B, C> {
    fn fake_quantize(
        x: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        config: FakeConfig,
    ) -> FloatTensor<Self> {
        let prepared = FakeQuantBackward.prepare::<C>([x.node(), scales.node(), zeros.node()]);
        let inputs = [x, scales, zeros].map(|tensor| tensor.into_primitive());
        let [x, scales, zeros] = inputs.clone();
        let y = B::fake_forward(x, scales, zeros, config);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, config), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}
