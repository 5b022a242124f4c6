//! The `config.json` beside a model's tensors.

use super::{IoError, read_limited};
use serde_json::Value;
use std::path::Path;

/// The most bytes of a `config.json` that are read. Real ones have some kilobytes.
const MOST: u64 = 16 << 20;

/// Reads the `config.json` in the folder of a file, or in `path` itself if that is a folder. Returns
/// `None` if there is none.
///
/// # Errors
/// Returns [`IoError::Io`] if the file cannot be read, is not a regular file or is not JSON.
pub fn config_beside(path: impl AsRef<Path>) -> Result<Option<Value>, IoError> {
    let path = path.as_ref();
    let folder = match path.parent() {
        _ if path.is_dir() => path,
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = folder.join("config.json");
    let failed = |source| IoError::Io { doing: "read", path: file.clone(), source };
    let bytes = match read_limited(&file, MOST) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Err(failed(std::io::Error::other(format!("it has more than {MOST} bytes"))));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into()))
}
