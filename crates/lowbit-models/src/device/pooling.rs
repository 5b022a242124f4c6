//! How the rows of a sentence become one vector, and what a model's folder says of it.

use crate::checkpoint::source::{self, ModelSource};
use crate::checkpoint::{folder_of, read_limited};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// No such file is this long.
const MOST: u64 = 1 << 16;

/// How the rows of a sentence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first row.
    Cls,
    /// The largest number of each column.
    Max,
}

impl FromStr for Pooling {
    type Err = PoolingError;

    fn from_str(text: &str) -> Result<Self, PoolingError> {
        let known = Self::ALL.into_iter().find(|pooling| pooling.name() == text);
        known.ok_or_else(|| PoolingError::Name { name: text.to_owned() })
    }
}

impl Pooling {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Cls, Self::Max];

    /// Returns `mean`, `cls` or `max`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
        }
    }

    /// Returns what the folder of a model says: `1_Pooling/config.json`, as sentence-transformers writes it, or
    /// `….pooling_type` of a GGUF file. `None` if neither is there. `modules.json` may name no other steps than the
    /// transformer, pooling and the division of vectors by their length.
    ///
    /// # Errors
    /// Returns [`PoolingError`] if a file of these cannot be read, or asks for something else.
    pub fn of_model(path: impl AsRef<Path>) -> Result<Option<Self>, PoolingError> {
        let path = path.as_ref();
        let folder = if path.is_dir() { path } else { folder_of(path) };
        let modules = folder.join("modules.json");
        if let Some(value) = json(&modules)? {
            check_modules(&modules, &value)?;
        }
        let config = folder.join("1_Pooling").join("config.json");
        match json(&config)? {
            Some(value) => read(&config, &value).map(Some),
            None => of_metadata(path),
        }
    }
}

/// Returns what the metadata of a GGUF file says. A model that cannot be opened says nothing: whoever loads it
/// reports that.
fn of_metadata(path: &Path) -> Result<Option<Pooling>, PoolingError> {
    let Ok(model) = source::open(path) else { return Ok(None) };
    let imported = model.metadata().get("gguf.metadata").cloned();
    let imported: Option<Value> = imported.and_then(|text| serde_json::from_str(&text).ok());
    let metadata = imported.as_ref().unwrap_or(model.config());
    let architecture = metadata.get("general.architecture").and_then(Value::as_str);
    let Some(architecture) = architecture else { return Ok(None) };
    let Some(said) = metadata.get(format!("{architecture}.pooling_type")) else { return Ok(None) };
    let unsupported = |what: String| PoolingError::Unsupported { path: path.to_owned(), what };
    // The numbers of llama.cpp's `llama_pooling_type`.
    match said.as_u64() {
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::Cls)),
        Some(0) => Err(unsupported("a vector for each token".into())),
        Some(3) => Err(unsupported("pooling by the last token".into())),
        Some(4) => Err(unsupported("a rank".into())),
        _ => Err(unsupported(format!("pooling of type {said}"))),
    }
}

/// Reads a file of JSON. Returns `None` if there is none.
fn json(path: &Path) -> Result<Option<Value>, PoolingError> {
    let failed = |reason: String| PoolingError::File { path: path.to_owned(), reason };
    match read_limited(path, MOST) {
        Ok(Some(bytes)) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string()))
        }
        Ok(None) => Err(failed(format!("it has more than {MOST} bytes"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn check_modules(path: &Path, value: &Value) -> Result<(), PoolingError> {
    let failed = |reason: &str| PoolingError::File { path: path.to_owned(), reason: reason.into() };
    let modules = value.as_array().ok_or_else(|| failed("it is no list of modules"))?;
    for module in modules {
        let kind = module.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| failed("a module has no `type`"))?;
        let name = kind.rsplit('.').next().unwrap_or(kind);
        if !["Transformer", "Pooling", "Normalize"].contains(&name) {
            return Err(PoolingError::Unsupported { path: path.to_owned(), what: name.to_owned() });
        }
    }
    Ok(())
}

/// Reads `1_Pooling/config.json`: `pooling_mode_…` of exactly one way is true, or `pooling_mode` names it.
fn read(path: &Path, value: &Value) -> Result<Pooling, PoolingError> {
    const PREFIX: &str = "pooling_mode_";
    let failed = |reason: &str| PoolingError::File { path: path.to_owned(), reason: reason.into() };
    let settings = value.as_object().ok_or_else(|| failed("it is no object"))?;
    let is_set = |(key, value): (&String, &Value)| {
        let mode = key.strip_prefix(PREFIX)?;
        (*value == Value::Bool(true)).then(|| mode.to_owned())
    };
    let mut modes: Vec<String> = settings.iter().filter_map(is_set).collect();
    if let Some(mode) = settings.get("pooling_mode") {
        let mode = mode.as_str().ok_or_else(|| failed("`pooling_mode` is no text"))?;
        modes.push(mode.to_owned());
    }
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        [] => Err(failed("it names no way of pooling")),
        _ => {
            let what = format!("pooling by {}", modes.join(" and "));
            Err(PoolingError::Unsupported { path: path.to_owned(), what })
        }
    }
}

/// The reason why it is not known how rows become a vector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolingError {
    /// There is no way of this name.
    #[error("`{name}` is none of mean, cls and max")]
    Name {
        /// The name.
        name: String,
    },
    /// A file of the model cannot be read.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file of the model asks for something that is not built here.
    #[error("`{}` asks for {what}, which is not supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::gguf::tests::Builder;
    use std::fs;

    /// What a folder with these files says.
    fn said(modules: Option<&str>, config: Option<&str>) -> Result<Option<Pooling>, String> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = modules {
            fs::write(folder.path().join("modules.json"), text).unwrap();
        }
        if let Some(text) = config {
            fs::create_dir(folder.path().join("1_Pooling")).unwrap();
            fs::write(folder.path().join("1_Pooling/config.json"), text).unwrap();
        }
        let of_folder = Pooling::of_model(folder.path());
        let of_file = Pooling::of_model(folder.path().join("model.safetensors"));
        assert_eq!(of_folder, of_file);
        of_folder.map_err(|error| error.to_string())
    }

    #[test]
    fn folders_say_how_to_pool() {
        assert_eq!(said(None, None), Ok(None));
        let modules = r#"[{"type": "sentence_transformers.models.Transformer"},
            {"type": "sentence_transformers.models.Pooling"}, {"type": "a.Normalize"}]"#;
        for (config, want) in [
            (
                r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#,
                Pooling::Mean,
            ),
            (r#"{"pooling_mode_cls_token": true, "word_embedding_dimension": 3}"#, Pooling::Cls),
            (r#"{"pooling_mode_max_tokens": true, "include_prompt": true}"#, Pooling::Max),
            (r#"{"pooling_mode": "cls"}"#, Pooling::Cls),
        ] {
            assert_eq!(said(Some(modules), Some(config)), Ok(Some(want)), "{config}");
        }
    }

    #[test]
    fn gguf_files_say_how_to_pool() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let said = |kind: Option<u32>| {
            let file = Builder::new().string("general.architecture", "bert");
            let file = match kind {
                Some(kind) => file.entry("bert.pooling_type", 4, &kind.to_le_bytes()),
                None => file,
            };
            fs::write(&path, file.tensor("t", &[1], 24, &[1]).build()).unwrap();
            Pooling::of_model(&path).map_err(|error| error.to_string())
        };
        assert_eq!(said(None), Ok(None));
        assert_eq!(said(Some(1)), Ok(Some(Pooling::Mean)));
        assert_eq!(said(Some(2)), Ok(Some(Pooling::Cls)));
        assert!(said(Some(3)).unwrap_err().contains("the last token"));
        assert!(said(Some(9)).unwrap_err().contains("type 9"));
        // The files of sentence-transformers come first.
        fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        let config = r#"{"pooling_mode": "max"}"#;
        fs::write(folder.path().join("1_Pooling/config.json"), config).unwrap();
        assert_eq!(said(Some(2)), Ok(Some(Pooling::Max)));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let dense = r#"[{"type": "sentence_transformers.models.Dense"}]"#;
        for (modules, config, named) in [
            (None, r#"{"pooling_mode_lasttoken": true}"#, "lasttoken"),
            (None, r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#, " and "),
            (None, r#"{"pooling_mode": "weightedmean"}"#, "weightedmean"),
            (None, r#"{"pooling_mode": 3}"#, "no text"),
            (None, r#"{"pooling_mode_cls_token": false}"#, "no way"),
            (None, "[]", "no object"),
            (None, "{", "config.json"),
            (Some(dense), r#"{"pooling_mode_cls_token": true}"#, "Dense"),
            (Some("{}"), "{}", "no list"),
            (Some("[{}]"), "{}", "no `type`"),
        ] {
            let error = said(modules, Some(config)).unwrap_err();
            assert!(error.contains(named), "{config}: {error}");
        }
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(MOST as usize));
        assert!(said(None, Some(&long)).unwrap_err().contains("more than"));
        assert_eq!(
            "sum".parse::<Pooling>().unwrap_err().to_string(),
            "`sum` is none of mean, cls and max"
        );
    }
}
