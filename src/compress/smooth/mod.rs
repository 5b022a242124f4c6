//! SmoothQuant: moves outliers of activations into the weights, channel by channel.
//!
//! A linear layer `Y = X · Wᵀ` computes the same result if column j of X is divided by a factor and
//! column j of W is multiplied with it:
//!
//! ```text
//! s_j = max|X_j|^α / max|W_j|^(1 − α)        X'_j = X_j / s_j        W'_j = W_j · s_j
//! ```
//!
//! (Xiao, Lin, Seznec, Wu, Demouth and Han 2023, "SmoothQuant: Accurate and Efficient Post-Training
//! Quantization for Large Language Models", equation 4.) If all of X shares one scale, a channel that
//! is a hundred times larger than the others leaves them only a few codes. Smoothing removes that
//! difference, and the weights, which have a scale for each row, take more of it.
//!
//! [`search`] finds the α of a layer by the error of the layer's own output in int8;
//! [`search_channels`] finds it from statistics of the channels alone. [`fold_into_norm`] and
//! [`fold_into_rows`] put `1/s` into the operation that produces X. Linear layers that share an X (Q,
//! K and V) share the factors.
//!
//! ```
//! use lowbit::compress::smooth::{self, Linear, Options};
//! // The second channel is large, and its weights are not.
//! let x = [0.3, 90.0, -0.7, -50.0, 0.5, 75.0];
//! let w = [1.0, 0.011, -0.7, 0.013];
//! let smoothing = smooth::search(&x, 2, &[Linear { weights: &w, rows: 2 }], &Options::default())?;
//! assert!(smoothing.error() < smoothing.error_before());
//! let folded = smooth::scale_columns(&w, smoothing.factors())?;
//! let mut gamma = [1.0, 1.0];
//! smooth::fold_into_norm(&mut gamma, None, smoothing.factors())?;
//! assert_eq!(gamma[1], 1.0 / smoothing.factors()[1]);
//! # assert_eq!(folded.len(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod apply;
mod channels;
mod measured;
mod search;

pub use apply::{fold_into_norm, fold_into_rows, scale_columns, smoothed_absmax, smoothed_range};
pub use channels::Channels;
pub use search::{search, search_channels};

use super::calibrate::{ActivationRange, CalibrateError};
use super::{CompressError, flushed};

/// The row-major weights `[rows, K]` of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// The weights.
    pub weights: &'a [f32],
    /// The number of rows, which are the output channels.
    pub rows: usize,
}

/// Options of [`search`] and [`search_channels`].
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The values of α to try, each within 0…1.
    pub alphas: Vec<f64>,
    /// Whether factors are rounded to a power of two (the nearest in their logarithm). Multiplying
    /// and dividing by powers of two is exact, so the f32 network gives the same bits as before as
    /// long as no product leaves the range of normal numbers.
    pub powers_of_two: bool,
    /// The max |X_j| of each channel from a calibration
    /// ([`Statistics::absmax`](super::calibrate::Statistics::absmax)). The search widens it by the
    /// rows or channels that it is given, and uses only those if this is `None`.
    pub absmax: Option<Vec<f32>>,
}

impl Default for Options {
    /// Tries α = 0, 0.05 … 1, with real factors and without calibrated ranges.
    fn default() -> Self {
        let alphas = (0..=20).map(|i| f64::from(i) / 20.0).collect();
        Self { alphas, powers_of_two: false, absmax: None }
    }
}

/// The reason why a layer cannot be smoothed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SmoothError {
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
    /// A value, or the result of an operation on it, is NaN or infinite.
    #[error("{what} at row {row}, column {col} is {value}: it must be finite")]
    NonFinite {
        /// The matrix or vector.
        what: &'static str,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// There are no linear layers, rows of X or channels.
    #[error("there are no {0} to smooth by")]
    Nothing(&'static str),
    /// α lies outside of 0…1, or no α was given.
    #[error("alpha is {0}; it must be 0…1, and there must be one")]
    Alpha(f64),
    /// A factor is zero, negative, subnormal or not finite.
    #[error("the factor of channel {channel} is {factor}: it must be positive and normal")]
    Factor {
        /// The channel.
        channel: usize,
        /// Its factor.
        factor: f32,
    },
    /// int8 cannot hold the weights as they are without smoothing.
    #[error(transparent)]
    Weights(#[from] CompressError),
    /// The statistics of the channels do not give ranges.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
}

/// The factors of a layer and the error that they leave.
#[derive(Clone, Debug, PartialEq)]
pub struct Smoothing {
    alpha: Option<f64>,
    factors: Vec<f32>,
    range: ActivationRange,
    error: f64,
    error_before: f64,
    tried: Vec<(f64, f64)>,
}

impl Smoothing {
    /// Returns the best α, or `None` if no α was better than not smoothing.
    pub fn alpha(&self) -> Option<f64> {
        self.alpha
    }

    /// `s_j`, one for each channel. All are 1 if there is no α.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// Returns the symmetric range of the smoothed X, from which its static scale follows.
    pub fn range(&self) -> ActivationRange {
        self.range
    }

    /// Returns the error with these factors: for [`search`], `‖Y − Ŷ‖₂ / ‖Y‖₂` over all linear
    /// layers and rows; for [`search_channels`], the estimate of [`Channels::rounding_error`].
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Returns the error without smoothing.
    pub fn error_before(&self) -> f64 {
        self.error_before
    }

    /// Returns every α that was tried and its error, except those whose weights int8 cannot hold.
    pub fn tried(&self) -> &[(f64, f64)] {
        &self.tried
    }
}

/// Factors are limited to 2^±64. This is far beyond those of any network, and s and 1/s are both
/// normal numbers.
const MOST: f64 = 18_446_744_073_709_551_616.0;

/// Returns `s_j = max|X_j|^α / max|W_j|^(1 − α)` for each channel, computed in f64 and rounded once.
///
/// A channel in which X or W is all zeros gets the factor 1. Factors are limited to 2^±64.
///
/// # Errors
/// Returns [`SmoothError`] if the slices have different lengths, if a maximum is negative or not
/// finite, or if α lies outside of 0…1.
pub fn factors(
    x_absmax: &[f32],
    w_absmax: &[f32],
    alpha: f64,
    powers_of_two: bool,
) -> Result<Vec<f32>, SmoothError> {
    check_length("max|W|", x_absmax.len(), w_absmax.len())?;
    if !(0.0..=1.0).contains(&alpha) {
        return Err(SmoothError::Alpha(alpha));
    }
    for (what, values) in [("max|X|", x_absmax), ("max|W|", w_absmax)] {
        if let Some(col) = values.iter().position(|x| !x.is_finite() || *x < 0.0) {
            return Err(SmoothError::NonFinite { what, row: 0, col, value: values[col] });
        }
    }
    let factor = |(&x, &w): (&f32, &f32)| {
        let (x, w) = (f64::from(flushed(x)), f64::from(flushed(w)));
        if x == 0.0 || w == 0.0 {
            return 1.0;
        }
        let exponent = alpha * x.log2() - (1.0 - alpha) * w.log2();
        let exponent = if powers_of_two { exponent.round() } else { exponent };
        exponent.exp2().clamp(1.0 / MOST, MOST) as f32
    };
    Ok(x_absmax.iter().zip(w_absmax).map(factor).collect())
}

/// Returns the max |W_j| of each channel over all linear layers that share X. Subnormal weights
/// count as 0.
///
/// # Errors
/// Returns [`SmoothError`] if a slice has the wrong length or a weight is not finite.
pub fn weight_absmax(k: usize, linears: &[Linear<'_>]) -> Result<Vec<f32>, SmoothError> {
    let mut most = vec![0.0; k];
    for linear in linears {
        check_matrix("W", linear.weights, linear.rows, k)?;
        widen(&mut most, linear.weights);
    }
    Ok(most)
}

/// Raises each maximum to the largest magnitude in its column.
fn widen(most: &mut [f32], matrix: &[f32]) {
    for row in matrix.chunks_exact(most.len().max(1)) {
        most.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(flushed(*x).abs()));
    }
}

/// Returns the number of factors if all of them are positive normal numbers.
fn check_factors(factors: &[f32]) -> Result<usize, SmoothError> {
    match factors.iter().position(|s| !s.is_normal() || *s < 0.0) {
        Some(channel) => Err(SmoothError::Factor { channel, factor: factors[channel] }),
        None => Ok(factors.len()),
    }
}

fn check_length(what: &'static str, need: usize, have: usize) -> Result<(), SmoothError> {
    if need == have { Ok(()) } else { Err(SmoothError::WrongLength { what, need, have }) }
}

fn check_matrix(what: &'static str, m: &[f32], rows: usize, k: usize) -> Result<(), SmoothError> {
    check_length(what, rows.saturating_mul(k), m.len())?;
    match m.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(SmoothError::NonFinite { what, row: at / k, col: at % k, value: m[at] }),
    }
}
