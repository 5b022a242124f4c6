//! Where the tokenizer and the chat template of a model are.

use super::TextError;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::source::{SourceError, locate};
use crate::checkpoint::{folder_of, read_limited};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a path leads to.
pub(super) enum Found {
    /// A GGUF file, which has everything inside.
    Gguf(Box<GgufFile>),
    /// A folder with the files of a model.
    Folder(PathBuf),
    /// A file of JSON or text, given by itself.
    File(PathBuf),
}

/// Returns what a path leads to: a model's file or folder, or a file of JSON or of a template. A folder in
/// which `first` lies is a folder; one without it may have a GGUF file.
pub(super) fn find(path: &Path, first: &[&str]) -> Result<Found, TextError> {
    if path.is_dir() {
        if first.iter().any(|name| path.join(name).is_file()) {
            return Ok(Found::Folder(path.to_owned()));
        }
        return match locate(path) {
            Ok(model) if is_gguf(&model)? => gguf(&model),
            Ok(_) | Err(SourceError::NotAModel { .. }) => Ok(Found::Folder(path.to_owned())),
            Err(error) => Err(error.into()),
        };
    }
    if is_gguf(path)? {
        return gguf(path);
    }
    let ending = path.extension().unwrap_or_default();
    // The index of a model's shards is part of the model.
    let is_index = path.to_string_lossy().ends_with(".index.json");
    if (ending == "json" && !is_index) || ending == "jinja" {
        return Ok(Found::File(path.to_owned()));
    }
    Ok(Found::Folder(folder_of(path).to_owned()))
}

fn gguf(path: &Path) -> Result<Found, TextError> {
    Ok(Found::Gguf(Box::new(GgufFile::open(path)?)))
}

fn is_gguf(path: &Path) -> Result<bool, TextError> {
    let failed = |source| TextError::Read { path: path.to_owned(), source };
    let mut head = Vec::new();
    File::open(path).map_err(failed)?.take(4).read_to_end(&mut head).map_err(failed)?;
    Ok(head == b"GGUF")
}

/// Reads a file of at most `most` bytes. Returns `None` if there is none.
pub(super) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, TextError> {
    match read_limited(path, most) {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => Err(TextError::TooLong { path: path.to_owned(), most }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read { path: path.to_owned(), source }),
    }
}

/// Reads a file of JSON. Returns `None` if there is none.
pub(super) fn json(path: &Path, most: u64) -> Result<Option<Value>, TextError> {
    let Some(bytes) = read(path, most)? else { return Ok(None) };
    let wrong = |source| TextError::Json { path: path.to_owned(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}
