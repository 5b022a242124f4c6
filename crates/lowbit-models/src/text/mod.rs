//! Text for language models: tokenizers, chat templates, and windows of a text for perplexity.
//!
//! [`Tokenizer`] is made from `tokenizer.json` or from the metadata of a GGUF file. [`TextStream`] turns
//! tokens into text as they come. [`ChatTemplate`] turns messages into the text that a chat model was
//! trained on. [`windows`] cuts the tokens of a text for perplexity, and sums what logits say of them.
//!
//! Files are not trusted: whatever they contain, reading them returns a value or an error, and allocates in
//! proportion to their size. A chat template has a limited number of steps.

mod byte_level;
mod chat;
mod error;
mod files;
mod json;
mod library;
mod pieces;
mod sentence_piece;
mod stream;
#[cfg(test)]
mod tests;
mod vocabulary;
pub mod windows;

pub use chat::{ChatTemplate, Message};
pub use error::TextError;
pub use stream::TextStream;

use crate::architecture::Blueprint;
use crate::checkpoint::gguf::GgufFile;
use files::Found;
use json::Texts;
use sentence_piece::SentencePiece;
use std::path::Path;
use vocabulary::{MODEL, Vocabulary, text};

/// Tokens that end a turn, by their text. Files often name only one of those that a model uses.
const ENDS: [&str; 14] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
    "<eos>",
    "</s>",
];

/// A model may have more embeddings than its tokenizer has tokens, so that their number suits a device: then it is a
/// multiple of this.
const PAD_TO: usize = 8;
/// At most this part of the embeddings is padding.
const MOST_PADDING: usize = 16;

/// A token past the embeddings of Gemma 3's models without images, whose tokenizer is that of all sizes. A text
/// that spells it is refused when it runs.
const IMAGE: (&str, &str) = ("gemma3", "<image_soft_token>");

/// What turns text into tokens.
enum Encoder {
    /// The library `tokenizers`.
    Library(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<SentencePiece>),
}

/// Turns text into tokens and back.
///
/// ```no_run
/// use lowbit_models::text::Tokenizer;
/// let tokenizer = Tokenizer::open("model.gguf")?;
/// let ids = tokenizer.encode("It is a truth universally acknowledged", true)?;
/// println!("{ids:?} is {}", tokenizer.decode(&ids, false)?);
/// # Ok::<(), lowbit_models::text::TextError>(())
/// ```
pub struct Tokenizer {
    encoder: Encoder,
    texts: Texts,
    /// The bytes that no token stands for.
    missing: Vec<u8>,
    /// The largest id and one.
    tokens: usize,
    last: String,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
    /// The tokens around a text that `encode` adds by itself, and the library does not.
    before: Option<u32>,
    after: Option<u32>,
    adds_bos: bool,
    /// Whether the file lists a token for each row of the embeddings.
    is_padded: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.tokens)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("ends", &self.ends)
            .field("adds_bos", &self.adds_bos)
            .finish()
    }
}

impl Tokenizer {
    /// Opens the tokenizer of a model: of a GGUF file, of a folder with `tokenizer.json` or with a GGUF
    /// file, of a model file beside which `tokenizer.json` lies, or of a `tokenizer.json`.
    ///
    /// # Errors
    /// Returns [`TextError`] if there is none, or if it is not valid.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TextError> {
        const NAME: &str = "tokenizer.json";
        match files::find(path.as_ref(), &[NAME])? {
            Found::Gguf(file) => Self::from_gguf(&file),
            Found::File(path) => Self::from_library(json::open(&path)?),
            Found::Folder(folder) if folder.join(NAME).is_file() => {
                Self::from_library(json::open(&folder.join(NAME))?)
            }
            Found::Folder(folder) => Err(TextError::NoTokenizer { folder }),
        }
    }

    /// Reads the bytes of a `tokenizer.json` alone. It does not say which tokens begin and end texts, so
    /// that only the end of a turn is known, by the names that are usual for it.
    ///
    /// # Errors
    /// Returns [`TextError::Library`] if they are not valid.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TextError> {
        Self::from_library(json::read(bytes, &json::Configs::default())?)
    }

    /// Makes the tokenizer that the metadata of a GGUF file describe: byte-level BPE (`gpt2`), or BPE of
    /// SentencePiece with scores (`llama`).
    ///
    /// # Errors
    /// Returns [`TextError`] if the file has none, if it is of another kind, or if it is not valid: a
    /// token twice, a merge of what is no token, an id outside of the vocabulary, arrays of different
    /// lengths.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TextError> {
        let model = text(file, MODEL)?.ok_or(TextError::MissingKey { key: MODEL })?;
        let vocabulary = match model.as_str() {
            "gpt2" | "llama" => Vocabulary::read(file)?,
            _ => return Err(TextError::Model { model }),
        };
        let (encoder, pieces, missing, add_bos) = if model == "gpt2" {
            let made = byte_level::read(file, &vocabulary)?;
            (Encoder::Library(Box::new(made.library)), made.pieces, made.missing, made.add_bos)
        } else {
            let (encoder, pieces) = sentence_piece::read(file, &vocabulary)?;
            (Encoder::SentencePiece(Box::new(encoder)), pieces, Vec::new(), true)
        };
        let adds = |add: bool, id: Option<u32>, key: &'static str| match id {
            Some(id) => Ok(Some(id).filter(|_| add)),
            None if add => Err(TextError::MissingKey { key }),
            None => Ok(None),
        };
        let add_bos = vocabulary.add_bos.unwrap_or(add_bos);
        let before = adds(add_bos, vocabulary.bos, "tokenizer.ggml.bos_token_id")?;
        let add_eos = vocabulary.add_eos.unwrap_or(false);
        let after = adds(add_eos, vocabulary.eos, "tokenizer.ggml.eos_token_id")?;
        let mut ends: Vec<u32> = vocabulary.eos.into_iter().collect();
        ends.extend(vocabulary.other_ends.iter().copied());
        let is_special =
            |id: &u32| vocabulary.kinds.get(*id as usize).is_some_and(|k| k.is_special());
        let by_name = ENDS.iter().filter_map(|end| vocabulary.ids.get(*end).copied());
        ends.extend(by_name.filter(is_special));
        Ok(Self {
            encoder,
            texts: Texts::Pieces(pieces),
            missing,
            tokens: vocabulary.tokens.len(),
            last: vocabulary.tokens.last().cloned().unwrap_or_default(),
            bos: vocabulary.bos,
            eos: vocabulary.eos,
            ends: unique(ends),
            before,
            after,
            adds_bos: add_bos,
            is_padded: true,
        })
    }

    fn from_library(made: json::JsonTokenizer) -> Result<Self, TextError> {
        let json::JsonTokenizer { library, texts, bos, eos, mut ends } = made;
        let last = library.get_vocab(true).into_iter().max_by_key(|&(_, id)| id);
        let (last, largest) = last.ok_or(TextError::Empty)?;
        let added = library.get_added_tokens_decoder();
        let is_special = |id: &u32| added.get(id).is_some_and(|token| token.special);
        ends.extend(ENDS.iter().filter_map(|end| library.token_to_id(end)).filter(is_special));
        let around = library::call(|| library.encode_fast("", true))?;
        let adds_bos = bos.is_some() && around.get_ids().first().copied() == bos;
        Ok(Self {
            encoder: Encoder::Library(Box::new(library)),
            texts,
            missing: Vec::new(),
            tokens: largest as usize + 1,
            last,
            bos,
            eos,
            ends: unique(ends),
            before: None,
            after: None,
            adds_bos,
            is_padded: false,
        })
    }

    /// Returns the tokens of a text. `special` says whether the tokens are added that the tokenizer puts
    /// around a text, such as BOS. A special token that the text spells is that token in any case. The
    /// text of a chat template has its special tokens, so none are to be added.
    ///
    /// # Errors
    /// Returns [`TextError::NoToken`] if a character has no token, and [`TextError::Library`] or
    /// [`TextError::LibraryPanic`] if the library for tokenizers fails.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let mut ids: Vec<u32> = self.before.filter(|_| special).into_iter().collect();
        match &self.encoder {
            Encoder::Library(library) => {
                let encoded = library::call(|| library.encode_fast(text, special))?;
                self.check_bytes(text, encoded.get_ids())?;
                ids.extend_from_slice(encoded.get_ids());
            }
            Encoder::SentencePiece(encoder) => encoder.encode(text, &mut ids),
        }
        ids.extend(self.after.filter(|_| special));
        Ok(ids)
    }

    /// Returns the tokens of a text with those that the tokenizer puts around it, at most `most`: if there are
    /// more, the last ones of the text are left out, and those around it stay. Also returns how many tokens
    /// there are without this limit.
    ///
    /// # Errors
    /// Returns the errors of [`encode`](Self::encode).
    pub fn encode_within(&self, text: &str, most: usize) -> Result<(Vec<u32>, usize), TextError> {
        let mut ids = self.encode(text, true)?;
        let all = ids.len();
        if all > most {
            let inner = self.encode(text, false)?;
            let around = all.saturating_sub(inner.len());
            let is_here =
                |before: &usize| ids.get(*before..).is_some_and(|ids| ids.starts_with(&inner));
            let before = (0..=around).find(is_here).unwrap_or(0);
            let after = ids.split_off(all - (around - before).min(all));
            ids.truncate(most.saturating_sub(after.len()));
            ids.extend(after);
            ids.truncate(most);
        }
        Ok((ids, all))
    }

    /// Checks that tokens have every byte of a text, if some bytes have no token: the library leaves those
    /// out.
    fn check_bytes(&self, text: &str, ids: &[u32]) -> Result<(), TextError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let mut have = 0;
        for &id in ids {
            have += self.bytes(id, true)?.len();
        }
        let mut bytes = text.bytes().enumerate();
        match bytes.find(|(_, byte)| self.missing.contains(byte)) {
            Some((at, byte)) if have != text.len() => Err(TextError::NoToken { byte, at }),
            _ => Ok(()),
        }
    }

    /// Returns the text of tokens. `special` says whether special tokens, such as BOS, are written. Bytes
    /// that are not UTF-8 become U+FFFD. The space that some tokenizers put before a text is not written.
    ///
    /// # Errors
    /// Returns [`TextError::UnknownId`] if a token does not exist.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String, TextError> {
        match (&self.texts, &self.encoder) {
            (Texts::Pieces(pieces), _) => pieces.decode(ids, special, self.tokens),
            (Texts::Whole(_), Encoder::Library(library)) => {
                let unknown = ids.iter().find(|&&id| library.id_to_token(id).is_none());
                if let Some(&id) = unknown {
                    return Err(TextError::UnknownId { id, tokens: self.tokens });
                }
                library::call(|| library.decode(ids, !special))
            }
            (Texts::Whole(decoder), Encoder::SentencePiece(_)) => Err(not_streamed(decoder)),
        }
    }

    /// Returns the bytes of a token, or none if it is special and `special` is false.
    fn bytes(&self, id: u32, special: bool) -> Result<&[u8], TextError> {
        match &self.texts {
            Texts::Pieces(pieces) => pieces.bytes(id, special, self.tokens),
            Texts::Whole(decoder) => Err(not_streamed(decoder)),
        }
    }

    /// Returns the number of tokens: the largest id and one.
    pub fn vocab_size(&self) -> usize {
        self.tokens
    }

    /// Returns the token that begins a text, if there is one. Not every tokenizer that has one adds it.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Returns the token that ends a text, if the files name it.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Returns the tokens after which nothing is generated: the end of a text, of a turn or of a message.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether [`encode`](Self::encode) puts BOS before a text if it adds special tokens.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Checks that a model has an embedding for each token, and hardly more.
    ///
    /// # Errors
    /// Returns [`TextError::TooManyTokens`] or [`TextError::TooFewTokens`]. A GGUF file lists a token for
    /// each embedding. With a `tokenizer.json`, a sixteenth of the embeddings may be padding, up to a multiple of 8.
    pub fn check(&self, blueprint: &Blueprint) -> Result<(), TextError> {
        let rows = blueprint.vocab;
        let is_unused = (blueprint.family, &*self.last) == IMAGE && self.tokens == rows + 1;
        let tokens = if is_unused { rows } else { self.tokens };
        if tokens > rows {
            return Err(TextError::TooManyTokens { tokens, last: self.last.clone(), rows });
        }
        let padded = !self.is_padded && rows.is_multiple_of(PAD_TO);
        let most_padding = if padded { rows / MOST_PADDING } else { 0 };
        if rows - tokens > most_padding {
            return Err(TextError::TooFewTokens { tokens, rows });
        }
        Ok(())
    }
}

fn not_streamed(decoder: &str) -> TextError {
    TextError::NotStreamed { decoder: decoder.to_owned() }
}

/// Returns the ids in their order, each once.
fn unique(ids: Vec<u32>) -> Vec<u32> {
    let mut once = Vec::new();
    for id in ids {
        if !once.contains(&id) {
            once.push(id);
        }
    }
    once
}
