//! The samples of a calibration text.

use super::TextPart;
use crate::architecture::Blueprint;
use crate::checksum::fnv;
use crate::text::windows::{WindowsError, windows};
use crate::text::{TextError, Tokenizer};

/// The samples of a calibration text as tokens.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Samples {
    /// The tokens of each sample.
    pub texts: Vec<Vec<u32>>,
    /// How many samples had more tokens than they may have, and were cut.
    pub cut: usize,
}

/// The reason why a text gives no samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplesError {
    /// The text cannot be made tokens of.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text cannot be cut into windows.
    #[error(transparent)]
    Windows(#[from] WindowsError),
    /// The text has no line that is not blank.
    #[error("it has no line that is not blank")]
    NoLines,
    /// All samples were skipped.
    #[error("it has {have} samples, of which {skip} are skipped")]
    Skipped {
        /// The number of samples to skip.
        skip: usize,
        /// The number of samples that the text has.
        have: usize,
    },
}

/// Returns samples of a text: for a language model windows of `tokens` tokens, one after the other, up to `most` of
/// them; for an encoder its lines that are not blank, up to `most`, each cut after `tokens` tokens.
///
/// # Errors
/// Returns [`SamplesError`] if the text is too short, or cannot be made tokens of.
pub fn samples(
    tokenizer: &Tokenizer,
    blueprint: &Blueprint,
    text: &str,
    most: usize,
    tokens: usize,
) -> Result<Samples, SamplesError> {
    samples_after(tokenizer, blueprint, text, 0, most, tokens)
}

/// Does the same after the first `skip` samples of the text.
///
/// # Errors
/// Returns the errors of [`samples`], and [`SamplesError::Skipped`] if there are no more samples.
pub fn samples_after(
    tokenizer: &Tokenizer,
    blueprint: &Blueprint,
    text: &str,
    skip: usize,
    most: usize,
    tokens: usize,
) -> Result<Samples, SamplesError> {
    let tokens = tokens.min(blueprint.context);
    if blueprint.head.is_some() {
        let all = tokenizer.encode(text, false)?;
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let have = all.len() / tokens.max(1);
        let count = have.min(skip.saturating_add(most));
        let mut texts = windows(&all, tokens, Some(count.max(1)), bos)?;
        if skip >= texts.len() {
            return Err(SamplesError::Skipped { skip, have });
        }
        texts.drain(..skip);
        return Ok(Samples { texts, cut: 0 });
    }
    let mut samples = Samples::default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.clone().skip(skip).take(most) {
        let (ids, have) = tokenizer.encode_within(line, tokens)?;
        samples.cut += usize::from(have > ids.len());
        samples.texts.push(ids);
    }
    match lines.count() {
        _ if !samples.texts.is_empty() => Ok(samples),
        0 => Err(SamplesError::NoLines),
        have => Err(SamplesError::Skipped { skip, have }),
    }
}

impl Samples {
    /// Returns the part of a text that the samples are, after `first` others, of up to `sample_tokens` tokens each.
    pub fn part(&self, name: &str, text: &str, first: usize, sample_tokens: usize) -> TextPart {
        let checksum = |tokens: &Vec<u32>| fnv(tokens.iter().flat_map(|token| token.to_le_bytes()));
        TextPart {
            text: name.to_owned(),
            text_checksum: fnv(text.bytes()),
            sample_tokens: sample_tokens as u64,
            first: first as u64,
            samples: self.texts.len() as u64,
            tokens: self.texts.iter().map(|tokens| tokens.len() as u64).sum(),
            checksum: self.texts.iter().map(checksum).fold(0, u64::wrapping_add),
        }
    }

    /// Returns the number of samples and tokens, and a checksum (FNV-1a) of all tokens, by which an interrupted run
    /// knows its text again.
    pub fn identity(&self) -> (usize, usize, u64) {
        // The length of each text tells apart texts that are cut at other places.
        let words = self
            .texts
            .iter()
            .flat_map(|text| std::iter::once(text.len() as u32).chain(text.iter().copied()));
        let checksum = fnv(words.flat_map(u32::to_le_bytes));
        (self.texts.len(), self.texts.iter().map(Vec::len).sum(), checksum)
    }
}
