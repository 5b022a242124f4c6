//! Chat templates: the text that a chat model was trained on, from messages.

use super::json::token_text;
use super::vocabulary::text;
use super::{TextError, files, vocabulary};
use crate::checkpoint::gguf::GgufFile;
use files::Found;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The most steps of a template, and of 64 bytes that it makes: at most 128 MB.
const FUEL: u64 = 2_000_000;
/// The most bytes of a template. The longest of real models have 20 KB.
const MOST: usize = 1 << 20;
const KEY: &str = "tokenizer.chat_template";
const NAME: &str = "chat";
const JINJA: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`, and what else a template knows.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

/// Turns messages into the text that a chat model was trained on, by a template in the language Jinja that
/// came with the model.
///
/// Templates are not trusted: they have a limited number of steps and a limited depth, and reach nothing but
/// the messages, the texts of BOS and EOS, and today's date.
///
/// ```no_run
/// use lowbit_models::text::{ChatTemplate, Message, Tokenizer};
/// let (tokenizer, template) = (Tokenizer::open("model.gguf")?, ChatTemplate::open("model.gguf")?);
/// let messages = [Message { role: "user".into(), content: "What is a scale?".into() }];
/// // The text has the special tokens that the model needs, so none are added.
/// let ids = tokenizer.encode(&template.render(&messages, true)?, false)?;
/// # Ok::<(), lowbit_models::text::TextError>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("bos", &self.bos).field("eos", &self.eos).finish()
    }
}

impl ChatTemplate {
    /// Opens the template of a model: of a GGUF file, of `chat_template.jinja` or `tokenizer_config.json` in
    /// its folder (in this order), or a file with one of these endings.
    ///
    /// # Errors
    /// Returns [`TextError::NoTemplate`] if there is none, and other errors if it is not valid.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TextError> {
        match files::find(path.as_ref(), &[JINJA, CONFIG])? {
            Found::Gguf(file) => Self::from_gguf(&file),
            Found::Folder(folder) => Self::from_files(&folder.join(JINJA), &folder.join(CONFIG)),
            Found::File(path) => {
                let folder = crate::checkpoint::folder_of(&path);
                if path.extension().is_some_and(|ending| ending == "jinja") {
                    Self::from_files(&path, &folder.join(CONFIG))
                } else {
                    Self::from_files(&folder.join(JINJA), &folder.join(CONFIG))
                }
            }
        }
    }

    /// Makes the template of a GGUF file.
    ///
    /// # Errors
    /// Returns [`TextError::NoTemplate`] if it has none, and other errors if it is not valid.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, TextError> {
        let none = || TextError::NoTemplate { what: "the GGUF file".into() };
        let template = text(file, KEY)?.ok_or_else(none)?;
        let (bos, eos) = vocabulary::bos_and_eos(file)?;
        Self::new(&template, bos.as_deref(), eos.as_deref())
    }

    fn from_files(jinja: &Path, config: &Path) -> Result<Self, TextError> {
        let values = files::json(config, MOST as u64 * 16)?.unwrap_or_default();
        let none = || TextError::NoTemplate {
            what: crate::checkpoint::folder_of(jinja).display().to_string(),
        };
        let template = match files::read(jinja, MOST as u64)? {
            Some(bytes) => String::from_utf8(bytes).map_err(|error| TextError::Read {
                path: jinja.to_owned(),
                source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
            })?,
            None => of_config(&values).ok_or_else(none)?.to_owned(),
        };
        Self::new(&template, token_text(&values, "bos_token"), token_text(&values, "eos_token"))
    }

    /// Makes a template from its text, and the texts of BOS and EOS.
    ///
    /// # Errors
    /// Returns [`TextError::TemplateSyntax`] if it is not valid, and [`TextError::TemplateLength`] if it is
    /// too long.
    pub fn new(template: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TextError> {
        if template.len() > MOST {
            return Err(TextError::TemplateLength { have: template.len(), most: MOST });
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // As transformers sets it. The depth of macros and loops has the library's own limit.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(syntax_error)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(format);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise);
        // A browser's clock is not the standard library's. Templates fall back to a date of their own.
        #[cfg(not(target_arch = "wasm32"))]
        environment.add_function("strftime_now", time);
        let added = environment.add_template_owned(NAME, template.to_owned());
        added.map_err(syntax_error)?;
        let [bos, eos] = [bos, eos].map(|token| token.map(str::to_owned));
        Ok(Self { environment, bos, eos })
    }

    /// Returns the text of messages. `prompt` says whether it ends with the beginning of an answer, which the
    /// model continues.
    ///
    /// # Errors
    /// Returns [`TextError::Refused`] if the template refuses the messages, [`TextError::TemplateFuel`] if it
    /// takes too many steps, and [`TextError::Template`] if it fails otherwise.
    pub fn render(&self, messages: &[Message], prompt: bool) -> Result<String, TextError> {
        let message = |message: &Message| {
            let Message { role, content } = message;
            Value::from_pairs([("role", role.as_str()), ("content", content.as_str())])
        };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        // Without a text, the variable is not defined.
        let tokens = [("bos_token", &self.bos), ("eos_token", &self.eos)];
        let tokens = tokens.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
        let tokens = Value::from_pairs(tokens);
        let values = context! {
            messages => messages,
            add_generation_prompt => prompt,
            tools => (),
            documents => (),
            ..tokens
        };
        let template = self.environment.get_template(NAME);
        template.and_then(|template| template.render(values)).map_err(|error| failure(&error))
    }
}

/// Returns the template of `tokenizer_config.json`: a text, or the one with the name `default`.
fn of_config(config: &serde_json::Value) -> Option<&str> {
    let template = config.get("chat_template")?;
    let is_default = |entry: &&serde_json::Value| entry["name"] == "default";
    let default = || template.as_array()?.iter().find(is_default)?.get("template")?.as_str();
    template.as_str().or_else(default)
}

/// What a template says if it refuses messages.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise(reason: String) -> Result<Value, Error> {
    Err(Error::from(ErrorKind::InvalidOperation).with_source(Raised(reason)))
}

fn syntax_error(error: Error) -> TextError {
    TextError::TemplateSyntax { line: error.line().unwrap_or(1), reason: reason(&error) }
}

fn failure(error: &Error) -> TextError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(reason)) = error.downcast_ref() {
            return TextError::Refused { reason: reason.clone() };
        }
        let inner = error.downcast_ref::<Error>();
        if inner.is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return TextError::TemplateFuel { fuel: FUEL };
        }
        cause = error.source();
    }
    TextError::Template { line: error.line().unwrap_or(1), reason: reason(error) }
}

/// Returns what an error says, without the place.
fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Writes a value as Python does, in which templates are written.
fn format(out: &mut minijinja::Output, state: &mut State, value: &Value) -> Result<(), Error> {
    use minijinja::value::ValueKind;
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(|error| Error::from(ErrorKind::WriteFailure).with_source(error))
}

/// Writes a value as Python's `json.dumps` does: with spaces after commas and colons, and every character as
/// it is.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Other characters than ASCII are written as they are, which is the default here.
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ascii == Some(true) {
        let reason = "`ensure_ascii` of `tojson` is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    let failed = |error| Error::from(ErrorKind::BadSerialization).with_source(error);
    let mut bytes = Vec::new();
    if let Some(indent) = indent {
        // Spaces before a line cost as much as others.
        state.consume_fuel(indent as u64)?;
        let spaces = vec![b' '; indent.min(64)];
        let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, pretty);
        value.serialize(&mut writer).map_err(failed)?;
    } else {
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
        value.serialize(&mut writer).map_err(failed)?;
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::from(ErrorKind::BadSerialization).with_source(error))
}

/// JSON on a line, with spaces after commas and colons.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Writes the time of now as Python's `strftime` does.
#[cfg(not(target_arch = "wasm32"))]
fn time(format: &str) -> Result<String, Error> {
    use chrono::format::{Item, StrftimeItems};
    let bad =
        || Error::new(ErrorKind::InvalidOperation, format!("`{format}` is no format of a time"));
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(bad());
    }
    use std::fmt::Write;
    let mut text = String::new();
    let now = chrono::Local::now();
    write!(text, "{}", now.format_with_items(items.iter())).map_err(|_| bad())?;
    Ok(text)
}
