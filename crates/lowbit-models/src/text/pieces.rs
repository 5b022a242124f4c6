//! The bytes of each token, from which text is put together.

use super::TextError;
use std::collections::HashMap;

/// What a token stands for.
pub(super) struct Piece {
    pub bytes: Box<[u8]>,
    /// Whether it is no text, such as the end of a turn.
    pub special: bool,
}

/// What each token stands for.
pub(super) struct Pieces {
    map: HashMap<u32, Piece>,
    /// Whether a text has a space before it that is not part of it.
    first_space: bool,
}

impl Pieces {
    pub fn new(first_space: bool) -> Self {
        Self { map: HashMap::new(), first_space }
    }

    /// Says what a token stands for, instead of what was said of it before.
    pub fn insert(&mut self, id: u32, piece: Piece) {
        self.map.insert(id, piece);
    }

    /// Returns the bytes of a token, or none if it is special and `special` is false. `tokens` is the
    /// number of tokens, for the error.
    pub fn bytes(&self, id: u32, special: bool, tokens: usize) -> Result<&[u8], TextError> {
        let piece = self.map.get(&id).ok_or(TextError::UnknownId { id, tokens })?;
        Ok(if piece.special && !special { &[] } else { &piece.bytes })
    }

    /// Returns the text of tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], special: bool, tokens: usize) -> Result<String, TextError> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.bytes(id, special, tokens)?);
        }
        let text = String::from_utf8_lossy(&bytes);
        let rest = if self.first_space { text.strip_prefix(' ') } else { None };
        Ok(rest.unwrap_or(&text).to_owned())
    }
}
