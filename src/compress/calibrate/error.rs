use super::Method;
use crate::format::ActivationFormat;

/// The reason why activations could not be observed or have no range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// Batches contained NaN or infinities. The statistics contain nothing of those batches.
    #[error(
        "activations of `{layer}` are not finite: {nan} NaN and {infinite} infinities, the first in batch {batch} at row {row}, column {column}"
    )]
    NonFinite {
        /// Name of the layer.
        layer: String,
        /// The first batch that was refused, counted from 0.
        batch: u64,
        /// Row of the first such value in that batch, counted from 0.
        row: u64,
        /// Column of that value, counted from 0.
        column: u64,
        /// Number of NaN in all batches.
        nan: u64,
        /// Number of infinities in all batches.
        infinite: u64,
    },
    /// A range was requested before any value was observed.
    #[error("no activations of `{layer}` have been observed; observe at least one row first")]
    Nothing {
        /// Name of the layer.
        layer: String,
    },
    /// A batch does not consist of whole rows.
    #[error("{have} activations of `{layer}` are not a whole number of rows of {columns} columns")]
    Length {
        /// Name of the layer.
        layer: String,
        /// Number of values that were passed.
        have: usize,
        /// Number of values per row.
        columns: usize,
    },
    /// The number of bins is not 0 or a power of two, so that bins cannot be merged in pairs.
    #[error(
        "the histogram has {bins} bins on either side of 0; it must be 0 or a power of two up to 2^20"
    )]
    Bins {
        /// The number of bins on either side of 0.
        bins: usize,
    },
    /// No range of f32 values has bins of this width.
    #[error("bins with a width of 2^{exponent} do not match any range of f32 values")]
    Width {
        /// The exponent of the width.
        exponent: i32,
    },
    /// The momentum is out of range.
    #[error("the momentum is {momentum}; it must be greater than 0 and at most 1")]
    Momentum {
        /// The momentum.
        momentum: f64,
    },
    /// The name does not belong to any method, or its percentage is out of range.
    #[error(
        "unknown calibration method `{0}`; examples: minmax, average, percentile-99.99, tails-99.99, mse, entropy"
    )]
    Method(String),
    /// The method needs a finer histogram than the one that was collected.
    #[error(
        "`{method}` needs at least {need} bins on either side of 0, but `{layer}` was observed with {have}"
    )]
    Histogram {
        /// Name of the layer.
        layer: String,
        /// The method.
        method: Method,
        /// The number of bins that it needs.
        need: usize,
        /// The number of bins that there are.
        have: usize,
    },
    /// Statistics or a batch were made by a different observer.
    #[error("statistics of `{layer}` cannot be combined with others that have another {what}")]
    Mismatch {
        /// Name of the layer.
        layer: String,
        /// The property that differs.
        what: &'static str,
    },
    /// A count of values or batches exceeds 64 bits.
    #[error("more than 2^64 activations of `{layer}` were observed")]
    TooMany {
        /// Name of the layer.
        layer: String,
    },
    /// A static scale was requested for a format that computes its scales from X.
    #[error("{format} computes its scales from X; only int8-tensor formats have static scales")]
    NotStatic {
        /// The format.
        format: ActivationFormat,
    },
    /// A calibration was made for another format than the requested one.
    #[error("the calibration is for {have}, but {need} is needed; calibrate again for {need}")]
    OtherFormat {
        /// The format that was requested.
        need: ActivationFormat,
        /// The format that the calibration was made for.
        have: ActivationFormat,
    },
    /// One scale for all of X was requested, but there is a range per column.
    #[error(
        "`{layer}` was observed per channel, but one scale for all of X needs one range; observe it with `Observer::tensor`"
    )]
    ByChannels {
        /// Name of the layer.
        layer: String,
    },
    /// The ends are not finite, or 0 is not between them.
    #[error("{min}…{max} is not a finite range that includes 0")]
    Range {
        /// The lower end.
        min: f32,
        /// The upper end.
        max: f32,
    },
}
