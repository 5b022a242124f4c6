//! Methods that compress a layer with the statistics of its inputs, on layers of MiniLM: beside what
//! llm-compressor makes of them, and beside each other.

mod orderings;
mod reference;
mod run;
mod statistics;

use lowbit::compress::layerwise::{Gram, Mask, awq};
use lowbit::compress::{Scheme, dequantize, quantize_scheme};

/// A linear layer and rows of its inputs.
struct Layer {
    name: String,
    n: usize,
    k: usize,
    /// `[n, k]`.
    w: Vec<f32>,
    /// `[rows, k]`.
    x: Vec<f32>,
    gram: Gram,
}

impl Layer {
    fn new(name: &str, w: Vec<f32>, x: Vec<f32>, k: usize) -> Self {
        let mut gram = Gram::new(k).unwrap();
        gram.add(&x).unwrap();
        Self { name: name.to_owned(), n: w.len() / k, k, w, x, gram }
    }

    /// Returns the weights after rounding to nearest.
    fn rounded(&self, scheme: &Scheme) -> Vec<f32> {
        dequantize(&quantize_scheme(&self.w, self.n, self.k, scheme).unwrap())
    }

    fn pruned(&self, mask: &Mask) -> Vec<f32> {
        let mut w = self.w.clone();
        mask.apply(&mut w).unwrap();
        w
    }

    /// Returns the weights after the factors that AWQ finds, rounding, and division by the factors.
    fn awq(&self, scheme: &Scheme, grid: usize) -> Vec<f32> {
        let mut mean_abs = vec![0.0; self.k];
        for row in self.x.chunks_exact(self.k) {
            mean_abs.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
        }
        let rows = self.x.len() / self.k;
        mean_abs.iter_mut().for_each(|sum| *sum /= rows as f64);
        let weights = [(&self.w[..], self.n)];
        let factors = awq(&weights, self.k, &self.gram, &mean_abs, scheme, grid).unwrap().factors;
        let scaled: Vec<f32> = each(&self.w, &factors, |w, factor| w * factor);
        let rounded = dequantize(&quantize_scheme(&scaled, self.n, self.k, scheme).unwrap());
        each(&rounded, &factors, |w, factor| w / factor)
    }
}

/// Combines each row of a matrix with a row of factors.
fn each(w: &[f32], factors: &[f32], of: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    w.iter().zip(factors.iter().cycle()).map(|(&w, &factor)| of(w, factor)).collect()
}

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}
