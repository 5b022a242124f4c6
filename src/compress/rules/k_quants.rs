//! ggml's rules for blocks of 256 columns, whose groups have integer scales: q4_k, q5_k and q6_k.
//!
//! Each group first finds the scale (and minimum) of least error by itself. Then the scales of all
//! groups are quantized, and codes are computed again with what is stored.

use super::ggml::{Stored, TINY, extremes, half, most};
use half::f16;

/// The columns of a group of q4_k and q5_k.
const GROUP: usize = 32;
/// The columns of a group of q6_k.
const SMALL_GROUP: usize = 16;
/// The greatest scale and minimum of a group of q4_k and q5_k: they have 6 bits in a file.
const MOST_SIX_BITS: f32 = 63.0;

pub(super) fn q4_k(x: &[f32], codes: &mut [u32], out: &mut Stored) -> Option<()> {
    with_minima(x, codes, out, &Search { top: 15, first: -1.0, steps: 20 })
}

pub(super) fn q5_k(x: &[f32], codes: &mut [u32], out: &mut Stored) -> Option<()> {
    with_minima(x, codes, out, &Search { top: 31, first: -0.5, steps: 15 })
}

/// Which scales are tried: those for which the range has `top + first + i/10` codes, for i from 0 to
/// `steps`.
struct Search {
    top: i32,
    first: f32,
    steps: i32,
}

/// A group before its scale is quantized: weights are about `code · scale − less`.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    /// This is subtracted. It is at least 0.
    less: f32,
}

fn with_minima(x: &[f32], codes: &mut [u32], out: &mut Stored, search: &Search) -> Option<()> {
    let fits: Vec<Fit> = x
        .chunks(GROUP)
        .zip(codes.chunks_mut(GROUP))
        .map(|(x, codes)| search.fit(x, codes))
        .collect();
    if fits.iter().any(|fit| !fit.scale.is_finite() || !fit.less.is_finite()) {
        return None;
    }
    let greatest = |of: fn(&Fit) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let (most_scale, most_less) = (greatest(|fit| fit.scale), greatest(|fit| fit.less));
    let upper = [half(most_scale / MOST_SIX_BITS)?, half(most_less / MOST_SIX_BITS)?];
    // The minimum is added, so its upper level is negative.
    out.halves.push([upper[0], -upper[1]]);
    let [upper_scale, upper_less] = upper.map(f16::to_f32);
    let per_scale = if most_scale > 0.0 { MOST_SIX_BITS / most_scale } else { 0.0 };
    let per_less = if most_less > 0.0 { MOST_SIX_BITS / most_less } else { 0.0 };
    for ((x, codes), fit) in x.chunks(GROUP).zip(codes.chunks_mut(GROUP)).zip(fits) {
        let level = |x: f32| x.round_ties_even().clamp(0.0, MOST_SIX_BITS);
        let (scale, less) = (level(per_scale * fit.scale), level(per_less * fit.less));
        out.groups.push([scale as i8, less as i8]);
        let (d, less) = (upper_scale * scale, upper_less * less);
        if d == 0.0 {
            continue;
        }
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = nearest((x + less) / d, search.top);
        }
    }
    Some(())
}

/// Returns the nearest code of 0…`top`, with ties to even.
fn nearest(steps: f32, top: i32) -> u32 {
    (steps.round_ties_even() as i32).clamp(0, top) as u32
}

impl Search {
    /// Finds the scale and the minimum with the least weighted squares of errors, and their codes. The
    /// error of a weight counts with its magnitude plus the root of the group's mean square.
    fn fit(&self, x: &[f32], codes: &mut [u32]) -> Fit {
        let squares = x.iter().fold(0.0f32, |sum, &x| sum + x * x);
        let mean = (squares / x.len() as f32).sqrt();
        let weights: Vec<f32> = x.iter().map(|&x| mean + x.abs()).collect();
        let (mut low, high) = extremes(x);
        let sum = |of: &dyn Fn(f32, f32) -> f32| {
            let terms = x.iter().zip(&weights).map(|(&x, &w)| of(x, w));
            // Starting with the first term, as a sum from 0 may differ in the sign of zero.
            terms.reduce(|sum, term| sum + term).unwrap_or(0.0)
        };
        let (sum_w, sum_x) = (sum(&|_, w| w), sum(&|x, w| w * x));
        if low > 0.0 {
            low = 0.0;
        }
        if high == low {
            codes.fill(0);
            return Fit { scale: 0.0, less: -low };
        }
        let error = |codes: &[u32], scale: f32, low: f32| {
            let mut sum = 0.0f32;
            for ((&x, &w), &code) in x.iter().zip(&weights).zip(codes) {
                let off = scale * code as f32 + low - x;
                sum += w * (off * off);
            }
            sum
        };
        let per_unit = self.top as f32 / (high - low);
        let mut best = Fit { scale: 1.0 / per_unit, less: -low };
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = nearest(per_unit * (x - low), self.top);
        }
        let mut least = error(codes, best.scale, low);
        let mut tried = vec![0; x.len()];
        for step in 0..=self.steps {
            let per_unit = (self.first + 0.1f32 * step as f32 + self.top as f32) / (high - low);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
            for ((code, &x), &w) in tried.iter_mut().zip(x).zip(&weights) {
                *code = nearest(per_unit * (x - low), self.top);
                let l = *code as f32;
                sum_l += w * l;
                sum_l2 += w * l * l;
                sum_xl += w * l * x;
            }
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            if determinant.is_nan() || determinant <= 0.0 {
                continue;
            }
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if minimum > 0.0 {
                (minimum, scale) = (0.0, sum_xl / sum_l2);
            }
            let now = error(&tried, scale, minimum);
            if now < least {
                codes.copy_from_slice(&tried);
                (least, best) = (now, Fit { scale, less: -minimum });
                // Later steps count from the minimum that was found.
                low = minimum;
            }
        }
        best
    }
}

/// q6_k: symmetric codes of 6 bits. The group whose scale is greatest gets −128.
pub(super) fn q6_k(x: &[f32], codes: &mut [u32], out: &mut Stored) -> Option<()> {
    let scales: Vec<f32> = x
        .chunks(SMALL_GROUP)
        .zip(codes.chunks_mut(SMALL_GROUP))
        .map(|(x, codes)| fit_symmetric(x, codes))
        .collect();
    if scales.iter().any(|scale| !scale.is_finite()) {
        return None;
    }
    let most = most(&scales);
    if most.abs() < TINY {
        out.halves.push([f16::ZERO; 2]);
        out.groups.extend(scales.iter().map(|_| [0; 2]));
        codes.fill(0);
        return Some(());
    }
    let per_scale = -128.0 / most;
    let upper = half(1.0 / per_scale)?;
    out.halves.push([upper, f16::ZERO]);
    for ((x, codes), scale) in x.chunks(SMALL_GROUP).zip(codes.chunks_mut(SMALL_GROUP)).zip(scales)
    {
        let level = (per_scale * scale).round_ties_even().clamp(-128.0, 127.0);
        out.groups.push([level as i8, 0]);
        let d = upper.to_f32() * level;
        if d == 0.0 {
            continue;
        }
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = symmetric(x / d);
        }
    }
    Some(())
}

/// Half the codes of q6_k, which is the zero point.
const HALF: i32 = 32;

/// Returns the nearest code, with ties to even.
fn symmetric(steps: f32) -> u32 {
    ((steps.round_ties_even() as i32).clamp(-HALF, HALF - 1) + HALF) as u32
}

/// Finds the scale of least error among 19 for which the greatest weight is −32 steps or a little more or
/// less, and its codes. The error of a weight counts with the square of the weight.
fn fit_symmetric(x: &[f32], codes: &mut [u32]) -> f32 {
    let most = most(x);
    if most.abs() < TINY {
        codes.fill(0);
        return 0.0;
    }
    // Least squares for the codes that a reciprocal of the scale gives: Σ w·x·l and Σ w·l².
    let sums = |per_unit: f32| {
        let mut sums = (0.0f32, 0.0f32);
        for &x in x {
            let (l, w) = ((symmetric(per_unit * x) as i32 - HALF) as f32, x * x);
            sums = (sums.0 + w * x * l, sums.1 + w * l * l);
        }
        sums
    };
    let mut chosen = -(HALF as f32) / most;
    let (sum_xl, sum_l2) = sums(chosen);
    let mut scale = if sum_l2 == 0.0 { 0.0 } else { sum_xl / sum_l2 };
    let mut best = scale * sum_xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let per_unit = -(HALF as f32 + 0.1f32 * step as f32) / most;
        let (sum_xl, sum_l2) = sums(per_unit);
        if sum_l2 > 0.0 && sum_xl * sum_xl > best * sum_l2 {
            scale = sum_xl / sum_l2;
            (best, chosen) = (scale * sum_xl, per_unit);
        }
    }
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = symmetric(chosen * x);
    }
    scale
}
