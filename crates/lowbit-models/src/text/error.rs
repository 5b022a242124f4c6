use crate::checkpoint::gguf::GgufError;
use crate::checkpoint::source::SourceError;
use std::path::PathBuf;

/// The reason why there is no tokenizer or chat template, or why text cannot be turned into tokens or
/// back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A model file cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The metadata of a GGUF file is not valid.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason of the operating system.
        source: std::io::Error,
    },
    /// A file is too long to be what its name says.
    #[error("{} has more than {most} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        most: u64,
    },
    /// A file is not JSON.
    #[error("{} is not JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// There is no tokenizer with the model.
    #[error("{} has no tokenizer.json, and its model is no GGUF file with a tokenizer inside", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// The library for tokenizers refuses a `tokenizer.json`.
    #[error("the tokenizer is not valid")]
    Library {
        /// Its reason.
        source: tokenizers::Error,
    },
    /// The library for tokenizers fails inside of itself, as some files make it do.
    #[error("the library for tokenizers fails inside of itself: {reason}")]
    LibraryPanic {
        /// What it says.
        reason: String,
    },
    /// A key of a GGUF file is missing.
    #[error("the file has no `{key}`, which its tokenizer needs")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key or field has a value that it cannot have.
    #[error("the value of `{key}` is {have}, where {need} is needed")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What it must be.
        need: String,
        /// What the file has.
        have: String,
    },
    /// The kind of tokenizer is not supported.
    #[error("the file's tokenizer is `{model}`; `gpt2` and `llama` are supported")]
    Model {
        /// Its name, the value of `tokenizer.ggml.model`.
        model: String,
    },
    /// The way in which text is split into words is not known.
    #[error(
        "the file's tokenizer splits text as `{pre}` (`tokenizer.ggml.pre`); {} are supported",
        names(known)
    )]
    Split {
        /// Its name, the value of `tokenizer.ggml.pre`.
        pre: String,
        /// The names that are known.
        known: Vec<&'static str>,
    },
    /// An option of the tokenizer is not supported.
    #[error("the file's tokenizer needs `{key}`, which is not supported")]
    Option {
        /// The key.
        key: &'static str,
    },
    /// Two arrays that belong together have different lengths.
    #[error("`{key}` has {have} elements, and `tokenizer.ggml.tokens` has {need}")]
    Length {
        /// The key.
        key: &'static str,
        /// The number of its elements.
        have: usize,
        /// The number of tokens.
        need: usize,
    },
    /// A vocabulary has no tokens.
    #[error("the vocabulary is empty")]
    Empty,
    /// A token has no text.
    #[error("token {id} is an empty text")]
    EmptyToken {
        /// Its id.
        id: usize,
    },
    /// Two tokens have the same text.
    #[error("tokens {first} and {second} are both `{token}`")]
    Duplicate {
        /// The text.
        token: String,
        /// The id of one.
        first: u32,
        /// The id of the other.
        second: u32,
    },
    /// Two tokens have the same id.
    #[error("`{first}` and `{second}` are both token {id}")]
    SharedId {
        /// The id.
        id: u32,
        /// The text of one.
        first: String,
        /// The text of the other.
        second: String,
    },
    /// A `tokenizer.json` gives an added token an id that does not follow those of the vocabulary.
    #[error(
        "the added token `{token}` has the id {have}, where {need} follows from the vocabulary"
    )]
    AddedId {
        /// Its text.
        token: String,
        /// The id in the file.
        have: u32,
        /// The id that it has.
        need: u32,
    },
    /// A token has a type that does not exist.
    #[error("token {id} (`{token}`) has the type {kind}; 1 to 6 are known")]
    Kind {
        /// Its id.
        id: usize,
        /// Its text.
        token: String,
        /// The number of the type.
        kind: i64,
    },
    /// A token is marked as a byte, and its text is not that of one.
    #[error("token {id} (`{token}`) is marked as a byte, and its text is not like `<0x0A>`")]
    ByteToken {
        /// Its id.
        id: usize,
        /// Its text.
        token: String,
    },
    /// The score of a token is not a number.
    #[error("the score of token {id} (`{token}`) is not a number")]
    Score {
        /// Its id.
        id: usize,
        /// Its text.
        token: String,
    },
    /// The vocabulary has no token for a byte, so that some texts have no tokens.
    #[error("the vocabulary has no token for the byte {byte:#04x}")]
    NoByteToken {
        /// The byte.
        byte: u8,
    },
    /// A merge is not two texts with a space between them.
    #[error("merge {index} is `{merge}`, which is not two tokens with a space between them")]
    Merge {
        /// Its index.
        index: usize,
        /// Its text.
        merge: String,
    },
    /// A merge names something that is not in the vocabulary.
    #[error("merge {index} (`{merge}`) names `{token}`, which is not in the vocabulary")]
    MergeToken {
        /// Its index.
        index: usize,
        /// Its text.
        merge: String,
        /// The text that is not in the vocabulary.
        token: String,
    },
    /// Two merges are the same.
    #[error("merges {first} and {second} are both `{merge}`")]
    DuplicateMerge {
        /// The text.
        merge: String,
        /// The index of one.
        first: usize,
        /// The index of the other.
        second: usize,
    },
    /// An id lies outside of the vocabulary.
    #[error("`{key}` is {id}, and the vocabulary has {tokens} tokens")]
    IdRange {
        /// The setting that has this id.
        key: String,
        /// The id.
        id: u64,
        /// The number of tokens.
        tokens: usize,
    },
    /// An id that is to be turned into text has no token.
    #[error("there is no token with the id {id}; the vocabulary has {tokens}")]
    UnknownId {
        /// The id.
        id: u32,
        /// The number of tokens.
        tokens: usize,
    },
    /// A character of a text has no token.
    #[error("the byte {byte:#04x} at byte {at} of the text has no token in this vocabulary")]
    NoToken {
        /// The byte.
        byte: u8,
        /// Where it is.
        at: usize,
    },
    /// The tokenizer's texts depend on their neighbours, so that they cannot be written one by one.
    #[error("the tokenizer decodes with `{decoder}`, which gives no text for a single token")]
    NotStreamed {
        /// The kind of its decoder.
        decoder: String,
    },
    /// The tokenizer has more tokens than the model has embeddings.
    #[error(
        "the tokenizer has {tokens} tokens, the last `{last}`, and the model has embeddings for {rows}"
    )]
    TooManyTokens {
        /// The number of tokens: the largest id and one.
        tokens: usize,
        /// The token with the largest id.
        last: String,
        /// The rows of the table.
        rows: usize,
    },
    /// The model has far more embeddings than the tokenizer has tokens.
    #[error("the tokenizer has {tokens} tokens, and the model has embeddings for {rows}")]
    TooFewTokens {
        /// The number of tokens: the largest id and one.
        tokens: usize,
        /// The rows of the table.
        rows: usize,
    },
    /// There is no chat template with the model.
    #[error("{what} has no chat template")]
    NoTemplate {
        /// The file or folder.
        what: String,
    },
    /// A chat template is not valid.
    #[error("line {line} of the chat template: {reason}")]
    TemplateSyntax {
        /// The line, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
    /// A chat template fails for these messages.
    #[error("line {line} of the chat template: {reason}")]
    Template {
        /// The line, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
    /// A chat template refuses these messages, in its own words.
    #[error("the chat template refuses these messages: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// A chat template takes too long or writes too much.
    #[error("the chat template takes more than {fuel} steps")]
    TemplateFuel {
        /// The limit.
        fuel: u64,
    },
    /// A chat template is too long.
    #[error("the chat template has {have} bytes; at most {most} are read")]
    TemplateLength {
        /// Its bytes.
        have: usize,
        /// The limit.
        most: usize,
    },
}

impl TextError {
    /// Returns what the user can do about it, as a sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Source(error) => error.next_step(),
            Self::Gguf(error) => error.next_step(),
            Self::Read { .. } => "is it a file that this user may read?",
            Self::TooLong { .. }
            | Self::Json { .. }
            | Self::Library { .. }
            | Self::LibraryPanic { .. } => "fetch that file again, from the model's own page",
            Self::NoTokenizer { .. } => "put the model's tokenizer.json beside its weights",
            Self::MissingKey { .. }
            | Self::Model { .. }
            | Self::Split { .. }
            | Self::Option { .. } => {
                "put the model's tokenizer.json and the .gguf file into a folder of their own, and give \
                 that folder"
            }
            Self::TooManyTokens { .. } | Self::TooFewTokens { .. } => {
                "use the tokenizer that came with the model"
            }
            Self::UnknownId { .. } => "use the tokenizer of the model that gave this id",
            Self::NoToken { .. } => "remove that character from the text",
            Self::NotStreamed { .. } => "decode all tokens at once",
            Self::NoTemplate { .. } => {
                "put chat_template.jinja and the weights into a folder and give that folder, or give a plain \
                 prompt"
            }
            Self::TemplateSyntax { .. }
            | Self::Template { .. }
            | Self::TemplateFuel { .. }
            | Self::TemplateLength { .. } => {
                "put a chat_template.jinja that works and the weights into a folder and give that folder, or \
                 give a plain prompt"
            }
            Self::Refused { .. } => "change the messages as it says",
            _ => "the file is damaged, or the program that wrote it has a fault",
        }
    }
}

fn names(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
