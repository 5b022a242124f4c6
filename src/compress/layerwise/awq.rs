use super::error::{LayerwiseError, check_length};
use super::objective::Objective;
use super::rounder::Rounder;
use super::{Gram, check_gram, check_matrix};
use crate::compress::rows::each_row;
use crate::compress::{CompressError, Scheme, dequantize, quantize_scheme};

/// The factors by which a layer's columns are scaled before it is rounded.
#[derive(Clone, Debug, PartialEq)]
pub struct Awq {
    /// `s_j` for each column: W is multiplied and X divided by it. All are 1 if α is 0.
    pub factors: Vec<f32>,
    /// The α of least error.
    pub alpha: f64,
    /// The output error with these factors, summed over all matrices.
    pub error: f64,
    /// The output error of rounding without factors.
    pub plain_error: f64,
}

/// Factors are limited to 2^±64, so that they and their reciprocals are normal numbers.
const MOST: f64 = 18_446_744_073_709_551_616.0;

/// Finds the factors of columns with which rounding changes the outputs of matrices that share their
/// input least (Lin, Tang, Tang, Yang, Dang and Han 2023, "AWQ: Activation-aware Weight
/// Quantization for LLM Compression and Acceleration").
///
/// ```text
/// s_j = mean|X_j|^α / √(max · min)        Ŵ = round(W · s) / s        α = 0, 1/grid … (grid − 1)/grid
/// ```
///
/// where max and min are those of `mean|X|^α` over the columns that are not always 0; these get the
/// factor 1. The factors are folded into the weights and into what makes X
/// ([`smooth::fold_into_norm`](crate::compress::smooth::fold_into_norm) and others). α = 0 is plain
/// rounding, and of equal errors the lowest α is taken, so that the result is never worse. An α
/// with which the scheme cannot hold the weights is left out.
///
/// `weights` has matrices `[n, k]` in row-major order with their n, `gram` and `mean_abs` belong to X.
///
/// # Errors
/// Returns a [`LayerwiseError`] if sizes do not match, a weight or a mean is not finite, a mean is
/// negative, there are no rows of inputs or no steps, or if the scheme cannot hold the weights without
/// factors.
pub fn awq(
    weights: &[(&[f32], usize)],
    k: usize,
    gram: &Gram,
    mean_abs: &[f64],
    scheme: &Scheme,
    grid: usize,
) -> Result<Awq, LayerwiseError> {
    check_gram(gram, k)?;
    weights.iter().try_for_each(|&(w, n)| check_matrix("the matrix", w, n, k))?;
    check_length("the mean magnitudes of inputs", k, mean_abs.len())?;
    if let Some(column) = mean_abs.iter().position(|x| !x.is_finite() || *x < 0.0) {
        let (what, value) = ("the mean magnitude of the input", mean_abs[column]);
        return Err(LayerwiseError::NonFinite { what, row: 0, column, value });
    }
    if grid == 0 {
        let (what, range) = ("the number of steps of alpha", "at least 1");
        return Err(LayerwiseError::Option { what, value: 0.0, range });
    }
    let objective = Objective::new(gram);
    let error = |factors: &[f32]| -> Result<f64, LayerwiseError> {
        let mut sum = 0.0;
        for &(w, n) in weights {
            sum += objective.error(w, &rounded(w, n, factors, scheme)?)?;
        }
        Ok(sum)
    };
    let plain = factors(mean_abs, 0.0);
    let plain_error = error(&plain)?;
    let mut best = Awq { factors: plain, alpha: 0.0, error: plain_error, plain_error };
    for step in 1..grid {
        let alpha = step as f64 / grid as f64;
        let factors = factors(mean_abs, alpha);
        let now = match error(&factors) {
            Ok(now) => now,
            Err(LayerwiseError::Compress(
                CompressError::ScaleRange { .. }
                | CompressError::F16Overflow { .. }
                | CompressError::NonFinite { .. },
            )) => continue,
            Err(other) => return Err(other),
        };
        if now < best.error {
            best = Awq { factors, alpha, error: now, ..best };
        }
    }
    Ok(best)
}

/// Returns the factors of an α.
fn factors(mean_abs: &[f64], alpha: f64) -> Vec<f32> {
    let alive = mean_abs.iter().filter(|&&x| x > 0.0).map(|x| x.log2());
    let (low, high) =
        alive.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let factor = |&x: &f64| {
        if x == 0.0 || alpha == 0.0 {
            return 1.0;
        }
        (alpha * (x.log2() - (low + high) / 2.0)).exp2().clamp(1.0 / MOST, MOST) as f32
    };
    mean_abs.iter().map(factor).collect()
}

/// Returns what rounding with factors makes of a matrix, as weights of the input without them.
fn rounded(
    w: &[f32],
    n: usize,
    factors: &[f32],
    scheme: &Scheme,
) -> Result<Vec<f32>, LayerwiseError> {
    let k = factors.len();
    let mut scaled = w.to_vec();
    let each = |m: &mut [f32], f: fn(f32, f32) -> f32| {
        let rows = m.chunks_exact_mut(k.max(1));
        rows.for_each(|row| row.iter_mut().zip(factors).for_each(|(w, &s)| *w = f(*w, s)));
    };
    each(&mut scaled, |w, s| w * s);
    let mut kept = dequantize(&quantize_scheme(&scaled, n, k, scheme)?);
    each(&mut kept, |w, s| w / s);
    Ok(kept)
}

/// A matrix whose groups are clipped.
#[derive(Clone, Debug, PartialEq)]
pub struct Clipped {
    /// The weights, limited to the range of their group that was found best. Rounding these gives the
    /// result.
    pub weights: Vec<f32>,
    /// The output error of the clipped and rounded weights.
    pub error: f64,
    /// The output error of rounding without clipping.
    pub plain_error: f64,
}

/// The parts of a group's greatest magnitude that are tried: 1, 0.95 … 0.55.
const CLIP_STEPS: u8 = 10;
const CLIP_STEP: f32 = 0.05;

/// Limits the weights of each group to the range with which rounding changes the outputs least, as AWQ
/// does after its factors: ±p of the group's greatest magnitude for p = 1, 0.95 … 0.55, judged by the
/// squared error of the outputs of this group alone, `d G dᵀ` over its columns.
///
/// `w` is `[n, k]` in row-major order, with the factors of [`awq`] if there are any; `gram` is then that
/// of the inputs divided by them. Ties keep the greatest range. Groups do not see each other's errors,
/// so that the error of the whole layer may grow all the same; then nothing is clipped.
///
/// # Errors
/// Returns a [`LayerwiseError`] if sizes do not match, a weight is not finite, there are no rows of
/// inputs, the scheme cannot hold the weights, or it has one scale for the whole matrix or none.
pub fn clip_search(
    w: &[f32],
    n: usize,
    k: usize,
    gram: &Gram,
    scheme: &Scheme,
) -> Result<Clipped, LayerwiseError> {
    let rounder = Rounder::new(scheme, n, k, false)?;
    check_matrix("the matrix", w, n, k)?;
    check_gram(gram, k)?;
    let Some(unit) = rounder.unit().filter(|_| !rounder.needs_whole()) else {
        return Err(LayerwiseError::Unsupported {
            method: "clip_search",
            format: scheme.format(),
            why: "it clips groups whose scales depend on nothing else; use a format with groups or channels and scales of one level",
        });
    };
    let objective = Objective::new(gram);
    let plain = dequantize(&quantize_scheme(w, n, k, scheme)?);
    let plain_error = objective.error(w, &plain)?;
    let mut weights = w.to_vec();
    each_row(&mut weights, k, |row, weights| {
        let mut scales = rounder.row();
        for (index, weights) in weights.chunks_mut(unit).enumerate() {
            let mut least = f64::INFINITY;
            let before = weights.to_vec();
            let most = before.iter().fold(0f32, |most, x| most.max(x.abs()));
            for step in 0..CLIP_STEPS {
                let limit = most * (1.0 - CLIP_STEP * f32::from(step));
                let clipped: Vec<f32> = before.iter().map(|x| x.clamp(-limit, limit)).collect();
                scales.forget();
                if rounder.find(row, index, &clipped, &mut scales).is_err() {
                    continue;
                }
                let start = index * unit;
                let off = |(at, (&x, &clipped)): (usize, (&f32, &f32))| {
                    let (_, value) = rounder.round(&scales, start + at, clipped);
                    f64::from(x) - f64::from(value)
                };
                let off: Vec<f64> = before.iter().zip(&clipped).enumerate().map(off).collect();
                let now = objective.error_of(start, &off);
                if now < least {
                    least = now;
                    weights.copy_from_slice(&clipped);
                }
            }
        }
    });
    let kept = dequantize(&quantize_scheme(&weights, n, k, scheme)?);
    let error = objective.error(w, &kept)?;
    if error < plain_error {
        Ok(Clipped { weights, error, plain_error })
    } else {
        Ok(Clipped { weights: w.to_vec(), error: plain_error, plain_error })
    }
}
