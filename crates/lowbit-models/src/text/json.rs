//! `tokenizer.json`, the format of the library `tokenizers`, and the files beside it.

use super::byte_level::Alphabet;
use super::library::call;
use super::pieces::{Piece, Pieces};
use super::sentence_piece::byte_of;
use super::{TextError, files};
use serde_json::Value;
use std::path::Path;
use tokenizers::Tokenizer;

/// The most bytes of a `tokenizer.json` that are read. Those of the largest vocabularies have 40 MB.
const MOST: u64 = 256 << 20;
/// The most bytes of a configuration that are read.
const MOST_CONFIG: u64 = 16 << 20;

/// How a tokenizer puts text together.
pub(super) enum Texts {
    /// From the bytes of its tokens.
    Pieces(Pieces),
    /// In a way that needs all tokens: the name of its decoder.
    Whole(String),
}

pub(super) struct JsonTokenizer {
    pub library: Tokenizer,
    pub texts: Texts,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub ends: Vec<u32>,
}

/// Reads a tokenizer from the bytes of its file, and from the folder in which it lies which of its tokens
/// begin and end texts.
pub(super) fn open(path: &Path) -> Result<JsonTokenizer, TextError> {
    let missing = || {
        let source = std::io::ErrorKind::NotFound.into();
        TextError::Read { path: path.to_owned(), source }
    };
    let bytes = files::read(path, MOST)?.ok_or_else(missing)?;
    let folder = crate::checkpoint::folder_of(path);
    let configs = Configs {
        tokenizer: files::json(&folder.join("tokenizer_config.json"), MOST_CONFIG)?,
        generation: files::json(&folder.join("generation_config.json"), MOST_CONFIG)?,
        model: files::json(&folder.join("config.json"), MOST_CONFIG)?,
    };
    read(&bytes, &configs)
}

/// The files beside a tokenizer.
#[derive(Default)]
pub(super) struct Configs {
    pub tokenizer: Option<Value>,
    pub generation: Option<Value>,
    pub model: Option<Value>,
}

pub(super) fn read(bytes: &[u8], configs: &Configs) -> Result<JsonTokenizer, TextError> {
    let mut library = call(|| Tokenizer::from_bytes(bytes))?;
    // A file may have limits and padding for training. A text has all of its tokens here.
    library.with_padding(None);
    call(|| library.with_truncation(None).map(|_| ()))?;
    let texts = texts(bytes, &library)?;
    let bos = one(&library, configs, "bos_token", "bos_token_id")?;
    let eos = one(&library, configs, "eos_token", "eos_token_id")?;
    let mut ends: Vec<u32> = eos.into_iter().collect();
    for config in [&configs.generation, &configs.model].into_iter().flatten() {
        for id in ids(config.get("eos_token_id")) {
            ends.push(inside(&library, "eos_token_id", id?)?);
        }
    }
    Ok(JsonTokenizer { library, texts, bos, eos, ends })
}

/// Returns the id of a token that begins or ends texts: by its text in `tokenizer_config.json`, or by the
/// first id of another file.
fn one(
    library: &Tokenizer,
    configs: &Configs,
    name: &'static str,
    key: &'static str,
) -> Result<Option<u32>, TextError> {
    if let Some(text) = configs.tokenizer.as_ref().and_then(|config| token_text(config, name)) {
        let unknown = || TextError::BadValue {
            key: name,
            need: "a token of the vocabulary".into(),
            have: format!("`{text}`"),
        };
        return library.token_to_id(text).ok_or_else(unknown).map(Some);
    }
    for config in [&configs.generation, &configs.model].into_iter().flatten() {
        if let Some(id) = ids(config.get(key)).next() {
            return inside(library, key, id?).map(Some);
        }
    }
    Ok(None)
}

/// Returns the text of a token in `tokenizer_config.json`: a string, or an object with more about it.
pub(super) fn token_text<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Returns the ids of a value that is one or a list of them.
fn ids(value: Option<&Value>) -> impl Iterator<Item = Result<u64, TextError>> {
    let values = match value {
        None | Some(Value::Null) => &[],
        Some(Value::Array(values)) => values.as_slice(),
        Some(other) => std::slice::from_ref(other),
    };
    values.iter().map(|value| {
        value.as_u64().ok_or_else(|| TextError::BadValue {
            key: "eos_token_id",
            need: "the id of a token".into(),
            have: value.to_string(),
        })
    })
}

fn inside(library: &Tokenizer, key: &str, id: u64) -> Result<u32, TextError> {
    let known = u32::try_from(id).ok().filter(|&id| library.id_to_token(id).is_some());
    let tokens = library.get_vocab_size(true);
    known.ok_or_else(|| TextError::IdRange { key: key.into(), id, tokens })
}

/// How tokens are written as text.
enum Writing {
    Bytes,
    /// Spaces as U+2581, and bytes as `<0x0A>` if that is true.
    Spaces(bool),
}

/// What a `tokenizer.json` says of which the library does not tell.
#[derive(serde::Deserialize)]
struct Described {
    decoder: Option<Value>,
    added_tokens: Option<Vec<Added>>,
}

#[derive(serde::Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// Checks that each token has an id of its own, and added tokens the one that the file gives them: the
/// library counts those that are not in the vocabulary.
fn check_ids(library: &Tokenizer, added: &[Added]) -> Result<(), TextError> {
    for Added { id: have, content } in added {
        if let Some(need) = library.token_to_id(content).filter(|need| need != have) {
            return Err(TextError::AddedId { token: content.clone(), have: *have, need });
        }
    }
    let mut tokens: Vec<(String, u32)> = library.get_vocab(true).into_iter().collect();
    tokens.sort_unstable_by(|(a, id_a), (b, id_b)| (id_a, a).cmp(&(id_b, b)));
    let mut pairs = tokens.windows(2);
    match pairs.find(|pair| matches!(pair, [(_, a), (_, b)] if a == b)) {
        Some([(first, id), (second, _)]) => {
            Err(TextError::SharedId { id: *id, first: first.clone(), second: second.clone() })
        }
        _ => Ok(()),
    }
}

fn texts(bytes: &[u8], library: &Tokenizer) -> Result<Texts, TextError> {
    let refused = |source: serde_json::Error| TextError::Library { source: source.into() };
    let Described { decoder, added_tokens } = serde_json::from_slice(bytes).map_err(refused)?;
    check_ids(library, &added_tokens.unwrap_or_default())?;
    let decoder = decoder.unwrap_or_default();
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
    let steps: Vec<&Value> = match decoder.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![&decoder],
    };
    let kinds: Vec<Option<String>> = steps.iter().map(|step| kind(step)).collect();
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_deref().unwrap_or("none")).collect();
    let (writing, first_space) = match kinds.as_slice() {
        ["ByteLevel"] => (Writing::Bytes, false),
        ["Metaspace"] if is_metaspace(&decoder) => {
            let never = decoder.get("prepend_scheme").and_then(Value::as_str) == Some("never");
            (Writing::Spaces(false), !never)
        }
        ["Replace", "ByteFallback", "Fuse"] if is_space_replaced(steps[0]) => {
            (Writing::Spaces(true), false)
        }
        ["Replace", "ByteFallback", "Fuse", "Strip"]
            if is_space_replaced(steps[0]) && is_first_space(steps[3]) =>
        {
            (Writing::Spaces(true), true)
        }
        _ => return Ok(Texts::Whole(kinds.join(", "))),
    };
    let (alphabet, added) = (Alphabet::new(), library.get_added_tokens_decoder());
    let mut pieces = Pieces::new(first_space);
    for (token, id) in library.get_vocab(true) {
        let added = added.get(&id);
        let bytes = match writing {
            Writing::Bytes if added.is_none() => alphabet.bytes_of(&token),
            Writing::Spaces(fallback) => match byte_of(&token).filter(|_| fallback) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
            Writing::Bytes => token.into_bytes(),
        };
        let special = added.is_some_and(|token| token.special);
        pieces.insert(id, Piece { bytes: bytes.into(), special });
    }
    Ok(Texts::Pieces(pieces))
}

fn is_metaspace(decoder: &Value) -> bool {
    decoder.get("replacement").and_then(Value::as_str) == Some("\u{2581}")
}

fn is_space_replaced(step: &Value) -> bool {
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    let pattern = step.get("pattern").and_then(|pattern| pattern.get("String"));
    pattern.and_then(Value::as_str) == Some("\u{2581}") && text("content") == Some(" ")
}

fn is_first_space(step: &Value) -> bool {
    let number = |key: &str| step.get(key).and_then(Value::as_u64);
    step.get("content").and_then(Value::as_str) == Some(" ")
        && number("start") == Some(1)
        && number("stop") == Some(0)
}
