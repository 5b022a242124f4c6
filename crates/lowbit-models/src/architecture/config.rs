//! Settings of a model: of a `config.json`, or of a GGUF file's metadata.

use super::ArchitectureError;
use lowbit::format::ActivationFunction;
use serde_json::{Map, Value};
use std::fmt;

/// The largest count of anything. It bounds what a damaged setting can ask for.
const MOST: u64 = 1 << 28;

/// A part of a configuration.
#[derive(Clone, Debug)]
pub(super) struct Config<'a> {
    map: Option<&'a Map<String, Value>>,
    /// What stands before each key of the map, such as `llama.`.
    key_prefix: String,
    /// What stands before keys in messages: the part's own place.
    label: String,
}

impl<'a> Config<'a> {
    /// Returns the settings of an object whose keys start with `key_prefix`.
    pub fn new(value: &'a Value, key_prefix: &str) -> Self {
        let (key_prefix, label) = (key_prefix.to_owned(), String::new());
        Self { map: value.as_object(), key_prefix, label }
    }

    /// Returns a setting's name as messages have it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{}{key}", self.label, self.key_prefix)
    }

    /// Returns a setting that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let value = self.map?.get(&format!("{}{key}", self.key_prefix))?;
        (!value.is_null()).then_some(value)
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Returns whether a setting is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.and_then(|map| map.get(&format!("{}{key}", self.key_prefix))) == Some(&Value::Null)
    }

    fn missing(&self, key: &str) -> ArchitectureError {
        ArchitectureError::Missing { key: self.name(key) }
    }

    /// Returns the error that a setting cannot be what it is.
    pub fn wrong(&self, key: &str, need: impl fmt::Display) -> ArchitectureError {
        let have = self.get(key).map_or_else(|| "missing".to_owned(), shown);
        ArchitectureError::Wrong { key: self.name(key), have, need: need.to_string() }
    }

    /// Returns the error that a setting asks for something that is not supported.
    pub fn unsupported(&self, key: &str, need: impl fmt::Display) -> ArchitectureError {
        let have = self.get(key).map_or_else(|| "missing".to_owned(), shown);
        ArchitectureError::Unsupported { key: self.name(key), have, need: need.to_string() }
    }

    /// Returns a count of 1 or more.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().filter(|count| (1..=MOST).contains(count));
        let count = count.and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| self.wrong(key, format_args!("a number from 1 to {MOST}")))
    }

    /// Returns a count of 1 or more, or `default` if there is none.
    pub fn count_or(&self, key: &str, default: Option<usize>) -> Result<usize, ArchitectureError> {
        self.optional_count(key)?.or(default).ok_or_else(|| self.missing(key))
    }

    /// Returns a count of 1 or more.
    pub fn count(&self, key: &str) -> Result<usize, ArchitectureError> {
        self.count_or(key, None)
    }

    /// Returns a number that is 0 or more.
    pub fn optional_index(&self, key: &str) -> Result<Option<usize>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let index = value.as_u64().filter(|index| *index <= MOST);
        let index = index.and_then(|index| usize::try_from(index).ok());
        index.map(Some).ok_or_else(|| self.wrong(key, format_args!("a number from 0 to {MOST}")))
    }

    /// Returns a finite number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // JSON has no other numbers, but one that is too large for f64 is read as infinite.
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a finite number"))
    }

    /// Returns a number above 0 that f32 holds, too.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, ArchitectureError> {
        let number = self.optional_number(key)?;
        match number.filter(|number| !(*number as f32).is_normal() || *number < 0.0) {
            Some(_) => Err(self.wrong(key, "a positive number in the range of f32")),
            None => Ok(number),
        }
    }

    /// Returns a number above 0, or `default` if there is none.
    pub fn positive_or(&self, key: &str, default: Option<f64>) -> Result<f64, ArchitectureError> {
        self.optional_positive(key)?.or(default).ok_or_else(|| self.missing(key))
    }

    /// Returns a flag.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// Checks that a flag is what it is for the models that are supported.
    pub fn expect_flag(
        &self,
        key: &str,
        default: bool,
        need: bool,
    ) -> Result<(), ArchitectureError> {
        if self.flag(key, default)? == need { Ok(()) } else { Err(self.unsupported(key, need)) }
    }

    /// Returns text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "text"))
    }

    /// Returns the settings inside of a setting. If it is not there, they are none.
    pub fn section(&self, key: &str) -> Result<Config<'a>, ArchitectureError> {
        let map = match self.get(key) {
            None => None,
            Some(Value::Object(map)) => Some(map),
            Some(_) => return Err(self.wrong(key, "an object")),
        };
        let label = format!("{}.", self.name(key));
        Ok(Self { map, key_prefix: String::new(), label })
    }

    /// Returns whether there are no settings.
    pub fn is_empty(&self) -> bool {
        self.map.is_none_or(Map::is_empty)
    }

    /// Returns an activation function by the name that `transformers` has for it.
    pub fn function(
        &self,
        key: &str,
        default: Option<ActivationFunction>,
    ) -> Result<ActivationFunction, ArchitectureError> {
        let Some(name) = self.text(key)? else { return default.ok_or_else(|| self.missing(key)) };
        Ok(match name {
            "gelu" | "gelu_python" => ActivationFunction::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => ActivationFunction::GeluTanh,
            "relu" => ActivationFunction::Relu,
            "silu" | "swish" => ActivationFunction::Silu,
            _ => {
                return Err(self.unsupported(
                    key,
                    "one of `gelu`, `gelu_python`, `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`, `relu`, \
                     `silu` and `swish`",
                ));
            }
        })
    }

    /// Checks that a count is a multiple of another, and returns how often it holds it.
    pub fn divide(
        &self,
        (key, count): (&str, usize),
        (divisor_key, divisor): (&str, usize),
    ) -> Result<usize, ArchitectureError> {
        if count.is_multiple_of(divisor) {
            return Ok(count / divisor);
        }
        let name = self.name(divisor_key);
        let need = format!("a multiple of `{name}`, which is {divisor}");
        Err(ArchitectureError::Wrong { key: self.name(key), have: count.to_string(), need })
    }
}

/// Returns a value as messages show it, and no more of it than helps.
fn shown(value: &Value) -> String {
    const MOST_SHOWN: usize = 60;
    let text = match value {
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
