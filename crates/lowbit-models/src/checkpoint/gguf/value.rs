//! The metadata of GGUF files.

use super::GgufError;
use super::cursor::Cursor;
use serde_json::{Number, Value, json};
use std::fmt;

/// The largest number of arrays inside of each other.
const MOST_DEPTH: usize = 8;
/// The longest array that is listed as JSON element by element. (A vocabulary is not.)
const MOST_LISTED: u64 = 256;

/// The type of a value, by its number in the file.
#[derive(Clone, Copy)]
pub(super) enum MetaType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl MetaType {
    fn new(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Returns the fewest bytes that a value of this type takes.
    pub fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

impl fmt::Display for MetaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// Reads and checks the value of `key`, with its type, and returns it as JSON. An array that is too long
/// is `{"array": TYPE, "length": NUMBER}`.
pub(super) fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let kind = value_type(cursor, key)?;
    read(cursor, key, kind, 0)
}

/// Reads the number of a type.
pub(super) fn value_type(cursor: &mut Cursor<'_>, key: &str) -> Result<MetaType, GgufError> {
    let number = cursor.u32(|| format!("the type of `{key}`"))?;
    MetaType::new(number).ok_or_else(|| GgufError::ValueType { key: key.to_owned(), number })
}

fn read(
    cursor: &mut Cursor<'_>,
    key: &str,
    kind: MetaType,
    depth: usize,
) -> Result<Value, GgufError> {
    let what = || format!("the value of `{key}`");
    Ok(match kind {
        MetaType::U8 => u8::from_le_bytes(cursor.array(what)?).into(),
        MetaType::I8 => i8::from_le_bytes(cursor.array(what)?).into(),
        MetaType::U16 => u16::from_le_bytes(cursor.array(what)?).into(),
        MetaType::I16 => i16::from_le_bytes(cursor.array(what)?).into(),
        MetaType::U32 => u32::from_le_bytes(cursor.array(what)?).into(),
        MetaType::I32 => i32::from_le_bytes(cursor.array(what)?).into(),
        MetaType::U64 => u64::from_le_bytes(cursor.array(what)?).into(),
        MetaType::I64 => i64::from_le_bytes(cursor.array(what)?).into(),
        MetaType::F32 => float(f32::from_le_bytes(cursor.array(what)?)),
        MetaType::F64 => float(f64::from_le_bytes(cursor.array(what)?)),
        MetaType::Bool => match u8::from_le_bytes(cursor.array(what)?) {
            0 => false.into(),
            1 => true.into(),
            value => return Err(GgufError::Bool { key: key.to_owned(), value }),
        },
        MetaType::String => cursor.string(what)?.into(),
        MetaType::Array if depth == MOST_DEPTH => {
            return Err(GgufError::Depth { key: key.to_owned(), limit: MOST_DEPTH });
        }
        MetaType::Array => {
            let kind = value_type(cursor, key)?;
            let length = cursor.count("elements of an array", kind.least_bytes())?;
            // Every element is checked, but a vocabulary is not kept: it would take many times the
            // bytes that it has in the file.
            let listed = length <= MOST_LISTED;
            let mut values = Vec::new();
            for _ in 0..length {
                let value = read(cursor, key, kind, depth + 1)?;
                if listed {
                    values.push(value);
                }
            }
            if listed {
                Value::Array(values)
            } else {
                json!({ "array": kind.to_string(), "length": length })
            }
        }
    })
}

/// Returns a float as the shortest decimal that means it, or as text if JSON has no number for it.
fn float(value: impl fmt::Display) -> Value {
    let text = value.to_string();
    let number = text.parse().ok().and_then(Number::from_f64);
    number.map_or(Value::String(text), Value::Number)
}
