//! 8-bit Adam as an optimizer of burn.

use crate::gradients::{Adam8, Adam8State, Moments, Quantized};
use crate::model::numbers;
use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor, TensorData};

/// Adam whose moments are 8-bit codes between steps ([`Adam8`]), on the host.
#[derive(Clone, Debug)]
pub struct BlockwiseAdam(Adam8);

impl Default for BlockwiseAdam {
    /// Creates the optimizer with β₁ = 0.9, β₂ = 0.999 and ε = 10⁻⁸.
    fn default() -> Self {
        Self(Adam8::new(0.9, 0.999, 1e-8))
    }
}

/// The moments of a parameter with D dimensions.
#[derive(Clone, Debug, Default)]
pub struct BlockwiseState<const D: usize>(Adam8State);

impl Optimizer for BlockwiseAdam {
    type State<const D: usize> = BlockwiseState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let mut state = state.unwrap_or_default();
        let (shape, device) = (tensor.dims(), tensor.device());
        let mut weights = numbers(tensor);
        let gradient = numbers(gradient);
        if self.0.step(rate as f32, &mut weights, &gradient, &mut state.0).is_err() {
            // burn has no errors here. With NaN, the loss of the next step is one, which ends training.
            weights.fill(f32::NAN);
        }
        (Tensor::from_data(TensorData::new(weights, shape), &device), Some(state))
    }

    /// Moments are on the host.
    fn to_device<const D: usize>(state: Self::State<D>, _: &Device) -> Self::State<D> {
        state
    }
}

impl<const D: usize> RecordState for BlockwiseState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "step", (self.0.step as usize).into());
        for (name, moments) in [("first", &self.0.first), ("second", &self.0.second)] {
            let mut push =
                |part: &str, data| out.push_tensor(prefix, &format!("{name}_{part}"), data);
            match moments {
                Moments::Full(values) => push("full", flat(values.clone())),
                Moments::Blocks(quantized) => {
                    push("codes", flat(quantized.codes.clone()));
                    push("scales", flat(quantized.scales.clone()));
                }
            }
        }
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, _: &Device) -> Option<Self> {
        let step = usize::try_from(source.take_scalar(prefix, "step")?).ok()?;
        let (first, second) =
            (moments(prefix, "first", source)?, moments(prefix, "second", source)?);
        Some(Self(Adam8State { step: i32::try_from(step).ok()?, first, second }))
    }
}

fn flat<E: burn::tensor::Element>(values: Vec<E>) -> TensorData {
    let len = values.len();
    TensorData::new(values, [len])
}

fn moments(prefix: &str, name: &str, source: &mut StateSource) -> Option<Moments> {
    let mut take = |part: &str| source.take_tensor(prefix, &format!("{name}_{part}"));
    if let Some(full) = take("full") {
        return Some(Moments::Full(full.try_to_vec().ok()?));
    }
    let codes = take("codes")?.try_to_vec().ok()?;
    Some(Moments::Blocks(Quantized { codes, scales: take("scales")?.try_to_vec().ok()? }))
}
