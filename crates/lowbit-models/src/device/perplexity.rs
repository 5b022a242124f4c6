//! How well a model predicts a text.

use super::{Model, RunError, SessionOptions};

/// How well a model predicts the windows of a text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// The exponential of the mean of −ln p over all tokens that were predicted.
    pub perplexity: f64,
    /// Windows that were read.
    pub windows: usize,
    /// Tokens that were predicted.
    pub tokens: usize,
}

impl Model {
    /// Reads each window from an empty cache, and measures how well each token but the first is predicted
    /// by those before it. `progress` is called with the perplexity after each window.
    ///
    /// # Errors
    /// Returns [`RunError`] if a token is not in the vocabulary, a window does not fit into the session,
    /// there is no token to predict, or the device fails.
    pub async fn perplexity(
        &self,
        windows: &[Vec<u32>],
        options: &SessionOptions,
        mut progress: impl FnMut(&Perplexity),
    ) -> Result<Perplexity, RunError> {
        let mut session = self.session(options).await?;
        let (mut sum, mut found) =
            (0.0, Perplexity { perplexity: f64::NAN, windows: 0, tokens: 0 });
        let vocab = self.blueprint.vocab;
        for window in windows {
            session.rewind(0)?;
            let mut add = |first: usize, logits: &[f32]| {
                for (row, logits) in logits.chunks_exact(vocab).enumerate() {
                    if let Some(&next) = window.get(first + row + 1) {
                        sum += surprise(logits, next as usize);
                        found.tokens += 1;
                    }
                }
            };
            session.extend_with(window, &mut add).await?;
            found.windows += 1;
            found.perplexity = (sum / found.tokens as f64).exp();
            progress(&found);
        }
        if found.tokens == 0 { Err(RunError::Empty) } else { Ok(found) }
    }
}

/// Returns −ln of the probability of a token: the softmax of the logits, in f64.
fn surprise(logits: &[f32], token: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    sum.ln() - f64::from(logits.get(token).copied().unwrap_or(f32::NAN) - most)
}

#[cfg(test)]
mod tests {
    use super::surprise;

    #[test]
    fn the_surprise_of_equal_logits_is_the_logarithm_of_their_number() {
        let logits = [3.0f32; 8];
        assert!((surprise(&logits, 5) - 8f64.ln()).abs() < 1e-12);
        let sure = [0.0, 100.0, 0.0];
        assert!(surprise(&sure, 1) < 1e-40 && (surprise(&sure, 0) - 100.0).abs() < 1e-12);
        assert!(surprise(&logits, 8).is_nan());
    }
}
