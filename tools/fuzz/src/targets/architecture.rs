//! What a model is: any settings and any list of tensors, whose values are zeros.
//!
//! An input is the settings as JSON, a byte 0xff, and a line for each tensor: its name and its sizes. The settings
//! are those of a `config.json`, or the metadata of a GGUF file if they name a `general.architecture`.

use crate::memory::within;
use lowbit_models::architecture::{self, Blueprint, reference};
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::checkpoint::source::{Data, Family, Item, ModelSource, SourceError};
use lowbit_models::device::ModelStatistics;
use serde_json::Value;
use std::collections::BTreeMap;

/// Bytes of memory for a byte of input: layers are made of settings and names, each of which is copied a few
/// times.
const FACTOR: usize = 1 << 10;

/// Elements of all tensors together.
const MOST: usize = 1 << 15;

/// Tensors of zeros with settings.
#[derive(Debug)]
struct Source {
    tensors: ModelFile,
    config: Value,
    is_gguf: bool,
}

impl ModelSource for Source {
    fn family(&self) -> Family {
        Family::Safetensors
    }

    fn architecture(&self) -> Option<&str> {
        self.config["architectures"][0].as_str()
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let metadata = self.is_gguf.then(|| ("gguf.metadata".into(), self.config.to_string()));
        metadata.into_iter().collect()
    }

    fn files(&self) -> Vec<String> {
        self.tensors.files().map(str::to_owned).collect()
    }

    fn file_bytes(&self) -> usize {
        self.tensors.file_bytes()
    }

    fn items(&self) -> Result<Vec<Item>, SourceError> {
        ModelSource::items(&self.tensors)
    }

    fn read(&self, name: &str) -> Result<Data<'_>, SourceError> {
        ModelSource::read(&self.tensors, name)
    }
}

/// Makes the model that an input describes.
fn source(data: &[u8]) -> Option<Source> {
    let mut parts = data.splitn(2, |&byte| byte == 0xff);
    let config: Value = serde_json::from_slice(parts.next()?).ok()?;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for line in std::str::from_utf8(parts.next()?).ok()?.lines() {
        let (name, sizes) = line.rsplit_once(' ')?;
        let sizes: Option<Vec<usize>> = sizes.split('x').map(|size| size.parse().ok()).collect();
        let sizes = sizes?;
        let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
        let start = end;
        end += 4 * Some(count).filter(|&count| count <= MOST)?;
        if end > 4 * MOST {
            return None;
        }
        let entry =
            serde_json::json!({"dtype": "F32", "shape": sizes, "data_offsets": [start, end]});
        header.insert(name.to_owned(), entry);
    }
    let header = Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + end, 0);
    let is_gguf = config.get("general.architecture").is_some();
    Some(Source { tensors: ModelFile::from_bytes(file).ok()?, config, is_gguf })
}

pub fn run(data: &[u8]) {
    let Some(source) = source(data) else { return };
    let read = within(FACTOR, data.len() + source.file_bytes(), || architecture::read(&source));
    match read {
        Ok(blueprint) => check(&source, &blueprint),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What is read can be computed with.
fn check(source: &Source, blueprint: &Blueprint) {
    let items = source.items().expect("a file lists its tensors");
    for name in blueprint.tensors() {
        assert!(items.iter().any(|item| item.name == name), "there is no `{name}`");
    }
    let _ = ModelStatistics::new(source, blueprint, true);
    let work = blueprint.layers.len().saturating_mul(items.iter().map(Item::elements).sum());
    if work > 1 << 18 || blueprint.vocab == 0 || blueprint.context == 0 {
        return;
    }
    let hidden = reference::hidden(source, blueprint, &[0], &[true]);
    let hidden = hidden.unwrap_or_else(|error| panic!("{error}: {blueprint:?}"));
    assert_eq!(hidden.len(), blueprint.hidden);
}
