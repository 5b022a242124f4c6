//! Functions that the commands that read and write model files share.

use crate::error::{CliError, printable, warn};
use clap::builder::{PathBufValueParser, TypedValueParser};
use lowbit_models::checkpoint::source::{self, Model, ModelSource, SourceError};
use lowbit_models::checkpoint::{ModelFile, Output};
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// Opens a model of any format. Warns if it is one of several files that is given alone.
pub fn open(path: &Path) -> Result<Model, CliError> {
    let model = source::open(path).map_err(|error| unreadable(path, error))?;
    if matches!(model, Model::Safetensors(_) | Model::Quantized(_))
        && let [file] = &model.files()[..]
        && let Some((number, count)) = shard_of(file)
    {
        warn(format!(
            "`{}` is file {number} of {count} of a model; its folder or its index stands for all",
            path.display()
        ));
    }
    Ok(model)
}

/// Returns the number of a file and the number of files, if its name says that there are several, as
/// `model-00001-of-00003.safetensors` does.
fn shard_of(name: &str) -> Option<(u32, u32)> {
    let (stem, _) = name.rsplit_once('.')?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| digits.parse::<u32>().ok();
    Some((parse(number)?, parse(count)?)).filter(|&(_, count)| count > 1)
}

fn unreadable(path: &Path, error: SourceError) -> CliError {
    let hint = error.next_step();
    CliError::new(format!("cannot read `{}`", path.display())).because(error).hint(hint)
}

/// Opens a model for a command that takes plain tensors, and what lowbit compressed, and that writes to
/// `output`, which may replace none of its files.
pub fn open_plain(path: &Path, output: &Output) -> Result<ModelFile, CliError> {
    let model = open(path)?;
    refuse_overwriting("IN", path, &model, output)?;
    for left_out in model.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    model.into_model_file().map_err(|error| {
        let hint = match error {
            SourceError::AlreadyQuantized { .. } => format!(
                "`lowbit import {} -o OUT.safetensors` takes them as they are; `lowbit decompress` makes \
                 f32 of them, which can be compressed again",
                printable(&path.display().to_string())
            ),
            _ => error.next_step().to_owned(),
        };
        let message = format!("cannot compress `{}`", path.display());
        CliError::new(message).because(error).hint(hint)
    })
}

/// How a model is divided into files.
#[derive(clap::Args)]
pub struct ShardArg {
    /// Write several files of at most this size and an index, as for OUT model.safetensors:
    /// model-00001-of-00002.safetensors, … and model.safetensors.index.json. GGUF files, as of
    /// model.gguf, have no index. Units are KB, MB, GB and KiB, MiB, GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    shard_size: Option<NonZeroU64>,
}

impl ShardArg {
    /// Returns where to write.
    pub fn output(&self, path: &Path) -> Output {
        match self.shard_size {
            Some(bytes) => Output::from(path).in_shards(bytes),
            None => Output::from(path),
        }
    }
}

/// Parses a number of bytes, as in `2GB` and `500 MiB`.
fn parse_size(text: &str) -> Result<NonZeroU64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("give a size such as 2GB or 500MiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.and_then(NonZeroU64::new).ok_or_else(|| "give a size such as 2GB or 500MiB".to_owned())
}

/// Returns the files of a model, with what is read beside them.
pub fn of_model(input: &Path, model: &dyn ModelSource) -> Vec<PathBuf> {
    let Ok(file) = source::locate(input) else { return vec![input.to_owned()] };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let beside = ["config.json", "tokenizer.json"].map(str::to_owned);
    let mut files: Vec<PathBuf> =
        model.files().into_iter().chain(beside).map(|name| folder.join(name)).collect();
    if !files.contains(&file) {
        files.push(file);
    }
    files
}

/// Refuses to write over a file of the model that is read, which is the argument `role`.
pub fn refuse_overwriting(
    role: &str,
    input: &Path,
    model: &dyn ModelSource,
    output: &Output,
) -> Result<(), CliError> {
    let file = source::locate(input).map_err(|error| unreadable(input, error))?;
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut read = model.files().into_iter().map(|name| folder.join(name)).chain([file.clone()]);
    match read.find(|path| output.may_replace(path) || place(path) == place(&output.entry_point()))
    {
        None => Ok(()),
        Some(path) => {
            let message = format!("OUT would replace a file of {role}, `{}`", path.display());
            Err(CliError::new(message).hint("give the output its own name or folder"))
        }
    }
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

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    let failed = || CliError::new(format!("cannot read `{}`", path.display()));
    let bytes = fs::read(path).map_err(|error| failed().because(error))?;
    String::from_utf8(bytes).map_err(|error| failed().because(error).hint("save it as UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards() {
        assert_eq!(shard_of("model-00002-of-00003.safetensors"), Some((2, 3)));
        for name in
            ["model-00001-of-00001.safetensors", "model.safetensors", "x-of-2.y", "-of-", ""]
        {
            assert_eq!(shard_of(name), None, "{name}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("5", 5),
            ("2GB", 2_000_000_000),
            ("2 GiB", 2 << 30),
            ("500mb", 500_000_000),
            ("1kib", 1024),
        ] {
            assert_eq!(parse_size(text).unwrap().get(), bytes, "{text}");
        }
        for text in ["", "0", "GB", "-1", "1.5GB", "2TB", "99999999999999GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
