use super::columns::{Columns, Prune};
use super::error::{LayerwiseError, check_length};
use super::gptq::Prepared;
use super::pattern::{greatest, without_lowest};
use super::rounder::Rounder;
use super::{Gram, Made, Mask, Options, Order, Pattern, check_matrix};
use crate::compress::rows::each_row;
use crate::compress::{Scheme, dequantize, flushed};
use crate::format::PackedWeights;

/// Prunes and quantizes a layer column by column, and corrects the columns that follow for the error of
/// each (Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
/// One-Shot").
///
/// This is the loop of [`gptq`](super::gptq()), in which pruned weights become 0 and the others what
/// `scheme` makes of them: f32 and f16 only prune. The weights with the lowest scores `w² / U_ii²` are
/// pruned, on updated weights: for a fraction, over all rows of each block of columns when it begins;
/// for N:M, in each row when the first of M columns is reached. Ties keep the lowest index.
///
/// A 2:4 format stays compressed and needs a pattern that keeps at most two of every four; other
/// formats store zeros. Scales follow from the weights that are kept as far as that is known when their
/// group is reached. [`Made::error_before`] is the error of pruning by magnitude with the same
/// pattern and rounding what is left.
///
/// # Errors
/// Returns the errors of [`gptq`](super::gptq()), [`LayerwiseError::Pattern`], and
/// [`LayerwiseError::Unsupported`] if the format has no code that is exactly 0, is 2:4 sparse with
/// another pattern, or if an N:M pattern is asked for in another order of columns.
pub fn sparse_gpt(
    w: &[f32],
    n: usize,
    k: usize,
    gram: &Gram,
    pattern: &Pattern,
    scheme: &Scheme,
    options: &Options,
) -> Result<Made, LayerwiseError> {
    const METHOD: &str = "sparse_gpt";
    pattern.check()?;
    let prepared = Prepared::new(w, n, k, gram, scheme, options)?;
    check_zero(METHOD, prepared.rounder(), *pattern == Pattern::Dense)?;
    let fits = matches!(pattern, Pattern::OfM { keep: 1..=2, of: 4 });
    let why = if scheme.format().is_sparse() && !fits {
        Some("a 2:4 format keeps two of every four; use the pattern 2:4 or a dense format")
    } else if matches!(pattern, Pattern::OfM { .. })
        && matches!(options.order, Order::ByDiagonal { .. })
    {
        Some("an N:M pattern is one of neighboring columns; take columns as they are")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(LayerwiseError::Unsupported { method: METHOD, format: scheme.format(), why });
    }
    let mask = magnitude(w, n, k, pattern)?;
    let plain = round(w, n, k, &mask, scheme)?;
    let before = dequantize(&plain);
    prepared.run(Prune::Pattern(*pattern), &before, || Ok((plain, Some(mask))))
}

/// Returns the mask of the weights with the greatest `|w| · ‖X_j‖₂`, compared within each row, or within M
/// columns of a row (Sun, Liu, Bair and Kolter 2023, "A Simple and Effective Pruning Approach for
/// Large Language Models", Wanda).
///
/// `w` is `[n, k]` in row-major order and `norms_squared` has ‖X_j‖₂² for each column, the
/// [diagonal](Gram::diagonal) of the Gram matrix or a multiple of it. Ties keep the lowest index.
///
/// # Errors
/// Returns a [`LayerwiseError`] if a length does not match, a weight or a norm is not finite, a norm is
/// negative, or the pattern is out of range.
pub fn wanda(
    w: &[f32],
    n: usize,
    k: usize,
    norms_squared: &[f64],
    pattern: &Pattern,
) -> Result<Mask, LayerwiseError> {
    check_length("the norms of inputs", k, norms_squared.len())?;
    if let Some(column) = norms_squared.iter().position(|x| !x.is_finite() || *x < 0.0) {
        let (what, value) = ("the squared norm of the input", norms_squared[column]);
        return Err(LayerwiseError::NonFinite { what, row: 0, column, value });
    }
    let norms: Vec<f64> = norms_squared.iter().map(|x| x.sqrt()).collect();
    by_score(w, n, k, pattern, false, |column, w| w.abs() * norms[column])
}

/// Returns the mask of the weights of greatest magnitude, compared within the layer, or within M columns
/// of a row. Ties keep the lowest index. f32 subnormals count as 0.
///
/// The mask of 2:4 is that of [`prune_magnitude`](crate::compress::prune_magnitude).
///
/// # Errors
/// Returns a [`LayerwiseError`] if the length does not match, a weight is not finite or the pattern is
/// out of range.
pub fn magnitude(w: &[f32], n: usize, k: usize, pattern: &Pattern) -> Result<Mask, LayerwiseError> {
    by_score(w, n, k, pattern, true, |_, w| w.abs())
}

/// Returns the magnitude from which weights of several layers are kept if a fraction of all of them is
/// to be pruned: that of the weight after the pruned ones, in ascending order. No more than the
/// fraction lie below it, and fewer if there are several of this magnitude.
/// [`magnitude_from`] makes the masks. f32 subnormals count as 0.
///
/// # Errors
/// Returns [`LayerwiseError::Pattern`] if the fraction is not at least 0 and below 1,
/// [`LayerwiseError::Nothing`] if there are no weights, and [`LayerwiseError::NonFinite`] with the index
/// of the layer as the row.
pub fn magnitude_threshold(layers: &[&[f32]], fraction: f64) -> Result<f32, LayerwiseError> {
    let pattern = Pattern::Fraction(fraction);
    pattern.check()?;
    let mut magnitudes = Vec::with_capacity(layers.iter().map(|layer| layer.len()).sum());
    for (row, layer) in (0..).zip(layers) {
        if let Some(column) = layer.iter().position(|x| !x.is_finite()) {
            let (what, value) = ("the weight", layer[column].into());
            return Err(LayerwiseError::NonFinite { what, row, column, value });
        }
        magnitudes.extend(layer.iter().map(|&x| flushed(x).abs()));
    }
    let at = pattern.pruned_of(magnitudes.len());
    if at >= magnitudes.len() {
        return Err(LayerwiseError::Nothing("weights"));
    }
    Ok(*magnitudes.select_nth_unstable_by(at, f32::total_cmp).1)
}

/// Returns the mask of the weights whose magnitude is at least `threshold`. f32 subnormals count as 0.
///
/// # Errors
/// Returns a [`LayerwiseError`] if the length does not match or a weight is not finite.
pub fn magnitude_from(
    w: &[f32],
    n: usize,
    k: usize,
    threshold: f32,
) -> Result<Mask, LayerwiseError> {
    check_matrix("the matrix", w, n, k)?;
    Mask::from_fn(n, k, |row, column| flushed(w[row * k + column]).abs() >= threshold)
}

/// Prunes by a mask and rounds what is kept by the rule of a scheme, without updates. Scales follow from
/// the kept weights alone. The result has no warnings, and its two errors are the same: without
/// statistics of inputs they are `‖W − Ŵ‖²`, as if the Gram matrix were the identity.
///
/// A 2:4 format stays compressed.
///
/// # Errors
/// Returns a [`LayerwiseError`] if a length does not match, a weight is not finite, the format has no
/// rule, no code that is exactly 0 or cannot hold the weights, or if it is 2:4 sparse and the mask keeps
/// more than two of four.
pub fn prune_and_round(
    w: &[f32],
    n: usize,
    k: usize,
    mask: &Mask,
    scheme: &Scheme,
) -> Result<Made, LayerwiseError> {
    let packed = round(w, n, k, mask, scheme)?;
    let kept = dequantize(&packed);
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    let error = w.iter().zip(&kept).map(square).sum();
    let (mask, warnings) = (Some(mask.clone()), Vec::new());
    Ok(Made { packed, mask, kept, warnings, error_before: error, error })
}

fn round(
    w: &[f32],
    n: usize,
    k: usize,
    mask: &Mask,
    scheme: &Scheme,
) -> Result<PackedWeights, LayerwiseError> {
    let rounder = Rounder::new(scheme, n, k, false)?;
    check_matrix("the matrix", w, n, k)?;
    check_length("the rows of the mask", n, mask.n())?;
    check_length("the columns of the mask", k, mask.k())?;
    let keeps_all = mask.kept() == w.len();
    check_zero("pruning", &rounder, keeps_all)?;
    let columns = Columns {
        w,
        n,
        k,
        factor: None,
        dead: &vec![false; k],
        order: None,
        static_groups: false,
        prune: Prune::Mask(mask),
        block: k.max(1),
    };
    Ok(columns.run(rounder)?.packed)
}

/// Checks that pruned weights can be exactly 0.
fn check_zero(
    method: &'static str,
    rounder: &Rounder,
    keeps_all: bool,
) -> Result<(), LayerwiseError> {
    if keeps_all || rounder.has_zero() {
        return Ok(());
    }
    let why = "none of its codes is exactly 0 in every group; use a format with a fixed zero point, integer zero points or floats";
    Err(LayerwiseError::Unsupported { method, format: rounder.geometry().format, why })
}

/// Returns the mask of the greatest scores: within the layer or each row for a fraction, within M
/// columns of a row for N:M.
fn by_score(
    w: &[f32],
    n: usize,
    k: usize,
    pattern: &Pattern,
    whole_layer: bool,
    score: impl Fn(usize, f64) -> f64 + Send + Sync,
) -> Result<Mask, LayerwiseError> {
    check_matrix("the matrix", w, n, k)?;
    pattern.check()?;
    let mut keep = vec![true; w.len()];
    let scores = |row: &[f32]| -> Vec<f64> {
        row.iter().enumerate().map(|(at, &w)| score(at % k, flushed(w).into())).collect()
    };
    match *pattern {
        Pattern::Dense => {}
        Pattern::Fraction(_) if whole_layer => {
            keep = without_lowest(&scores(w), pattern.pruned_of(w.len()));
        }
        Pattern::Fraction(_) => each_row(&mut keep, k, |row, keep| {
            let scores = scores(&w[row * k..][..keep.len()]);
            keep.copy_from_slice(&without_lowest(&scores, pattern.pruned_of(scores.len())));
        }),
        Pattern::OfM { keep: most, of } => each_row(&mut keep, k, |row, keep| {
            let scores = scores(&w[row * k..][..keep.len()]);
            let runs = scores.chunks(usize::from(of)).zip(keep.chunks_mut(usize::from(of)));
            for (scores, keep) in runs {
                let kept = greatest(scores, usize::from(most));
                keep.iter_mut().enumerate().for_each(|(at, keep)| *keep = kept >> at & 1 == 1);
            }
        }),
    }
    Mask::from_fn(n, k, |row, column| keep[row * k + column])
}
