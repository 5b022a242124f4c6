use super::CalibrateError;
use crate::compress::flushed;

/// The most bins on either side of 0.
const MOST_BINS: usize = 1 << 20;

/// How often values fell into bins of equal width, a power of two, on both sides of 0.
///
/// Of `2·B` bins, bin `B + i` counts `i·w ≤ x < (i + 1)·w` and bin `B − 1 − i` the negative `x` with
/// the same `|x|`; subnormals and both zeros are in bin B. The width `w` is the least power of two
/// with `max |x| < B·w`: when the range grows, so many times two neighbours become one. As
/// `⌊⌊|x|/w⌋/2⌋ = ⌊|x|/2w⌋`, the counts depend on which values there were and on nothing else,
/// neither their order nor how they were cut into batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The biased exponent of the largest |x|, at least 1: bins reach up to 2^(top − 126).
    top: u32,
    counts: Vec<u64>,
}

/// The biased exponent of what `x` counts as; 1 for 0 too, which any bin 0 holds.
pub(super) fn exponent_of(x: f32) -> u32 {
    ((x.to_bits() >> 23) & 0xff).max(1)
}

impl Histogram {
    /// No values yet, in `bins` bins on either side of 0; 0 bins count nothing.
    ///
    /// # Errors
    /// [`CalibrateError::Bins`]: neither 0 nor a power of two up to 2²⁰.
    pub fn new(bins: usize) -> Result<Self, CalibrateError> {
        Self::check_bins(bins)?;
        Ok(Self { top: 1, counts: vec![0; 2 * bins] })
    }

    pub(super) fn check_bins(bins: usize) -> Result<(), CalibrateError> {
        match bins == 0 || (bins.is_power_of_two() && bins <= MOST_BINS) {
            true => Ok(()),
            false => Err(CalibrateError::Bins { bins }),
        }
    }

    /// From counts, lowest bin first, and the exponent of the bins' width: what a device counted,
    /// or a file holds.
    ///
    /// # Errors
    /// [`CalibrateError::Bins`] for a number of counts that is not twice one that [`new`](Self::new)
    /// takes; [`CalibrateError::Width`] for a width that no f32 asks for.
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

    /// The biased exponent that the bins reach.
    #[cfg(feature = "serde")]
    pub(super) fn top(&self) -> u32 {
        self.top
    }

    /// Bins on either side of 0.
    pub fn bins(&self) -> usize {
        self.counts.len() / 2
    }

    /// The binary logarithm of the bins' width.
    pub fn width_exponent(&self) -> i32 {
        self.top as i32 - 126 - self.bins().max(1).trailing_zeros() as i32
    }

    /// The bins' width.
    pub fn width(&self) -> f64 {
        f64::from(self.width_exponent()).exp2()
    }

    /// The counts, lowest bin first.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Counts of |x| by bins from 0 up, none of them above u64 where their sum is not.
    pub(super) fn magnitudes(&self) -> Vec<u64> {
        let (below, above) = self.counts.split_at(self.bins());
        below.iter().rev().zip(above).map(|(a, b)| a + b).collect()
    }

    /// Widens the bins until they hold numbers of this biased exponent.
    pub(super) fn grow(&mut self, top: u32) {
        let Some(doublings) = top.checked_sub(self.top).filter(|&d| d > 0) else { return };
        let bins = self.bins();
        // In place: a bin moves towards 0, onto one that has moved.
        for i in 1..bins {
            let to = i >> doublings.min(31);
            for (from, to) in [(bins + i, bins + to), (bins - 1 - i, bins - 1 - to)] {
                let count = std::mem::take(&mut self.counts[from]);
                self.counts[to] += count;
            }
        }
        self.top = top;
    }

    /// Counts a finite value that the bins reach.
    pub(super) fn count(&mut self, x: f32) {
        let (bins, bits) = (self.bins(), flushed(x).to_bits());
        let exponent = (bits >> 23) & 0xff;
        let significand = (bits & 0x7f_ffff) | 0x80_0000;
        // ⌊|x|/w⌋: |x| is significand · 2^(exponent − 150).
        let shift = 24 + self.top - bins.trailing_zeros() - exponent;
        let i = if exponent == 0 || shift > 31 { 0 } else { (significand >> shift) as usize };
        self.counts[if bits >> 31 == 0 { bins + i } else { bins - 1 - i }] += 1;
    }

    /// Adds the counts of another of as many bins, exactly. The caller has made sure that the sum
    /// of all counts does not overflow.
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
