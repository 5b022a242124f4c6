//! The measurements so far, in a file, so that an interrupted exploration goes on where it was.

use crate::checkpoint::write_atomic;
use crate::evaluate::Measured;
use crate::layerwise::LayerwiseRunError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "measured.json";

/// A model as it was measured whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Whole {
    pub measured: Measured,
    pub latency_ms: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    divergences: BTreeMap<String, f64>,
    models: BTreeMap<String, Whole>,
}

/// The file with measurements.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    content: Content,
}

impl State {
    /// Reads the file in a folder, if there is one.
    pub fn open(folder: &Path) -> Result<Self, LayerwiseRunError> {
        let path = folder.join(FILE);
        let content = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| LayerwiseRunError::Other { path: path.clone() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(source) => {
                return Err(LayerwiseRunError::Folder { doing: "read", path, source });
            }
        };
        Ok(Self { path, content })
    }

    fn save(&self) -> Result<(), LayerwiseRunError> {
        let failed = |source: std::io::Error| LayerwiseRunError::Folder {
            doing: "write",
            path: self.path.clone(),
            source,
        };
        let bytes = serde_json::to_vec(&self.content).map_err(|error| failed(error.into()))?;
        Ok(write_atomic(&self.path, &bytes)?)
    }

    pub fn divergence(&self, block: &str) -> Option<f64> {
        self.content.divergences.get(block).copied()
    }

    pub fn keep_divergence(&mut self, block: &str, value: f64) -> Result<(), LayerwiseRunError> {
        self.content.divergences.insert(block.to_owned(), value);
        self.save()
    }

    pub fn model(&self, name: &str) -> Option<Whole> {
        self.content.models.get(name).copied()
    }

    pub fn keep_model(&mut self, name: &str, whole: Whole) -> Result<(), LayerwiseRunError> {
        self.content.models.insert(name.to_owned(), whole);
        self.save()
    }
}
