use crate::random::{Purpose, Random};

/// The order of the examples of one epoch, in batches. It depends on the seed and the epoch only, so that
/// training can go on in the middle of an epoch.
#[derive(Clone, Debug)]
pub struct Batches {
    order: Vec<usize>,
    size: usize,
}

impl Batches {
    /// Shuffles `examples` examples into batches of `size`; the last one may be smaller.
    pub fn new(seed: u64, epoch: u32, examples: usize, size: usize) -> Self {
        let order = Random::new(seed, Purpose::Order(epoch)).permutation(examples);
        Self { order, size: size.max(1) }
    }

    /// Returns the number of batches.
    pub fn len(&self) -> usize {
        self.order.len().div_ceil(self.size)
    }

    /// Returns whether there are no batches.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the examples of a batch.
    pub fn get(&self, batch: usize) -> &[usize] {
        let from = (batch * self.size).min(self.order.len());
        &self.order[from..self.order.len().min(from + self.size)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_example_once() {
        let batches = Batches::new(1, 0, 10, 4);
        assert_eq!((batches.len(), batches.is_empty()), (3, false));
        let sizes: Vec<_> = (0..3).map(|at| batches.get(at).len()).collect();
        assert_eq!(sizes, [4, 4, 2]);
        let mut all: Vec<_> = (0..3).flat_map(|at| batches.get(at).to_vec()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..10));
        assert!(batches.get(3).is_empty());
        assert!(Batches::new(1, 0, 0, 4).is_empty());
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let order = |seed, epoch| Batches::new(seed, epoch, 100, 100).get(0).to_vec();
        assert_eq!(order(1, 2), order(1, 2));
        assert_ne!(order(1, 2), order(1, 3));
        assert_ne!(order(1, 2), order(2, 2));
    }
}
