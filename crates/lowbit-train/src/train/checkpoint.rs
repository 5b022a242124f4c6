use super::TrainError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The name of the metadata that says where training is.
const PROGRESS: &str = "progress";

/// Everything that training needs to go on as if it had not stopped, as one safetensors file: burn's records
/// of the network and the optimizer as bytes, and further numbers by name. A file appears whole or not at
/// all.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Where training is, as JSON.
    pub progress: String,
    /// Bytes by name.
    pub bytes: Vec<(String, Vec<u8>)>,
    /// Numbers by name.
    pub floats: Vec<(String, Vec<f32>)>,
}

impl Checkpoint {
    /// Writes the checkpoint.
    ///
    /// # Errors
    /// Returns [`TrainError::File`].
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let fault = |error| TrainError::File { path: path.to_owned(), action: "written", error };
        let other = |error: safetensors::SafeTensorError| fault(std::io::Error::other(error));
        let floats: Vec<(String, Vec<u8>)> = self
            .floats
            .iter()
            .map(|(name, values)| {
                (name.clone(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let mut views = Vec::new();
        for (parts, dtype, size) in [(&self.bytes, Dtype::U8, 1), (&floats, Dtype::F32, 4)] {
            for (name, bytes) in parts {
                let shape = vec![bytes.len() / size];
                views.push((name, TensorView::new(dtype, shape, bytes).map_err(other)?));
            }
        }
        let progress = HashMap::from([(PROGRESS.to_owned(), self.progress.clone())]);
        let file = safetensors::serialize(views, Some(progress)).map_err(other)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fault)?;
        }
        write_whole(path, &file)
    }

    /// Reads a checkpoint, or returns `None` if there is none.
    ///
    /// # Errors
    /// Returns [`TrainError::File`], or [`TrainError::Checkpoint`] if the file is damaged.
    pub fn read(path: &Path) -> Result<Option<Self>, TrainError> {
        let file = match std::fs::read(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(TrainError::File { path: path.to_owned(), action: "read", error });
            }
        };
        Self::parse(&file).map(Some).map_err(|why| damaged(path, why))
    }

    fn parse(file: &[u8]) -> Result<Self, String> {
        let fault = |error: safetensors::SafeTensorError| format!("is no checkpoint: {error}");
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(fault)?;
        let progress = metadata.metadata().as_ref().and_then(|map| map.get(PROGRESS));
        let progress = progress.ok_or("is no checkpoint: it does not say where training is")?;
        let mut checkpoint = Self { progress: progress.clone(), ..Self::default() };
        for (name, view) in SafeTensors::deserialize(file).map_err(fault)?.tensors() {
            match view.dtype() {
                Dtype::U8 => checkpoint.bytes.push((name, view.data().to_vec())),
                Dtype::F32 => {
                    let chunks = view.data().chunks_exact(4);
                    let values = chunks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    checkpoint.floats.push((name, values.collect()));
                }
                other => return Err(format!("has {name} as {other:?}")),
            }
        }
        Ok(checkpoint)
    }

    /// Returns the bytes of a name.
    pub fn bytes_of(&self, name: &str) -> Option<&[u8]> {
        self.bytes.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Returns the numbers of a name.
    pub fn floats_of(&self, name: &str) -> Option<&[f32]> {
        self.floats.iter().find(|(known, _)| known == name).map(|(_, values)| values.as_slice())
    }
}

/// Writes a file so that it appears whole or not at all.
///
/// # Errors
/// Returns [`TrainError::File`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let fault = |error| TrainError::File { path: path.to_owned(), action: "written", error };
    let mut unfinished = path.to_owned().into_os_string();
    unfinished.push(".unfinished");
    std::fs::write(&unfinished, bytes).map_err(fault)?;
    std::fs::rename(&unfinished, path).map_err(fault)
}

pub fn damaged(path: &Path, why: impl Into<String>) -> TrainError {
    TrainError::Checkpoint { path: PathBuf::from(path), why: why.into() }
}
