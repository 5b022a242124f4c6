//! The error of a layer's output in W8A8, measured on rows of X.

use super::{Linear, SmoothError, scale_columns};
use crate::compress::calibrate::ActivationRange;
use crate::compress::rows::each_row;
use crate::compress::{flushed, quantize};
use crate::format::{Granularity, StaticScale, WeightFormat};

/// Returns `Y = X · Wᵀ` of each layer, computed in f64.
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

/// Layers that take the same X, and rows of that X to measure their output on.
pub(super) struct Measured<'a> {
    x: &'a [f32],
    k: usize,
    linears: &'a [Linear<'a>],
    /// What each layer makes of X.
    exact: Vec<Vec<f64>>,
}

/// An i32 holds the sum of this many products of int8 codes, since 2¹⁷ · 127² < 2³¹.
const SUMS: usize = 1 << 17;

impl<'a> Measured<'a> {
    pub fn new(x: &'a [f32], k: usize, linears: &'a [Linear<'a>]) -> Self {
        Self { x, k, linears, exact: exact(x, k, linears) }
    }

    /// Returns `‖Y − Ŷ‖ / ‖Y‖` for the given factors. `range` is that of the smoothed X.
    pub fn error(&self, factors: &[f32], range: ActivationRange) -> Result<f64, SmoothError> {
        let k = self.k;
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
        // If Y is 0 throughout, the codes are 0 as well and the error is 0, not 0/0.
        Ok(if error == 0.0 { 0.0 } else { (error / norm).sqrt() })
    }
}

fn dot(a: &[i16], b: &[i16]) -> i64 {
    let part = |(a, b): (&[i16], &[i16])| {
        let sum: i32 = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
        i64::from(sum)
    };
    a.chunks(SUMS).zip(b.chunks(SUMS)).map(part).sum()
}
