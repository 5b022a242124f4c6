//! The bound on the difference between the result of an f32 kernel and the exact sum.
//!
//! # The model of arithmetic
//!
//! WGSL allows +, − and × to return either neighbor of a result that is not representable, and
//! allows `fma` to be fused or not. Let u = 2⁻²³ and η = 2⁻¹²⁶ (the least normal f32). Then
//!
//! ```text
//! fl(a ∘ b) = (a ∘ b)(1 + δ) + ε,   |δ| ≤ u,   |ε| ≤ η
//! ```
//!
//! where ε ≠ 0 only for results below η. One ε per value is enough, wherever subnormals are
//! flushed: a value is flushed either where it is written or where it is next read, but not at
//! both, and |ε| < η for both kinds of loss. An input may also be flushed once, which only makes it
//! smaller. A fused multiply-add has one δ and one ε less. Exact results stay exact: adding 0,
//! multiplying by 0 or 1, small integers, `c − z`, and removing the offset of a magic number.
//! Therefore zero-padded terms cost nothing, and T counts only the products that are not 0. T is at
//! most the number of kept weights (only the non-zero ones, unless the zero point is folded), and
//! at most the number of non-zero x.
//!
//! # Relative part
//!
//! The scale may be applied to each weight, or to each partial sum of a block, a lane or a group.
//! In every case, a term (c−z)·s·x goes through one rounding for each of its two products, and
//! through the additions above it. The partial sums and their scaling form a tree whose leaves are
//! the T terms and the bias. Scaling does not branch, and the path of every term passes exactly one
//! scaling. A tree of T + 1 leaves has T additions, so that
//!
//! ```text
//! R = 2 + (T − 1) + [bias]          roundings per term; one less without scales (f32, f16)
//! |ŷ − y| ≤ γ_R · S,   S = Σ|x||w| + |b|,   γ_R = R·u / (1 − R·u)
//! ```
//!
//! for any tree, order and width, including split-K. The usual bound has K + 2 for R.
//!
//! If the zero point is folded, the kernel computes s·(Σcx − z·Σx). If it does so inside a block,
//! each path has one more subtraction: R + 1. A kernel may instead add s·Σcx and −(s·z)·Σx to its
//! accumulator separately. Then there are 2B + 1 leaves above its B blocks. A term in a block of
//! n_b terms goes through n_b − 1 additions in the block, 2 products, and at most 2B more
//! additions. All other blocks have at least two terms, except for some number B₁ of blocks with
//! one term. Therefore T ≥ n_b + 2(B−1) − B₁, and the count is at most T + 3 + B₁. There are at
//! most G blocks with one term if blocks are groups, or if they are equal parts of groups with one
//! remainder each:
//!
//! ```text
//! R = 3 + (T − 1) + [bias] + G,   S = Σ s(|c| + |z|)|x| + |b|
//! ```
//!
//! with c and z as they are stored. If folding happens per weight, as c·s − (z·s) followed by ·x,
//! there are 3 roundings, which this bound covers. The usual bound has K + 3, which is too small
//! for blocks with one term (g = 1, or 2:4 with g < 4).
//!
//! # Absolute part
//!
//! Each ε reaches the result through the factors that follow it: (1 + γ_R), and also s if it arises
//! inside a partial sum that is scaled later. Scales are normal numbers, so (c−z)·s is normal or 0
//! and has no ε. Over the kept weights, in units of η:
//!
//! - a flushed x costs |w|, a flushed f32 weight costs |x|, and a flushed bias costs 1;
//! - scaling per weight costs 1 per product, and the additions cost at most T in all;
//! - scaling per block of n_b terms costs s per product, s for each of n_b − 1 additions, 1 for the
//!   scaling, and 1 for the addition to other blocks or to the bias. A block costs (2n_b − 1)s + 2
//!   ≤ 3·n_b·max(1, s).
//!
//! ```text
//! A = Σ(|w| + 3·max(1, s)) + Σ|x| + 3
//! ```
//!
//! The usual bound has 2·max(1, s) and G. It is correct for one block per group, but not if a group
//! is scaled in several parts: with s < 1 and parts of one weight each, a weight costs s + 2.
//!
//! If the zero point is folded, a flushed x in both sums costs s(|c| + |z|), the product c·x costs
//! s, the additions in both sums cost s + |z|s, the product with z costs s, the subtraction costs
//! s, and the scalings and additions above cost 2 + 2. Together this is at most
//!
//! ```text
//! A = Σ(2·s(|c| + |z|) + 8·max(1, s)) + Σ|x| + 3
//! ```
//!
//! # Minima, two levels, codebooks and 8-bit floats
//!
//! The number v(c) of a code is exact: a difference of integers, an entry of a table of f32, or an
//! 8-bit float. What follows concerns formats whose weight is v(c)·s + m.
//!
//! **Two levels.** s is the product of a scale a group and one a super-block. An 8-bit integer times
//! an f16 has at most 8 + 11 bits, so that product is exact and nothing changes. An e4m3 float times
//! an f32 is rounded: each term goes through one rounding more, and R is greater by 1.
//!
//! **Minima.** A kernel may compute v·s + m for each weight: a term then has one addition more, and
//! what it is relative to is |v||s| + |m|, because the sum may cancel. A kernel may instead keep Σvx
//! and Σx apart in each block and add s·Σvx and m·Σx to its accumulator: that is the case of a folded
//! zero point with |m| for s|z|. R and A of the folded case cover both, where T counts the terms
//! with |v||s| + |m| ≠ 0:
//!
//! ```text
//! R = 3 + (T − 1) + [bias] + G,   S = Σ (|v||s| + |m|)|x| + |b|
//! A = Σ(2·(|v||s| + |m|) + 8·max(1, |s|, |m|)) + Σ|x| + 3
//! ```
//!
//! For integers |v| is |c| + |z|, which covers a kernel that folds the fixed zero point as well. If
//! the zero point z is a float, m = −z·s is rounded once: its path (z·s, the additions, the product
//! with x) is as long as that of v·s·x, so that R stands.
//!
//! **Small numbers.** Above, scales were normal numbers and v·s an integer times one of them, so that
//! it was normal or 0. A scale may now be subnormal, and v may be less than 1. If s, v·s, m or their
//! sum is below η, it may count as 0, and that costs |v||x|, |x|, |x| and |x| in units of η. For rows
//! that have such a weight, V = max(|v|) + 3 over those weights, and A is greater by V·Σ|x|.
//!
//! # The error of the reference itself
//!
//! y and S are f64 sums of rounded f64 products, with at most T + 2 roundings of 2⁻⁵³ each (zeros
//! add none), so each has an error of less than (T + 4)·2⁻⁵³·S. With γ_R ≤ 1/3, the error of γ_R·S
//! is a third of that. Both are covered by (T + 4)·2⁻⁵²·S.

use super::ReferenceError;
use super::row::Weight;
use crate::format::{ScaleType, WeightFormat};

/// u = 2⁻²³: the relative error of one f32 operation that may return either neighbor.
pub const UNIT: f64 = 1.0 / 8_388_608.0;

/// η = 2⁻¹²⁶: the least normal f32. Results below it may become 0.
pub const ETA: f64 = f32::MIN_POSITIVE as f64;

/// The largest number of roundings in a sum. With more, an error is returned: R·u is ¼ at this
/// limit, and a bound close to the sum itself says nothing.
pub const MAX_ROUNDINGS: usize = 1 << 21;

/// Returns γₙ = n·u / (1 − n·u), the relative error of a product after n roundings. It is infinite
/// for n·u ≥ 1.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * UNIT;
    if nu < 1.0 { nu / (1.0 - nu) } else { f64::INFINITY }
}

/// Returns the roundings that scaling a weight of a format takes.
pub(super) fn scalings(format: &WeightFormat) -> usize {
    match (format.code_type().has_scales(), format.scale_type()) {
        (false, _) => 0,
        (true, ScaleType::E4m3Tensor) => 2,
        (true, _) => 1,
    }
}

/// Returns what a weight's small numbers cost in units of η and of |x|: V of the derivation, or 0 if
/// its scale, its minimum, their product and sum are normal or 0.
pub(super) fn small_numbers(weight: &Weight) -> f64 {
    let small = |value: f64| value != 0.0 && value.abs() < ETA;
    let Weight { number, scale, minimum, value, .. } = *weight;
    // The value of a float is its code: nothing is computed.
    let scaled = number != value || scale != 1.0;
    if scaled && [scale, number * scale, minimum, value].into_iter().any(small) {
        number.abs() + 3.0
    } else {
        0.0
    }
}

/// The quantities that the bound of one sum depends on.
pub(super) struct Sum {
    /// T: the number of products that are not 0.
    pub terms: usize,
    /// The roundings of scaling a weight: 0 for floats, 1 for scales of one level, 2 if two levels
    /// are multiplied and their product is rounded. See [`scalings`].
    pub scalings: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// G if the zero point is folded or there are minima, otherwise `None`.
    pub folded_groups: Option<usize>,
    /// S: the magnitude that relative errors are multiplied by.
    pub magnitude: f64,
    /// A: the sum of the absolute errors, in units of η.
    pub flushes: f64,
}

impl Sum {
    /// Returns R of the derivation.
    fn roundings(&self) -> usize {
        if self.terms == 0 {
            // Only the bias is left, and adding 0 to it is exact.
            return 0;
        }
        let products = 1 + self.scalings;
        let additions = self.terms - 1 + usize::from(self.bias);
        products + additions + self.folded_groups.map_or(0, |groups| 1 + groups)
    }

    /// Returns the bound on |ŷ − y| before any rounding to f16.
    ///
    /// # Errors
    /// Returns [`ReferenceError::TooManyTerms`] if R exceeds [`MAX_ROUNDINGS`].
    pub fn bound(&self) -> Result<f64, ReferenceError> {
        let roundings = self.roundings();
        if roundings > MAX_ROUNDINGS {
            return Err(ReferenceError::TooManyTerms { roundings });
        }
        let gamma = gamma(roundings);
        let own = (self.terms + 4) as f64 * f64::EPSILON;
        let own = if self.terms == 0 { 0.0 } else { own };
        Ok((gamma + own) * self.magnitude + ETA * self.flushes * (1.0 + gamma))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundings_by_hand() {
        let sum = |terms, scalings, bias, folded_groups| {
            Sum { terms, scalings, bias, folded_groups, magnitude: 1.0, flushes: 0.0 }.roundings()
        };
        assert_eq!(sum(1, 1, false, None), 2);
        assert_eq!(sum(1, 0, false, None), 1);
        assert_eq!(sum(1, 1, true, None), 3);
        assert_eq!(sum(1, 2, true, None), 4);
        assert_eq!(sum(4096, 1, true, None), 4096 + 2);
        assert_eq!(sum(4096, 1, true, Some(1)), 4096 + 4);
        assert_eq!(sum(0, 1, true, Some(9)), 0);
    }

    #[test]
    fn gammas() {
        assert_eq!(gamma(0), 0.0);
        assert!(gamma(4098) > 4098.0 * UNIT && gamma(4098) < 4101.0 * UNIT);
        assert_eq!(gamma(1 << 23), f64::INFINITY);
        let sum = Sum {
            terms: MAX_ROUNDINGS,
            scalings: 1,
            bias: false,
            folded_groups: None,
            magnitude: 1.0,
            flushes: 0.0,
        };
        assert_eq!(sum.bound(), Err(ReferenceError::TooManyTerms { roundings: MAX_ROUNDINGS + 1 }));
    }
}
