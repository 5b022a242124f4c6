//! Whole safetensors files, as bytes.

use crate::memory::within;
use lowbit::format::PackedWeights;
use lowbit_models::checkpoint::{
    CompressedInfo, Entry, LayerActivations, ModelFile, ModelWriter, read_compressed,
};
use std::collections::BTreeMap;

/// Bytes of memory for a byte of file.
pub const FACTOR: usize = 64;

pub fn run(data: &[u8]) {
    let Some(file) = open(data) else { return };
    // Every eighth is read by its bytes, because files cost twenty times what reading does.
    if data.iter().fold(0u8, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte)) % 8 == 0 {
        round_trip(&file);
    }
}

/// Opens a file and reads all that it holds, within bounds of memory.
pub fn open(data: &[u8]) -> Option<ModelFile> {
    within(FACTOR, data.len(), || {
        let file = match ModelFile::from_bytes(data.to_vec()) {
            Ok(file) => file,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return None;
            }
        };
        assert_eq!(file.file_bytes(), data.len());
        let mut bytes = 0;
        for tensor in file.tensors() {
            bytes += tensor.bytes.len();
            let floats = tensor.to_f32();
            assert_eq!(floats.is_ok(), tensor.is_float());
            if let Ok(floats) = floats {
                assert_eq!(floats.len(), tensor.shape.iter().product::<usize>());
            }
            assert_eq!(file.tensor(tensor.name), Some(tensor));
        }
        assert!(bytes <= data.len());
        assert!(file.plain().count() <= file.tensors().count());
        for name in file.compressed().keys() {
            let (checked, read) = (file.check_compressed(name), read_compressed(&file, name));
            if let Ok(read) = &read {
                assert_eq!(Some(read.geometry()), checked.as_ref().ok());
            }
            assert!(file.activations(name).is_err() || checked.is_ok());
        }
        Some(file)
    })
}

/// What was read and is written again reads the same.
fn round_trip(file: &ModelFile) {
    let mut entries = BTreeMap::new();
    let mut packed: BTreeMap<&str, PackedWeights> = BTreeMap::new();
    let mut layers: BTreeMap<String, LayerActivations> = BTreeMap::new();
    for (name, info) in file.compressed() {
        let (Ok(weights), Ok(activations)) = (read_compressed(file, name), file.activations(name))
        else {
            return;
        };
        // Rows without columns are endless to write, and nothing.
        if weights.n() > 1 << 16 {
            return;
        }
        packed.insert(name, weights);
        let CompressedInfo { format, shape } = info.clone();
        entries.insert(name.clone(), Entry::Compressed(CompressedInfo { format, shape }));
        layers.extend(activations.map(|layer| (name.clone(), layer)));
    }
    for tensor in file.plain() {
        let (dtype, shape) = (tensor.dtype, tensor.shape.to_vec());
        entries.insert(tensor.name.to_owned(), Entry::Plain { dtype, shape });
    }
    let folder = super::pipelines::folder();
    let path = folder.join(format!("model-{:?}", std::thread::current().id()));
    let writer =
        ModelWriter::create_with_activations(&path, entries, layers.clone(), file.metadata());
    // The writer keeps some names for itself that files may have.
    let Ok(mut writer) = writer else { return };
    for tensor in file.plain() {
        writer.write_plain(tensor.name, tensor.bytes).expect("what was declared is written");
    }
    for (name, weights) in &packed {
        writer.write_compressed(name, weights).expect("what was declared is written");
    }
    writer.finish().expect("a whole file");
    let again = ModelFile::open(&path).expect("what was written is read");
    assert_eq!(again.metadata(), file.metadata());
    assert_eq!(again.compressed(), file.compressed());
    for (name, weights) in &packed {
        assert_eq!(read_compressed(&again, name).as_ref().ok(), Some(weights));
        assert_eq!(again.activations(name).ok().flatten().as_ref(), layers.get(*name));
    }
    let plain = |file: &ModelFile| -> Vec<(String, Vec<usize>, Vec<u8>)> {
        file.plain().map(|t| (t.name.into(), t.shape.into(), t.bytes.into())).collect()
    };
    assert_eq!(plain(&again), plain(file));
}
