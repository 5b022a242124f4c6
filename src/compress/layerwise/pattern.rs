use super::LayerwiseError;

/// Which weights a pruning method removes.
///
/// [`FromStr`](std::str::FromStr) reads and [`Display`](std::fmt::Display) writes `dense`, `2:4`, `6:8`
/// and `0.5`.
///
/// ```
/// use lowbit::compress::layerwise::Pattern;
/// let pattern: Pattern = "6:8".parse()?;
/// assert_eq!((pattern, pattern.pruned()), (Pattern::OfM { keep: 6, of: 8 }, 0.25));
/// assert_eq!("0.5".parse::<Pattern>()?, Pattern::Fraction(0.5));
/// assert!("8:8".parse::<Pattern>().is_err());
/// # Ok::<(), lowbit::compress::layerwise::LayerwiseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Nothing is pruned.
    Dense,
    /// This fraction of weights is pruned, at least 0 and below 1: of each block of columns
    /// (SparseGPT), of each row (Wanda) or of the layer (magnitude). Counts are rounded down.
    Fraction(f64),
    /// `keep` of every `of` consecutive columns of a row are kept, 1 ≤ `keep` < `of` ≤ 16.
    OfM {
        /// The number of weights that are kept.
        keep: u8,
        /// The number of consecutive columns.
        of: u8,
    },
}

impl Pattern {
    /// Two of every four, the sparsity that kernels have.
    pub const TWO_FOUR: Self = Self::OfM { keep: 2, of: 4 };

    /// Checks the range of the numbers.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::Pattern`] if a number is out of range.
    pub fn check(&self) -> Result<(), LayerwiseError> {
        let good = match *self {
            Self::Dense => true,
            Self::Fraction(fraction) => (0.0..1.0).contains(&fraction),
            Self::OfM { keep, of } => keep >= 1 && keep < of && of <= 16,
        };
        if good { Ok(()) } else { Err(LayerwiseError::Pattern(self.to_string())) }
    }

    /// Returns the fraction of weights that are pruned.
    pub fn pruned(&self) -> f64 {
        match *self {
            Self::Dense => 0.0,
            Self::Fraction(fraction) => fraction,
            Self::OfM { keep, of } => 1.0 - f64::from(keep) / f64::from(of.max(1)),
        }
    }

    /// Returns how many of `count` weights a fraction prunes; 0 for the other patterns.
    pub(super) fn pruned_of(&self, count: usize) -> usize {
        match *self {
            Self::Fraction(fraction) => ((count as f64 * fraction) as usize).min(count),
            _ => 0,
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::Fraction(fraction) => write!(f, "{fraction}"),
            Self::OfM { keep, of } => write!(f, "{keep}:{of}"),
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = LayerwiseError;

    fn from_str(text: &str) -> Result<Self, LayerwiseError> {
        let refused = || LayerwiseError::Pattern(text.to_string());
        let pattern = match text.split_once(':') {
            _ if text == "dense" => Self::Dense,
            Some((keep, of)) => Self::OfM {
                keep: keep.parse().map_err(|_| refused())?,
                of: of.parse().map_err(|_| refused())?,
            },
            None => Self::Fraction(text.parse().map_err(|_| refused())?),
        };
        pattern.check().map_err(|_| refused()).map(|()| pattern)
    }
}

/// Returns which of a few scores (at most 16) are the `keep` greatest, as bits. Among equal ones, the
/// lowest indices are kept.
pub(super) fn greatest(scores: &[f64], keep: usize) -> u32 {
    let mut kept = 0;
    for _ in 0..keep.min(scores.len()) {
        let free = (0..scores.len()).filter(|at| kept >> at & 1 == 0);
        let better = |a: usize, b: usize| if scores[b] > scores[a] { b } else { a };
        kept |= free.reduce(better).map_or(0, |at| 1 << at);
    }
    kept
}

/// Returns which scores remain if the `count` lowest are pruned. Among equal ones, the lowest indices
/// are kept.
pub(super) fn without_lowest(scores: &[f64], count: usize) -> Vec<bool> {
    let mut keep = vec![true; scores.len()];
    if count == 0 {
        return keep;
    }
    let last = count.min(scores.len()).saturating_sub(1);
    let mut sorted = scores.to_vec();
    if sorted.is_empty() {
        return keep;
    }
    let threshold = *sorted.select_nth_unstable_by(last, f64::total_cmp).1;
    let mut left = count.min(scores.len());
    for (keep, score) in keep.iter_mut().zip(scores) {
        if score.total_cmp(&threshold).is_lt() {
            *keep = false;
            left -= 1;
        }
    }
    for (keep, score) in keep.iter_mut().zip(scores).rev() {
        if left > 0 && score.total_cmp(&threshold).is_eq() {
            *keep = false;
            left -= 1;
        }
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["dense", "2:4", "6:8", "1:4", "0.5", "0", "0.125", "1:2", "15:16"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in
            ["", "1", "-0.5", "NaN", "inf", "4:2", "2:2", "0:4", "3:17", "2:", ":4", "2:4:8"]
        {
            assert_eq!(text.parse::<Pattern>(), Err(LayerwiseError::Pattern(text.into())));
        }
    }

    #[test]
    fn ties_keep_the_lowest() {
        assert_eq!(greatest(&[1.0, 1.0, 1.0, 2.0], 2), 0b1001);
        assert_eq!(greatest(&[0.0; 16], 5), 0b1_1111);
        assert_eq!(greatest(&[3.0, 4.0], 7), 0b11);
        assert_eq!(greatest(&[], 1), 0);
        assert_eq!(without_lowest(&[1.0, 0.0, 1.0, 1.0], 3), [true, false, false, false]);
        assert_eq!(without_lowest(&[1.0, 2.0], 0), [true, true]);
        assert_eq!(without_lowest(&[1.0, 2.0], 9), [false, false]);
        assert!(without_lowest(&[], 3).is_empty());
    }
}
