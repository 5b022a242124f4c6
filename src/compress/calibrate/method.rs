use super::{ActivationRange, CalibrateError, Histogram};

/// The way in which a range is computed from what was observed.
///
/// All methods but the first two use the histogram and treat values as evenly distributed within
/// each bin. Their range is never wider than what was observed. The names are `minmax`, `average`,
/// `percentile-99.99`, `tails-99.99`, `mse` and `entropy`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// The least and the greatest value.
    MinMax,
    /// The moving averages of each batch's least and greatest value, which start with those of the
    /// first batch: `a ← a + momentum · (b − a)` (Jacob et al. 2018, "Quantization and Training of
    /// Neural Networks for Efficient Integer-Arithmetic-Only Inference").
    MovingAverage,
    /// The range ±t such that at least p percent of all |x| are at most t. Among n values in order,
    /// t is the ⌈n·p/100⌉th, plus at most the width of one bin.
    Percentile(f64),
    /// A range whose ends are cut independently, such that (100 − p)/2 percent of the values lie
    /// beyond each. Each end is the ⌈n·(100 + p)/200⌉th value from the other end, plus at most the
    /// width of one bin.
    Tails(f64),
    /// The range with the least squared error of quantization, which includes both rounding and
    /// clipping. For symmetric codes, every threshold at the edge of a bin is tried. For asymmetric
    /// codes, the two ends are optimized in turn, each over 256 positions; this starts with the
    /// whole range and stops when neither end improves.
    Mse,
    /// The range ±t for which 128 levels up to t preserve the distribution of |x| best, by the
    /// Kullback–Leibler divergence (Migacz 2017, "8-bit Inference with TensorRT").
    ///
    /// Every t at the edge of a bin is tried, from the 128th bin on. P consists of the i bins below
    /// t, and its last bin also contains everything beyond t. Q consists of the same bins without
    /// what lies beyond t. Bin b of Q belongs to level ⌊128·b/i⌋, and the values of each level are
    /// spread evenly over those of its bins that are not empty. The result is the t with the least
    /// Σ P·ln(P/Q), or the largest such t.
    Entropy,
}

/// The number of levels of [`Method::Entropy`]: those of int8 on one side of 0.
const LEVELS: usize = 128;

/// The number of positions that are tried for each end of an asymmetric range.
const PLACES: usize = 256;

impl Method {
    /// Returns the number of bins on either side of 0 that the method needs. Entropy chooses among
    /// bins from the 128th on, and up to half of the bins may lie above all values.
    pub(super) fn least_bins(&self) -> usize {
        match self {
            Self::MinMax | Self::MovingAverage => 0,
            Self::Percentile(_) | Self::Tails(_) | Self::Mse => 1,
            Self::Entropy => 4 * LEVELS,
        }
    }

    /// Checks that a percentage is in range.
    pub(super) fn check(&self) -> Result<(), CalibrateError> {
        match *self {
            Self::Percentile(p) | Self::Tails(p) if !(p > 0.0 && p <= 100.0) => {
                Err(CalibrateError::Method(self.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Computes the range of at least one value. All values lie in `whole`.
    pub(super) fn range(
        &self,
        whole: ActivationRange,
        average: ActivationRange,
        histogram: &Histogram,
        symmetric: bool,
    ) -> ActivationRange {
        let width = histogram.width();
        let (low, high) = match *self {
            Self::MinMax => return whole,
            Self::MovingAverage => return average,
            Self::Percentile(p) => {
                let at = bins_holding(&histogram.magnitudes(), p / 100.0);
                (at as f64, at as f64)
            }
            Self::Tails(p) => tails(histogram, (100.0 + p) / 200.0),
            Self::Mse if symmetric => {
                let at = least_error(&histogram.magnitudes());
                (at as f64, at as f64)
            }
            Self::Mse => least_error_of_two(histogram),
            Self::Entropy => {
                let at = least_divergence(&histogram.magnitudes());
                (at as f64, at as f64)
            }
        };
        whole.within(low * width, high * width)
    }
}

/// Returns how many of the first bins are needed to hold at least this fraction of all values.
fn bins_holding(counts: &[u64], part: f64) -> usize {
    let total: u64 = counts.iter().sum();
    let rank = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
    let mut sum = 0;
    let reaches = |&count: &u64| {
        sum += count;
        sum >= rank
    };
    counts.iter().position(reaches).map_or(counts.len(), |at| at + 1)
}

/// Returns how many bins below and above 0 remain when the tails are cut.
fn tails(histogram: &Histogram, part: f64) -> (f64, f64) {
    let (bins, counts) = (histogram.bins(), histogram.counts());
    let upward = bins_holding(counts, part);
    let reversed: Vec<u64> = counts.iter().rev().copied().collect();
    let downward = bins_holding(&reversed, part);
    (downward.saturating_sub(bins) as f64, upward.saturating_sub(bins) as f64)
}

/// Returns the number of bins up to the last one that is not empty.
fn used(counts: &[u64]) -> usize {
    counts.iter().rposition(|&count| count > 0).map_or(0, |at| at + 1)
}

/// Codes whose values lie from `low` to `high` steps of size `step` around 0.
struct Steps {
    step: f64,
    low: f64,
    high: f64,
}

impl Steps {
    /// Returns `∫ (t − step·n(t))² dt` from 0 to x, where `n(t) = clamp(rne(t/step), low, high)`.
    /// Each whole step between 0 and n(x) contributes step³/12. The rest is a cubic term, both
    /// within the range of codes and beyond it.
    fn error_to(&self, x: f64) -> f64 {
        let n = (x / self.step).round_ties_even().clamp(self.low, self.high);
        n * self.step.powi(3) / 12.0 + (x - n * self.step).powi(3) / 3.0
    }

    /// Returns the squared error of values that are evenly distributed in bins of width 1, which
    /// start at `first`.
    fn error(&self, first: f64, counts: &[u64]) -> f64 {
        let (mut at, mut before, mut sum) = (first, self.error_to(first), 0.0);
        for &count in counts {
            at += 1.0;
            let after = self.error_to(at);
            sum += count as f64 * (after - before);
            before = after;
        }
        sum
    }
}

/// Returns the number of bins below the threshold with the least squared error, for symmetric
/// codes.
fn least_error(magnitudes: &[u64]) -> usize {
    let counts = &magnitudes[..used(magnitudes)];
    let error = |bins: usize| {
        Steps { step: bins as f64 / 127.0, low: -127.0, high: 127.0 }.error(0.0, counts)
    };
    least((1..=counts.len()).map(|bins| (bins, error(bins)))).unwrap_or(counts.len())
}

/// Returns the number of bins below and above 0 with the least squared error, for asymmetric codes.
fn least_error_of_two(histogram: &Histogram) -> (f64, f64) {
    let (below, above) = histogram.counts().split_at(histogram.bins());
    let reversed: Vec<u64> = below.iter().rev().copied().collect();
    let ends = [used(&reversed), used(above)];
    let first = histogram.bins() - ends[0];
    let counts = &histogram.counts()[first..histogram.bins() + ends[1]];
    let error = |[low, high]: [usize; 2]| {
        let step = (low + high) as f64 / 255.0;
        if step == 0.0 {
            return f64::INFINITY;
        }
        let zero = (low as f64 / step).round_ties_even().clamp(0.0, 255.0);
        Steps { step, low: -zero, high: 255.0 - zero }.error(-(ends[0] as f64), counts)
    };
    let (mut best, mut least_error) = (ends, error(ends));
    loop {
        let before = least_error;
        for side in [1, 0] {
            let places = ends[side].min(PLACES);
            for place in 0..places {
                let mut tried = best;
                tried[side] = place * ends[side] / places;
                let error = error(tried);
                if error < least_error {
                    (best, least_error) = (tried, error);
                }
            }
        }
        // The loop ends, because each round but the last finds a smaller error among finitely many
        // pairs of ends.
        if least_error >= before {
            return (best[0] as f64, best[1] as f64);
        }
    }
}

/// Returns the number of bins below the threshold with the least divergence.
fn least_divergence(magnitudes: &[u64]) -> usize {
    let counts = &magnitudes[..used(magnitudes)];
    let mut beyond: u64 = counts.iter().skip(LEVELS).sum();
    let mut tried = Vec::new();
    for bins in LEVELS..=counts.len() {
        tried.push((bins, divergence(&counts[..bins], beyond)));
        beyond -= counts.get(bins).copied().unwrap_or(0);
    }
    least(tried).unwrap_or(counts.len())
}

/// Returns the divergence `Σ P·ln(P/Q)` of these bins when `beyond` more values lie above them.
fn divergence(counts: &[u64], beyond: u64) -> f64 {
    let bins = counts.len();
    // For each level: the number of values and the number of bins that are not empty.
    let mut levels = [(0u64, 0u64); LEVELS];
    for (bin, &count) in counts.iter().enumerate() {
        let level = &mut levels[bin * LEVELS / bins];
        *level = (level.0 + count, level.1 + u64::from(count > 0));
    }
    let kept: u64 = counts.iter().sum();
    let (all, kept) = ((kept + beyond) as f64, kept as f64);
    let mut sum = 0.0;
    for (bin, &count) in counts.iter().enumerate() {
        let reference = count + if bin + 1 == bins { beyond } else { 0 };
        if reference == 0 {
            continue;
        }
        let (values, of) = levels[bin * LEVELS / bins];
        // If the last bin is empty but values lie beyond it, then Q is 0 where P is not.
        let q = if count == 0 { 0.0 } else { values as f64 / of as f64 / kept };
        let p = reference as f64 / all;
        sum += p * (p / q).ln();
    }
    sum
}

/// Returns the last of the entries with the least value.
fn least(values: impl IntoIterator<Item = (usize, f64)>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, value) in values {
        if best.is_none_or(|(_, least)| value <= least) {
            best = Some((at, value));
        }
    }
    best.map(|(at, _)| at)
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MinMax => f.write_str("minmax"),
            Self::MovingAverage => f.write_str("average"),
            Self::Percentile(p) => write!(f, "percentile-{p}"),
            Self::Tails(p) => write!(f, "tails-{p}"),
            Self::Mse => f.write_str("mse"),
            Self::Entropy => f.write_str("entropy"),
        }
    }
}

impl std::str::FromStr for Method {
    type Err = CalibrateError;

    fn from_str(text: &str) -> Result<Self, CalibrateError> {
        let percent = |p: &str| p.parse::<f64>().ok();
        let method = match text {
            "minmax" => Some(Self::MinMax),
            "average" => Some(Self::MovingAverage),
            "mse" => Some(Self::Mse),
            "entropy" => Some(Self::Entropy),
            _ => match text.split_once('-') {
                Some(("percentile", p)) => percent(p).map(Self::Percentile),
                Some(("tails", p)) => percent(p).map(Self::Tails),
                _ => None,
            },
        };
        // A method has only one name, so 99.90, +5 and inf are refused.
        method
            .filter(|method| method.check().is_ok() && method.to_string() == text)
            .ok_or_else(|| CalibrateError::Method(text.into()))
    }
}
