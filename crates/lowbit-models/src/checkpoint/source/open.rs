//! Opening a path, whatever it leads to.

use super::detect::{self, HEAD, Looks, NotAModel};
use super::{Data, Family, Item, ModelSource, Omission, SourceError, folder};
use crate::checkpoint::bytes::FileBytes;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::hf::HfModel;
#[cfg(feature = "onnx")]
use crate::checkpoint::onnx::OnnxFile;
use crate::checkpoint::{LayerActivations, ModelFile, shards};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An open model of any format. It is a [`ModelSource`] itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum Model {
    /// One or several safetensors files.
    Safetensors(ModelFile),
    /// One or several safetensors files with weights that another tool has quantized.
    Quantized(Box<HfModel>),
    /// One or several GGUF files.
    Gguf(GgufFile),
    /// An ONNX file.
    #[cfg(feature = "onnx")]
    Onnx(OnnxFile),
}

/// Opens the model to which `path` leads. What it is follows from its content, not from its name.
///
/// In a folder this is, in this order: the model that `model.safetensors.index.json` describes,
/// `model.safetensors`, the only other index of shards, the only other model.
///
/// Regular files are memory-mapped and must not be changed in place while they are open.
///
/// # Errors
/// Returns [`SourceError`] if the path leads to no model, to several models, or to one that is damaged.
/// [`SourceError::next_step`] says what to do.
pub fn open(path: impl AsRef<Path>) -> Result<Model, SourceError> {
    open_file(&locate(path)?)
}

/// Returns the file that [`open`] opens first: `path` itself, or the model in the folder.
///
/// # Errors
/// Returns [`SourceError`] if `path` is a folder that cannot be read, or that has no or several models.
pub fn locate(path: impl AsRef<Path>) -> Result<PathBuf, SourceError> {
    let path = path.as_ref();
    if path.is_dir() { folder::model(path) } else { Ok(path.to_owned()) }
}

fn open_file(path: &Path) -> Result<Model, SourceError> {
    let bytes = FileBytes::open(path)?;
    match detect::sniff(bytes.get(..HEAD).unwrap_or(&bytes)) {
        Looks::Safetensors => safetensors(path, bytes),
        Looks::Gguf => Ok(Model::Gguf(GgufFile::open_bytes(path, bytes)?)),
        Looks::Json if shards::is_index(&bytes) => safetensors(path, bytes),
        Looks::Json => Err(SourceError::NotAModel { what: NotAModel::Json }),
        #[cfg(feature = "onnx")]
        Looks::Onnx => Ok(Model::Onnx(match bytes {
            // The file is mapped again, with its folder, in which files of tensor data may lie.
            FileBytes::Mapped(_) => OnnxFile::open(path)?,
            FileBytes::Read(bytes) => OnnxFile::from_bytes(bytes)?,
        })),
        #[cfg(not(feature = "onnx"))]
        Looks::Onnx => Err(SourceError::NotBuilt { family: Family::Onnx }),
        Looks::Not(what) => Err(SourceError::NotAModel { what }),
    }
}

fn safetensors(path: &Path, bytes: FileBytes) -> Result<Model, SourceError> {
    Ok(match HfModel::find(ModelFile::open_bytes(path, bytes)?)? {
        Ok(quantized) => Model::Quantized(Box::new(quantized)),
        Err(model) => Model::Safetensors(model),
    })
}

impl Model {
    fn source(&self) -> &dyn ModelSource {
        match self {
            Self::Safetensors(model) => model,
            Self::Quantized(model) => model.as_ref(),
            Self::Gguf(model) => model,
            #[cfg(feature = "onnx")]
            Self::Onnx(model) => model,
        }
    }
}

impl ModelSource for Model {
    fn family(&self) -> Family {
        self.source().family()
    }

    fn variant(&self) -> Option<String> {
        self.source().variant()
    }

    fn architecture(&self) -> Option<&str> {
        self.source().architecture()
    }

    fn config(&self) -> &Value {
        self.source().config()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.source().metadata()
    }

    fn files(&self) -> Vec<String> {
        self.source().files()
    }

    fn file_bytes(&self) -> usize {
        self.source().file_bytes()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        self.source().items()
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        self.source().read(name)
    }

    fn check(&self, name: &str) -> Result<(), SourceError> {
        self.source().check(name)
    }

    fn activations(&self, name: &str) -> Result<Option<LayerActivations>, SourceError> {
        self.source().activations(name)
    }

    fn refusal(&self) -> Option<SourceError> {
        self.source().refusal()
    }

    fn omissions(&self) -> Vec<Omission> {
        self.source().omissions()
    }

    fn warnings(&self) -> Vec<String> {
        self.source().warnings()
    }
}
