use super::{Axis, CalibrateError, Histogram, Observer, exponent_of};
use crate::compress::flushed;

/// The statistics of one batch of rows of X, which [`Statistics::fold`](super::Statistics::fold)
/// adds to those of earlier batches. [`Batch::of`] computes them on the host and
/// [`ops::observe`](crate::ops) on a device, with the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: u64,
    /// One entry for all of X, or one per column. Empty if there is nothing to observe.
    pub channels: Vec<ChannelBatch>,
    /// The NaN and infinities of the batch. If there are any, `channels` is empty.
    pub not_finite: Option<NotFinite>,
}

/// The statistics of one batch for one channel. Subnormals count as 0, and there is no −0.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelBatch {
    /// The least value.
    pub min: f32,
    /// The greatest value.
    pub max: f32,
    /// Σ|x| in units of 2⁻²³ times the largest power of two that is at most max |x|, where each |x|
    /// is rounded down to a whole number of units; see [`abs_sum`](Self::abs_sum).
    pub abs_units: u64,
    /// The histogram of the values.
    pub histogram: Histogram,
}

/// The values of a batch that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// Number of NaN.
    pub nan: u64,
    /// Number of infinities.
    pub infinite: u64,
    /// Row of the first such value, counted from 0.
    pub row: u64,
    /// Column of the first such value, counted from 0.
    pub column: u64,
}

impl ChannelBatch {
    /// Returns Σ|x|, which is too small by less than 2⁻²³ · max |x| per value. It is summed in
    /// integers, so that a device gets the same sum in any order.
    pub fn abs_sum(&self) -> f64 {
        self.abs_units as f64 * f64::from(self.exponent() as i32 - 150).exp2()
    }

    /// Returns whether these can be the statistics of so many values.
    pub(super) fn holds(&self, values: Option<u64>) -> bool {
        let finite = self.min <= self.max && self.min.is_finite() && self.max.is_finite();
        let add = |sum: u64, count: &u64| sum.checked_add(*count);
        let all = self.histogram.counts().iter().try_fold(0, add);
        finite && (self.histogram.bins() == 0 || all == values)
    }

    fn widen(&mut self, x: f32) {
        // Adding 0 turns −0 into +0.
        let x = flushed(x) + 0.0;
        self.min = if x < self.min { x } else { self.min };
        self.max = if x > self.max { x } else { self.max };
    }

    fn count(&mut self, x: f32, bins: bool) {
        self.abs_units += units(x, self.exponent());
        if bins {
            self.histogram.count(x);
        }
    }

    /// Returns the biased exponent of the largest |x|.
    fn exponent(&self) -> u32 {
        exponent_of(self.min).max(exponent_of(self.max))
    }
}

/// Returns |x| in units of 2^(exponent − 150), rounded down.
fn units(x: f32, exponent: u32) -> u64 {
    let bits = flushed(x).to_bits();
    let own = (bits >> 23) & 0xff;
    let significand = u64::from((bits & 0x7f_ffff) | 0x80_0000);
    if own == 0 { 0 } else { significand >> (exponent - own).min(63) }
}

impl Batch {
    /// Computes the statistics of row-major `[rows, columns]` values.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Length`] if `x` is not a whole number of rows, and
    /// [`CalibrateError::Bins`] if the observer's number of bins is invalid.
    pub fn of(observer: &Observer, x: &[f32]) -> Result<Self, CalibrateError> {
        let columns = observer.columns();
        if (columns == 0 && !x.is_empty()) || !x.len().is_multiple_of(columns.max(1)) {
            let (layer, have) = (observer.layer().into(), x.len());
            return Err(CalibrateError::Length { layer, have, columns });
        }
        let rows = (x.len() / columns.max(1)) as u64;
        if let Some(at) = x.iter().position(|x| !x.is_finite()) {
            let nan = x.iter().filter(|x| x.is_nan()).count() as u64;
            let infinite = x.iter().filter(|x| x.is_infinite()).count() as u64;
            let (row, column) = ((at / columns) as u64, (at % columns) as u64);
            let not_finite = Some(NotFinite { nan, infinite, row, column });
            return Ok(Self { rows, channels: Vec::new(), not_finite });
        }
        let mut channels = Vec::new();
        if !x.is_empty() {
            let empty = ChannelBatch {
                min: f32::INFINITY,
                max: f32::NEG_INFINITY,
                abs_units: 0,
                histogram: Histogram::new(observer.bins())?,
            };
            channels = vec![empty; observer.ranges()];
            each(observer, x, &mut channels, ChannelBatch::widen);
            for channel in channels.iter_mut().filter(|_| observer.bins() > 0) {
                channel.histogram.grow(channel.exponent());
            }
            let counted = observer.bins() > 0;
            each(observer, x, &mut channels, |channel, x| channel.count(x, counted));
        }
        Ok(Self { rows, channels, not_finite: None })
    }
}

/// Calls `f` with every value and its channel, in the order of memory.
fn each(
    observer: &Observer,
    x: &[f32],
    channels: &mut [ChannelBatch],
    f: impl Fn(&mut ChannelBatch, f32),
) {
    match observer.axis() {
        Axis::Tensor => x.iter().for_each(|&x| f(&mut channels[0], x)),
        Axis::Channel => {
            for row in x.chunks_exact(observer.columns()) {
                channels.iter_mut().zip(row).for_each(|(channel, &x)| f(channel, x));
            }
        }
    }
}
