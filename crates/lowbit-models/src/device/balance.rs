//! Keys whose biases make some columns much larger than others, as those of Qwen2 do. A cache of codes has one scale
//! for all columns of a head, so that the large ones cost the small ones their digits. Here large columns of keys
//! are divided, and those of the queries multiplied, by a factor (as SmoothQuant moves outliers from inputs to
//! weights). The factors are powers of two, so that scores stay as they are, and codes of weights too. A rotation
//! mixes the two columns of a pair, so that these have one factor.

use super::read::Read;
use crate::architecture::{Attention, Pairs, Rotary};
use lowbit::compress::Scheme;
use lowbit::format::{Granularity, ScaleType};

/// What large columns are brought down to: about what columns without such a bias hold. With int8 caches, the
/// first window of a text has a perplexity of 26.92 for Qwen2.5-Coder-0.5B with 4, 26.98 with 2, 27.36 with 1, and
/// 26.90 with f32 caches (rounded in a copy that runs in torch).
const TYPICAL: f32 = 4.0;
/// The largest exponent: f16 keys and queries keep enough of their range.
const MOST: i32 = 6;

/// Exponents of two by which rows of queries and keys are multiplied.
pub(super) struct Balance {
    query: Vec<i32>,
    key: Vec<i32>,
    /// The exponent of two that their products have more.
    products: i32,
}

impl Balance {
    /// Balances the columns of keys with this bias. Returns `None` if none of them stands out, or if heads are
    /// normalized, which undoes factors.
    pub fn new(attention: &Attention, bias: &[f32]) -> Option<Self> {
        let Attention { heads, kv_heads, head_dim, ref rotary, .. } = *attention;
        let normalized = attention.query_norm.is_some() || attention.key_norm.is_some();
        let whole = kv_heads > 0 && head_dim > 0 && heads.is_multiple_of(kv_heads);
        if normalized || !attention.causal || !whole || bias.len() != kv_heads * head_dim {
            return None;
        }
        let exponents: Vec<i32> = (0..bias.len())
            .map(|at| {
                let other = at - at % head_dim + partner(rotary.as_ref(), at % head_dim);
                let most = bias[at].abs().max(bias[other].abs());
                ((most / TYPICAL).max(1.0).log2().round() as i32).min(MOST)
            })
            .collect();
        let products = exponents.iter().copied().max().unwrap_or(0);
        // Factors are not below 1, because small scales in f16 have few digits.
        let key = exponents.iter().map(|exponent| products - exponent).collect();
        let query = (0..heads * head_dim)
            .map(|at| {
                let head = at / head_dim / (heads / kv_heads);
                exponents[head * head_dim + at % head_dim]
            })
            .collect();
        (products > 0).then_some(Self { query, key, products })
    }

    /// Returns the exponents of the rows of queries and of keys.
    pub fn exponents(&self) -> [&[i32]; 2] {
        [&self.query, &self.key]
    }

    /// Returns what scores are multiplied with to be what they were.
    pub fn score_factor(&self) -> f32 {
        2f32.powi(-self.products)
    }

    /// Multiplies the rows of queries and keys, the first two of three matrices. Returns the matrices as they were
    /// if that is not exact.
    pub fn apply(&self, reads: Vec<Read>, scheme: Option<&Scheme>) -> (Vec<Read>, bool) {
        let [query, key, _] = &reads[..] else { return (reads, false) };
        match (times(query, &self.query, scheme), times(key, &self.key, scheme)) {
            (Some(query), Some(key)) => {
                let value = reads.into_iter().nth(2);
                ([query, key].into_iter().chain(value).collect(), true)
            }
            _ => (reads, false),
        }
    }
}

/// Multiplies the rows of a matrix by powers of two, if that is exact.
fn times(read: &Read, exponents: &[i32], scheme: Option<&Scheme>) -> Option<Read> {
    // Rows that share a scale would lose digits where these are compressed.
    let shared = scheme.map(Scheme::format).is_some_and(|format| {
        format.granularity() == Granularity::Tensor || format.scale_type() == ScaleType::E4m3Tensor
    });
    match read {
        Read::Floats { .. } if shared => None,
        Read::Packed(packed) => Some(Read::Packed(packed.times_powers_of_two(exponents)?)),
        Read::Floats { values, n, k } => {
            if *n != exponents.len() {
                return None;
            }
            let (n, k) = (*n, *k);
            let mut values = values.clone();
            for (row, exponent) in values.chunks_mut(k.max(1)).zip(exponents) {
                row.iter_mut().for_each(|value| *value *= 2f32.powi(*exponent));
            }
            Some(Read::Floats { values, n, k })
        }
    }
}

/// Returns the column of a head that the rotation mixes with this one, or the column itself.
fn partner(rotary: Option<&Rotary>, column: usize) -> usize {
    match rotary {
        Some(Rotary { dim, pairs: Pairs::Adjacent, .. }) if column < dim - dim % 2 => column ^ 1,
        Some(Rotary { dim, pairs: Pairs::Split, .. }) if column < dim / 2 => column + dim / 2,
        Some(Rotary { dim, pairs: Pairs::Split, .. }) if column < dim - dim % 2 => column - dim / 2,
        _ => column,
    }
}
