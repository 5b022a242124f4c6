use crate::data::{DataSet, Examples};
use burn::tensor::{Device, Int, Tensor};

/// A part of the examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What weights are changed by.
    Train,
    /// What early stopping watches.
    Validation,
    /// What the result is measured by.
    Test,
}

/// Where batches come from.
pub trait Source {
    /// The inputs of a batch.
    type Input: Clone;

    /// Returns the number of examples.
    fn len(&self, part: Part) -> usize;

    /// Returns the inputs and labels of examples.
    fn batch(
        &self,
        part: Part,
        indices: &[usize],
        device: &Device,
    ) -> (Self::Input, Tensor<1, Int>);
}

impl DataSet {
    fn part(&self, part: Part) -> &Examples {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
            Part::Test => &self.test,
        }
    }
}

impl Source for DataSet {
    type Input = Tensor<2>;

    fn len(&self, part: Part) -> usize {
        self.part(part).len()
    }

    fn batch(&self, part: Part, indices: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        self.part(part).batch(indices, device)
    }
}
