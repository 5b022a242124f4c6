use super::CalibrateError;
use crate::compress::flushed;

/// The largest number of bins on either side of 0.
const MOST_BINS: usize = 1 << 20;

/// Counts of values in bins of equal width on both sides of 0. The width is a power of two.
///
/// There are `2·B` bins. Bin `B + i` counts the values with `i·w ≤ x < (i + 1)·w`, and bin `B − 1 −
/// i` counts the negative values with the same `|x|`. Subnormals and both zeros are in bin B. The
/// width `w` is the least power of two with `max |x| < B·w`. When the range grows, pairs of
/// neighboring bins are merged until it fits. Because `⌊⌊|x|/w⌋/2⌋ = ⌊|x|/2w⌋`, the counts depend
/// only on the values, and neither on their order nor on how they were divided into batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The biased exponent of the largest |x|, at least 1. The bins reach up to 2^(top − 126).
    top: u32,
    counts: Vec<u64>,
}

/// Returns the biased exponent of `x`, but at least 1: 0 and subnormals fit into bins of any width.
pub(super) fn exponent_of(x: f32) -> u32 {
    ((x.to_bits() >> 23) & 0xff).max(1)
}

impl Histogram {
    /// Creates an empty histogram with `bins` bins on either side of 0. With 0 bins it counts
    /// nothing.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Bins`] if `bins` is neither 0 nor a power of two up to 2²⁰.
    pub fn new(bins: usize) -> Result<Self, CalibrateError> {
        Self::check_bins(bins)?;
        Ok(Self { top: 1, counts: vec![0; 2 * bins] })
    }

    pub(super) fn check_bins(bins: usize) -> Result<(), CalibrateError> {
        if bins == 0 || (bins.is_power_of_two() && bins <= MOST_BINS) {
            Ok(())
        } else {
            Err(CalibrateError::Bins { bins })
        }
    }

    /// Creates a histogram from counts, lowest bin first, and the exponent of the bins' width. A
    /// device counts in this form, and files store it.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Bins`] if the number of counts is not twice a number of bins that
    /// [`new`](Self::new) accepts, and [`CalibrateError::Width`] if no range of f32 values has bins
    /// of this width.
    pub fn from_counts(width_exponent: i32, counts: Vec<u64>) -> Result<Self, CalibrateError> {
        let bins = counts.len() / 2;
        Self::check_bins(bins)?;
        if counts.len() % 2 == 1 {
            return Err(CalibrateError::Bins { bins: counts.len() });
        }
        let out = Self { top: 0, counts };
        let top = width_exponent.checked_sub(out.width_exponent());
        let top = top.filter(|top| (1..255).contains(top) && (bins > 0 || *top == 1));
        let top = top.ok_or(CalibrateError::Width { exponent: width_exponent })?;
        Ok(Self { top: top as u32, ..out })
    }

    /// Returns the biased exponent that the bins reach.
    #[cfg(feature = "serde")]
    pub(super) fn top(&self) -> u32 {
        self.top
    }

    /// Returns the number of bins on either side of 0.
    pub fn bins(&self) -> usize {
        self.counts.len() / 2
    }

    /// Returns the binary logarithm of the bins' width.
    pub fn width_exponent(&self) -> i32 {
        self.top as i32 - 126 - self.bins().max(1).trailing_zeros() as i32
    }

    /// Returns the width of the bins.
    pub fn width(&self) -> f64 {
        f64::from(self.width_exponent()).exp2()
    }

    /// Returns the counts, lowest bin first.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the counts of |x| by bin, from 0 up. They do not overflow, because the sum of all
    /// counts fits in a u64.
    pub(super) fn magnitudes(&self) -> Vec<u64> {
        let (below, above) = self.counts.split_at(self.bins());
        below.iter().rev().zip(above).map(|(a, b)| a + b).collect()
    }

    /// Widens the bins until they cover numbers with this biased exponent.
    pub(super) fn grow(&mut self, top: u32) {
        let Some(doublings) = top.checked_sub(self.top).filter(|&d| d > 0) else { return };
        let bins = self.bins();
        // The counts move in place: each moves towards 0, to a bin whose own count has already
        // moved.
        for i in 1..bins {
            let to = i >> doublings.min(31);
            for (from, to) in [(bins + i, bins + to), (bins - 1 - i, bins - 1 - to)] {
                let count = std::mem::take(&mut self.counts[from]);
                self.counts[to] += count;
            }
        }
        self.top = top;
    }

    /// Counts a finite value that lies within the bins.
    pub(super) fn count(&mut self, x: f32) {
        let (bins, bits) = (self.bins(), flushed(x).to_bits());
        let exponent = (bits >> 23) & 0xff;
        let significand = (bits & 0x7f_ffff) | 0x80_0000;
        // The index is ⌊|x|/w⌋, and |x| is significand · 2^(exponent − 150).
        let shift = 24 + self.top - bins.trailing_zeros() - exponent;
        let i = if exponent == 0 || shift > 31 { 0 } else { (significand >> shift) as usize };
        self.counts[if bits >> 31 == 0 { bins + i } else { bins - 1 - i }] += 1;
    }

    /// Adds the counts of another histogram with the same number of bins, exactly. The caller must
    /// ensure that the sum of all counts does not overflow.
    pub(super) fn merge(&mut self, other: &Self) {
        self.grow(other.top);
        let (bins, doublings) = (self.bins(), (self.top - other.top).min(31));
        for i in 0..bins {
            let to = i >> doublings;
            self.counts[bins + to] += other.counts[bins + i];
            self.counts[bins - 1 - to] += other.counts[bins - 1 - i];
        }
    }
}
