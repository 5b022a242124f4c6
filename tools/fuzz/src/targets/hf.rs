//! Folders of a `config.json` with weights that another tool has quantized, or with an index of shards.
//!
//! An input is a JSON text, a byte 0xff, and a safetensors file. The text is the configuration, or the index if it
//! has a `weight_map`.

use super::pipelines::folder;
use lowbit_models::architecture;
use lowbit_models::checkpoint::source::{self, ModelSource};
use std::path::PathBuf;

/// A folder of this thread.
fn own() -> PathBuf {
    let folder = folder().join(format!("hf-{:?}", std::thread::current().id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

pub fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0xff);
    let (Some(text), Some(file)) = (parts.next(), parts.next()) else { return };
    let folder = own();
    let index = folder.join("model.safetensors.index.json");
    let is_index = text.windows(10).any(|name| name == b"weight_map");
    let (name, shard) = if is_index {
        (index.clone(), "model-00001-of-00001.safetensors")
    } else {
        (folder.join("config.json"), "model.safetensors")
    };
    std::fs::write(name, text).expect("a file");
    std::fs::write(folder.join(shard), file).expect("a file");
    read(&folder);
    for name in ["config.json", "model.safetensors.index.json", shard] {
        let _ = std::fs::remove_file(folder.join(name));
    }
}

/// Reads all that a folder holds, or learns why not.
fn read(folder: &std::path::Path) {
    let model = match source::open(folder) {
        Ok(model) => model,
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.next_step().is_empty());
            return;
        }
    };
    for left_out in model.omissions() {
        assert!(!left_out.name.is_empty() || !left_out.why.is_empty());
    }
    if let Some(refusal) = model.refusal() {
        assert!(!refusal.to_string().is_empty());
    }
    let _ = architecture::read(&model);
    let items = match model.items() {
        Ok(items) => items,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for item in items {
        let _ = model.activations(&item.name);
        if let Err(error) = model.read(&item.name) {
            assert!(!error.to_string().is_empty());
        }
    }
}
