//! A folder that holds what was done so far, so that an interrupted run goes on where it was.

use super::report::WeightReport;
use super::{LayerwiseRunError, StageResult};
use crate::checkpoint::{AtomicFile, Content, Dtype, ModelFile, read_compressed, write_model};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that says what the folder is of.
const STATE: &str = "state.json";
/// The key of the metadata of a stage's file under which the reports of its weights are.
const REPORTS: &str = "lowbit.layerwise.reports";

/// What a run is of. Another run cannot go on with its results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The [checksum](crate::checkpoint::source::model_checksum) of the model.
    pub model: u64,
    /// How the weights are compressed.
    pub recipe: String,
    /// The tokens of the calibration set: how many texts and tokens, and their checksum.
    pub calibration: (usize, usize, u64),
}

/// The folder of a run.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Names a folder that is there.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Opens the folder of a run, or makes it.
    ///
    /// # Errors
    /// Returns [`LayerwiseRunError::Other`] if it belongs to a run with other options.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, LayerwiseRunError> {
        let failed = |doing| {
            move |source| LayerwiseRunError::Folder { doing, path: path.to_owned(), source }
        };
        let state = path.join(STATE);
        match std::fs::read(&state) {
            Ok(bytes) => {
                let found: Option<Identity> = serde_json::from_slice(&bytes).ok();
                if found.as_ref() != Some(identity) {
                    return Err(LayerwiseRunError::Other { path: path.to_owned() });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(failed("make"))?;
                let mut file = AtomicFile::create(&state)?;
                let text = serde_json::to_vec(identity).map_err(|e| failed("write")(e.into()))?;
                file.write_all(&text).map_err(failed("write"))?;
                file.commit()?;
            }
            Err(error) => return Err(failed("read")(error)),
        }
        Ok(Self(path.to_owned()))
    }

    fn file(&self, stage: usize) -> PathBuf {
        self.0.join(format!("stage-{stage:04}.safetensors"))
    }

    /// Returns the results of a stage if it was finished.
    pub(super) fn load(&self, stage: usize) -> Result<Option<StageResult>, LayerwiseRunError> {
        let path = self.file(stage);
        if !path.is_file() {
            return Ok(None);
        }
        let file = ModelFile::open(&path)?;
        let reports = file.metadata().get(REPORTS).map(String::as_str).unwrap_or("[]");
        let reports: Vec<WeightReport> = serde_json::from_str(reports)
            .map_err(|_| LayerwiseRunError::Other { path: path.clone() })?;
        let mut result = StageResult { reports, ..StageResult::default() };
        for (name, info) in file.compressed() {
            let packed = read_compressed(&file, name)?;
            result.packed.insert(name.clone(), (info.shape.clone(), packed));
        }
        for tensor in file.plain() {
            let values = tensor.to_f32()?;
            result.floats.insert(tensor.name.to_owned(), (tensor.shape.to_vec(), values));
        }
        Ok(Some(result))
    }

    /// Keeps the results of a stage.
    pub(super) fn save(&self, stage: usize, result: &StageResult) -> Result<(), LayerwiseRunError> {
        let path = self.file(stage);
        let reports = serde_json::to_string(&result.reports).map_err(|error| {
            LayerwiseRunError::Folder { doing: "write", path: path.clone(), source: error.into() }
        })?;
        let metadata = BTreeMap::from([(REPORTS.to_owned(), reports)]);
        let bytes: BTreeMap<&String, Vec<u8>> = result
            .floats
            .iter()
            .map(|(name, (_, values))| {
                (name, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let packed = result.packed.iter().map(|(name, (shape, weights))| {
            (name.as_str(), Content::Compressed { shape, weights })
        });
        let floats = result.floats.iter().map(|(name, (shape, _))| {
            let bytes = bytes.get(name).map(Vec::as_slice).unwrap_or_default();
            (name.as_str(), Content::Plain { dtype: Dtype::F32, shape, bytes })
        });
        let all: Vec<(&str, Content<'_>)> = packed.chain(floats).collect();
        Ok(write_model(path, &all, &metadata)?)
    }

    /// Removes the folder once its results are in the finished file.
    pub fn remove(self) -> Result<(), LayerwiseRunError> {
        let failed =
            |source| LayerwiseRunError::Folder { doing: "remove", path: self.0.clone(), source };
        std::fs::remove_dir_all(&self.0).map_err(failed)
    }
}
