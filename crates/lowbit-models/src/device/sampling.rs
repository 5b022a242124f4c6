//! How the next token is chosen.

use super::RunError;

/// How the next token is chosen from its logits.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// What logits are divided by. With 0 the most likely token is taken.
    pub temperature: f32,
    /// How many of the most likely tokens are drawn from; 0 for all.
    pub top_k: u32,
    /// The most likely tokens are drawn from whose probabilities sum up to this.
    pub top_p: f32,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always takes the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// Checks the numbers.
    ///
    /// # Errors
    /// Returns [`RunError::Options`] if the temperature is negative or not finite, or `top_p` is not within
    /// 0…1.
    pub fn new(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> Result<Self, RunError> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            let message = format!("a temperature of {temperature} is not a number from 0 on");
            return Err(RunError::Options(message));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(RunError::Options(format!("top-p = {top_p} is outside of 0…1")));
        }
        Ok(Self { temperature, top_k, top_p, seed })
    }

    /// Returns the token that follows `count` tokens.
    pub(super) fn draw(&self, logits: &[f32], _count: usize) -> Result<u32, RunError> {
        let mut best = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[best] || logits[best].is_nan() {
                best = token;
            }
        }
        Ok(best as u32)
    }
}
