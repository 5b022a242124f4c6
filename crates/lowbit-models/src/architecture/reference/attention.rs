//! Attention in f64, over whole sequences.

use super::ReferenceError;
use super::load::{Loader, Rows, dot};
use crate::architecture::{Attention, Pairs, RelativeBias, Rotary, RotaryScaling};
use std::f64::consts::PI;

/// Returns the attention of normalized rows `x` of `hidden` columns. A token at which `seen` is false is seen
/// by no other.
pub(super) fn run(
    loader: &Loader<'_>,
    attention: &Attention,
    x: &[f64],
    hidden: usize,
    seen: &[bool],
) -> Result<Vec<f64>, ReferenceError> {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let size = |heads: usize| heads.checked_mul(head_dim).filter(|size| *size > 0);
    let (Some(queries), Some(keys)) = (size(heads), size(kv_heads)) else {
        return Err(ReferenceError::Heads { heads, kv_heads, head_dim });
    };
    if !heads.is_multiple_of(kv_heads) {
        return Err(ReferenceError::Heads { heads, kv_heads, head_dim });
    }
    let mut q = loader.dense(&attention.query, queries, hidden)?.run(x);
    let mut k = loader.dense(&attention.key, keys, hidden)?.run(x);
    let v = loader.dense(&attention.value, keys, hidden)?.run(x);
    if let Some(norm) = &attention.query_norm {
        q = loader.norm(norm, head_dim)?.run(&q);
    }
    if let Some(norm) = &attention.key_norm {
        k = loader.norm(norm, head_dim)?.run(&k);
    }
    if let Some(rotary) = &attention.rotary {
        let rotation = Rotation::new(loader, rotary)?;
        for (rows, columns) in [(&mut q, queries), (&mut k, keys)] {
            for (position, row) in rows.chunks_exact_mut(columns).enumerate() {
                row.chunks_exact_mut(head_dim).for_each(|head| rotation.run(head, position));
            }
        }
    }
    let bias = match &attention.relative_bias {
        Some(bias) => Some((loader.matrix(&bias.table, Some(bias.buckets), heads)?, bias)),
        None => None,
    };
    let mut mixed = vec![0.0; q.len()];
    for (at, (q, mixed)) in q.chunks_exact(queries).zip(mixed.chunks_exact_mut(queries)).enumerate()
    {
        for (head, (q, mixed)) in
            q.chunks_exact(head_dim).zip(mixed.chunks_exact_mut(head_dim)).enumerate()
        {
            let own = head / (heads / kv_heads) * head_dim;
            let of_head = |rows: &[f64], at: usize| {
                let start = at * keys + own;
                rows.get(start..start + head_dim).unwrap_or_default().to_vec()
            };
            let mut scores = Vec::new();
            for other in 0..seen.len() {
                let future = attention.causal && other > at;
                let far = attention.window.is_some_and(|window| at.abs_diff(other) >= window);
                if future || far || !seen.get(other).copied().unwrap_or(false) {
                    continue;
                }
                let mut score = dot(q, &of_head(&k, other)) * f64::from(attention.scale);
                if let Some(cap) = attention.soft_cap.map(f64::from) {
                    score = cap * (score / cap).tanh();
                }
                if let Some((table, bias)) = &bias {
                    score += bias_of(table, bias, head, at, other);
                }
                scores.push((other, score));
            }
            let largest = scores.iter().fold(f64::NEG_INFINITY, |max, (_, score)| max.max(*score));
            let sum: f64 = scores.iter().map(|(_, score)| (score - largest).exp()).sum();
            for (other, score) in scores {
                let weight = (score - largest).exp() / sum;
                for (mixed, v) in mixed.iter_mut().zip(of_head(&v, other)) {
                    *mixed += weight * v;
                }
            }
        }
    }
    Ok(loader.dense(&attention.output, hidden, queries)?.run(&mixed))
}

/// Returns the bias of a head for the score of the token at `at` with that at `other`.
fn bias_of(table: &Rows, bias: &RelativeBias, head: usize, at: usize, other: usize) -> f64 {
    let place = bias.bucket(at, other) * table.k + head;
    table.values.get(place).copied().unwrap_or(f64::NAN)
}

/// The angles of a rotary embedding.
struct Rotation {
    pairs: Pairs,
    /// By how much each pair turns from one position to the next.
    angles: Vec<f64>,
    /// What cosines and sines are multiplied with.
    factor: f64,
}

impl Rotation {
    fn new(loader: &Loader<'_>, rotary: &Rotary) -> Result<Self, ReferenceError> {
        let dim = rotary.dim as f64;
        let plain = (0..rotary.dim / 2).map(|pair| rotary.base.powf(-2.0 * pair as f64 / dim));
        let mut factor = 1.0;
        let angles = match &rotary.scaling {
            RotaryScaling::None => plain.collect(),
            RotaryScaling::Linear(by) => plain.map(|angle| angle / by).collect(),
            RotaryScaling::Divisors(vector) => {
                let divisors = loader.vector(vector, rotary.dim / 2)?;
                plain.zip(divisors).map(|(angle, divisor)| angle / divisor).collect()
            }
            &RotaryScaling::Llama3 { factor, low, high, original_context } => plain
                .map(|angle| {
                    let turns = original_context * angle / (2.0 * PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * angle / factor + kept * angle
                })
                .collect(),
            &RotaryScaling::Yarn {
                factor: by,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                factor = attention_factor.unwrap_or(0.1 * by.ln() + 1.0);
                // The pair that turns so often within the original context.
                let pair = |turns: f64| {
                    dim * (original_context / (turns * 2.0 * PI)).ln() / (2.0 * rotary.base.ln())
                };
                let first = pair(beta_fast).floor().max(0.0);
                let last = pair(beta_slow).ceil().min(dim - 1.0);
                // Avoids a division by 0; any small number does.
                let length = if first == last { 0.001 } else { last - first };
                plain
                    .enumerate()
                    .map(|(pair, angle)| {
                        let divided = ((pair as f64 - first) / length).clamp(0.0, 1.0);
                        divided * angle / by + (1.0 - divided) * angle
                    })
                    .collect()
            }
        };
        Ok(Self { pairs: rotary.pairs, angles, factor })
    }

    /// Rotates a head.
    fn run(&self, head: &mut [f64], position: usize) {
        for (pair, angle) in self.angles.iter().enumerate() {
            let (i, j) = match self.pairs {
                Pairs::Adjacent => (2 * pair, 2 * pair + 1),
                Pairs::Split => (pair, pair + self.angles.len()),
            };
            let (sin, cos) = (position as f64 * angle).sin_cos();
            let (Some(&x), Some(&y)) = (head.get(i), head.get(j)) else { continue };
            for (at, value) in [(i, x * cos - y * sin), (j, x * sin + y * cos)] {
                if let Some(place) = head.get_mut(at) {
                    *place = value * self.factor;
                }
            }
        }
    }
}

impl RelativeBias {
    /// Returns the bucket of the token at `other` as the token at `at` sees it.
    ///
    /// The first half of the buckets is for tokens up to `at`, the second for those after it. In each half
    /// the first half has a bucket for each distance; the others are divided on a logarithmic scale up to
    /// the greatest distance, and the last has all that are farther.
    pub fn bucket(&self, at: usize, other: usize) -> usize {
        let half = self.buckets / 2;
        let exact = half / 2;
        let distance = at.abs_diff(other);
        let start = if other > at { half } else { 0 };
        if distance < exact {
            return start + distance;
        }
        // `transformers` computes this in f32 and rounds down. At the distances where the share is a whole
        // number in exact arithmetic, f32 gives one just below it, or not; f32 is used here, too.
        let share = (distance as f32 / exact as f32).ln()
            / (self.max_distance as f64 / exact as f64).ln() as f32;
        let more = (share * (half - exact) as f32) as usize;
        start + (exact + more).min(half.saturating_sub(1))
    }
}
