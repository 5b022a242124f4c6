//! The model of a folder.

use super::SourceError;
use super::detect::{self, HEAD, Looks, NotAModel};
use crate::checkpoint::IoError;
use crate::checkpoint::gguf::split_name;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest number of files of a folder that are looked at.
const MOST_FILES: usize = 10_000;

/// Returns the file to open for the model of a folder.
///
/// # Errors
/// Returns [`SourceError`] if the folder cannot be read, has no model, or has several that could be
/// meant.
pub(super) fn model(folder: &Path) -> Result<PathBuf, SourceError> {
    for name in ["model.safetensors.index.json", "model.safetensors"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let (mut indexes, mut models) = (Vec::new(), Vec::new());
    let mut pointer = None;
    for path in files(folder)? {
        match looks(&path)? {
            Looks::Json if path.to_string_lossy().ends_with(".safetensors.index.json") => {
                indexes.push(path);
            }
            Looks::Safetensors | Looks::Gguf | Looks::Onnx => models.push(path),
            Looks::Not(NotAModel::LfsPointer) => pointer = Some(path),
            Looks::Json | Looks::Not(_) => {}
        }
    }
    // Shards belong to an index, and files of a split model to the first of them.
    if let [index] = &indexes[..] {
        return Ok(index.clone());
    }
    models.retain(|path| split_name(path).is_none_or(|split| split.number == 1));
    let candidates = if indexes.is_empty() { models } else { indexes };
    match (&candidates[..], pointer) {
        ([one], _) => Ok(one.clone()),
        ([], Some(pointer)) => Ok(pointer),
        ([], None) => Err(SourceError::NotAModel { what: NotAModel::FolderWithoutModel }),
        (many, _) => Err(SourceError::ManyModels {
            names: many.iter().filter_map(|path| path.file_name()).map(text).collect(),
        }),
    }
}

fn text(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// Returns the regular files of a folder in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let failed = |source| IoError::Io { doing: "read", path: folder.to_owned(), source };
    let mut files = Vec::new();
    for (count, entry) in fs::read_dir(folder).map_err(failed)?.enumerate() {
        if count == MOST_FILES {
            let why = format!("it has more than {MOST_FILES} files");
            return Err(failed(std::io::Error::other(why)).into());
        }
        let path = entry.map_err(failed)?.path();
        // Links are followed: the Hugging Face cache consists of them.
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Tells what a file is, without mapping it.
fn looks(path: &Path) -> Result<Looks, SourceError> {
    let failed = |source| IoError::Io { doing: "read", path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        // A file that this user may not read cannot be the model that is meant.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Ok(Looks::Not(NotAModel::Unknown));
        }
        Err(error) => return Err(failed(error).into()),
    };
    let mut head = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut head).map_err(failed)?;
    Ok(detect::sniff(&head))
}
