//! The table of rotary position embedding: cosines and sines of the angles of each position, computed
//! in f64. Ways to extend the context of a model are different frequencies, so they are data here, and
//! kernels know none of them.

use super::FormatError;
use std::f64::consts::TAU;

/// How the frequencies of a model are changed so that it reads longer texts than it was trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RotaryScaling {
    /// They are not.
    None,
    /// Positions are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// The scaling of Llama 3.1. Waves that are longer than `original_positions / low_freq_factor`
    /// become longer by `factor`, and those shorter than `original_positions / high_freq_factor` stay;
    /// between them, the change is interpolated.
    Llama3 {
        /// The factor of long waves.
        factor: f64,
        /// Where waves become long.
        low_freq_factor: f64,
        /// Where waves become short.
        high_freq_factor: f64,
        /// The context that the model was trained with.
        original_positions: f64,
    },
    /// YaRN: as with Llama 3, but the interpolation is linear in the number of the pair, and cosines and
    /// sines are multiplied by an attention factor, `0.1·ln(factor) + 1` unless
    /// [`RotaryTable::with_attention_factor`] states another.
    Yarn {
        /// The factor of long waves.
        factor: f64,
        /// Waves that turn at least this often within the original context stay (usually 32).
        beta_fast: f64,
        /// Waves that turn at most this often become longer by the whole factor (usually 1).
        beta_slow: f64,
        /// The context that the model was trained with.
        original_positions: f64,
        /// Whether the ends of the interpolation are rounded outwards to whole pairs, as they usually
        /// are.
        truncate: bool,
    },
}

/// Describes the table of a rotary position embedding.
///
/// Pair j of a head turns by `position · base^(−2j / rotary_dim)` radians, after scaling. Which columns
/// form a pair does not matter here.
///
/// ```
/// use lowbit::format::RotaryTable;
/// let table = RotaryTable::new(10000.0, 4).pairs(2)?;
/// // Position 0 turns nothing; at position 1 the pairs turn by 1 and by 0.01 radians.
/// assert_eq!(table[0], [1.0, 0.0]);
/// assert_eq!(table[2], [0.5403023, 0.84147098]);
/// assert_eq!(table[3], [0.99995, 0.0099998333]);
/// # Ok::<(), lowbit::format::FormatError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RotaryTable {
    /// The base of the frequencies (`rope_theta`).
    pub base: f64,
    /// Columns that are rotated, two for each frequency.
    pub rotary_dim: usize,
    /// How frequencies are scaled.
    pub scaling: RotaryScaling,
    /// What each frequency is divided by before it is scaled; empty if they are not. GGUF files hold
    /// them in `rope_freqs.weight`; the short and long factors of LongRoPE are such divisors too.
    pub divisors: Vec<f64>,
    /// What cosines and sines are multiplied by, if it is not what the scaling says.
    pub attention_factor: Option<f64>,
}

impl RotaryTable {
    /// Describes a table without scaling.
    pub fn new(base: f64, rotary_dim: usize) -> Self {
        let (scaling, divisors, attention_factor) = (RotaryScaling::None, Vec::new(), None);
        Self { base, rotary_dim, scaling, divisors, attention_factor }
    }

    /// Sets the scaling.
    #[must_use]
    pub fn with_scaling(mut self, scaling: RotaryScaling) -> Self {
        self.scaling = scaling;
        self
    }

    /// Sets what each frequency is divided by before it is scaled.
    #[must_use]
    pub fn with_divisors(mut self, divisors: Vec<f64>) -> Self {
        self.divisors = divisors;
        self
    }

    /// Sets what cosines and sines are multiplied by.
    #[must_use]
    pub fn with_attention_factor(mut self, factor: f64) -> Self {
        self.attention_factor = Some(factor);
        self
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// Returns [`FormatError::Rotary`] if the number of columns is odd, a number is not finite and
    /// positive, ends of an interpolation are in the wrong order, or [`FormatError::WrongLength`] if there
    /// are not as many divisors as frequencies.
    pub fn check(&self) -> Result<(), FormatError> {
        let refuse = |what, value, need| Err(FormatError::Rotary { what, value, need });
        let positive = |what, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                refuse(what, value, "a positive number")
            }
        };
        positive("the base", self.base)?;
        if !self.rotary_dim.is_multiple_of(2) {
            return refuse("the number of rotated columns", self.rotary_dim as f64, "even");
        }
        let (need, have) = (self.rotary_dim / 2, self.divisors.len());
        if have != 0 && have != need {
            return Err(FormatError::WrongLength { part: "divisors of frequencies", need, have });
        }
        self.divisors.iter().try_for_each(|&d| positive("a divisor of a frequency", d))?;
        if let Some(factor) = self.attention_factor {
            positive("the attention factor", factor)?;
        }
        match self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } => positive("the factor", factor),
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => {
                positive("the factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("original_positions", original_positions)?;
                positive("high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let need = "more than low_freq_factor";
                    return refuse("high_freq_factor", high_freq_factor, need);
                }
                Ok(())
            }
            RotaryScaling::Yarn { factor, beta_fast, beta_slow, original_positions, .. } => {
                positive("the factor", factor)?;
                positive("beta_slow", beta_slow)?;
                positive("original_positions", original_positions)?;
                positive("beta_fast", beta_fast)?;
                if self.base <= 1.0 {
                    return refuse("the base", self.base, "more than 1 with YaRN");
                }
                if beta_fast < beta_slow {
                    return refuse("beta_fast", beta_fast, "at least beta_slow");
                }
                Ok(())
            }
        }
    }

    /// Returns the frequency of each pair: radians a position.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check).
    pub fn frequencies(&self) -> Result<Vec<f64>, FormatError> {
        self.check()?;
        let pairs = self.rotary_dim / 2;
        let plain = |pair: usize| {
            let frequency = self.base.powf(-((2 * pair) as f64) / self.rotary_dim as f64);
            frequency / self.divisors.get(pair).copied().unwrap_or(1.0)
        };
        Ok((0..pairs).map(|pair| self.scaled(pair, plain(pair))).collect())
    }

    fn scaled(&self, pair: usize, frequency: f64) -> f64 {
        match self.scaling {
            RotaryScaling::None => frequency,
            RotaryScaling::Linear { factor } => frequency / factor,
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => {
                let turns = original_positions * frequency / TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mixed(frequency, frequency / factor, kept.clamp(0.0, 1.0))
            }
            RotaryScaling::Yarn { factor, beta_fast, beta_slow, original_positions, truncate } => {
                let dim = self.rotary_dim as f64;
                // The pair, as a fraction, whose wave turns this often within the original context.
                let pair_of = |turns: f64| {
                    dim * (original_positions / (turns * TAU)).ln() / (2.0 * self.base.ln())
                };
                let (low, high) = (pair_of(beta_fast), pair_of(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(dim - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let kept = 1.0 - ((pair as f64 - low) / width).clamp(0.0, 1.0);
                mixed(frequency, frequency / factor, kept)
            }
        }
    }

    /// Returns what cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match (self.attention_factor, self.scaling) {
            (Some(factor), _) => factor,
            (None, RotaryScaling::Yarn { factor, .. }) if factor > 1.0 => 0.1 * factor.ln() + 1.0,
            _ => 1.0,
        }
    }

    /// Returns the table, `[positions, rotary_dim / 2]`: a cosine and a sine, times the attention
    /// factor, each rounded once to f32. It is what the op `rotary` reads.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check), or [`FormatError::RotaryTooLarge`] if the table does
    /// not fit in memory.
    pub fn pairs(&self, positions: usize) -> Result<Vec<[f32; 2]>, FormatError> {
        let frequencies = self.frequencies()?;
        let factor = self.attention_factor();
        let too_large = || FormatError::RotaryTooLarge { positions, rotary_dim: self.rotary_dim };
        let count = positions.checked_mul(frequencies.len()).ok_or_else(too_large)?;
        let mut pairs = Vec::new();
        pairs.try_reserve_exact(count).map_err(|_| too_large())?;
        for position in 0..positions {
            pairs.extend(frequencies.iter().map(|frequency| {
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                [(factor * cosine) as f32, (factor * sine) as f32]
            }));
            // Without pairs, positions take no room and must not be looped over.
            if count == 0 {
                break;
            }
        }
        Ok(pairs)
    }
}

/// Returns `kept` of a frequency and the rest of another.
fn mixed(frequency: f64, other: f64, kept: f64) -> f64 {
    kept * frequency + (1.0 - kept) * other
}
