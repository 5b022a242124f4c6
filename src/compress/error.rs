use crate::format::{FormatError, ScaleType, WeightFormat};

/// The reason why weights could not be compressed.
///
/// If several apply, the first in this order is returned: an invalid format or shape, a wrong
/// length, a non-finite weight anywhere, then a scale out of range or an f16 overflow. Among
/// several of one kind, it is the first in row-major order.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The number of weights does not match the shape.
    #[error("the matrix has {have} weights, but its shape needs {need}")]
    WrongLength {
        /// The number of weights that the shape needs.
        need: usize,
        /// The number of weights that were passed.
        have: usize,
    },
    /// The format does not exist, or its sizes overflow.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// There is no rule by which this library quantizes to the format.
    #[error("weights of format {format} can be read and multiplied with, but not made: {why}")]
    NoRule {
        /// The format.
        format: WeightFormat,
        /// What stands in the way.
        why: &'static str,
    },
    /// A 2:4 mask was passed with a dense format.
    #[error("{format} is dense and takes no 2:4 mask; ask for 2:4+{format}")]
    NotTwoFour {
        /// The dense format.
        format: WeightFormat,
    },
    /// A weight is NaN or infinite. It is refused even if it would be pruned.
    #[error("the weight at row {row}, column {col} is {value}: weights must be finite")]
    NonFinite {
        /// Row of `W`.
        row: usize,
        /// Column of `W`.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// A group with a nonzero weight needs a scale that is not a positive normal number of the
    /// scale type: it is too small or too large, or `high − low` overflows f32.
    #[error(
        "the weights of row {row}, group {group} span {low:e}…{high:e}, which is out of range for {}",
        advice(*scale_type)
    )]
    ScaleRange {
        /// Row of `W`, or 0 for a per-tensor scale.
        row: usize,
        /// Group within that row.
        group: usize,
        /// The least weight of the group, or 0 if that is less.
        low: f32,
        /// The greatest weight of the group, or 0 if that is greater.
        high: f32,
        /// The type that scales are stored as.
        scale_type: ScaleType,
    },
    /// A weight is too large for f16.
    #[error(
        "the weight at row {row}, column {col} is {value:e}, but f16 reaches only 65504; use f32, int8 or int4 weights"
    )]
    F16Overflow {
        /// Row of `W`.
        row: usize,
        /// Column of `W`.
        col: usize,
        /// The weight.
        value: f32,
    },
}

fn advice(scale_type: ScaleType) -> &'static str {
    match scale_type {
        ScaleType::F16 => "an f16 scale; use f32 scales, or multiply the matrix by a power of two",
        ScaleType::F32 => "an f32 scale; multiply the matrix by a power of two",
        _ => "such scales; multiply the matrix by a power of two",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_do() {
        let range = |scale_type| {
            CompressError::ScaleRange { row: 3, group: 1, low: -1e-9, high: 0.0, scale_type }
                .to_string()
        };
        assert_eq!(
            range(ScaleType::F16),
            "the weights of row 3, group 1 span -1e-9…0e0, which is out of range for an f16 scale; \
             use f32 scales, or multiply the matrix by a power of two"
        );
        assert!(!range(ScaleType::F32).contains("use f32 scales"));
        let dense = CompressError::NotTwoFour { format: WeightFormat::f16() };
        assert_eq!(dense.to_string(), "f16 is dense and takes no 2:4 mask; ask for 2:4+f16");
    }
}
