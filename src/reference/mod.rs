//! The reference implementation of every op in f64, and the error bounds of correct kernels.
//!
//! This module knows nothing about kernels. It decodes codes, metadata, scales and zero points from
//! the raw words of [`PackedWeights`](crate::format::PackedWeights) with code of its own, so that a
//! fault in the crate's accessors, layouts or shaders shows up as a difference.
//!
//! Most functions return an [`Expected`] for every output: the exact value and the largest error of
//! a correct kernel. [`check`] compares one output with it. At realistic sizes, such a bound hardly
//! notices a single wrong code. Therefore [`matmul_exact`] and [`one_hot`] provide two kinds of
//! input that detect it.
//!
//! ```
//! use lowbit::format::{Granularity, PackedWeights, Scales, WeightFormat};
//! use lowbit::reference::{MatmulCase, OutputType, check, matmul};
//! // One row of int8 codes 1, −2, 3 at scale 0.5.
//! let format = WeightFormat::int8(Granularity::Channel);
//! let scales = Scales::F32(vec![0.5]);
//! let weights =
//!     PackedWeights::from_parts(format, 1, 3, vec![0x0003_fe01], vec![], scales, vec![])?;
//! let expected = matmul(&MatmulCase {
//!     x: &[2.0, 1.0, 4.0],
//!     m: 1,
//!     weights: &weights,
//!     bias: None,
//!     output: OutputType::F32,
//!     zero_folded: false,
//! })?;
//! assert_eq!(expected[0].value, 6.0);
//! assert!(check(&expected[0], 6.0).passes());
//! assert!(!check(&expected[0], 6.5).passes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activations;
mod attention;
mod binary16;
mod bound;
mod exact;
mod expected;
mod experts;
mod fake_quant;
mod function;
mod gate;
mod gather;
mod gram;
mod integer;
mod matmul;
mod norm;
mod one_hot;
mod rotary;
mod row;
mod sample;
mod softmax;
mod sweep;

pub use activations::{check_activations, check_quantized};
pub use attention::{AttentionCase, attention};
pub use binary16::{f16_to_f64, f64_to_f16};
pub use bound::{ETA, MAX_ROUNDINGS, UNIT, gamma};
pub use exact::{Exact, Inexact, exact_limit, matmul_exact};
pub use expected::{Expected, Judgement, OutputType, Verdict, check};
pub use experts::{combine, route};
pub use fake_quant::{
    FakeQuantCase, FakeQuantGradients, check_fake_gradients, check_fake_quantize,
    check_fake_ranges, check_fake_straight_through, fake_quantize, fake_quantize_gradients,
};
pub use function::apply;
pub use gate::gate;
pub use gather::{dequantize, dequantize_f64, gather};
pub use gram::gram;
pub use integer::{IntegerCase, check_code, integer_accumulators, integer_matmul};
pub use matmul::{MatmulCase, matmul};
pub use norm::{NormCase, normalize, residual_sum};
pub use one_hot::one_hot;
pub use rotary::{HeadCase, HeadNormCase, check_cached_head, check_head, hadamard, rotary_head};
pub use row::{Weight, decode_row};
pub use sample::{SampleCase, largest, philox, sampled};
pub use softmax::{SoftmaxCase, softmax};

/// The reason why the reference has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// An input has the wrong length.
    #[error("the length of {role} is {have}, but it must be {need}")]
    WrongLength {
        /// The input, for example `x` or `bias`.
        role: &'static str,
        /// The length that is needed.
        need: usize,
        /// The length that was passed.
        have: usize,
    },
    /// A row or column index is past the end of the matrix.
    #[error("{role} {index} is out of range: it must be less than {limit}")]
    OutOfRange {
        /// `row` or `column`.
        role: &'static str,
        /// The index that was requested.
        index: usize,
        /// The number of rows or columns.
        limit: usize,
    },
    /// A NaN or an infinity, which the error contract excludes.
    #[error("{role} is not finite at row {row}, column {column}")]
    NonFinite {
        /// The input: `x`, `bias` or `weights`.
        role: &'static str,
        /// Row of the first such value.
        row: usize,
        /// Column of the first such value.
        column: usize,
    },
    /// A sum has so many terms that its bound would be meaningless.
    #[error(
        "a term of a sum goes through {roundings} roundings; there is no useful bound above {MAX_ROUNDINGS}"
    )]
    TooManyTerms {
        /// The number of roundings that a term may go through.
        roundings: usize,
    },
    /// The result does not fit in memory.
    #[error("a result of {rows}×{columns} values does not fit in memory")]
    TooLarge {
        /// Number of rows of the result.
        rows: usize,
        /// Number of columns of the result.
        columns: usize,
    },
    /// The result of the case may depend on the order of summation.
    #[error("output ({m}, {n}) is not exact in every order of summation: {why}")]
    NotExact {
        /// Row of X.
        m: usize,
        /// Row of `W`.
        n: usize,
        /// The condition that is not met.
        why: Inexact,
    },
    /// A sum would span columns of two groups, which have different scales.
    #[error(
        "sums over {columns} columns would span two groups of {group} columns; use a divisor of {group}"
    )]
    SpansGroups {
        /// Number of columns per sum.
        columns: usize,
        /// Number of columns per group, of W or of X.
        group: usize,
    },
}

fn check_length(role: &'static str, need: usize, have: usize) -> Result<(), ReferenceError> {
    if need == have { Ok(()) } else { Err(ReferenceError::WrongLength { role, need, have }) }
}

/// Creates an empty vector with room for `rows · columns` values. If there is not enough memory,
/// this returns an error instead of aborting.
fn room_for<T>(rows: usize, columns: usize) -> Result<Vec<T>, ReferenceError> {
    let too_large = ReferenceError::TooLarge { rows, columns };
    let mut room = Vec::new();
    let count = rows.checked_mul(columns).ok_or_else(|| too_large.clone())?;
    room.try_reserve_exact(count).map_err(|_| too_large)?;
    Ok(room)
}

/// Returns an error if an input of `columns` columns contains NaN or an infinity.
fn check_finite(role: &'static str, columns: usize, values: &[f32]) -> Result<(), ReferenceError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (row, column) = (at / columns.max(1), at % columns.max(1));
            Err(ReferenceError::NonFinite { role, row, column })
        }
    }
}
