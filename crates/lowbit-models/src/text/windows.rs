//! Windows of a text for perplexity, and what logits say of their tokens.
//!
//! Windows do not overlap and start at the beginning of the text. In a window of T tokens, the model
//! predicts T − 1: each but the first. The perplexity is exp of the mean negative log-likelihood.

/// The reason why a text cannot be cut into windows, or why logits say nothing of tokens.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowsError {
    /// A window has no token to predict.
    #[error(
        "windows have {window} tokens; at least 2 are needed, of which the second is predicted"
    )]
    Window {
        /// The tokens of a window.
        window: usize,
    },
    /// The text is shorter than the windows that were asked for.
    #[error("the text has {tokens} tokens, and {windows} × {window} are needed")]
    TooShort {
        /// The tokens of the text.
        tokens: usize,
        /// The number of windows.
        windows: usize,
        /// The tokens of a window.
        window: usize,
    },
    /// The logits are not a row for each token that is predicted.
    #[error("there are {have} logits; {tokens} rows of {vocab} are needed")]
    Shape {
        /// The number of logits.
        have: usize,
        /// The number of tokens.
        tokens: usize,
        /// The logits of a row.
        vocab: usize,
    },
    /// A token lies outside of the vocabulary.
    #[error("token {token} is predicted in row {row}, and a row has {vocab} logits")]
    Token {
        /// The token.
        token: u32,
        /// The row.
        row: usize,
        /// The logits of a row.
        vocab: usize,
    },
    /// A logit is not a number, or no logit of a row is finite.
    #[error("row {row} of the logits has {value}, so that there are no probabilities")]
    NotFinite {
        /// The row.
        row: usize,
        /// The logit.
        value: f32,
    },
}

/// Cuts tokens into windows of `window` tokens, one after the other from the start of the text, and returns
/// the first `count` of them, or all that are full. If the tokenizer adds BOS, `bos` replaces the first token
/// of each window.
///
/// # Errors
/// Returns [`WindowsError`] if a window has fewer than 2 tokens, or if the text has fewer windows than
/// `count`, or none.
pub fn windows(
    tokens: &[u32],
    window: usize,
    count: Option<usize>,
    bos: Option<u32>,
) -> Result<Vec<Vec<u32>>, WindowsError> {
    if window < 2 {
        return Err(WindowsError::Window { window });
    }
    let have = tokens.len() / window;
    let windows = count.unwrap_or(have.max(1));
    if have < windows {
        return Err(WindowsError::TooShort { tokens: tokens.len(), windows, window });
    }
    let cut = tokens.chunks_exact(window).take(windows).map(|tokens| {
        let mut tokens = tokens.to_vec();
        if let (Some(bos), Some(first)) = (bos, tokens.first_mut()) {
            *first = bos;
        }
        tokens
    });
    Ok(cut.collect())
}

/// The negative log-likelihood of tokens, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// The sum over all tokens.
    pub sum: f64,
    /// The number of tokens.
    pub tokens: usize,
}

impl Likelihood {
    /// Adds what logits say of tokens: row r of `logits`, `[tokens.len(), vocab]`, predicts `tokens[r]`. So
    /// for a window, `tokens` are all but its first, and `logits` the rows of all but its last.
    ///
    /// Every step is computed in f64, and rows are added in their order.
    ///
    /// # Errors
    /// Returns [`WindowsError`] if the shapes disagree, if a token lies outside of the vocabulary, or if a
    /// row gives no probabilities. The sum is then unchanged.
    pub fn add(
        &mut self,
        logits: &[f32],
        vocab: usize,
        tokens: &[u32],
    ) -> Result<(), WindowsError> {
        if vocab == 0 || Some(logits.len()) != vocab.checked_mul(tokens.len()) {
            let (have, tokens) = (logits.len(), tokens.len());
            return Err(WindowsError::Shape { have, tokens, vocab });
        }
        let mut sum = self.sum;
        for (row, (logits, &token)) in logits.chunks_exact(vocab).zip(tokens).enumerate() {
            let wanted = logits.get(token as usize);
            let wanted = *wanted.ok_or(WindowsError::Token { token, row, vocab })?;
            sum += log_sum(logits, row)? - f64::from(wanted);
        }
        *self = Self { sum, tokens: self.tokens + tokens.len() };
        Ok(())
    }

    /// Returns exp of the mean. Without tokens, it is not a number.
    pub fn perplexity(&self) -> f64 {
        (self.sum / self.tokens as f64).exp()
    }
}

/// Returns ln Σ exp(logit) of a row.
fn log_sum(logits: &[f32], row: usize) -> Result<f64, WindowsError> {
    let bad = logits.iter().find(|logit| logit.is_nan() || **logit == f32::INFINITY);
    if let Some(&value) = bad {
        return Err(WindowsError::NotFinite { row, value });
    }
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most == f32::NEG_INFINITY {
        return Err(WindowsError::NotFinite { row, value: most });
    }
    let most = f64::from(most);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    Ok(most + sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_start_with_bos() {
        let tokens: Vec<u32> = (10..20).collect();
        let cut = windows(&tokens, 3, None, None).unwrap();
        assert_eq!(cut, [[10, 11, 12], [13, 14, 15], [16, 17, 18]]);
        let cut = windows(&tokens, 3, Some(2), Some(1)).unwrap();
        assert_eq!(cut, [[1, 11, 12], [1, 14, 15]]);
        assert_eq!(windows(&tokens, 10, None, None).unwrap().len(), 1);
        let error = windows(&tokens, 3, Some(4), None).unwrap_err();
        assert_eq!(error.to_string(), "the text has 10 tokens, and 4 × 3 are needed");
        let short = windows(&tokens, 11, None, None);
        assert_eq!(short, Err(WindowsError::TooShort { tokens: 10, windows: 1, window: 11 }));
        assert_eq!(windows(&tokens, 1, None, None), Err(WindowsError::Window { window: 1 }));
    }

    #[test]
    fn the_sum_is_that_of_softmax() {
        // Probabilities of a quarter and three quarters, moved by 1000: f32 would overflow in exp.
        let (low, high) = (1000.0, 1000.0 + 3f32.ln());
        let mut likelihood = Likelihood::default();
        likelihood.add(&[low, high, high, low], 2, &[0, 0]).unwrap();
        let want = -(0.25f64.ln() + 0.75f64.ln());
        // The logits are rounded to multiples of 2⁻¹⁴, and each has a slope of at most 1.
        assert!((likelihood.sum - want).abs() <= 2.0 * 2f64.powi(-14), "{}", likelihood.sum);
        assert_eq!(likelihood.tokens, 2);
        // Equal logits: each token has the probability 1/5.
        let mut even = Likelihood::default();
        even.add(&[-7.0; 15], 5, &[0, 3, 4]).unwrap();
        even.add(&[2.5; 5], 5, &[1]).unwrap();
        assert!((even.perplexity() - 5.0).abs() <= 16.0 * f64::EPSILON * 5.0);
        // A token without probability, and one that is certain.
        let mut certain = Likelihood::default();
        certain.add(&[f32::NEG_INFINITY, 3.0], 2, &[1]).unwrap();
        assert_eq!(certain.sum, 0.0);
        certain.add(&[f32::NEG_INFINITY, 3.0], 2, &[0]).unwrap();
        assert_eq!(certain.perplexity(), f64::INFINITY);
    }

    #[test]
    fn logits_that_say_nothing_are_refused() {
        let mut likelihood = Likelihood { sum: 1.5, tokens: 3 };
        let mut refuse = |logits: &[f32], vocab, tokens: &[u32], want: &str| {
            let error = likelihood.add(logits, vocab, tokens).unwrap_err();
            assert_eq!(error.to_string(), want);
        };
        refuse(&[0.0; 5], 2, &[0, 1], "there are 5 logits; 2 rows of 2 are needed");
        refuse(&[], 0, &[], "there are 0 logits; 0 rows of 0 are needed");
        let want = "token 2 is predicted in row 1, and a row has 2 logits";
        refuse(&[0.0; 4], 2, &[0, 2], want);
        let want = "row 1 of the logits has NaN, so that there are no probabilities";
        refuse(&[0.0, 0.0, f32::NAN, 0.0], 2, &[0, 1], want);
        let want = "row 0 of the logits has inf, so that there are no probabilities";
        refuse(&[f32::INFINITY, 0.0], 2, &[0], want);
        let want = "row 0 of the logits has -inf, so that there are no probabilities";
        refuse(&[f32::NEG_INFINITY; 2], 2, &[0], want);
        assert_eq!(likelihood, Likelihood { sum: 1.5, tokens: 3 });
    }
}
