//! Arrays of the metadata as a whole: vocabularies, which `GgufFile::config` only counts.

use super::cursor::Cursor;
use super::value::{MetaType, value_type};
use super::{GgufError, GgufFile};

impl GgufFile {
    /// Returns an array of strings of the metadata, of any length. Returns `None` if there is no such key.
    ///
    /// # Errors
    /// Returns [`GgufError::BadValue`] if the value is something else.
    pub fn strings(&self, key: &'static str) -> Result<Option<Vec<String>>, GgufError> {
        self.array(key, "an array of strings", |cursor, kind| match kind {
            MetaType::String => Some(cursor.string(|| format!("the value of `{key}`"))),
            _ => None,
        })
    }

    /// Returns an array of integers of the metadata, of any length. Returns `None` if there is no such
    /// key.
    ///
    /// # Errors
    /// Returns [`GgufError::BadValue`] if the value is something else, or if an integer is too large for
    /// an `i64`.
    pub fn integers(&self, key: &'static str) -> Result<Option<Vec<i64>>, GgufError> {
        let what = || format!("the value of `{key}`");
        let need = "an array of integers that fit in 64 bits with a sign";
        self.array(key, need, |cursor, kind| {
            let large = |value: u64| {
                let have = value.to_string();
                i64::try_from(value).map_err(|_| GgufError::BadValue { key, need, have })
            };
            Some(match kind {
                MetaType::U8 => cursor.array(what).map(|bytes| u8::from_le_bytes(bytes).into()),
                MetaType::I8 => cursor.array(what).map(|bytes| i8::from_le_bytes(bytes).into()),
                MetaType::U16 => cursor.array(what).map(|bytes| u16::from_le_bytes(bytes).into()),
                MetaType::I16 => cursor.array(what).map(|bytes| i16::from_le_bytes(bytes).into()),
                MetaType::U32 => cursor.array(what).map(|bytes| u32::from_le_bytes(bytes).into()),
                MetaType::I32 => cursor.array(what).map(|bytes| i32::from_le_bytes(bytes).into()),
                MetaType::U64 => cursor.u64(what).and_then(large),
                MetaType::I64 => cursor.array(what).map(i64::from_le_bytes),
                _ => return None,
            })
        })
    }

    /// Returns an array of floats of the metadata, of any length. Returns `None` if there is no such key.
    ///
    /// # Errors
    /// Returns [`GgufError::BadValue`] if the value is something else.
    pub fn floats(&self, key: &'static str) -> Result<Option<Vec<f32>>, GgufError> {
        self.array(key, "an array of 32-bit floats", |cursor, kind| match kind {
            MetaType::F32 => {
                let bytes = cursor.array(|| format!("the value of `{key}`"));
                Some(bytes.map(f32::from_le_bytes))
            }
            _ => None,
        })
    }

    /// Reads an array of the metadata. `element` reads one, and returns `None` if it cannot be of that
    /// type. The bytes were checked when the file was opened, and are checked again here, because the
    /// file may have changed since.
    fn array<T>(
        &self,
        key: &'static str,
        need: &'static str,
        element: impl Fn(&mut Cursor<'_>, MetaType) -> Option<Result<T, GgufError>>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some((_, bytes)) = self.entries().find(|(name, _)| *name == key) else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(bytes);
        let wrong = |have: String| GgufError::BadValue { key, need, have };
        let kind = value_type(&mut cursor, key)?;
        if !matches!(kind, MetaType::Array) {
            return Err(wrong(format!("a value of type {kind}")));
        }
        let kind = value_type(&mut cursor, key)?;
        let length = cursor.count("elements of an array", kind.least_bytes())?;
        let mut values = Vec::new();
        for _ in 0..length {
            let value = element(&mut cursor, kind);
            values.push(value.ok_or_else(|| wrong(format!("an array of type {kind}")))??);
        }
        Ok(Some(values))
    }
}
