use super::Method;
use crate::format::ActivationFormat;

/// Why activations cannot be observed, or give no range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// Batches held NaN or infinities; nothing of those batches is in the statistics.
    #[error(
        "activations of `{layer}` are not finite: {nan} NaN and {infinite} infinities, the first in batch {batch} at row {row}, column {column}"
    )]
    NonFinite {
        /// The layer.
        layer: String,
        /// The first batch that was refused, from 0.
        batch: u64,
        /// Row of the first such value in it, from 0.
        row: u64,
        /// Its column, from 0.
        column: u64,
        /// How many NaN there were, in all batches.
        nan: u64,
        /// How many infinities.
        infinite: u64,
    },
    /// A range was asked for before there was a value.
    #[error("no activations of `{layer}` have been observed")]
    Nothing {
        /// The layer.
        layer: String,
    },
    /// A batch that is not whole rows.
    #[error("{have} activations of `{layer}` are no whole rows of {columns}")]
    Length {
        /// The layer.
        layer: String,
        /// Elements given.
        have: usize,
        /// Elements of a row.
        columns: usize,
    },
    /// Bins that cannot be merged in pairs.
    #[error("{bins} bins on either side of 0: they must be a power of two up to 2^20, or none")]
    Bins {
        /// What was asked for.
        bins: usize,
    },
    /// Bins of a width that no f32 asks for.
    #[error("bins of a width of 2^{exponent} fit no f32")]
    Width {
        /// The exponent.
        exponent: i32,
    },
    /// A momentum that is no weight.
    #[error("a momentum of {momentum}: it must be above 0 and at most 1")]
    Momentum {
        /// What was asked for.
        momentum: f64,
    },
    /// A method of no such name, or with a percentage that is none.
    #[error(
        "there is no calibration method `{0}`; there are minmax, average, percentile-99.99, tails-99.99, mse and entropy"
    )]
    Method(String),
    /// The method needs a finer histogram than was kept.
    #[error(
        "`{method}` needs at least {need} bins on either side of 0, `{layer}` was observed in {have}"
    )]
    Histogram {
        /// The layer.
        layer: String,
        /// The method.
        method: Method,
        /// Bins it needs.
        need: usize,
        /// Bins there are.
        have: usize,
    },
    /// Statistics, or a batch, that were made in another way.
    #[error("statistics of `{layer}` cannot take in others with another {what}")]
    Mismatch {
        /// The layer.
        layer: String,
        /// What differs.
        what: &'static str,
    },
    /// More values than are counted.
    #[error("activations of `{layer}` are more than 2^64")]
    TooMany {
        /// The layer.
        layer: String,
    },
    /// A static scale for a format whose scales come from X.
    #[error("{format} takes its scales from each row; static ones are of int8-tensor")]
    NotStatic {
        /// The format.
        format: ActivationFormat,
    },
    /// A calibration was made for one format, and another is asked for.
    #[error("the calibration is for {have}, not {need}")]
    OtherFormat {
        /// The format asked for.
        need: ActivationFormat,
        /// The format it was made for.
        have: ActivationFormat,
    },
    /// One scale was asked for, and a range a channel is there.
    #[error("`{layer}` was observed by channels; one scale for all of X needs one range")]
    ByChannels {
        /// The layer.
        layer: String,
    },
    /// A range that is none.
    #[error("{min}…{max} is no range that holds 0")]
    Range {
        /// Its lower end.
        min: f32,
        /// Its upper end.
        max: f32,
    },
}
