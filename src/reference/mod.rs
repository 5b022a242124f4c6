//! The f64 oracle of every op, from packed bytes, and the error bounds.
//!
//! Nothing here knows of a kernel. Codes, metadata, scales and zero points are decoded
//! from the raw words of [`PackedWeights`](crate::format::PackedWeights) by code of
//! this module's own, so that a fault in the crate's accessors, layouts or shaders
//! shows as a difference.
//!
//! Each oracle gives an [`Expected`] for every output: the exact value and how far a
//! correct kernel may be from it. [`check`] judges one output. A bound is nearly blind
//! to one wrong code at real sizes, so [`matmul_exact`] and [`one_hot`] give the two
//! patterns that are not.
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
mod binary16;
mod bound;
mod exact;
mod expected;
mod fake_quant;
mod function;
mod gather;
mod integer;
mod matmul;
mod one_hot;
mod row;
mod sweep;

pub use activations::check_activations;
pub use binary16::{f16_to_f64, f64_to_f16};
pub use bound::{ETA, MAX_ROUNDINGS, UNIT, gamma};
pub use exact::{Exact, Inexact, exact_limit, matmul_exact};
pub use expected::{Expected, Judgement, OutputType, Verdict, check};
pub use fake_quant::{
    FakeQuantCase, FakeQuantGradients, check_fake_gradients, check_fake_quantize,
    check_fake_ranges, check_fake_straight_through, fake_quantize, fake_quantize_gradients,
};
pub use function::apply;
pub use gather::{dequantize, dequantize_f64, gather};
pub use integer::{IntegerCase, check_code, integer_accumulators, integer_matmul};
pub use matmul::{MatmulCase, matmul};
pub use one_hot::one_hot;
pub use row::{Weight, decode_row};

/// Why the oracle has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// An input has the wrong length.
    #[error("{role} holds {have} elements where {need} are needed")]
    WrongLength {
        /// Which input: `x` or `bias`.
        role: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements given.
        have: usize,
    },
    /// A row or column past the end of the matrix.
    #[error("{role} {index} is not below {limit}")]
    OutOfRange {
        /// `row` or `column`.
        role: &'static str,
        /// The index asked for.
        index: usize,
        /// How many there are.
        limit: usize,
    },
    /// NaN or an infinity, which the error contract excludes.
    #[error("{role} is not finite at row {row}, column {column}")]
    NonFinite {
        /// `x`, `bias` or `weights`.
        role: &'static str,
        /// Row of the first one.
        row: usize,
        /// Column of the first one.
        column: usize,
    },
    /// So many terms in one sum that the bound would say nothing.
    #[error("{roundings} roundings in one sum: no useful bound above {MAX_ROUNDINGS}")]
    TooManyTerms {
        /// Roundings a term may go through.
        roundings: usize,
    },
    /// The result does not fit in memory.
    #[error("a result of {rows}×{columns} does not fit in memory")]
    TooLarge {
        /// Rows of the result.
        rows: usize,
        /// Columns of the result.
        columns: usize,
    },
    /// The case is not one whose result is exact in any order.
    #[error("output ({m}, {n}) is not exact in every order: {why}")]
    NotExact {
        /// Row of X.
        m: usize,
        /// Row of `W`.
        n: usize,
        /// Which precondition fails.
        why: Inexact,
    },
}

fn check_length(role: &'static str, need: usize, have: usize) -> Result<(), ReferenceError> {
    if need == have { Ok(()) } else { Err(ReferenceError::WrongLength { role, need, have }) }
}

/// An empty vector with room for `rows · columns`, or an error instead of an abort.
fn room_for<T>(rows: usize, columns: usize) -> Result<Vec<T>, ReferenceError> {
    let too_large = ReferenceError::TooLarge { rows, columns };
    let mut room = Vec::new();
    let count = rows.checked_mul(columns).ok_or_else(|| too_large.clone())?;
    room.try_reserve_exact(count).map_err(|_| too_large)?;
    Ok(room)
}

/// Refuses NaN and infinities in an input of `columns` columns.
fn check_finite(role: &'static str, columns: usize, values: &[f32]) -> Result<(), ReferenceError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (row, column) = (at / columns.max(1), at % columns.max(1));
            Err(ReferenceError::NonFinite { role, row, column })
        }
    }
}
