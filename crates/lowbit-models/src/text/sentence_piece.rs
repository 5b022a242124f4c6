//! SentencePiece's BPE with scores, of GGUF files: `tokenizer.ggml.model` = `llama`.
//!
//! Characters are merged, two neighbours at a time: those first whose text is the token with the highest
//! score, and of equal ones the leftmost. What remains without a token is written as tokens of bytes. The
//! library for tokenizers has BPE by a list of merges only. Made from scores, that list would decide
//! differently where scores are equal, and take the product of tokens and their lengths to make.

use super::TextError;
use super::pieces::{Piece, Pieces};
use super::vocabulary::{Kind, Vocabulary, flag};
use crate::checkpoint::gguf::GgufFile;
use aho_corasick::{AhoCorasick, MatchKind};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// Options of SentencePiece that files of this kind do not use.
const EXTRA_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";

pub(super) struct SentencePiece {
    /// The tokens that characters are merged to, with their scores.
    tokens: HashMap<String, (u32, f32)>,
    /// The token of each byte.
    bytes: Vec<u32>,
    /// The tokens that are matched whole: what finds them, and their ids.
    whole: Option<(AhoCorasick, Vec<u32>)>,
    /// Whether a space is put before a text, and after a token that is matched whole.
    add_space: bool,
}

/// A token and what it takes the place of: neighbours that may become one.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// The bytes of both, by which a pair is told that was overtaken by another.
    length: usize,
}

impl Ord for Pair {
    /// The greatest is merged first.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |pair: &Self| Reverse(pair.left);
        self.score.total_cmp(&other.score).then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// A part of the text: from `start`, `length` bytes. Parts that were merged into another have no bytes.
struct Part {
    start: usize,
    length: usize,
    before: Option<usize>,
    after: Option<usize>,
}

pub(super) fn read(
    file: &GgufFile,
    vocabulary: &Vocabulary,
) -> Result<(SentencePiece, Pieces), TextError> {
    if flag(file, EXTRA_SPACES)? == Some(true) {
        return Err(TextError::Option { key: EXTRA_SPACES });
    }
    if file.config().get(CHARSMAP).is_some() {
        return Err(TextError::Option { key: CHARSMAP });
    }
    let scores = vocabulary.scores(file)?;
    let add_space = vocabulary.add_space_prefix.unwrap_or(true);
    let mut pieces = Pieces::new(add_space);
    let mut tokens = HashMap::with_capacity(vocabulary.tokens.len());
    let mut bytes = vec![None; 256];
    let (mut whole, mut whole_ids) = (Vec::new(), Vec::new());
    for ((id, token, kind), score) in vocabulary.iter().zip(scores) {
        // The sum makes one zero of both, so that they count as equal.
        tokens.insert(token.to_owned(), (id, score + 0.0));
        let text = if kind == Kind::Byte {
            let byte = byte_of(token);
            let place = byte.and_then(|byte| bytes.get_mut(usize::from(byte)));
            let (Some(byte), Some(place)) = (byte, place) else {
                return Err(TextError::ByteToken { id: id as usize, token: token.into() });
            };
            *place = Some(id);
            vec![byte]
        } else if kind.is_special() {
            token.as_bytes().to_vec()
        } else {
            token.replace(SPACE, " ").into_bytes()
        };
        if kind.is_matched_whole() {
            whole.push(token);
            whole_ids.push(id);
        }
        pieces.insert(id, Piece { bytes: text.into(), special: kind.is_special() });
    }
    let missing = |(byte, id): (u8, Option<u32>)| id.ok_or(TextError::NoByteToken { byte });
    let bytes = (0..=u8::MAX).zip(bytes).map(missing).collect::<Result<_, _>>()?;
    let whole = finder(&whole)?.map(|finder| (finder, whole_ids));
    Ok((SentencePiece { tokens, bytes, whole, add_space }, pieces))
}

/// Returns what finds texts: of those that start first, the longest.
fn finder(texts: &[&str]) -> Result<Option<AhoCorasick>, TextError> {
    if texts.is_empty() {
        return Ok(None);
    }
    let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
    finder.map(Some).map_err(|error| TextError::Library { source: error.into() })
}

/// Returns the byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if plain { u8::from_str_radix(digits, 16).ok() } else { None }
}

impl SentencePiece {
    /// Adds the tokens of a text.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let Some((finder, ids)) = &self.whole else { return self.encode_part(text, out) };
        let mut done = 0;
        for found in finder.find_iter(text) {
            self.encode_part(text.get(done..found.start()).unwrap_or_default(), out);
            out.extend(ids.get(found.pattern().as_usize()));
            done = found.end();
        }
        self.encode_part(text.get(done..).unwrap_or_default(), out);
    }

    /// Adds the tokens of a text between two that are matched whole.
    fn encode_part(&self, text: &str, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut text = text.replace(' ', SPACE);
        if self.add_space {
            text.insert_str(0, SPACE);
        }
        let mut parts: Vec<Part> = Vec::new();
        for (start, c) in text.char_indices() {
            let at = parts.len();
            let before = at.checked_sub(1);
            parts.push(Part { start, length: c.len_utf8(), before, after: Some(at + 1) });
        }
        let last = parts.len();
        parts.iter_mut().last().into_iter().for_each(|part| part.after = None);

        let mut pairs = BinaryHeap::new();
        for right in 1..last {
            pairs.extend(self.pair(&text, &parts, Some(right - 1), Some(right)));
        }
        while let Some(Pair { left, right, length, .. }) = pairs.pop() {
            let lengths = (parts[left].length, parts[right].length);
            // One of the two is in another part by now, or has grown.
            if lengths.0 == 0 || lengths.1 == 0 || lengths.0 + lengths.1 != length {
                continue;
            }
            let after = parts[right].after;
            parts[right].length = 0;
            parts[left].length = length;
            parts[left].after = after;
            if let Some(after) = after {
                parts[after].before = Some(left);
            }
            pairs.extend(self.pair(&text, &parts, parts[left].before, Some(left)));
            pairs.extend(self.pair(&text, &parts, Some(left), after));
        }
        for part in parts.iter().filter(|part| part.length > 0) {
            let text = &text[part.start..part.start + part.length];
            match self.tokens.get(text) {
                Some((id, _)) => out.push(*id),
                None => out.extend(text.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// Returns a pair of neighbours if their text is a token.
    fn pair(
        &self,
        text: &str,
        parts: &[Part],
        left: Option<usize>,
        right: Option<usize>,
    ) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let length = parts[left].length + parts[right].length;
        let start = parts[left].start;
        let (_, score) = self.tokens.get(&text[start..start + length])?;
        Some(Pair { score: *score, left, right, length })
    }
}
