//! Text from tokens that come one by one.

use super::{TextError, Tokenizer};

/// Turns tokens that come one by one into text, and holds back the bytes of a character until they are
/// complete.
///
/// The text is that of a continuation: the space that some tokenizers put before the first word of a
/// text is written.
///
/// ```no_run
/// use lowbit_models::text::{TextStream, Tokenizer};
/// let tokenizer = Tokenizer::open("model.gguf")?;
/// let mut stream = TextStream::new(false);
/// for id in tokenizer.encode("Ünïcödé 🙂", false)? {
///     print!("{}", stream.push(&tokenizer, id)?);
/// }
/// println!("{}", stream.finish());
/// # Ok::<(), lowbit_models::text::TextError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    special: bool,
    held: Vec<u8>,
}

impl TextStream {
    /// Starts a text. `special` says whether special tokens are written.
    pub fn new(special: bool) -> Self {
        Self { special, held: Vec::new() }
    }

    /// Takes a token, and returns the text that is complete with it. Bytes that cannot become UTF-8 are
    /// U+FFFD.
    ///
    /// # Errors
    /// Returns [`TextError::UnknownId`] if there is no such token, and [`TextError::NotStreamed`] if
    /// tokens of this tokenizer have no text of their own.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TextError> {
        self.held.extend_from_slice(tokenizer.bytes(id, self.special)?);
        let mut text = String::new();
        let mut tail = Vec::new();
        let mut chunks = self.held.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunk.invalid().is_empty() {
                continue;
            }
            let unfinished = std::str::from_utf8(chunk.invalid())
                .is_err_and(|error| error.error_len().is_none());
            if unfinished && chunks.peek().is_none() {
                tail = chunk.invalid().to_vec();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.held = tail;
        Ok(text)
    }

    /// Ends the text, and returns U+FFFD if a character is incomplete.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}
