//! Attention over a cache in f64, and the bound of an online softmax.
//!
//! # The bound
//!
//! u, η and γₙ are those of the bound on matmuls (`bound`). A row sees n slots. What is stored is
//! exact: f16 numbers and codes times their scale are taken as they are.
//!
//! **Scores.** s = f(a·Σqk), where f applies the soft cap and adds the bias. A term of the sum goes
//! through its product, at most d − 1 additions, the scale of the slot, and a. An input below η may
//! count as 0, and so may a product or sum, which costs Σ|q| + Σ|k| + 3d in units of η:
//!
//! ```text
//! δ = γ_(d+2)·|a|·Σ|q||k| + η·|a|·(Σ|q| + Σ|k| + 3d·max(1, scale of the slot)) + η
//! ```
//!
//! The soft cap c·tanh(s/c) is computed as c·(1 − 2/(e^2x + 1)) with x = s/c, cut off at ±10, where tanh
//! differs from ±1 by less than u/16. Its slope is at most 1. In units of u: x costs 2.5|x|·sech²x ≤ 1.2,
//! the exponential, off by 3 + 4|x| ulp, at most (3 + 4|x|)·2e^2x/(e^2x + 1)² ≤ 2, the sum 2, the division
//! 2.5·2, and the difference and the last product 1 each, so that δ grows by 13·u·c. The bias adds one
//! rounding, u·(|s| + δ + |bias|).
//!
//! **Weights.** A kernel scales weights and sums to the largest score that it has met. The weight of a slot
//! is a product of e^x for differences x of computed scores: its own distance from the maximum at that
//! time, and the distances of each maximum from the next. They add up to D = (the last maximum) − s. A
//! difference is off by u|x|, e^x by 3 + 2|x| ulp, and a product by one rounding. Factors of unchanged
//! maxima are exactly 1. With c changes of the maximum, counting the combination of parts,
//!
//! ```text
//! ε = u·(3D + 4c + 3)
//! ```
//!
//! Kernels meet at least eight slots at a time, and the last maximum comes from one combination, so that
//! c ≤ ⌈n/8⌉ + 2. Any order and any split of the cache is covered. The last maximum itself does not matter,
//! because it cancels; D is at most the difference of exact scores plus the errors of both. So a weight is
//! e^s times (1 + θ), |θ| ≤ e^(δ+ε) − 1 =: t, common factors aside. Exponentials of less than −100 may
//! count as e^−100, and results below η as 0, which costs c + 4 in units of η of the largest weight.
//!
//! **Sums.** Let p be the exact weights, Σp = 1, and v the values. Weighted values have a rounding for the
//! scale of the slot, one for the product, and n additions; the sum of weights has n additions. The
//! numerator is off by Σp|v|·A with A = (1+t)(1+γ_(n+2)) − 1, and the denominator by B = Σp·((1+t)(1+γ_n) − 1).
//! A reciprocal of 2.5 ulp and a product follow:
//!
//! ```text
//! |ŷ − y| ≤ ((Σp|v|A + |y|B) / (1 − B))·(1 + γ₄) + γ₄|y| + η·(c + 4)·(2Σ|v| + n|y| + 2n + 4)
//! ```
//!
//! If B ≥ 1, nothing is known and the bound is infinite. A row that sees nothing is exactly 0.
//!
//! **The inverse Hadamard transform** adds b values with signs and multiplies by 1/√b: the bounds of the
//! block add up, divided by √b, and each value goes through log₂ b additions, the rounded factor, and the
//! product. Kernels may take it of results that were written as f16 already.
//!
//! The f64 sums of this module have errors below 10⁻¹²·Σp|v|·(1 + max δ/u·10⁻⁹), which is added as
//! 10⁻¹¹·Σp|v|.

use super::bound::{ETA, UNIT, gamma};
use super::{
    Expected, OutputType, ReferenceError, check_finite, check_length, f16_to_f64, room_for,
};
use crate::format::CacheFormat;

/// The input of one attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCase<'a> {
    /// Queries `[m, heads, head_dim]`.
    pub q: &'a [f32],
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Slots of the cache.
    pub slots: usize,
    /// How keys and values are stored.
    pub format: CacheFormat,
    /// The words of the cache of keys.
    pub keys: &'a [u32],
    /// The words of the cache of values.
    pub values: &'a [u32],
    /// Position, slot, first visible slot and the end of the visible slots of each row.
    pub rows: &'a [[u32; 4]],
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// The soft cap of scores, or 0.
    pub soft_cap: f32,
    /// The bias by relative position, `[heads, 2·reach + 1]`, and its reach.
    pub bias: Option<(&'a [f32], usize)>,
    /// Whether an inverse Hadamard transform of each head follows.
    pub hadamard: bool,
    /// The type of the results.
    pub output: OutputType,
}

/// A row of keys or values.
struct Stored {
    numbers: Vec<f64>,
    scale: f64,
}

/// Decodes a head of a slot.
fn stored(case: &AttentionCase<'_>, words: &[u32], head: usize, slot: usize) -> Stored {
    let (d, index) = (case.head_dim, head * case.slots + slot);
    let bits = match case.format {
        CacheFormat::F32 => 32,
        CacheFormat::F16 => 16,
        CacheFormat::Int8 => 8,
        CacheFormat::Int4 => 4,
    };
    let row_words = (d * bits).div_ceil(128) * 4;
    let row = &words[index * row_words..][..row_words];
    let scale = match case.format {
        CacheFormat::F32 | CacheFormat::F16 => 1.0,
        CacheFormat::Int8 | CacheFormat::Int4 => {
            f64::from(f32::from_bits(words[case.kv_heads * case.slots * row_words + index]))
        }
    };
    let number = |column: usize| match case.format {
        CacheFormat::F32 => f64::from(f32::from_bits(row[column])),
        CacheFormat::F16 => f16_to_f64((row[column / 2] >> (16 * (column % 2))) as u16),
        CacheFormat::Int8 => f64::from((row[column / 4] >> (8 * (column % 4))) as u8 as i8),
        CacheFormat::Int4 => {
            let shift = 8 * (column % 4) + 4 * (column / 4 % 2);
            f64::from(row[column / 8] >> shift & 15) - 8.0
        }
    };
    Stored { numbers: (0..d).map(|column| number(column) * scale).collect(), scale }
}

/// Returns the number of words of a cache.
fn cache_words(case: &AttentionCase<'_>) -> usize {
    let rows = case.kv_heads * case.slots;
    let words = match case.format {
        CacheFormat::F32 => rows * case.head_dim.div_ceil(4) * 4,
        CacheFormat::F16 => rows * case.head_dim.div_ceil(8) * 4,
        CacheFormat::Int8 => rows * (case.head_dim.div_ceil(16) * 4 + 1),
        CacheFormat::Int4 => rows * (case.head_dim.div_ceil(32) * 4 + 1),
    };
    // Padded, so that a kernel may read four scales at once.
    words.next_multiple_of(4)
}

/// A slot that a row sees: its score, the error of that, and its values.
struct Seen<'a> {
    score: f64,
    error: f64,
    values: &'a [f64],
}

/// Returns the expected results `[m, heads, head_dim]`. See the comment of this file for the bound.
///
/// # Errors
/// Returns a [`ReferenceError`] if an input has the wrong length, or a query, key or value that is seen is
/// not finite.
pub fn attention(case: &AttentionCase<'_>) -> Result<Vec<Expected>, ReferenceError> {
    let &AttentionCase { heads, kv_heads, head_dim: d, rows, .. } = case;
    check_length("q", rows.len() * heads * d, case.q.len())?;
    check_length("keys", cache_words(case), case.keys.len())?;
    check_length("values", cache_words(case), case.values.len())?;
    check_finite("q", heads * d, case.q)?;
    if let Some((bias, reach)) = case.bias {
        check_length("bias", heads * (2 * reach + 1), bias.len())?;
        check_finite("bias", 2 * reach + 1, bias)?;
    }
    let mut out = room_for(rows.len() * heads, d)?;
    let mut decoded: Vec<Option<[Stored; 2]>> = room_for(kv_heads, case.slots)?;
    decoded.resize_with(kv_heads * case.slots, || None);
    for (row, &[_, slot, first, end]) in rows.iter().enumerate() {
        let end = (end as usize).min(case.slots);
        let visible = (first as usize).min(end)..end;
        for head in 0..heads {
            let q: Vec<f64> =
                case.q[(row * heads + head) * d..][..d].iter().map(|&v| v.into()).collect();
            let kv_head = head / (heads / kv_heads.max(1)).max(1);
            let known = &mut decoded[kv_head * case.slots..][..case.slots];
            for at in visible.clone() {
                if known[at].is_none() {
                    known[at] = Some(finite(case, kv_head, at)?);
                }
            }
            let mut seen = Vec::with_capacity(visible.len());
            for (at, stored) in visible.clone().zip(&known[visible.clone()]) {
                let Some([keys, values]) = stored else { continue };
                let bias = case.bias.map(|(bias, reach)| {
                    let distance = at as i64 - i64::from(slot);
                    let distance = distance.clamp(-(reach as i64), reach as i64) + reach as i64;
                    f64::from(bias[head * (2 * reach + 1) + distance as usize])
                });
                let (score, error) = score(case, &q, keys, bias);
                seen.push(Seen { score, error, values: &values.numbers });
            }
            let results = weighted(&seen, d);
            let results = if case.hadamard { transformed(&results, case.output) } else { results };
            out.extend(results.iter().map(|&(value, bound)| {
                if seen.is_empty() {
                    Expected::new(0.0, 0.0, case.output)
                } else {
                    Expected::new(value, bound, case.output)
                }
            }));
        }
    }
    Ok(out)
}

/// Decodes keys and values of a head of a slot, which must be finite.
fn finite(
    case: &AttentionCase<'_>,
    head: usize,
    slot: usize,
) -> Result<[Stored; 2], ReferenceError> {
    let both = [case.keys, case.values].map(|words| stored(case, words, head, slot));
    for (role, stored) in ["keys", "values"].into_iter().zip(&both) {
        if let Some(column) = stored.numbers.iter().position(|v| !v.is_finite()) {
            return Err(ReferenceError::NonFinite { role, row: slot, column });
        }
    }
    Ok(both)
}

/// Returns a score and its error.
fn score(case: &AttentionCase<'_>, q: &[f64], keys: &Stored, bias: Option<f64>) -> (f64, f64) {
    let scale = f64::from(case.scale);
    let pairs = || q.iter().zip(&keys.numbers);
    let product: f64 = pairs().map(|(q, k)| q * k).sum();
    let magnitude: f64 = pairs().map(|(q, k)| (q * k).abs()).sum();
    let sizes: f64 = pairs().map(|(q, k)| q.abs() + k.abs()).sum();
    let flushes = sizes + 3.0 * q.len() as f64 * keys.scale.abs().max(1.0);
    let mut s = scale * product;
    let mut error = scale.abs() * (gamma(q.len() + 2) * magnitude + ETA * flushes) + ETA;
    let cap = f64::from(case.soft_cap);
    if cap > 0.0 {
        s = cap * (s / cap).tanh();
        error += 13.0 * UNIT * cap;
    }
    if let Some(bias) = bias {
        error += UNIT * (s.abs() + error + bias.abs()) + ETA;
        s += bias;
    }
    (s, error)
}

/// Returns the mean of the values by their weights, and its bound, for each column.
fn weighted(seen: &[Seen<'_>], d: usize) -> Vec<(f64, f64)> {
    let n = seen.len();
    let changes = n.div_ceil(8) as f64 + 2.0;
    let most = seen.iter().map(|s| s.score).fold(f64::NEG_INFINITY, f64::max);
    let most_error = seen.iter().map(|s| s.error).fold(0.0, f64::max);
    let total: f64 = seen.iter().map(|s| (s.score - most).exp()).sum();
    // Each slot has its weight, and the errors of the weight in the sum of weights and in that of values.
    let weights: Vec<(f64, f64, f64)> = seen
        .iter()
        .map(|s| {
            let distance = most - s.score + s.error + most_error;
            let off = UNIT * (3.0 * distance + 4.0 * changes + 3.0);
            let t = (s.error + off).exp();
            let weight = (s.score - most).exp() / total;
            (weight, t * (1.0 + gamma(n)) - 1.0, t * (1.0 + gamma(n + 2)) - 1.0)
        })
        .collect();
    let below: f64 = weights.iter().map(|(weight, b, _)| weight * b).sum();
    (0..d)
        .map(|column| {
            let terms = || weights.iter().zip(seen.iter().map(|s| s.values[column]));
            let y: f64 = terms().map(|((weight, ..), v)| weight * v).sum();
            let magnitude: f64 = terms().map(|((weight, ..), v)| weight * v.abs()).sum();
            let above: f64 = terms().map(|((weight, _, a), v)| weight * v.abs() * a).sum();
            let sizes: f64 = terms().map(|(_, v)| v.abs()).sum();
            if below >= 1.0 {
                return (y, f64::INFINITY);
            }
            let relative = (above + y.abs() * below) / (1.0 - below) * (1.0 + gamma(4));
            let n = n as f64;
            let flushes = (changes + 4.0) * (2.0 * sizes + n * y.abs() + 2.0 * n + 4.0);
            (y, relative + gamma(4) * y.abs() + ETA * flushes + 1e-11 * magnitude)
        })
        .collect()
}

/// Returns the Hadamard transform of results and their bounds.
fn transformed(results: &[(f64, f64)], output: OutputType) -> Vec<(f64, f64)> {
    let written = |&(value, bound): &(f64, f64)| (value, Expected::new(value, bound, output).bound);
    let results: Vec<_> = results.iter().map(written).collect();
    let d = results.len();
    let block = 1usize << d.trailing_zeros();
    let factor = 1.0 / (block as f64).sqrt();
    let roundings = block.trailing_zeros() as usize + 2;
    (0..d)
        .map(|i| {
            let block = &results[i / block * block..][..block];
            let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            // Within a block, only the lowest bits of i and j differ between its columns.
            let low = block.len() - 1;
            let value: f64 = block.iter().enumerate().map(|(j, r)| sign(j & low) * r.0).sum();
            let bound: f64 = block.iter().map(|r| r.1).sum();
            let size: f64 = block.iter().map(|r| r.0.abs() + r.1).sum();
            (value * factor, factor * (bound + gamma(roundings) * size) + 2.0 * ETA)
        })
        .collect()
}
