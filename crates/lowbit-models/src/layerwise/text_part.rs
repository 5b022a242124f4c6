//! Which part of a text statistics are of.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Samples of a text that lie one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextPart {
    /// The name of the text's file.
    pub text: String,
    /// A checksum of the whole text (FNV-1a).
    pub text_checksum: u64,
    /// The tokens that a sample may have.
    pub sample_tokens: u64,
    /// The samples that lie before the part.
    pub first: u64,
    /// The number of samples.
    pub samples: u64,
    /// The tokens of all samples.
    pub tokens: u64,
    /// The sum of the checksums of the samples' tokens, modulo 2⁶⁴.
    pub checksum: u64,
}

/// Statistics would count a part of a text twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "samples {}…{} of `{text}` with up to {sample_tokens} tokens may be among those that are counted already; each part of a text counts once",
    first + 1, first.saturating_add(*samples)
)]
pub struct Twice {
    /// The name of the text's file.
    pub text: String,
    /// The tokens that a sample may have.
    pub sample_tokens: u64,
    /// The samples that lie before the part.
    pub first: u64,
    /// The number of samples.
    pub samples: u64,
}

impl TextPart {
    /// Returns the number of samples of the text up to the end of the part.
    fn end(&self) -> u64 {
        self.first.saturating_add(self.samples)
    }
}

/// Puts parts into one order, and joins those that follow one another, so that the result does not depend on the order in
/// which they are given, or on how a text was divided.
///
/// # Errors
/// Returns [`Twice`] if parts of one text overlap, or have samples of other lengths, of which it is not known.
pub(super) fn joined(mut parts: Vec<TextPart>) -> Result<Vec<TextPart>, Twice> {
    parts.sort_by(|a, b| {
        let key = |part: &TextPart| (part.text_checksum, part.first, part.samples);
        key(a).cmp(&key(b))
    });
    // One text has one name, whatever its files are called.
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    for part in &parts {
        let name = names.entry(part.text_checksum).or_insert_with(|| part.text.clone());
        if part.text < *name {
            name.clone_from(&part.text);
        }
    }
    let mut all: Vec<TextPart> = Vec::with_capacity(parts.len());
    for mut part in parts {
        if let Some(name) = names.get(&part.text_checksum) {
            part.text.clone_from(name);
        }
        let last = all.last_mut().filter(|last| last.text_checksum == part.text_checksum);
        let Some(last) = last else {
            all.push(part);
            continue;
        };
        if last.sample_tokens != part.sample_tokens || part.first < last.end() {
            let TextPart { text, sample_tokens, first, samples, .. } = part;
            return Err(Twice { text, sample_tokens, first, samples });
        }
        if part.first > last.end() {
            all.push(part);
            continue;
        }
        last.samples = last.samples.saturating_add(part.samples);
        last.tokens = last.tokens.saturating_add(part.tokens);
        last.checksum = last.checksum.wrapping_add(part.checksum);
    }
    Ok(all)
}

/// Returns how many samples of a text lie before the first one that is behind all parts of it.
pub fn next_sample(parts: &[TextPart], text_checksum: u64) -> u64 {
    let of_text = parts.iter().filter(|part| part.text_checksum == text_checksum);
    of_text.map(TextPart::end).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text_checksum: u64, first: u64, samples: u64) -> TextPart {
        TextPart {
            text: "a.txt".to_owned(),
            text_checksum,
            sample_tokens: 8,
            first,
            samples,
            tokens: 8 * samples,
            checksum: u64::MAX - first,
        }
    }

    #[test]
    fn parts_join_in_any_order() {
        let parts = [part(1, 0, 4), part(1, 4, 2), part(2, 0, 1), part(1, 8, 2)];
        let want = joined(parts.to_vec()).unwrap();
        assert_eq!(want.len(), 3);
        let sum = (u64::MAX).wrapping_add(u64::MAX - 4);
        assert_eq!(want[0], TextPart { checksum: sum, tokens: 48, ..part(1, 0, 6) });
        for rotation in 1..4 {
            let mut parts = parts.clone();
            parts.rotate_left(rotation);
            // Parts that were joined before join again.
            let (left, right) = parts.split_at(2);
            let halves = [joined(left.to_vec()).unwrap(), joined(right.to_vec()).unwrap()];
            assert_eq!(joined(halves.concat()).unwrap(), want, "{rotation}");
        }
        let named = |text: &str, first| TextPart { text: text.to_owned(), ..part(1, first, 1) };
        let parts = [named("c", 0), named("a", 2), named("b", 4)];
        assert!(joined(parts.to_vec()).unwrap().iter().all(|part| part.text == "a"));
        assert_eq!(
            (next_sample(&want, 1), next_sample(&want, 2), next_sample(&want, 3)),
            (10, 1, 0)
        );
    }

    #[test]
    fn no_sample_counts_twice() {
        for (a, b) in [(part(1, 0, 4), part(1, 3, 2)), (part(1, 2, 4), part(1, 2, 4))] {
            let error = joined(vec![a, b]).unwrap_err().to_string();
            assert!(error.contains("counts once"), "{error}");
        }
        let shorter = TextPart { sample_tokens: 4, ..part(1, 9, 1) };
        assert!(joined(vec![part(1, 0, 4), shorter]).is_err());
        assert_eq!(joined(vec![part(1, u64::MAX, 4), part(1, 0, 4)]).unwrap().len(), 2);
    }
}
