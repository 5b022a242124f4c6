use crate::compress::CompressError;
use crate::format::{FormatError, WeightFormat};

/// The reason why a layer could not be compressed with the statistics of its inputs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerwiseError {
    /// A slice does not have the length that it must have.
    #[error("{what} holds {have} elements where {need} are needed")]
    WrongLength {
        /// The slice.
        what: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements given.
        have: usize,
    },
    /// Rows of X do not end where a row ends.
    #[error("{have} inputs are not a whole number of rows of {columns} columns")]
    Rows {
        /// The number of inputs.
        have: usize,
        /// The number of columns of a row.
        columns: usize,
    },
    /// A Gram matrix of that many columns does not fit into memory.
    #[error("a Gram matrix of {columns} columns does not fit into memory")]
    TooLarge {
        /// The number of columns.
        columns: usize,
    },
    /// The Gram matrix belongs to inputs of another width.
    #[error("the Gram matrix has {have} columns where {need} are needed")]
    Columns {
        /// The number of columns needed.
        need: usize,
        /// The number of columns of the Gram matrix.
        have: usize,
    },
    /// There is nothing to compute with.
    #[error("there are no {0}; collect statistics of the layer's inputs first")]
    Nothing(&'static str),
    /// A value is NaN or infinite.
    #[error("{what} at row {row}, column {column} is {value}: it must be finite")]
    NonFinite {
        /// The matrix or vector.
        what: &'static str,
        /// Its row.
        row: u64,
        /// Its column.
        column: usize,
        /// The value.
        value: f64,
    },
    /// A sum of products of inputs is beyond what a Gram matrix holds.
    #[error(
        "the sum of products of columns {first} and {second} exceeds 2^54, the greatest sum that is held; divide the inputs by a power of two"
    )]
    Overflow {
        /// The lower column.
        first: usize,
        /// The higher column.
        second: usize,
    },
    /// The text is no pattern.
    #[error(
        "`{0}` is not a pruning pattern; examples: dense, 2:4, 6:8, 0.5 (N:M with N < M up to 16, or the fraction to prune, at least 0 and below 1)"
    )]
    Pattern(String),
    /// An option has a value outside of its range.
    #[error("{what} is {value}; it must be {range}")]
    Option {
        /// The option.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The values that it may have.
        range: &'static str,
    },
    /// A method cannot make this format, or not with these options.
    #[error("{method} cannot make {format}: {why}")]
    Unsupported {
        /// The method.
        method: &'static str,
        /// The format.
        format: WeightFormat,
        /// What stands in the way, and what to do.
        why: &'static str,
    },
    /// Updates made a weight too large for f32.
    #[error(
        "the updates of row {row} made the weight of column {column} {value:e}, which f32 cannot hold; raise the damping"
    )]
    Diverged {
        /// The row of `W`.
        row: usize,
        /// The column of `W`.
        column: usize,
        /// The updated weight.
        value: f64,
    },
    /// The weights cannot be stored in the format.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// The format or a mask is invalid, or a size overflows.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Checks the number of elements of a slice.
pub(super) fn check_length(
    what: &'static str,
    need: usize,
    have: usize,
) -> Result<(), LayerwiseError> {
    if need == have { Ok(()) } else { Err(LayerwiseError::WrongLength { what, need, have }) }
}
