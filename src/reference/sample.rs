//! The tokens that sampling may choose, in f64.

use super::bound::{ETA, UNIT, gamma};

/// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011): four random words for a counter and a key.
///
/// ```
/// // A test vector of the authors' library Random123.
/// let words = lowbit::reference::philox([0; 4], [0; 2]);
/// assert_eq!(words, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let a = u64::from(c0) * 0xd251_1f53;
        let b = u64::from(c2) * 0xcd9e_8d57;
        (c0, c1, c2, c3) =
            ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

/// Returns the first index of the largest number. A NaN is less than any number; if there are only
/// NaN, the result is [`u32::MAX`], which is no token.
pub fn largest(x: &[f32]) -> u32 {
    let mut best: Option<(usize, f32)> = None;
    for (index, &x) in x.iter().enumerate() {
        if !x.is_nan() && best.is_none_or(|(_, most)| x > most) {
            best = Some((index, x));
        }
    }
    best.map_or(u32::MAX, |(index, _)| index as u32)
}

/// One row of logits and what a token is drawn by.
#[derive(Clone, Copy, Debug)]
pub struct SampleCase<'a> {
    /// The logits.
    pub x: &'a [f32],
    /// The number that logits are divided by; with 0 the largest is taken.
    pub temperature: f32,
    /// The number of largest logits that are kept; 0 for all.
    pub top_k: u32,
    /// The share of the probability that is kept.
    pub top_p: f32,
    /// The random number: the token is at random/2³² of the sum of all weights.
    pub random: u32,
    /// The number of partial sums that a row's weights are divided into. Kernels may have more.
    pub sums: usize,
}

/// A kept token: its index, its logit, its weight, and the error of that.
#[derive(Clone, Copy)]
struct Token {
    index: u32,
    x: f32,
    weight: f64,
    off: f64,
}

/// Returns the tokens that a correct kernel may choose, in order; mostly one.
///
/// Let M be the largest logit, a = (x − M)/T and w = exp(a). Top-k keeps the logits that are at least the
/// k-th largest. This is exact. Of those, top-p keeps the logits x of which all that are at least x + 0
/// have less than the share p, and the first for which they have it, with all that equal it. Then the
/// token is the first whose weights up to it are more than r/2³² of all kept weights, in the order of
/// columns, where weights are multiples of 2⁻³¹, rounded down.
///
/// With u = 2⁻²³, a is off by |a|·5u + 2η/T: a difference of 1u, a reciprocal of 2.5u, a product of
/// 1u, and a subnormal logit that counts as 0. WGSL's exp is accurate to 3 + 2|a| ulp. So
///
/// ```text
/// |ŵ − w| ≤ w·(exp(u(3 + 7|a|)·(1 + 2⁻¹⁰) + 2η/T) − 1)
/// ```
///
/// Weights below e⁻⁸⁷ may be that, which is nothing in multiples of 2⁻³¹. Sums for top-p are f32: a
/// term goes through n = ⌈k/(4·sums)⌉·4 + 4 + log₂(sums) additions at most. So a share is off by the errors of its
/// weights and γ_{n+1} of it, the rounding of p·Σw included. A multiple of 2⁻³¹ is off by one more.
pub fn sampled(case: &SampleCase) -> Vec<u32> {
    let top = largest(case.x);
    let most = case.x.get(top as usize).copied().unwrap_or(f32::NAN);
    let temperature = f64::from(case.temperature);
    // A NaN as temperature counts as 0.
    if most.is_nan() || temperature.is_nan() || temperature <= 0.0 {
        return vec![top];
    }
    let token = |(index, &x): (usize, &f32)| {
        let a = if x == most { 0.0 } else { (f64::from(x) - f64::from(most)) / temperature };
        let weight = a.exp();
        let relative =
            UNIT * (3.0 + 7.0 * a.abs()) * (1.0 + 1.0 / 1024.0) + 2.0 * ETA / temperature;
        // 0 · ∞ where nothing is left of a weight.
        let off = if weight == 0.0 { 0.0 } else { weight * relative.exp_m1() };
        Token { index: index as u32, x, weight, off }
    };
    let numbers = case.x.iter().enumerate().filter(|(_, x)| !x.is_nan());
    let mut tokens: Vec<Token> = numbers.map(token).collect();
    // The largest first.
    tokens.sort_by(|a, b| b.x.total_cmp(&a.x).then(a.index.cmp(&b.index)));
    let kth = (case.top_k as usize).checked_sub(1).and_then(|last| tokens.get(last)).map(|t| t.x);
    if let Some(kth) = kth {
        tokens.retain(|token| token.x >= kth);
    }
    let mut found = Vec::new();
    for least in nuclei(case, &tokens) {
        let mut kept: Vec<_> = tokens.iter().filter(|token| token.x >= least).copied().collect();
        kept.sort_by_key(|token| token.index);
        draw(&kept, case.random, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Returns the least logits that top-p may keep: mostly one. `tokens` are sorted, the largest first.
fn nuclei(case: &SampleCase, tokens: &[Token]) -> Vec<f32> {
    let share = f64::from(case.top_p);
    let last = tokens.last().map(|token| token.x);
    if share >= 1.0 {
        return last.into_iter().collect();
    }
    let sums = case.sums.max(1);
    let additions = 4 * case.x.len().div_ceil(4 * sums) + 4;
    let rounding = gamma(additions + sums.next_power_of_two().ilog2() as usize + 1);
    let all: f64 = tokens.iter().map(|token| token.weight).sum();
    let all_off: f64 = tokens.iter().map(|token| token.off).sum::<f64>() + rounding * all;
    let (mut sum, mut off, mut found) = (0.0, 0.0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        sum += token.weight;
        off += token.off;
        if tokens.get(at + 1).is_some_and(|next| next.x == token.x) {
            continue;
        }
        let unsure = off + rounding * sum + share * all_off;
        if sum >= share * all - unsure {
            found.push(token.x);
        }
        // Anything after this has the share already.
        if sum > share * all + unsure {
            break;
        }
    }
    if found.is_empty() { last.into_iter().collect() } else { found }
}

/// Adds the tokens at `random` / 2³² of the weights, in the order of columns.
fn draw(kept: &[Token], random: u32, found: &mut Vec<u32>) {
    const STEPS: f64 = 2_147_483_648.0;
    let low = |token: &Token| (STEPS * (token.weight - token.off) - 1.0).max(0.0);
    let high = |token: &Token| STEPS * (token.weight + token.off);
    let part = f64::from(random) / 4_294_967_296.0;
    let target = [
        (kept.iter().map(low).sum::<f64>() * part - 1.0).max(0.0),
        kept.iter().map(high).sum::<f64>() * part,
    ];
    let mut before = [0.0, 0.0];
    for token in kept {
        let after = [before[0] + low(token), before[1] + high(token)];
        if before[0] <= target[1] && after[1] > target[0] && high(token) >= 1.0 {
            found.push(token.index);
        }
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of Random123.
    #[test]
    fn philox_is_right() {
        let got = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(got, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let got = philox(counter, [0xa409_3822, 0x299f_31d0]);
        assert_eq!(got, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn the_largest_is_the_first_of_its_kind() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, f32::NAN]), 1);
        assert_eq!(largest(&[f32::NAN, f32::NEG_INFINITY]), 1);
        assert_eq!(largest(&[f32::NAN, f32::NAN]), u32::MAX);
        assert_eq!(largest(&[]), u32::MAX);
        assert_eq!(largest(&[-0.0, 0.0]), 0);
    }

    #[test]
    fn tokens_by_hand() {
        // Weights 1, 2, 4 and 1: shares of 1/8, 3/8, 7/8 and 1.
        let log = |v: f32| v.ln();
        let x = [log(1.0), log(2.0), log(4.0), log(1.0), f32::NAN];
        let of = |top_k, top_p, share: f64| {
            let random = (share * 4_294_967_296.0) as u32;
            sampled(&SampleCase { x: &x, temperature: 1.0, top_k, top_p, random, sums: 1 })
        };
        assert_eq!([0.0, 0.1].map(|share| of(0, 1.0, share)), [[0], [0]]);
        assert_eq!([0.2, 0.3].map(|share| of(0, 1.0, share)), [[1], [1]]);
        assert_eq!([0.4, 0.8, 0.9].map(|share| of(0, 1.0, share)), [[2], [2], [3]]);
        // At an edge both are right.
        assert_eq!(of(0, 1.0, 0.125), [0, 1]);
        // Two are kept: weights 2 and 4.
        assert_eq!([0.3, 0.4].map(|share| of(2, 1.0, share)), [[1], [2]]);
        // All that equal the third largest are kept.
        assert_eq!([0.1, 0.99].map(|share| of(3, 1.0, share)), [[0], [3]]);
        // The largest has half of all, and with the next three quarters.
        assert_eq!([0.1, 0.9].map(|share| of(0, 0.4, share)), [[2], [2]]);
        assert_eq!([0.1, 0.9].map(|share| of(0, 0.6, share)), [[1], [2]]);
        assert_eq!([0.1, 0.9].map(|share| of(0, 0.8, share)), [[0], [3]]);
        assert_eq!(of(0, 0.5, 0.1), [1, 2]);
        assert_eq!([0.1, 0.9].map(|share| of(2, 0.5, share)), [[2], [2]]);
    }
}
