use crate::format::{FormatError, ScaleType, WeightFormat};

/// Why weights cannot be compressed.
///
/// Where several apply, the first in this order is given: a bad format or shape, a wrong
/// length, a non-finite weight anywhere, then a scale or an f16 overflow; among several
/// of one kind the first in row-major order.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The slice does not hold the matrix.
    #[error("{have} weights given where the shape needs {need}")]
    WrongLength {
        /// Elements that the shape needs.
        need: usize,
        /// Elements given.
        have: usize,
    },
    /// A format that does not exist, or a shape that overflows.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A 2:4 mask was given for a dense format.
    #[error("{format} is dense and takes no 2:4 mask; ask for 2:4+{format}")]
    NotTwoFour {
        /// The format given.
        format: WeightFormat,
    },
    /// A NaN or an infinity, refused even where it would be pruned.
    #[error("the weight at row {row}, column {col} is {value}: weights must be finite")]
    NonFinite {
        /// Row of `W`.
        row: usize,
        /// Column of `W`.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// A group that is not all zeros needs a scale that is no positive normal number of
    /// its type: too small, or too large, or `high − low` overflows f32.
    #[error(
        "the weights of row {row}, group {group} span {low:e}…{high:e}, out of reach of {}",
        advice(*scale_type)
    )]
    ScaleRange {
        /// Row of `W` (0 for per-tensor scales).
        row: usize,
        /// Group of that row.
        group: usize,
        /// Least weight of the group, or 0 if that is less.
        low: f32,
        /// Greatest weight of the group, or 0 if that is greater.
        high: f32,
        /// How scales are stored.
        scale_type: ScaleType,
    },
    /// A weight rounds to infinity as f16.
    #[error(
        "the weight at row {row}, column {col} is {value:e}, beyond f16's 65504; use f32, int8 or int4 weights"
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
            "the weights of row 3, group 1 span -1e-9…0e0, out of reach of an f16 scale; \
             use f32 scales, or multiply the matrix by a power of two"
        );
        assert!(!range(ScaleType::F32).contains("use f32 scales"));
        let dense = CompressError::NotTwoFour { format: WeightFormat::f16() };
        assert_eq!(dense.to_string(), "f16 is dense and takes no 2:4 mask; ask for 2:4+f16");
    }
}
