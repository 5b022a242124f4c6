//! Whole GGUF files, as bytes.

use crate::memory::within;
use lowbit_models::checkpoint::gguf::{GgufFile, GgufMetadata, write};
use lowbit_models::checkpoint::source::{Data, ItemKind, ModelSource};

/// Bytes of memory for a byte of file. A byte of a short array becomes a value of JSON, in a list that
/// doubles while it grows.
pub const FACTOR: usize = 96;

pub fn run(data: &[u8]) {
    let Some(file) = open(data) else { return };
    // Every eighth is read by its bytes, because files cost twenty times what reading does.
    if data.iter().fold(0u8, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte)) % 8 == 0 {
        round_trip(&file);
    }
}

/// Opens a file and reads all that it holds, within bounds of memory.
pub fn open(data: &[u8]) -> Option<GgufFile> {
    within(FACTOR, data.len(), || {
        let file = match GgufFile::from_bytes(data.to_vec()) {
            Ok(file) => file,
            Err(error) => {
                assert!(!error.to_string().is_empty() && !error.next_step().is_empty());
                return None;
            }
        };
        assert_eq!(file.file_bytes(), data.len());
        assert!(file.tensors().map(|tensor| tensor.bytes.len()).sum::<usize>() <= data.len());
        for item in file.items().expect("a GGUF file lists its tensors") {
            match (file.read(&item.name), &item.kind) {
                (Ok(Data::Plain(bytes)), ItemKind::Plain(dtype)) => {
                    assert_eq!(bytes.len() * 8, item.elements() * dtype.bitsize());
                }
                (Ok(Data::Compressed(weights)), ItemKind::Compressed(format)) => {
                    assert_eq!(weights.format(), *format);
                    assert_eq!(weights.n() * weights.k(), item.elements());
                }
                // Scales that are not finite.
                (Err(_), ItemKind::Compressed(_) | ItemKind::Unsupported(_)) => {}
                other => panic!("{item:?}: {other:?}"),
            }
        }
        Some(file)
    })
}

/// What was read and is written again reads the same.
fn round_trip(file: &GgufFile) {
    let items = file.items().expect("a GGUF file lists its tensors");
    // Rows without columns are endless to write, and nothing.
    if items.iter().any(|item| item.shape.iter().any(|&size| size > 1 << 16)) {
        return;
    }
    let folder = super::pipelines::folder();
    let path = folder.join(format!("gguf-{:?}", std::thread::current().id()));
    let metadata = GgufMetadata::of(file);
    // Some types are not written, and neither are names that are longer than those of ggml.
    if write(file, &metadata, &path, &mut |_| ()).is_err() {
        return;
    }
    let again = GgufFile::open(&path).expect("what was written is read");
    assert_eq!(GgufMetadata::of(&again), metadata);
    assert!(again.tensors().eq(file.tensors()));
}
