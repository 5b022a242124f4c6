//! Random numbers that depend on nothing but a seed, a stream and an index.
//!
//! They come from Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011)
//! with the counter `(index low, index high, stream, 0)` and the seed as the key. Any thread, rank or
//! device can therefore draw the number of any element in any order, and a rerun draws it again.

use lowbit::reference::philox;

/// What random numbers are drawn for. Two purposes never share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights of the layer with this number.
    Weights(u32),
    /// The order of the training examples; the number is that of the epoch.
    Order(u32),
    /// The weights of a random mask; the number is that of the layer.
    Mask(u32),
    /// Stochastic rounding of the gradients of one tensor on one rank.
    Rounding {
        /// The rank that rounds.
        rank: u32,
        /// The number of the tensor among all parameters.
        tensor: u32,
    },
    /// The first factor of PowerSGD for the tensor with this number.
    Factor(u32),
    /// The examples of a smaller data set.
    Subset,
}

impl Purpose {
    /// Returns the stream of this purpose: a kind in the highest 4 bits, and numbers below.
    fn stream(self) -> u32 {
        let (kind, number) = match self {
            Self::Weights(layer) => (1, layer),
            Self::Order(epoch) => (2, epoch),
            Self::Mask(layer) => (3, layer),
            Self::Rounding { rank, tensor } => (4, (rank & 0xfff) << 16 | tensor & 0xffff),
            Self::Factor(tensor) => (5, tensor),
            Self::Subset => (6, 0),
        };
        kind << 28 | number & 0x0fff_ffff
    }
}

/// A sequence of random numbers with random access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    key: [u32; 2],
    stream: u32,
}

impl Random {
    /// Creates the sequence of a seed for one purpose.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: purpose.stream() }
    }

    /// Returns the four words of an element.
    pub fn words(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.stream, 0], self.key)
    }

    /// Returns a multiple of 2⁻²⁴ that is at least 0 and less than 1.
    pub fn uniform(&self, index: u64) -> f32 {
        unit(self.words(index)[0])
    }

    /// Returns a number of the standard normal distribution, by the method of Box and Muller.
    pub fn normal(&self, index: u64) -> f32 {
        let [first, second, ..] = self.words(index);
        // 1 − u is in (0, 1], so that its logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(unit(first))).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(unit(second))).cos()) as f32
    }

    /// Returns the numbers 0…`count`−1 in random order (Fisher and Yates).
    pub fn permutation(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            let [low, high, ..] = self.words(at as u64);
            let word = u64::from(high) << 32 | u64::from(low);
            // The high half of a product maps a word to 0…at. Its bias is below count / 2⁶⁴.
            let chosen = (u128::from(word) * (at as u128 + 1)) >> 64;
            order.swap(at, chosen as usize);
        }
        order
    }
}

fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> Random {
        Random::new(seed, Purpose::Subset)
    }

    /// The vectors that Random123 publishes, through this module's counter and key.
    #[test]
    fn published_vectors() {
        let zero = Random { key: [0; 2], stream: 0 };
        assert_eq!(zero.words(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(
            philox(counter, [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn counters_and_keys_are_in_their_places() {
        let random = Random::new(0x0123_4567_89ab_cdef, Purpose::Weights(7));
        assert_eq!(
            random.words(0xfeed_0000_beef),
            philox([0x0000_beef, 0xfeed, 0x1000_0007, 0], [0x89ab_cdef, 0x0123_4567])
        );
    }

    #[test]
    fn purposes_have_streams_of_their_own() {
        let rounding = |rank, tensor| Purpose::Rounding { rank, tensor };
        let purposes = [
            Purpose::Weights(0),
            Purpose::Weights(1),
            Purpose::Order(1),
            Purpose::Mask(1),
            rounding(0, 1),
            rounding(1, 0),
            rounding(1, 1),
            Purpose::Factor(1),
            Purpose::Subset,
        ];
        let mut streams: Vec<_> = purposes.iter().map(|purpose| purpose.stream()).collect();
        streams.sort_unstable();
        streams.dedup();
        assert_eq!(streams.len(), purposes.len());
    }

    #[test]
    fn permutations_hold_every_number_once_and_depend_on_the_seed() {
        for count in [0, 1, 2, 1000] {
            let order = random(3).permutation(count);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count));
            assert_eq!(order, random(3).permutation(count));
        }
        assert_ne!(random(3).permutation(1000), random(4).permutation(1000));
    }

    /// The mean of n standard normal numbers has a standard deviation of 1/√n, and the mean of their
    /// squares one of √(2/n). Six of them are exceeded with a probability below 10⁻⁸.
    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let n = 20_000;
        let values: Vec<f64> = (0..n).map(|i| f64::from(random(1).normal(i))).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let square = values.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 6.0 / (n as f64).sqrt(), "{mean}");
        assert!((square - 1.0).abs() < 6.0 * (2.0 / n as f64).sqrt(), "{square}");
    }
}
