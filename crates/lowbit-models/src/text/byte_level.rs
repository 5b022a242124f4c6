//! Byte-level BPE of GGUF files, `tokenizer.ggml.model` = `gpt2`.
//!
//! Text is split into words; the bytes of a word are written as characters, of an alphabet that has one
//! for each byte; and neighbouring pieces are merged in the order of the file. How text is split differs
//! from model to model, and the file only says its name.

use super::TextError;
use super::pieces::{Piece, Pieces};
use super::vocabulary::{PRE, Vocabulary, text};
use crate::checkpoint::gguf::GgufFile;
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// How text is split into words.
struct Words {
    /// The names that files have for it.
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether a word that is a token is taken as that, whatever the merges would make of it.
    whole_words: bool,
    /// Whether texts start with BOS if the file does not say it.
    add_bos: bool,
}

/// One step: what it matches becomes words, and what is between them, too.
enum Step {
    /// Each digit alone.
    Digits,
    /// The words of GPT-2.
    Gpt2,
    Regex(&'static str),
}

const WORDS: [Words; 5] = [
    Words {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais"],
        steps: &[Step::Gpt2],
        whole_words: false,
        add_bos: false,
    },
    Words {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"],
        steps: &[Step::Digits, Step::Gpt2],
        whole_words: false,
        add_bos: false,
    },
    Words {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"],
        steps: &[Step::Regex(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        whole_words: false,
        add_bos: false,
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: &[Step::Regex(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))],
        whole_words: true,
        add_bos: true,
    },
    Words {
        // What llama.cpp does with files that name nothing better.
        names: &["default"],
        steps: &[
            Step::Regex(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Gpt2,
            Step::Regex(r"\p{N}+"),
            Step::Regex("[0-9][0-9][0-9]"),
        ],
        whole_words: false,
        add_bos: false,
    },
];

/// What a file's byte-level tokenizer is.
pub(super) struct ByteLevelTokenizer {
    pub library: Tokenizer,
    pub pieces: Pieces,
    /// The bytes without a token, so that a text with one of them has no tokens either.
    pub missing: Vec<u8>,
    /// Whether texts start with BOS if the file does not say it.
    pub add_bos: bool,
}

pub(super) fn read(
    file: &GgufFile,
    vocabulary: &Vocabulary,
) -> Result<ByteLevelTokenizer, TextError> {
    let pre = text(file, PRE)?.ok_or(TextError::MissingKey { key: PRE })?;
    let words = WORDS.iter().find(|words| words.names.contains(&pre.as_str()));
    let known = || WORDS.iter().flat_map(|words| words.names).copied().collect();
    let words = words.ok_or_else(|| TextError::Split { pre, known: known() })?;

    let merges = vocabulary.merges(file)?;
    let ids = vocabulary.ids.iter().map(|(token, &id)| (token.clone(), id));
    let model = BPE::builder()
        .vocab_and_merges(ids.collect::<Vocab>(), merges)
        .ignore_merges(words.whole_words)
        .build();
    let refused = |source| TextError::Library { source };
    let mut library = Tokenizer::new(model.map_err(refused)?);
    library.with_pre_tokenizer(Some(pre_tokenizer(words.steps).map_err(refused)?));

    let alphabet = Alphabet::new();
    let mut added = Vec::new();
    let mut pieces = Pieces::new(false);
    for (id, token, kind) in vocabulary.iter() {
        let special = kind.is_special();
        let bytes = if kind.is_matched_whole() {
            added.push(AddedToken::from(token, special).normalized(false));
            token.as_bytes().to_vec()
        } else {
            alphabet.bytes_of(token)
        };
        pieces.insert(id, Piece { bytes: bytes.into(), special });
    }
    let (special, other): (Vec<_>, Vec<_>) = added.into_iter().partition(|token| token.special);
    library.add_special_tokens(&special);
    library.add_tokens(&other);

    let missing = alphabet.missing(|letter| vocabulary.ids.contains_key(letter));
    Ok(ByteLevelTokenizer { library, pieces, missing, add_bos: words.add_bos })
}

fn pre_tokenizer(steps: &[Step]) -> tokenizers::Result<Sequence> {
    let mut all: Vec<PreTokenizerWrapper> = Vec::new();
    for step in steps {
        all.push(match step {
            Step::Digits => Digits::new(true).into(),
            Step::Gpt2 => gpt2_words()?.into(),
            Step::Regex(regex) => split(regex)?.into(),
        });
    }
    all.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(all))
}

fn gpt2_words() -> tokenizers::Result<Split> {
    split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
}

fn split(regex: &str) -> tokenizers::Result<Split> {
    Split::new(SplitPattern::Regex(regex.into()), SplitDelimiterBehavior::Isolated, false)
}

/// The characters that bytes are written as.
pub(super) struct Alphabet {
    letters: Vec<char>,
    bytes: HashMap<char, u8>,
}

impl Alphabet {
    /// A visible character of Latin-1 stands for the byte of its number. The other bytes have the
    /// characters from U+0100 on, in their order.
    pub fn new() -> Self {
        let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut others = '\u{100}'..;
        let letter = |byte: u8| {
            if plain(&byte) { char::from(byte) } else { others.next().unwrap_or_default() }
        };
        let letters: Vec<char> = (0..=u8::MAX).map(letter).collect();
        let bytes = letters.iter().copied().zip(0..=u8::MAX).collect();
        Self { letters, bytes }
    }

    /// Returns the bytes that a token is written for. A token with other characters stands for its own
    /// text, as padding of a vocabulary may.
    pub fn bytes_of(&self, token: &str) -> Vec<u8> {
        let bytes: Option<Vec<u8>> = token.chars().map(|c| self.bytes.get(&c).copied()).collect();
        bytes.unwrap_or_else(|| token.as_bytes().to_vec())
    }

    /// Returns the bytes that have no token of their own.
    fn missing(&self, has: impl Fn(&str) -> bool) -> Vec<u8> {
        let all = self.letters.iter().zip(0..=u8::MAX);
        all.filter(|(letter, _)| !has(&letter.to_string())).map(|(_, byte)| byte).collect()
    }
}
