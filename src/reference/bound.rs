//! How far an f32 kernel may be from the exact sum.
//!
//! # The model of arithmetic
//!
//! WGSL lets +, −, × return either neighbour of a result that is not representable,
//! and `fma` be fused or not. With u = 2⁻²³ and η = 2⁻¹²⁶ (the least normal f32)
//!
//! ```text
//! fl(a ∘ b) = (a ∘ b)(1 + δ) + ε,   |δ| ≤ u,   |ε| ≤ η
//! ```
//!
//! where ε ≠ 0 only for a result below η. One ε a value is enough wherever subnormals
//! are flushed: either where the value is written or where it is next read, not at
//! both, and |ε| < η for both kinds of loss. An input may be flushed once too, and
//! only shrinks. A fused multiply-add leaves one δ and one ε out. Exact results stay
//! exact: adding 0, multiplying by 0 or 1, small integers, `c − z`, and the removal of
//! a magic number's offset. So zero-padded terms cost nothing, and T counts the
//! products that are not 0: at most the weights kept (the non-zero ones, unless the
//! zero point is folded), and at most the non-zero x.
//!
//! # Relative part
//!
//! Wherever the scale is applied (to each weight, to each partial sum of a block, of a
//! lane or of a group), the way of a term (c−z)·s·x to the result is one rounding for
//! each of its two products, and the additions above it. Partial sums and their scaling
//! make a tree whose leaves are the T terms and the bias; scaling does not branch, and
//! each way passes exactly one. A tree of T + 1 leaves has T additions, so that
//!
//! ```text
//! R = 2 + (T − 1) + [bias]          roundings a term; one less without scales (f32, f16)
//! |ŷ − y| ≤ γ_R · S,   S = Σ|x||w| + |b|,   γ_R = R·u / (1 − R·u)
//! ```
//!
//! for any tree, order and width, split-K included. The usual statement has K + 2 for R.
//!
//! Zero point folded: s·(Σcx − z·Σx) has one subtraction more on each way where it is
//! done inside a block: R + 1. A kernel that adds s·Σcx and −(s·z)·Σx to its accumulator
//! separately has 2B + 1 leaves above its B blocks, and a term of a block of n_b terms
//! goes through n_b − 1 additions in it, 2 products, and 2B more additions at most. Other
//! blocks hold at least two terms, but for some number B₁ of blocks of one, so T ≥ n_b +
//! 2(B−1) − B₁ and the count is at most T + 3 + B₁. There are no more than G such blocks
//! where blocks are groups, or even pieces of groups with one remainder each:
//!
//! ```text
//! R = 3 + (T − 1) + [bias] + G,   S = Σ s(|c| + |z|)|x| + |b|
//! ```
//!
//! with c and z as stored. Per weight, c·s − (z·s) then ·x, is 3 roundings: covered.
//! The usual statement has K + 3, which blocks of one term (g = 1, or 2:4 and g < 4) exceed.
//!
//! # Absolute part
//!
//! Each ε reaches the result through the later factors: (1 + γ_R), and s where it is
//! inside a scaled partial sum. Scales are normal numbers, so (c−z)·s is normal or 0
//! and has none. In units of η, over the weights kept:
//!
//! - an x flushed: |w|; an f32 weight flushed: |x|; the bias flushed: 1;
//! - scaled per weight: 1 a product, at most T additions in all;
//! - scaled per block, n_b terms in a block: s a product, s for each of n_b − 1 additions,
//!   1 for the scaling, 1 for the addition to other blocks or to the bias. A block costs
//!   (2n_b − 1)s + 2 ≤ 3·n_b·max(1, s).
//!
//! ```text
//! A = Σ(|w| + 3·max(1, s)) + Σ|x| + 3
//! ```
//!
//! The usual statement has 2·max(1, s) and G, which is right for one block a group, but not where
//! a group is scaled in several pieces: with s < 1 and pieces of one weight, a weight
//! costs s + 2.
//!
//! Folded: x flushed in both sums: s(|c| + |z|); c·x: s; additions in both: s + |z|s;
//! ·z: s; the subtraction: s; scalings and additions above: 2 + 2. Together at most
//!
//! ```text
//! A = Σ(2·s(|c| + |z|) + 8·max(1, s)) + Σ|x| + 3
//! ```
//!
//! # The oracle's own error
//!
//! y and S are f64 sums of rounded f64 products, with at most T + 2 roundings of 2⁻⁵³
//! each (zeros add none), so each is off by less than (T + 4)·2⁻⁵³·S. With γ_R ≤ 1/3 the
//! error of γ_R·S is a third of that: both are covered by (T + 4)·2⁻⁵²·S.

use super::ReferenceError;

/// u: the relative error of one f32 operation that may return either neighbour, 2⁻²³.
pub const UNIT: f64 = 1.0 / 8_388_608.0;

/// η: the least normal f32, 2⁻¹²⁶, below which results may become 0.
pub const ETA: f64 = f32::MIN_POSITIVE as f64;

/// Sums with more roundings than this are refused: R·u = ¼ there, and a bound that
/// nears the sum itself says nothing.
pub const MAX_ROUNDINGS: usize = 1 << 21;

/// γₙ = n·u / (1 − n·u): what n roundings may do to a product. Infinite where n·u ≥ 1.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * UNIT;
    if nu < 1.0 { nu / (1.0 - nu) } else { f64::INFINITY }
}

/// What the bound of one sum depends on.
pub(super) struct Sum {
    /// T: products that are not 0.
    pub terms: usize,
    /// Whether weights have scales.
    pub scaled: bool,
    /// Whether a bias is added.
    pub bias: bool,
    /// G, where the zero point is folded.
    pub folded_groups: Option<usize>,
    /// S: the magnitude that relative errors multiply.
    pub magnitude: f64,
    /// A: how many η absolute errors may add up to.
    pub flushes: f64,
}

impl Sum {
    /// R of the derivation.
    fn roundings(&self) -> usize {
        if self.terms == 0 {
            // Only the bias is left, and adding 0 to it is exact.
            return 0;
        }
        let products = 1 + usize::from(self.scaled);
        let additions = self.terms - 1 + usize::from(self.bias);
        products + additions + self.folded_groups.map_or(0, |groups| 1 + groups)
    }

    /// The bound on |ŷ − y| before any rounding to f16.
    ///
    /// # Errors
    /// [`ReferenceError::TooManyTerms`].
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
        let sum = |terms, scaled, bias, folded_groups| {
            Sum { terms, scaled, bias, folded_groups, magnitude: 1.0, flushes: 0.0 }.roundings()
        };
        assert_eq!(sum(1, true, false, None), 2);
        assert_eq!(sum(1, false, false, None), 1);
        assert_eq!(sum(1, true, true, None), 3);
        assert_eq!(sum(4096, true, true, None), 4096 + 2);
        assert_eq!(sum(4096, true, true, Some(1)), 4096 + 4);
        assert_eq!(sum(0, true, true, Some(9)), 0);
    }

    #[test]
    fn gammas() {
        assert_eq!(gamma(0), 0.0);
        assert!(gamma(4098) > 4098.0 * UNIT && gamma(4098) < 4101.0 * UNIT);
        assert_eq!(gamma(1 << 23), f64::INFINITY);
        let sum = Sum {
            terms: MAX_ROUNDINGS,
            scaled: true,
            bias: false,
            folded_groups: None,
            magnitude: 1.0,
            flushes: 0.0,
        };
        assert_eq!(sum.bound(), Err(ReferenceError::TooManyTerms { roundings: MAX_ROUNDINGS + 1 }));
    }
}
