//! GGUF files beside the Python package `gguf`, which defines the format.

use lowbit::compress::dequantize;
use lowbit_models::checkpoint::Tensor;
use lowbit_models::checkpoint::gguf::GgufFile;
use lowbit_models::checkpoint::source::{Data, ItemKind, ModelSource};
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf");

/// Blocks of random bits, which `make.py` wrote with the package, are the numbers that the package
/// makes of them.
#[test]
fn every_type_is_read_as_the_package_reads_it() {
    let model = GgufFile::open(Path::new(FOLDER).join("blocks.gguf")).unwrap();
    let want = std::fs::read(Path::new(FOLDER).join("blocks.f32")).unwrap();
    let mut want = want.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let items = model.items().unwrap();
    let mut formats = Vec::new();
    for item in &items {
        let have = match (model.read(&item.name).unwrap(), &item.kind) {
            (Data::Compressed(weights), ItemKind::Compressed(format)) => {
                assert_eq!(weights.format(), *format);
                assert_eq!(format.other_name(), Some(&*item.name.to_lowercase()));
                formats.push(item.name.as_str());
                dequantize(&weights)
            }
            (Data::Plain(bytes), &ItemKind::Plain(dtype)) => {
                let tensor = Tensor { name: &item.name, dtype, shape: &item.shape, bytes: &bytes };
                tensor.to_f32().unwrap()
            }
            other => panic!("{item:?}: {other:?}"),
        };
        assert_eq!(have.len(), item.elements());
        for (at, have) in have.into_iter().enumerate() {
            let want = want.next().unwrap();
            // A code of e2m1 is −0, which the package reads as 0. All others are the same to the bit.
            assert!(have == want, "{} {at}: {have:e}, not {want:e}", item.name);
        }
    }
    assert_eq!(want.next(), None);
    assert_eq!(
        formats,
        [
            "IQ4_NL", "IQ4_XS", "MXFP4", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1",
            "Q5_K", "Q6_K", "Q8_0"
        ]
    );
    assert_eq!(model.config()["lowbit.nested"], serde_json::json!([[1, 2], [3, 4]]));
    assert_eq!(model.config()["tokenizer.ggml.tokens"]["length"], 300);
}
