//! SmoothQuant: outliers of activations moved into the weights, channel by channel.
//!
//! A linear layer `Y = X · Wᵀ` stays what it is when column j of X is divided by a factor and column
//! j of W multiplied with it:
//!
//! ```text
//! s_j = max|X_j|^α / max|W_j|^(1 − α)        X'_j = X_j / s_j        W'_j = W_j · s_j
//! ```
//!
//! (Xiao, Lin, Seznec, Wu, Demouth and Han 2023, "SmoothQuant: Accurate and Efficient Post-Training
//! Quantization for Large Language Models", equation 4.) One channel of X a hundred times larger
//! than the others takes the codes from all of them, where all of X shares a scale; after smoothing
//! it does so no longer, and weights, which have a scale a row, carry more of it.
//!
//! [`search`] finds the α of a layer by the error of its own output in int8; [`fold_into_norm`] and
//! [`fold_into_rows`] put `1/s` into what makes X. Linears that share an X (Q, K and V) share the
//! factors.
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

use super::calibrate::ActivationRange;
use super::rows::each_row;
use super::{CompressError, flushed, quantize};
use crate::format::{Granularity, StaticScale, WeightFormat};

/// Weights `[rows, K]`, row-major, of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// The weights.
    pub weights: &'a [f32],
    /// Rows: output channels.
    pub rows: usize,
}

/// How factors are searched for.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The α to try, each 0…1.
    pub alphas: Vec<f64>,
    /// Whether factors are rounded to the nearest power of two (of their logarithm). Multiplying
    /// and dividing by them is exact, and the f32 network remains bit for bit what it was, as long
    /// as no product leaves the normal numbers.
    pub powers_of_two: bool,
    /// max |X_j| of each channel, of a calibration
    /// ([`Statistics::absmax`](super::calibrate::Statistics::absmax)); the rows' own where there is
    /// none. Never less than the rows' own.
    pub absmax: Option<Vec<f32>>,
}

impl Default for Options {
    /// 0, 0.05 … 1, real factors, ranges of the rows themselves.
    fn default() -> Self {
        let alphas = (0..=20).map(|i| f64::from(i) / 20.0).collect();
        Self { alphas, powers_of_two: false, absmax: None }
    }
}

/// Why a layer cannot be smoothed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SmoothError {
    /// A slice does not hold what it must.
    #[error("{what} holds {have} elements where {need} are needed")]
    WrongLength {
        /// Which slice.
        what: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements given.
        have: usize,
    },
    /// NaN, an infinity, or what became one.
    #[error("{what} at row {row}, column {col} is {value}: it must be finite")]
    NonFinite {
        /// Which matrix or vector.
        what: &'static str,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// There are no linears, rows of X or channels to go by.
    #[error("there are no {0} to smooth by")]
    Nothing(&'static str),
    /// An α that is no exponent.
    #[error("alpha is {0}; it must be 0…1, and there must be one")]
    Alpha(f64),
    /// A factor that nothing can be divided by.
    #[error("the factor of channel {channel} is {factor}: it must be positive and normal")]
    Factor {
        /// The channel.
        channel: usize,
        /// Its factor.
        factor: f32,
    },
    /// Weights that int8 cannot hold, unsmoothed.
    #[error(transparent)]
    Weights(#[from] CompressError),
}

/// The factors of a layer, and what they do for it.
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
    /// The α that was best; `None` where no smoothing was better than any.
    pub fn alpha(&self) -> Option<f64> {
        self.alpha
    }

    /// `s_j`, one a channel; all 1 without an α.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// The symmetric range of the smoothed X: of its static scale.
    pub fn range(&self) -> ActivationRange {
        self.range
    }

    /// `‖Y − Ŷ‖₂ / ‖Y‖₂` over all linears and rows, with these factors.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// The same without smoothing.
    pub fn error_before(&self) -> f64 {
        self.error_before
    }

    /// Each α and its error; those whose weights int8 cannot hold are left out.
    pub fn tried(&self) -> &[(f64, f64)] {
        &self.tried
    }
}

/// The largest 2^e that a factor is: far beyond any network's, and both s and 1/s are normal.
const MOST: f64 = 18_446_744_073_709_551_616.0;

/// `s_j = max|X_j|^α / max|W_j|^(1 − α)` of each channel, in f64, rounded once.
///
/// A channel that X or W holds nothing but zeros of gets 1; factors are kept within 2^±64.
///
/// # Errors
/// [`SmoothError`]: slices of different lengths, maxima that are not finite or are negative, an α
/// outside of 0…1.
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

/// max |W_j| of each channel, over all linears that share X. Subnormals count as 0.
///
/// # Errors
/// [`SmoothError`]: wrong lengths, weights that are not finite.
pub fn weight_absmax(k: usize, linears: &[Linear<'_>]) -> Result<Vec<f32>, SmoothError> {
    let mut most = vec![0.0; k];
    for linear in linears {
        check_matrix("W", linear.weights, linear.rows, k)?;
        widen(&mut most, linear.weights);
    }
    Ok(most)
}

fn widen(most: &mut [f32], matrix: &[f32]) {
    for row in matrix.chunks_exact(most.len().max(1)) {
        most.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(flushed(*x).abs()));
    }
}

/// The factors of the α whose output in W8A8 is nearest to the layer's own on the rows of `x`,
/// `[m, k]`: weights symmetric int8 with a scale a row, as [`quantize`](super::quantize()) makes
/// them, activations symmetric int8 with one static scale, that of the smoothed ranges. Without
/// smoothing is one of the choices, and the first of equals is taken, so that the error is never
/// above that without.
///
/// Takes `(1 + alphas) · m · k · Σ rows` multiplications; a hundred rows say enough.
///
/// # Errors
/// [`SmoothError`]: nothing to go by, wrong lengths, values that are not finite, an α outside of
/// 0…1, weights that int8 cannot hold.
pub fn search(
    x: &[f32],
    k: usize,
    linears: &[Linear<'_>],
    options: &Options,
) -> Result<Smoothing, SmoothError> {
    let nothing = [
        ("linears", linears.iter().all(|linear| linear.rows == 0)),
        ("channels", k == 0),
        ("rows of X", x.is_empty()),
    ];
    if let Some((what, _)) = nothing.into_iter().find(|(_, nothing)| *nothing) {
        return Err(SmoothError::Nothing(what));
    }
    check_matrix("X", x, x.len() / k, k)?;
    let w_absmax = weight_absmax(k, linears)?;
    let mut x_absmax = match &options.absmax {
        Some(absmax) => {
            check_length("max|X|", k, absmax.len())?;
            absmax.clone()
        }
        None => vec![0.0; k],
    };
    widen(&mut x_absmax, x);
    let layer = Layer { x, k, linears, exact: exact(x, k, linears), x_absmax };
    let plain = vec![1.0; k];
    let (error_before, range) = layer.error(&plain)?;
    let mut best = Smoothing {
        alpha: None,
        factors: plain,
        range,
        error: error_before,
        error_before,
        tried: Vec::new(),
    };
    if options.alphas.is_empty() {
        return Err(SmoothError::Alpha(f64::NAN));
    }
    for &alpha in &options.alphas {
        let factors = factors(&layer.x_absmax, &w_absmax, alpha, options.powers_of_two)?;
        // What int8 cannot hold with these factors is no reason not to try others.
        let Ok((error, range)) = layer.error(&factors) else { continue };
        best.tried.push((alpha, error));
        if error < best.error {
            best = Smoothing { alpha: Some(alpha), factors, range, error, ..best };
        }
    }
    Ok(best)
}

/// `Y = X · Wᵀ` of each linear, in f64.
fn exact(x: &[f32], k: usize, linears: &[Linear<'_>]) -> Vec<Vec<f64>> {
    let product = |linear: &Linear<'_>| {
        let mut y = vec![0.0; x.len() / k * linear.rows];
        each_row(&mut y, linear.rows, |row, y| {
            let x = &x[row * k..][..k];
            for (y, w) in y.iter_mut().zip(linear.weights.chunks_exact(k)) {
                *y = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            }
        });
        y
    };
    linears.iter().map(product).collect()
}

struct Layer<'a> {
    x: &'a [f32],
    k: usize,
    linears: &'a [Linear<'a>],
    exact: Vec<Vec<f64>>,
    x_absmax: Vec<f32>,
}

/// So many products of int8 codes an i32 holds: 2¹⁷ · 127² < 2³¹.
const SUMS: usize = 1 << 17;

impl Layer<'_> {
    /// `‖Y − Ŷ‖ / ‖Y‖` with these factors, and the range of the smoothed X.
    fn error(&self, factors: &[f32]) -> Result<(f64, ActivationRange), SmoothError> {
        let k = self.k;
        let absmax = smoothed_absmax(&self.x_absmax, factors)?;
        let range = ActivationRange::of(-absmax, absmax);
        let StaticScale { scale, .. } = range.scheme(true);
        let code = |x: f32, s: f32| (flushed(x / s) / scale).round_ties_even().clamp(-127.0, 127.0);
        let mut x = vec![0i16; self.x.len()];
        each_row(&mut x, k, |row, codes| {
            let values = self.x[row * k..].iter().zip(factors);
            codes.iter_mut().zip(values).for_each(|(to, (&x, &s))| *to = code(x, s) as i16);
        });
        let (mut error, mut norm) = (0.0, 0.0);
        for (linear, exact) in self.linears.iter().zip(&self.exact) {
            let weights = scale_columns(linear.weights, factors)?;
            let format = WeightFormat::int8(Granularity::Channel);
            let packed = quantize(&weights, linear.rows, k, &format)?;
            let mut w = vec![0i16; weights.len()];
            each_row(&mut w, k, |row, codes| {
                (0..).zip(codes).for_each(|(at, to)| *to = packed.code(row, at) as i16);
            });
            let mut sums = vec![(0.0, 0.0); self.x.len() / k];
            each_row(&mut sums, 1, |row, sums| {
                let x = &x[row * k..][..k];
                let exact = &exact[row * linear.rows..];
                for (n, (w, &y)) in w.chunks_exact(k).zip(exact).enumerate() {
                    let scale = f64::from(scale) * f64::from(packed.scale(n, 0));
                    sums[0].0 += (y - dot(x, w) as f64 * scale).powi(2);
                    sums[0].1 += y * y;
                }
            });
            for (part, of) in sums {
                error += part;
                norm += of;
            }
        }
        // Nothing can be off from what is 0 throughout: codes of 0 are.
        let error: f64 = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
        Ok((error, range))
    }
}

fn dot(a: &[i16], b: &[i16]) -> i64 {
    let part = |(a, b): (&[i16], &[i16])| {
        let sum: i32 = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
        i64::from(sum)
    };
    a.chunks(SUMS).zip(b.chunks(SUMS)).map(part).sum()
}

/// The largest |X_j| / s_j: what a static scale of the smoothed X is made of.
///
/// # Errors
/// [`SmoothError`]: wrong lengths, factors that are not positive, maxima that are not finite.
pub fn smoothed_absmax(x_absmax: &[f32], factors: &[f32]) -> Result<f32, SmoothError> {
    check_length("max|X|", factors.len(), x_absmax.len())?;
    check_factors(factors)?;
    let mut most = 0.0f32;
    for (col, (&x, &s)) in x_absmax.iter().zip(factors).enumerate() {
        let value = x / s;
        if !value.is_finite() {
            return Err(SmoothError::NonFinite { what: "max|X| / s", row: 0, col, value });
        }
        most = most.max(value.abs());
    }
    Ok(most)
}

/// `W' = W · diag(s)`: row-major weights of a linear whose X was smoothed.
///
/// # Errors
/// [`SmoothError`]: no whole rows, factors that are not positive, products that are not finite.
pub fn scale_columns(weights: &[f32], factors: &[f32]) -> Result<Vec<f32>, SmoothError> {
    let k = check_factors(factors)?;
    check_matrix("W", weights, weights.len() / k.max(1), k)?;
    let scaled: Vec<f32> = weights
        .chunks_exact(k.max(1))
        .flat_map(|row| row.iter().zip(factors))
        .map(|(w, s)| w * s)
        .collect();
    check_matrix("W · s", &scaled, scaled.len() / k.max(1), k)?;
    Ok(scaled)
}

/// Folds `1/s` into the LayerNorm or RMSNorm that makes X: `γ_j / s_j`, and `β_j / s_j` where there
/// is one. Everything else that reads the norm's output must be smoothed by the same factors.
///
/// # Errors
/// [`SmoothError`]: wrong lengths, factors that are not positive, quotients that are not finite;
/// nothing has changed then.
pub fn fold_into_norm(
    weight: &mut [f32],
    bias: Option<&mut [f32]>,
    factors: &[f32],
) -> Result<(), SmoothError> {
    fold(("the norm's weight", weight), ("the norm's bias", bias), 1, factors)
}

/// Folds `1/s` into the linear `[K, columns]` whose output is X: its row j and bias j are divided by
/// `s_j` (Nagel, van Baalen, Blankevoort and Welling 2019, "Data-Free Quantization Through Weight
/// Equalization and Bias Correction"). Between the two there may only be what commutes with
/// positive factors of each channel: nothing, a ReLU, a product with another branch.
///
/// # Errors
/// As [`fold_into_norm`].
pub fn fold_into_rows(
    weights: &mut [f32],
    bias: Option<&mut [f32]>,
    columns: usize,
    factors: &[f32],
) -> Result<(), SmoothError> {
    fold(("the linear's weights", weights), ("the linear's bias", bias), columns, factors)
}

fn fold(
    (weights_name, weights): (&'static str, &mut [f32]),
    (bias_name, bias): (&'static str, Option<&mut [f32]>),
    columns: usize,
    factors: &[f32],
) -> Result<(), SmoothError> {
    check_factors(factors)?;
    let divided = divide(weights_name, weights, columns, factors)?;
    if let Some(bias) = bias {
        bias.copy_from_slice(&divide(bias_name, bias, 1, factors)?);
    }
    weights.copy_from_slice(&divided);
    Ok(())
}

/// Row j by factor j. A division, correctly rounded, where `1/s` would be rounded first.
fn divide(
    what: &'static str,
    matrix: &[f32],
    columns: usize,
    factors: &[f32],
) -> Result<Vec<f32>, SmoothError> {
    check_matrix(what, matrix, factors.len(), columns)?;
    let rows = matrix.chunks_exact(columns.max(1)).zip(factors);
    let divided: Vec<f32> = rows.flat_map(|(row, s)| row.iter().map(move |w| w / s)).collect();
    check_matrix(what, &divided, factors.len(), columns)?;
    Ok(divided)
}

/// How many there are.
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
