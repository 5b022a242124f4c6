//! Ranges of activations from samples: calibration.
//!
//! A [`Statistics`] takes in batches of rows of X, for all of X or for each column (channel), and
//! at the end gives the range that any [`Method`] makes of them, and with it the scale and zero
//! point of static codes ([`ActivationFormat`]).
//!
//! All it holds but sums and moving averages is exact: bins have widths of powers of two and merge
//! in pairs ([`Histogram`]), so that neither the order of rows nor how they were cut into batches
//! nor which of several statistics that are merged saw them matters. f32 subnormals count as 0.
//!
//! A batch with NaN or an infinity is counted and leaves no other trace; the range is refused then,
//! by the first such row and column, until [`Statistics::forgive`] says that it may be.
//!
//! ```
//! use lowbit::compress::calibrate::{Method, Observer, Statistics};
//! let mut statistics = Statistics::new(Observer::tensor("encoder.0.query", 4))?;
//! statistics.observe(&[0.5, -1.0, 0.25, 2.0])?;
//! statistics.observe(&[0.0, 3.0, -0.5, 1.0, 0.5, 0.5, 1.0, 2.54])?;
//! let calibration = statistics.calibrate(Method::MinMax, "int8-tensor".parse()?)?;
//! assert_eq!(calibration.scheme().scale, 3.0 / 127.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod error;
mod histogram;
mod method;
mod range;
#[cfg(feature = "serde")]
mod saved;

pub use batch::{Batch, ChannelBatch, NotFinite};
pub use error::CalibrateError;
pub use histogram::Histogram;
pub use method::Method;
pub use range::{ActivationRange, Calibration};

use super::rows::each_row;
use crate::format::ActivationFormat;
use histogram::exponent_of;

/// What has a range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// All of X.
    Tensor,
    /// A column of X: an input channel of the weights.
    Channel,
}

/// What is observed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Observer {
    layer: String,
    columns: usize,
    axis: Axis,
    bins: usize,
    momentum: f64,
}

impl Observer {
    /// All of the X of a layer, rows of `columns`, in 2048 bins on either side of 0: 32 KiB.
    pub fn tensor(layer: impl Into<String>, columns: usize) -> Self {
        let (axis, bins, momentum) = (Axis::Tensor, 2048, 0.01);
        Self { layer: layer.into(), columns, axis, bins, momentum }
    }

    /// Each column by itself, in 512 bins on either side of 0: 8 KiB a column.
    pub fn channels(layer: impl Into<String>, columns: usize) -> Self {
        Self { axis: Axis::Channel, bins: 512, ..Self::tensor(layer, columns) }
    }

    /// The same with another number of bins on either side of 0, a power of two; without any only
    /// [`Method::MinMax`] and [`Method::MovingAverage`] have what they need.
    pub fn with_bins(self, bins: usize) -> Self {
        Self { bins, ..self }
    }

    /// The same with another weight of each new batch in the moving average, 0 < momentum ≤ 1; it
    /// is 0.01 unless said.
    pub fn with_momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// The layer's name, for errors and files.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Columns of X.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// What has a range of its own.
    pub fn axis(&self) -> Axis {
        self.axis
    }

    /// Bins on either side of 0.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// The weight of each new batch in the moving average.
    pub fn momentum(&self) -> f64 {
        self.momentum
    }

    /// Refuses what cannot be observed.
    ///
    /// # Errors
    /// [`CalibrateError::Bins`], [`CalibrateError::Momentum`].
    pub fn check(&self) -> Result<(), CalibrateError> {
        Histogram::check_bins(self.bins)?;
        match self.momentum > 0.0 && self.momentum <= 1.0 {
            true => Ok(()),
            false => Err(CalibrateError::Momentum { momentum: self.momentum }),
        }
    }

    /// How many have a range of their own.
    pub fn ranges(&self) -> usize {
        match self.axis {
            Axis::Tensor => 1,
            Axis::Channel => self.columns,
        }
    }
}

/// What was seen of a channel, or of all of X.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatistics {
    /// min and max, of all batches, of the first, and their moving averages.
    ends: Ends<f32>,
    first: Ends<f32>,
    average: Ends<f64>,
    abs_sum: f64,
    histogram: Histogram,
}

/// The two ends of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ends<T> {
    min: T,
    max: T,
}

impl ChannelStatistics {
    /// The least value, 0 before there is one.
    pub fn min(&self) -> f32 {
        self.ends.min
    }

    /// The greatest value, 0 before there is one.
    pub fn max(&self) -> f32 {
        self.ends.max
    }

    /// The moving averages of each batch's least and greatest value.
    pub fn average(&self) -> (f64, f64) {
        (self.average.min, self.average.max)
    }

    /// Σ|x|, in f64; each value counts as up to 2⁻²³ of its batch's max |x| less.
    pub fn abs_sum(&self) -> f64 {
        self.abs_sum
    }

    /// How often values fell where.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

/// The first value that was not finite, and how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    batch: u64,
    first: NotFinite,
}

/// All that is kept of the batches seen: plain data, which can be written, read back
/// (`io::Ranges`), merged and fed further.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "saved::Saved", try_from = "saved::Saved"))]
pub struct Statistics {
    observer: Observer,
    /// Of batches that were taken in.
    rows: u64,
    batches: u64,
    /// Batches that were refused.
    refused: u64,
    fault: Option<Fault>,
    channels: Vec<ChannelStatistics>,
}

impl Statistics {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// As [`Observer::check`].
    pub fn new(observer: Observer) -> Result<Self, CalibrateError> {
        observer.check()?;
        let channel = ChannelStatistics {
            ends: Ends::default(),
            first: Ends::default(),
            average: Ends::default(),
            abs_sum: 0.0,
            histogram: Histogram::new(observer.bins)?,
        };
        let channels = vec![channel; observer.ranges()];
        Ok(Self { observer, rows: 0, batches: 0, refused: 0, fault: None, channels })
    }

    /// The same under the name of another layer: one that shares X with this one.
    pub fn for_layer(&self, layer: impl Into<String>) -> Self {
        let mut shared = self.clone();
        shared.observer.layer = layer.into();
        shared
    }

    /// What is observed, and how.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The layer's name.
    pub fn layer(&self) -> &str {
        &self.observer.layer
    }

    /// Rows seen, those of refused batches not among them.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Batches seen that had rows and were finite.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Batches that were refused because they were not finite.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Where the first value stood that was not finite, and how many there were.
    pub fn not_finite(&self) -> Option<NotFinite> {
        self.fault.map(|fault| fault.first)
    }

    /// Values that each range comes from.
    pub fn values(&self) -> u64 {
        // `fold`, `merge` and reading have made sure that it is a u64.
        self.rows.saturating_mul(per_row(&self.observer))
    }

    /// What was seen of all of X, or of each column.
    pub fn channels(&self) -> &[ChannelStatistics] {
        &self.channels
    }

    /// max |x| of all of X, or of each column: what [`smooth`](super::smooth) goes by.
    ///
    /// # Errors
    /// As [`ranges`](Self::ranges).
    pub fn absmax(&self) -> Result<Vec<f32>, CalibrateError> {
        let ranges = self.ranges(Method::MinMax, true)?;
        Ok(ranges.iter().map(ActivationRange::absmax).collect())
    }

    /// Takes in a batch, row-major `[rows, columns]`, or counts what of it is not finite.
    ///
    /// # Errors
    /// [`CalibrateError::Length`], [`CalibrateError::TooMany`]; nothing has changed then.
    pub fn observe(&mut self, x: &[f32]) -> Result<(), CalibrateError> {
        self.fold(&Batch::of(&self.observer, x)?)
    }

    /// Takes in what was observed of a batch. One without rows is none.
    ///
    /// # Errors
    /// [`CalibrateError::Mismatch`] for one observed otherwise, [`CalibrateError::TooMany`]; nothing
    /// has changed then.
    pub fn fold(&mut self, batch: &Batch) -> Result<(), CalibrateError> {
        if let Some(found) = batch.not_finite {
            return self.refuse(1, Fault { batch: self.batches + self.refused, first: found });
        }
        if batch.rows == 0 || self.observer.columns == 0 {
            return Ok(());
        }
        let bins = |channel: &ChannelBatch| channel.histogram.bins() == self.observer.bins;
        if batch.channels.len() != self.channels.len() || !batch.channels.iter().all(bins) {
            return Err(self.mismatch("number of ranges or bins"));
        }
        let values = batch.rows.checked_mul(per_row(&self.observer));
        let counted = |channel: &ChannelBatch| channel.holds(values);
        if !batch.channels.iter().all(counted) {
            return Err(self.mismatch("number of values"));
        }
        self.add_rows(batch.rows, 1)?;
        for (channel, new) in self.channels.iter_mut().zip(&batch.channels) {
            let ends = Ends { min: new.min, max: new.max };
            let wide = Ends { min: f64::from(new.min), max: f64::from(new.max) };
            if self.batches == 1 {
                (channel.ends, channel.first, channel.average) = (ends, ends, wide);
            } else {
                channel.ends.min = channel.ends.min.min(ends.min) + 0.0;
                channel.ends.max = channel.ends.max.max(ends.max) + 0.0;
                let momentum = self.observer.momentum;
                let towards = |from: f64, to: f64| from + momentum * (to - from);
                channel.average.min = towards(channel.average.min, wide.min);
                channel.average.max = towards(channel.average.max, wide.max);
            }
            channel.abs_sum += new.abs_sum();
            channel.histogram.merge(&new.histogram);
        }
        Ok(())
    }

    /// Takes in other statistics, as though their batches had been observed after these: counts,
    /// ends and histograms exactly, in whatever order several are merged; moving averages and sums
    /// to a rounding of f64. The average of other batches `a₂`, `n` of them and `f` the first, comes
    /// after `a₁` as `(1 − momentum)ⁿ·(a₁ − f) + a₂`, which is what observing them one by one gives:
    /// an average depends on what comes last.
    ///
    /// # Errors
    /// [`CalibrateError::Mismatch`] where the observers are not alike, [`CalibrateError::TooMany`];
    /// nothing has changed then.
    pub fn merge(&mut self, other: &Self) -> Result<(), CalibrateError> {
        if let Some(what) = self.difference(other) {
            return Err(self.mismatch(what));
        }
        let mut merged = self.clone();
        if let Some(fault) = other.fault {
            let batch = self.batches.saturating_add(self.refused).saturating_add(fault.batch);
            merged.refuse(other.refused, Fault { batch, ..fault })?;
        }
        if other.batches > 0 {
            merged.add_rows(other.rows, other.batches)?;
            let none = self.batches == 0;
            let kept = (1.0 - self.observer.momentum).powf(other.batches as f64);
            for (channel, new) in merged.channels.iter_mut().zip(&other.channels) {
                if none {
                    *channel = new.clone();
                    continue;
                }
                channel.ends.min = channel.ends.min.min(new.ends.min) + 0.0;
                channel.ends.max = channel.ends.max.max(new.ends.max) + 0.0;
                let after = |a: f64, first: f32, b: f64| kept * (a - f64::from(first)) + b;
                let (a, b) = (channel.average, new.average);
                channel.average.min = after(a.min, new.first.min, b.min);
                channel.average.max = after(a.max, new.first.max, b.max);
                channel.abs_sum += new.abs_sum;
                channel.histogram.merge(&new.histogram);
            }
        }
        *self = merged;
        Ok(())
    }

    /// Forgets the batches that were not finite, and says how many there were: the range is then
    /// that of the others.
    pub fn forgive(&mut self) -> u64 {
        self.fault = None;
        std::mem::take(&mut self.refused)
    }

    /// The range that a method makes of what was seen: one for all of X, or one a column.
    /// `symmetric` says for which codes; only [`Method::Mse`] asks.
    ///
    /// # Errors
    /// [`CalibrateError`]: something was not finite, nothing was seen, no such percentage, too few
    /// bins.
    pub fn ranges(
        &self,
        method: Method,
        symmetric: bool,
    ) -> Result<Vec<ActivationRange>, CalibrateError> {
        let layer = || self.observer.layer.clone();
        method.check()?;
        if let Some(Fault { batch, first }) = self.fault {
            let NotFinite { nan, infinite, row, column } = first;
            let layer = layer();
            return Err(CalibrateError::NonFinite { layer, batch, row, column, nan, infinite });
        }
        if self.batches == 0 {
            return Err(CalibrateError::Nothing { layer: layer() });
        }
        let (need, have) = (method.least_bins(), self.observer.bins);
        if have < need {
            return Err(CalibrateError::Histogram { layer: layer(), method, need, have });
        }
        let mut ranges = vec![ActivationRange::default(); self.channels.len()];
        each_row(&mut ranges, 1, |at, range| {
            let ChannelStatistics { ends, average, histogram, .. } = &self.channels[at];
            let whole = ActivationRange::of(ends.min, ends.max);
            let average = ActivationRange::of(average.min as f32, average.max as f32);
            range[0] = method.range(whole, average, histogram, symmetric);
        });
        Ok(ranges)
    }

    /// The static scale and zero point of a format.
    ///
    /// # Errors
    /// As [`ranges`](Self::ranges), [`CalibrateError::NotStatic`] for a format whose scales come from
    /// X, [`CalibrateError::ByChannels`] where there is no one range.
    pub fn calibrate(
        &self,
        method: Method,
        format: ActivationFormat,
    ) -> Result<Calibration, CalibrateError> {
        if self.observer.axis != Axis::Tensor {
            return Err(CalibrateError::ByChannels { layer: self.observer.layer.clone() });
        }
        let ranges = self.ranges(method, format.is_symmetric())?;
        Calibration::new(format, method, ranges.first().copied().unwrap_or_default())
    }

    fn mismatch(&self, what: &'static str) -> CalibrateError {
        CalibrateError::Mismatch { layer: self.observer.layer.clone(), what }
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        let (a, b) = (&self.observer, &other.observer);
        [
            ("layer", a.layer != b.layer),
            ("number of columns", a.columns != b.columns),
            ("axis", a.axis != b.axis),
            ("number of bins", a.bins != b.bins),
            ("momentum", a.momentum != b.momentum),
        ]
        .into_iter()
        .find_map(|(what, differs)| differs.then_some(what))
    }

    /// Counts rows, unless their values would overflow.
    fn add_rows(&mut self, rows: u64, batches: u64) -> Result<(), CalibrateError> {
        let rows = self.rows.checked_add(rows);
        let values = rows.and_then(|rows| rows.checked_mul(per_row(&self.observer)));
        let batches = self.batches.checked_add(batches);
        let all = batches.and_then(|batches| batches.checked_add(self.refused));
        match (rows, values, batches, all) {
            (Some(rows), Some(_), Some(batches), Some(_)) => {
                (self.rows, self.batches) = (rows, batches);
                Ok(())
            }
            _ => Err(CalibrateError::TooMany { layer: self.observer.layer.clone() }),
        }
    }

    /// Counts batches that are not finite.
    fn refuse(&mut self, batches: u64, new: Fault) -> Result<(), CalibrateError> {
        let mut fault = self
            .fault
            .unwrap_or(Fault { first: NotFinite { nan: 0, infinite: 0, ..new.first }, ..new });
        let nan = fault.first.nan.checked_add(new.first.nan);
        let infinite = fault.first.infinite.checked_add(new.first.infinite);
        let refused = self.refused.checked_add(batches);
        let all = refused.and_then(|refused| refused.checked_add(self.batches));
        match (nan, infinite, refused, all) {
            (Some(nan), Some(infinite), Some(refused), Some(_)) => {
                (fault.first.nan, fault.first.infinite) = (nan, infinite);
                (self.fault, self.refused) = (Some(fault), refused);
                Ok(())
            }
            _ => Err(CalibrateError::TooMany { layer: self.observer.layer.clone() }),
        }
    }
}

/// Values of a range in each row.
fn per_row(observer: &Observer) -> u64 {
    match observer.axis {
        Axis::Tensor => observer.columns as u64,
        Axis::Channel => 1,
    }
}
