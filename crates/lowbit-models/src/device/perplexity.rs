//! How well a model predicts a text.

use super::{Model, RunError, SessionOptions};
use crate::text::windows::Likelihood;

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
    /// by those before it. `logits` gets `[rows, vocab]` logits of all tokens in order, some rows at a time, and
    /// `progress` the perplexity after each window.
    ///
    /// # Errors
    /// Returns [`RunError`] if a token is not in the vocabulary, a window does not fit into the session,
    /// there is no token to predict, or the device fails.
    pub async fn perplexity(
        &self,
        windows: &[Vec<u32>],
        options: &SessionOptions,
        mut logits: impl FnMut(&[f32]),
        mut progress: impl FnMut(&Perplexity),
    ) -> Result<Perplexity, RunError> {
        let mut session = self.session(options).await?;
        let mut likelihood = Likelihood::default();
        let mut found = Perplexity { perplexity: f64::NAN, windows: 0, tokens: 0 };
        let vocab = self.blueprint.vocab;
        for window in windows {
            session.rewind(0)?;
            let mut added = Ok(());
            session
                .extend_with(window, |first, rows_of_logits| {
                    logits(rows_of_logits);
                    // The last row of a window predicts nothing of it.
                    let next = window.get(first + 1..).unwrap_or_default();
                    let rows = next.len().min(rows_of_logits.len() / vocab);
                    let predicting = &rows_of_logits[..rows * vocab];
                    let predicted = likelihood.add(predicting, vocab, &next[..rows]);
                    added = std::mem::replace(&mut added, Ok(())).and(predicted);
                })
                .await?;
            added?;
            found.windows += 1;
            found.tokens = likelihood.tokens;
            found.perplexity = likelihood.perplexity();
            progress(&found);
        }
        if found.tokens == 0 { Err(RunError::Empty) } else { Ok(found) }
    }
}
