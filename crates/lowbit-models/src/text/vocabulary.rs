//! The vocabulary of a GGUF file, checked.

use super::TextError;
use crate::checkpoint::gguf::GgufFile;
use serde_json::Value;
use std::collections::HashMap;

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
/// Ends a turn, and ends a message to a tool.
const OTHER_ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// What a token is, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Not text, such as the end of a turn. A text that spells it means it.
    Control,
    /// Text that is a token wherever it appears.
    UserDefined,
    Unused,
    /// `<0x0A>`: a byte of a character that has no token.
    Byte,
}

impl Kind {
    fn new(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether it stands for no text of its own.
    pub fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }

    /// Whether a text that spells it means it, whatever is around.
    pub fn is_matched_whole(self) -> bool {
        self.is_special() || self == Self::UserDefined
    }
}

/// The tokens of a GGUF file, each with its kind, and the ids that have a purpose.
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    pub kinds: Vec<Kind>,
    /// The id of each text.
    pub ids: HashMap<String, u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Other tokens that end a turn.
    pub other_ends: Vec<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

impl Vocabulary {
    pub fn read(file: &GgufFile) -> Result<Self, TextError> {
        let tokens = file.strings(TOKENS)?.ok_or(TextError::MissingKey { key: TOKENS })?;
        if tokens.is_empty() {
            return Err(TextError::Empty);
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if token.is_empty() {
                return Err(TextError::EmptyToken { id });
            }
            let number = u32::try_from(id).map_err(|_| bad(TOKENS, "at most 2³² tokens", id))?;
            if let Some(first) = ids.insert(token.clone(), number) {
                return Err(TextError::Duplicate { token: token.clone(), first, second: number });
            }
        }
        let id = |key: &'static str| id(file, key, tokens.len());
        let (bos, eos, unknown) = (id(BOS)?, id(EOS)?, id(UNKNOWN)?);
        let mut other_ends = Vec::new();
        for key in OTHER_ENDS {
            other_ends.extend(id(key)?);
        }
        let kinds = match file.integers(KINDS)? {
            Some(numbers) => kinds(&tokens, &numbers)?,
            // Without kinds, only the tokens that have a purpose are known to be no text.
            None => {
                let mut kinds = vec![Kind::Normal; tokens.len()];
                for id in [bos, eos].into_iter().flatten().chain(other_ends.iter().copied()) {
                    set(&mut kinds, id, Kind::Control);
                }
                unknown.into_iter().for_each(|id| set(&mut kinds, id, Kind::Unknown));
                kinds
            }
        };
        Ok(Self {
            kinds,
            ids,
            bos,
            eos,
            other_ends,
            add_bos: flag(file, "tokenizer.ggml.add_bos_token")?,
            add_eos: flag(file, "tokenizer.ggml.add_eos_token")?,
            add_space_prefix: flag(file, "tokenizer.ggml.add_space_prefix")?,
            tokens,
        })
    }

    /// Returns the tokens with their kinds, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        let all = self.tokens.iter().zip(&self.kinds);
        (0..).zip(all).map(|(id, (token, &kind))| (id, token.as_str(), kind))
    }

    /// Reads the score of each token.
    pub fn scores(&self, file: &GgufFile) -> Result<Vec<f32>, TextError> {
        let scores = file.floats(SCORES)?.ok_or(TextError::MissingKey { key: SCORES })?;
        same_length(SCORES, scores.len(), self.tokens.len())?;
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            let token = self.tokens.get(id).cloned().unwrap_or_default();
            return Err(TextError::Score { id, token });
        }
        Ok(scores)
    }

    /// Reads the merges: pairs of tokens whose texts together are a token.
    pub fn merges(&self, file: &GgufFile) -> Result<Vec<(String, String)>, TextError> {
        let merges = file.strings(MERGES)?.ok_or(TextError::MissingKey { key: MERGES })?;
        let mut pairs = Vec::with_capacity(merges.len());
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(merges.len());
        for (index, merge) in merges.iter().enumerate() {
            let wrong = || TextError::Merge { index, merge: merge.clone() };
            let (first, second) = merge.split_once(' ').ok_or_else(wrong)?;
            if first.is_empty() || second.is_empty() || second.contains(' ') {
                return Err(wrong());
            }
            let whole = format!("{first}{second}");
            for token in [first, second, &whole] {
                if !self.ids.contains_key(token) {
                    let (merge, token) = (merge.clone(), token.to_owned());
                    return Err(TextError::MergeToken { index, merge, token });
                }
            }
            if let Some(earlier) = seen.insert(merge, index) {
                let merge = merge.clone();
                return Err(TextError::DuplicateMerge { merge, first: earlier, second: index });
            }
            pairs.push((first.to_owned(), second.to_owned()));
        }
        Ok(pairs)
    }
}

/// Returns the texts of BOS and EOS, without checking the rest of the vocabulary.
pub(super) fn bos_and_eos(file: &GgufFile) -> Result<(Option<String>, Option<String>), TextError> {
    let tokens = file.strings(TOKENS)?.unwrap_or_default();
    let text = |key: &'static str| -> Result<Option<String>, TextError> {
        Ok(id(file, key, tokens.len())?.and_then(|id| tokens.get(id as usize).cloned()))
    };
    Ok((text(BOS)?, text(EOS)?))
}

/// Reads the id of a token.
fn id(file: &GgufFile, key: &'static str, tokens: usize) -> Result<Option<u32>, TextError> {
    let Some(value) = file.config().get(key) else { return Ok(None) };
    let id = value.as_u64().ok_or_else(|| bad(key, "the id of a token", value))?;
    let inside = u32::try_from(id).ok().filter(|&id| (id as usize) < tokens);
    inside.map(Some).ok_or_else(|| TextError::IdRange { key: key.into(), id, tokens })
}

fn set(kinds: &mut [Kind], id: u32, kind: Kind) {
    if let Some(place) = kinds.get_mut(id as usize) {
        *place = kind;
    }
}

fn kinds(tokens: &[String], numbers: &[i64]) -> Result<Vec<Kind>, TextError> {
    same_length(KINDS, numbers.len(), tokens.len())?;
    let all = tokens.iter().zip(numbers).enumerate();
    let kind = |(id, (token, &number)): (usize, (&String, &i64))| {
        let token = token.clone();
        Kind::new(number).ok_or(TextError::Kind { id, token, kind: number })
    };
    all.map(kind).collect()
}

fn same_length(key: &'static str, have: usize, need: usize) -> Result<(), TextError> {
    if have == need { Ok(()) } else { Err(TextError::Length { key, have, need }) }
}

/// Reads a value of the metadata that is true or false.
pub(super) fn flag(file: &GgufFile, key: &'static str) -> Result<Option<bool>, TextError> {
    match file.config().get(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(bad(key, "true or false", other)),
    }
}

/// Reads a text of the metadata.
pub(super) fn text(file: &GgufFile, key: &'static str) -> Result<Option<String>, TextError> {
    match file.config().get(key) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value.clone())),
        Some(other) => Err(bad(key, "a text", other)),
    }
}

pub(super) fn bad(key: &'static str, need: &str, have: impl std::fmt::Display) -> TextError {
    TextError::BadValue { key, need: need.into(), have: have.to_string() }
}
