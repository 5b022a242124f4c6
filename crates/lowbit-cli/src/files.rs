//! Functions that the commands that read and write model files share.

use crate::error::{CliError, printable};
use crate::import;
use clap::builder::{PathBufValueParser, TypedValueParser};
use lowbit_models::checkpoint::{FileKind, IoError, ModelFile};
use std::fs;
use std::path::{Path, PathBuf};

/// Names a file that is not of the kind that a command reads, and says what to do with it. Returns `None`
/// if it is of that kind, or if it cannot be told what it is.
pub fn mistaken(path: &Path, expected: FileKind) -> Option<CliError> {
    let kind = FileKind::of(path).filter(|kind| *kind != expected)?;
    let shown = printable(&path.display().to_string());
    let import = format!("`lowbit import {shown} -o OUT.safetensors` converts it");
    let hint = match kind {
        FileKind::Folder => "give a file of it, such as model.safetensors".to_owned(),
        FileKind::Empty => "fetch or make it again".to_owned(),
        FileKind::LfsPointer => "`git lfs pull` in its repository fetches the file".to_owned(),
        FileKind::Html => "the download failed, or needs a login: fetch the file again".to_owned(),
        FileKind::ShardIndex => {
            "it holds no tensors; give a shard, which is a file beside it".to_owned()
        }
        FileKind::Json => "it holds no tensors; give the file beside it that does".to_owned(),
        FileKind::Gguf => import,
        FileKind::Onnx => "`lowbit import` converts an ONNX file to a safetensors file".to_owned(),
        FileKind::PyTorch => {
            "save the model as safetensors, for example with `save_pretrained`".to_owned()
        }
        FileKind::Archive => "unpack it first".to_owned(),
        FileKind::Safetensors => format!(
            "it needs no import: `lowbit inspect {shown}` lists it, `lowbit compress` compresses it"
        ),
        _ => "save the model as safetensors first".to_owned(),
    };
    let message = format!("cannot read `{}`: it is {kind}", path.display());
    Some(CliError::new(message).hint(hint))
}

/// Opens a model file.
pub fn open(path: &Path) -> Result<ModelFile, CliError> {
    ModelFile::open(path).map_err(|error| {
        let unreadable = matches!(error, IoError::UnsupportedVersion { .. });
        if let Some(mistaken) = mistaken(path, FileKind::Safetensors).filter(|_| !unreadable) {
            return mistaken;
        }
        let hint = match error {
            IoError::Io { .. } => "is it a file that this user may read?",
            IoError::UnsupportedVersion { .. } => {
                "a later version of lowbit wrote it: use that version"
            }
            _ if import::is_onnx(path) => {
                "`lowbit import` converts an ONNX file to a safetensors file"
            }
            _ => "the input must be a complete safetensors file",
        };
        CliError::new(format!("cannot read `{}`", path.display())).because(error).hint(hint)
    })
}

/// Parses the path of a file to write, for an option that does not accept `-` for stdout.
pub fn to_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path.as_os_str() == "-" {
            return Err("only --json writes to stdout; a file of that name is ./-");
        }
        Ok(path)
    })
}

/// Refuses two paths of one command that name the same file.
pub fn refuse_same(paths: &[(&str, &Path)]) -> Result<(), CliError> {
    for (index, (role, path)) in paths.iter().enumerate() {
        for (other_role, other) in &paths[..index] {
            if place(path) == place(other) {
                let message =
                    format!("{other_role} and {role} are the same file, `{}`", path.display());
                return Err(CliError::new(message).hint("give each its own name"));
            }
        }
    }
    Ok(())
}

/// Returns where a path leads. The file need not exist yet, but its directory must.
fn place(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match (fs::canonicalize(parent), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// Returns the paths of one command that are given and are not `-`.
pub fn named<'a>(paths: &[(&'a str, Option<&'a Path>)]) -> Vec<(&'a str, &'a Path)> {
    let file = |path: &&Path| path.as_os_str() != "-";
    paths.iter().filter_map(|&(role, path)| Some((role, path.filter(file)?))).collect()
}
