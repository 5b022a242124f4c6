//! Examples to train on.

mod batches;
mod error;
mod idx;
mod synthetic;

pub use batches::Batches;
pub use error::DataError;
pub use idx::read_mnist;
pub use synthetic::clusters;

use crate::random::{Purpose, Random};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Examples with one label each.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// The inputs, `[len, columns]`.
    inputs: Vec<f32>,
    columns: usize,
    labels: Vec<u8>,
}

/// Examples to train on, to choose when to stop by, and to measure accuracy with.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSet {
    /// Its name in results.
    pub name: String,
    /// Number of classes.
    pub classes: usize,
    /// Examples that weights are changed by.
    pub train: Examples,
    /// Examples that early stopping watches.
    pub validation: Examples,
    /// Examples that nothing but the result is measured by.
    pub test: Examples,
}

impl Examples {
    /// Creates examples from inputs `[len, columns]` and their labels.
    ///
    /// # Errors
    /// Returns [`DataError::Lengths`] if there is not a row of inputs for each label.
    pub fn new(inputs: Vec<f32>, columns: usize, labels: Vec<u8>) -> Result<Self, DataError> {
        if labels.len().checked_mul(columns) != Some(inputs.len()) {
            return Err(DataError::Lengths { labels: labels.len(), columns, inputs: inputs.len() });
        }
        Ok(Self { inputs, columns, labels })
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the number of inputs of an example.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the labels.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Returns the inputs of an example.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.inputs[index * self.columns..][..self.columns]
    }

    /// Returns the examples at `indices`, in their order.
    fn select(&self, indices: &[usize]) -> Self {
        let inputs = indices.iter().flat_map(|&index| self.row(index)).copied().collect();
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        Self { inputs, columns: self.columns, labels }
    }

    /// Puts the examples at `indices` on a device: inputs `[indices, columns]`, and labels.
    pub fn batch(&self, indices: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let Self { inputs, columns, labels } = self.select(indices);
        let labels: Vec<i64> = labels.into_iter().map(i64::from).collect();
        let rows = indices.len();
        let inputs = Tensor::from_data(TensorData::new(inputs, [rows, columns]), device);
        (inputs, Tensor::from_data(TensorData::new(labels, [rows]), device))
    }
}

impl DataSet {
    /// Takes `count` training examples away for validation; the same ones for every seed of training.
    /// At least one example stays to train on.
    #[must_use]
    pub fn with_validation(mut self, count: usize) -> Self {
        let order = Random::new(0, Purpose::Subset).permutation(self.train.len());
        let (validation, train) = order.split_at(count.min(order.len().saturating_sub(1)));
        (self.validation, self.train) = (self.train.select(validation), self.train.select(train));
        self
    }

    /// Keeps at most `train` examples to train on and `test` to measure with; the same ones for every
    /// seed of training.
    #[must_use]
    pub fn limited(mut self, train: usize, test: usize) -> Self {
        let order = Random::new(1, Purpose::Subset);
        for (examples, count) in [(&mut self.train, train), (&mut self.test, test)] {
            if examples.len() > count {
                *examples = examples.select(&order.permutation(examples.len())[..count]);
            }
        }
        self
    }
}
