//! Calibration: the ranges of activations, measured on samples.
//!
//! [`Statistics`] collect batches of rows of X, either for all of X or for each column (channel). A
//! [`Method`] then computes a range from them, and the range determines the scale and zero point of
//! static codes ([`ActivationFormat`]).
//!
//! Everything in the statistics is exact, except for sums and moving averages. The widths of bins
//! are powers of two, and bins are merged in pairs ([`Histogram`]). Therefore the result depends
//! neither on the order of rows, nor on how they are divided into batches, nor on how batches are
//! distributed over several statistics that are merged later. f32 subnormals count as 0.
//!
//! A batch with NaN or an infinity is counted, but nothing else of it is kept. From then on, a
//! request for the range returns an error that names the first such row and column, until
//! [`Statistics::forgive`] is called.
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

/// The set of values that have a range of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// All of X.
    Tensor,
    /// One column of X, which is one input channel of the weights.
    Channel,
}

/// The configuration of an observation: which layer it is for, whether each column has a range of
/// its own, and the number of histogram bins.
///
/// ```
/// use lowbit::compress::calibrate::{Method, Observer, Statistics};
/// // One range for each of the two columns of the layer's input.
/// let observer = Observer::channels("decoder.1.mlp", 2).with_bins(64);
/// let mut statistics = Statistics::new(observer)?;
/// statistics.observe(&[0.5, -8.0, -1.0, 2.0])?; // two rows
/// statistics.observe(&[0.25, 4.0])?; // one row
/// assert_eq!(statistics.rows(), 3);
/// assert_eq!(statistics.absmax()?, [1.0, 8.0]);
/// let ranges = statistics.ranges(Method::MinMax, true)?;
/// assert_eq!((ranges[1].min(), ranges[1].max()), (-8.0, 4.0));
/// # Ok::<(), lowbit::compress::calibrate::CalibrateError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Observer {
    layer: String,
    columns: usize,
    axis: Axis,
    bins: usize,
    momentum: f64,
}

impl Observer {
    /// Creates an observer of all of X with one range. X is the input of `layer` and has `columns`
    /// columns. The histogram has 2048 bins on either side of 0, which is 32 KiB.
    pub fn tensor(layer: impl Into<String>, columns: usize) -> Self {
        let (axis, bins, momentum) = (Axis::Tensor, 2048, 0.01);
        Self { layer: layer.into(), columns, axis, bins, momentum }
    }

    /// Creates an observer with one range per column. Each histogram has 512 bins on either side of
    /// 0, which is 8 KiB per column.
    pub fn channels(layer: impl Into<String>, columns: usize) -> Self {
        Self { axis: Axis::Channel, bins: 512, ..Self::tensor(layer, columns) }
    }

    /// Sets the number of bins on either side of 0. It must be 0 or a power of two up to 2²⁰.
    /// Without bins, only [`Method::MinMax`] and [`Method::MovingAverage`] are available.
    pub fn with_bins(self, bins: usize) -> Self {
        Self { bins, ..self }
    }

    /// Sets the weight of each new batch in the moving average, 0 < momentum ≤ 1. The default is
    /// 0.01.
    pub fn with_momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// Returns the name of the layer, which errors and files contain.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Returns the number of columns of X.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the set of values that have a range of their own.
    pub fn axis(&self) -> Axis {
        self.axis
    }

    /// Returns the number of bins on either side of 0.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Returns the weight of each new batch in the moving average.
    pub fn momentum(&self) -> f64 {
        self.momentum
    }

    /// Checks the number of bins and the momentum.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Bins`] or [`CalibrateError::Momentum`].
    pub fn check(&self) -> Result<(), CalibrateError> {
        Histogram::check_bins(self.bins)?;
        if self.momentum > 0.0 && self.momentum <= 1.0 {
            Ok(())
        } else {
            Err(CalibrateError::Momentum { momentum: self.momentum })
        }
    }

    /// Returns the number of ranges: 1, or the number of columns.
    pub fn ranges(&self) -> usize {
        match self.axis {
            Axis::Tensor => 1,
            Axis::Channel => self.columns,
        }
    }
}

/// The statistics of a channel, or of all of X.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatistics {
    /// The least and greatest values of all batches, those of the first batch, and the moving
    /// averages of each batch's.
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
    /// Returns the least value, or 0 if there is none yet.
    pub fn min(&self) -> f32 {
        self.ends.min
    }

    /// Returns the greatest value, or 0 if there is none yet.
    pub fn max(&self) -> f32 {
        self.ends.max
    }

    /// Returns the moving averages of each batch's least and greatest value.
    pub fn average(&self) -> (f64, f64) {
        (self.average.min, self.average.max)
    }

    /// Returns Σ|x|, summed in f64. Each value contributes up to 2⁻²³ · max |x| of its batch too
    /// little.
    pub fn abs_sum(&self) -> f64 {
        self.abs_sum
    }

    /// Returns the histogram of the values.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

/// The first batch that was not finite, with its first such value, and the number of such values so
/// far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    batch: u64,
    first: NotFinite,
}

/// The statistics of all batches so far. They are plain data: they can be saved and loaded with
/// serde, merged, and extended by further batches.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "saved::Saved", try_from = "saved::Saved"))]
pub struct Statistics {
    observer: Observer,
    /// Number of rows of all batches that were accepted.
    rows: u64,
    batches: u64,
    /// Number of batches that were refused.
    refused: u64,
    fault: Option<Fault>,
    channels: Vec<ChannelStatistics>,
}

impl Statistics {
    /// Creates empty statistics.
    ///
    /// # Errors
    /// Returns the errors of [`Observer::check`].
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

    /// Returns a copy under the name of another layer that has the same X.
    pub fn for_layer(&self, layer: impl Into<String>) -> Self {
        let mut shared = self.clone();
        shared.observer.layer = layer.into();
        shared
    }

    /// Returns the configuration of the observation.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Returns the name of the layer.
    pub fn layer(&self) -> &str {
        &self.observer.layer
    }

    /// Returns the number of rows, without those of refused batches.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the number of batches that had rows and were finite.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Returns the number of batches that were refused because they were not finite.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns the position of the first value that was not finite and the number of such values,
    /// or `None` if all values were finite.
    pub fn not_finite(&self) -> Option<NotFinite> {
        self.fault.map(|fault| fault.first)
    }

    /// Returns the number of values that each range is computed from.
    pub fn values(&self) -> u64 {
        // `fold`, `merge` and deserialization ensure that the product fits in a u64.
        self.rows.saturating_mul(per_row(&self.observer))
    }

    /// Returns the statistics of all of X, or of each column.
    pub fn channels(&self) -> &[ChannelStatistics] {
        &self.channels
    }

    /// Returns max |x| of all of X, or of each column. [`smooth`](super::smooth) computes its
    /// factors from it.
    ///
    /// # Errors
    /// Returns the errors of [`ranges`](Self::ranges).
    pub fn absmax(&self) -> Result<Vec<f32>, CalibrateError> {
        let ranges = self.ranges(Method::MinMax, true)?;
        Ok(ranges.iter().map(ActivationRange::absmax).collect())
    }

    /// Adds a batch of row-major `[rows, columns]` values. If the batch is not finite, only the
    /// number of its NaN and infinities is counted.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Length`] if `x` is not a whole number of rows, and
    /// [`CalibrateError::TooMany`] if a count overflows. The statistics are then unchanged.
    pub fn observe(&mut self, x: &[f32]) -> Result<(), CalibrateError> {
        self.fold(&Batch::of(&self.observer, x)?)
    }

    /// Adds the statistics of a batch. A batch without rows is ignored.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Mismatch`] if the batch was observed with another configuration,
    /// and [`CalibrateError::TooMany`] if a count overflows. The statistics are then unchanged.
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

    /// Adds other statistics, as if their batches had been observed after the batches of these.
    ///
    /// Counts, ends and histograms are exact, in whatever order several statistics are merged.
    /// Moving averages and sums are accurate to the rounding of f64. A moving average depends on
    /// which batches come last: if `a₁` is the average so far, and the other statistics have `n`
    /// batches, the first value `f` and the average `a₂`, then the result is `(1 − momentum)ⁿ·(a₁ −
    /// f) + a₂`, which is the same as if their batches had been observed one by one.
    ///
    /// # Errors
    /// Returns [`CalibrateError::Mismatch`] if the observers differ, and
    /// [`CalibrateError::TooMany`] if a count overflows. The statistics are then unchanged.
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

    /// Forgets the batches that were not finite and returns their number. The range is then that of
    /// all other batches.
    pub fn forgive(&mut self) -> u64 {
        self.fault = None;
        std::mem::take(&mut self.refused)
    }

    /// Computes a range for all of X, or one for each column, with the given method. `symmetric`
    /// says whether the codes will be symmetric, which only matters for [`Method::Mse`].
    ///
    /// # Errors
    /// Returns [`CalibrateError::NonFinite`] if a batch was not finite, [`CalibrateError::Nothing`]
    /// if nothing was observed, [`CalibrateError::Method`] if a percentage is out of range, and
    /// [`CalibrateError::Histogram`] if there are too few bins.
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

    /// Computes the static scale and zero point of a format.
    ///
    /// # Errors
    /// Returns the errors of [`ranges`](Self::ranges), [`CalibrateError::NotStatic`] if the format
    /// computes its scales from X, and [`CalibrateError::ByChannels`] if there is a range per
    /// column.
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

    /// Adds to the number of rows and batches, unless the number of values would overflow.
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

    /// Adds to the number of batches that were not finite.
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

/// Returns how many values of each range a row contains.
fn per_row(observer: &Observer) -> u64 {
    match observer.axis {
        Axis::Tensor => observer.columns as u64,
        Axis::Channel => 1,
    }
}
