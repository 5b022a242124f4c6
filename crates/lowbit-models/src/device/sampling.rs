//! How the next token is chosen.

use super::RunError;
use lowbit::ops::SampleSettings;

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
    /// Returns [`RunError::Plan`] if the temperature is negative or not finite, or `top_p` is not within 0…1.
    pub fn new(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> Result<Self, RunError> {
        let sampling = Self { temperature, top_k, top_p, seed };
        let checked = sampling.settings(0).check();
        checked.map_err(|source| RunError::Plan { step: "sampling".into(), source })?;
        Ok(sampling)
    }

    /// Returns the settings of the step after `count` tokens.
    pub(super) fn settings(&self, count: usize) -> SampleSettings {
        let Self { temperature, top_k, top_p, seed } = *self;
        SampleSettings { temperature, top_k, top_p, seed, step: count as u64 }
    }
}
