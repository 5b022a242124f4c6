//! Gradients of ranks, compressed and averaged.

use crate::gradients::{GradientError, TensorId, Workers};
use crate::model::numbers;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

/// Returns the tensors of a network that may have gradients, in its order.
pub fn tensors<M: Module>(model: &M) -> Vec<TensorId> {
    struct Listing(Vec<TensorId>);

    impl ModuleVisitor for Listing {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.lazy_shape();
            let number = self.0.len() as u32;
            self.0.push(tensor_id(number, shape.as_slice()));
        }
    }

    let mut listing = Listing(Vec::new());
    model.visit(&mut listing);
    listing.0
}

fn tensor_id(number: u32, shape: &[usize]) -> TensorId {
    match shape {
        [rows, rest @ ..] if !rest.is_empty() => {
            TensorId { number, rows: *rows, columns: rest.iter().product() }
        }
        _ => TensorId { number, rows: 1, columns: shape.iter().product() },
    }
}

/// Averages the gradients of all ranks as `workers` compress them. A tensor without gradients on rank 0
/// (a mask) is not sent.
pub fn reduce<M: Module>(
    model: &M,
    ranks: Vec<GradientsParams>,
    workers: &mut Workers,
    step: u32,
) -> Result<GradientsParams, GradientError> {
    struct Reducer<'a> {
        ranks: Vec<GradientsParams>,
        workers: &'a mut Workers,
        step: u32,
        number: u32,
        means: GradientsParams,
        fault: Option<GradientError>,
    }

    impl ModuleVisitor for Reducer<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let number = self.number;
            self.number += 1;
            let own: Vec<Tensor<D>> =
                self.ranks.iter_mut().filter_map(|rank| rank.remove::<D>(param.id)).collect();
            let Some(first) = own.first() else { return };
            let (shape, device) = (first.dims(), first.device());
            let gradients: Vec<Vec<f32>> = own.into_iter().map(numbers).collect();
            match self.workers.reduce(tensor_id(number, &shape), &gradients, self.step) {
                Ok(mean) => {
                    let mean = Tensor::<D>::from_data(TensorData::new(mean, shape), &device);
                    self.means.register(param.id, mean);
                }
                Err(fault) => self.fault = self.fault.take().or(Some(fault)),
            }
        }
    }

    let means = GradientsParams::new();
    let mut reducer = Reducer { ranks, workers, step, number: 0, means, fault: None };
    model.visit(&mut reducer);
    match reducer.fault {
        None => Ok(reducer.means),
        Some(fault) => Err(fault),
    }
}
