//! GGUF files beside the Python package `gguf`, which defines the format.

use crate::memory::{peak, within};
use crate::targets::gguf::FACTOR;
use lowbit::compress::{dequantize, quantize_scheme};
use lowbit::format::{PackedWeights, Scales, random_weights};
use lowbit_models::checkpoint::gguf::{self, GgmlType, GgufFile, GgufMetadata};
use lowbit_models::checkpoint::source::{self, Data, ItemKind, ModelSource};
use lowbit_models::checkpoint::{Content, Dtype, Output, Tensor, write_model};
use serde_json::Value;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
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

/// NVFP4 whose tensors have a scale, which the package leaves to programs, is read; it cannot be written.
#[test]
fn nvfp4_is_read_as_the_package_reads_it() {
    let model = GgufFile::open(Path::new(FOLDER).join("nvfp4.gguf")).unwrap();
    let want = std::fs::read(Path::new(FOLDER).join("nvfp4.f32")).unwrap();
    let mut want = want.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let items = model.items().unwrap();
    let names: Vec<_> = items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["one.weight", "three.weight", "two.weight"]);
    for name in names {
        let Data::Compressed(weights) = model.read(name).unwrap() else { panic!("{name}") };
        assert_eq!(weights.format().other_name(), Some("nvfp4"));
        for (at, have) in dequantize(&weights).into_iter().enumerate() {
            let want = want.next().unwrap();
            assert!(have == want, "{name} {at}: {have:e}, not {want:e}");
        }
    }
    assert_eq!(want.next(), None);
    let output = tempfile::tempdir().unwrap().path().join("again");
    let metadata = GgufMetadata::of(&model);
    let error = gguf::write(&model, &metadata, &output, &mut |_| ()).unwrap_err().to_string();
    let expected = "`one.weight` is stored as NVFP4: lowbit reads this format from GGUF files, but does not \
                    write it to them";
    assert_eq!(error, expected);
}

/// The written file has the blocks and the metadata that were read, bit for bit, also by way of a file of
/// lowbit's own.
#[test]
fn every_type_is_written_as_it_was() {
    let original = GgufFile::open(Path::new(FOLDER).join("blocks.gguf")).unwrap();
    let metadata = GgufMetadata::of(&original);
    let folder = tempfile::tempdir().unwrap();
    let (own, again) = (folder.path().join("own"), folder.path().join("again"));
    source::import(&original, &own, &mut |_| ()).unwrap();
    let own = source::open(&own).unwrap();
    for model in [&original as &dyn ModelSource, &own] {
        gguf::write(model, &metadata, &again, &mut |_| ()).unwrap();
        let again = GgufFile::open(&again).unwrap();
        assert_eq!(again.version(), 3);
        assert_eq!(GgufMetadata::of(&again), metadata);
        assert_eq!(again.config(), original.config());
        assert!(again.tensors().eq(original.tensors()));
    }
    // What the architecture and its sizes are stays with the model.
    let kept: Value = serde_json::from_str(&own.metadata()["gguf.metadata"]).unwrap();
    assert_eq!(kept, *original.config());
}

/// Several files have the tensors and the metadata of one, and the first opens all of them.
#[test]
fn a_model_is_written_to_several_files() {
    let original = GgufFile::open(Path::new(FOLDER).join("blocks.gguf")).unwrap();
    let metadata = GgufMetadata::of(&original);
    let bytes: Vec<u64> = original.tensors().map(|tensor| tensor.bytes.len() as u64).collect();
    let (all, largest): (u64, u64) = (bytes.iter().sum(), bytes.iter().copied().max().unwrap());
    // A tensor for each file, at least two files, and one file.
    for (most, counts) in [(1, bytes.len()..=bytes.len()), (all / 2, 2..=4), (2 * all, 1..=1)] {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::from(folder.path().join("m.gguf"));
        let output = output.in_shards(NonZeroU64::new(most).unwrap());
        gguf::write(&original, &metadata, output, &mut |_| ()).unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap();
        let mut files: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let count = files.len();
        assert!(counts.contains(&count), "{files:?}");
        let name = |number: usize| format!("m-{number:05}-of-{count:05}.gguf");
        assert_eq!(files, (1..=count).map(name).collect::<Vec<_>>());
        for file in &files {
            let size = std::fs::metadata(folder.path().join(file)).unwrap().len();
            // Data of at most this size, or one tensor, after a header of a few kilobytes.
            assert!(
                size <= most.max(largest) + (16 << 10),
                "{file} has {size} bytes of at most {most}"
            );
        }
        let again = GgufFile::open(folder.path().join(name(1))).unwrap();
        assert_eq!(GgufMetadata::of(&again), metadata);
        assert!(again.tensors().eq(original.tensors()));
        assert_eq!(ModelSource::files(&again), files);
        // Without one of them it is no model.
        if count > 1 {
            std::fs::remove_file(folder.path().join(name(count))).unwrap();
            let error = GgufFile::open(folder.path().join(name(1))).unwrap_err().to_string();
            assert!(error.contains(&name(count)), "{error}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Output::from(folder.path().join("m.bin")).in_shards(NonZeroU64::MIN);
    let error = gguf::write(&original, &metadata, output, &mut |_| ()).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("ends in .gguf"), "{error}: {source}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What GGUF cannot hold is refused by name, and nothing is written.
#[test]
fn what_gguf_cannot_hold_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, output) = (folder.path().join("in"), folder.path().join("out"));
    let refused = |name: &str, content: Content<'_>, says: &str| {
        write_model(&path, &[(name, content)], &BTreeMap::new()).unwrap();
        let model = source::open(&path).unwrap();
        let metadata = GgufMetadata::new("none");
        let error = gguf::write(&model, &metadata, &output, &mut |_| ()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{name}` is stored as ")), "{error}");
        assert!(error.contains(says), "{error}");
        assert!(!output.exists());
    };
    let plain =
        |dtype, shape| Content::Plain { dtype, shape, bytes: &[1; 8][..dtype.bitsize() / 8] };
    refused("w", plain(Dtype::U8, &[1]), "U8: GGUF has no type");
    refused("w", plain(Dtype::F32, &[1; 5]), "at most 4 axes");
    refused(&"w".repeat(64), plain(Dtype::F32, &[1]), "at most 63 bytes");
    let weights =
        |format: &str, k: usize| random_weights(format.parse().unwrap(), 2, k, 1, false).unwrap();
    let compressed = |weights: &PackedWeights, says: &str| {
        refused("w", Content::Compressed { shape: &[2, weights.k()], weights }, says);
    };
    compressed(&weights("int8-channel", 32), "GGUF has no type for this format");
    compressed(&weights("2:4+f16", 32), "GGUF has no type for this format");
    compressed(&weights("q4_0", 40), "whole blocks of 32, and these have 40");
    compressed(&weights("q6_k", 32), "whole blocks of 256, and these have 32");
    // Six bits hold 63.
    let mut parts = weights("q4_k", 256).into_parts();
    for (scales, values) in [(&mut parts.scales, [64, 1]), (&mut parts.minima, [0, 63])] {
        let Scales::Int8Super { groups, .. } = scales else { panic!() };
        groups.fill(values[1]);
        groups[9] = values[0];
    }
    let large = PackedWeights::new("q4_k".parse().unwrap(), 2, 256, parts).unwrap();
    compressed(&large, "a group is 64, and Q4_K holds 0 to 63");
}

/// An import holds one weight at a time, and nothing of the others, whatever the model has.
#[test]
fn an_import_holds_one_weight() {
    const N: usize = 512;
    const K: usize = 2048;
    const COUNT: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let [own, gguf, out] = ["own", "gguf", "out"].map(|name| folder.path().join(name));
    let values: Vec<f32> = (0..N * K).map(|at| (at as f32 * 0.7).sin()).collect();
    for format in ["q4_k", "q6_k", "q8_0", "f16"] {
        let weights = quantize_scheme(&values, N, K, &format.parse().unwrap()).unwrap();
        let names: Vec<String> = (0..COUNT).map(|at| format!("w{at}")).collect();
        let content = Content::Compressed { shape: &[N, K], weights: &weights };
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), content)).collect();
        write_model(&own, &all, &BTreeMap::new()).unwrap();
        let (metadata, model) = (GgufMetadata::new("none"), source::open(&own).unwrap());
        gguf::write(&model, &metadata, &gguf, &mut |_| ()).unwrap();
        let one = weights.geometry().sizes().total();
        drop((weights, model));
        for path in [&gguf, &own] {
            let model = source::open(path).unwrap();
            let (_, held) = peak(|| source::import(&model, &out, &mut |_| ()).unwrap());
            // The weight, 64 Ki words of its codes as bytes, and the buffer of the file.
            let most = one + (256 << 10) + (64 << 10) + (16 << 10);
            assert!(held <= most, "{format}: {held} bytes for weights of {one}");
        }
    }
}

/// f16 and f32 weights of lowbit are plain tensors of GGUF, whatever the length of a row.
#[test]
fn floats_are_written_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (path, output) = (folder.path().join("in"), folder.path().join("out"));
    for (format, kind) in [("f16", GgmlType::F16), ("f32", GgmlType::F32)] {
        let weights = random_weights(format.parse().unwrap(), 3, 5, 1, false).unwrap();
        let content = Content::Compressed { shape: &[3, 5], weights: &weights };
        write_model(&path, &[("w", content)], &BTreeMap::new()).unwrap();
        let model = source::open(&path).unwrap();
        gguf::write(&model, &GgufMetadata::new("none"), &output, &mut |_| ()).unwrap();
        let written = GgufFile::open(&output).unwrap();
        let tensor = written.tensor("w").unwrap();
        assert_eq!((tensor.kind, tensor.shape), (kind, &[3, 5][..]));
        assert_eq!(written.architecture(), Some("none"));
        let dtype = kind.dtype().unwrap();
        let tensor = Tensor { name: "w", dtype, shape: tensor.shape, bytes: tensor.bytes };
        assert_eq!(tensor.to_f32().unwrap(), dequantize(&weights));
    }
}

/// Headers that state more than they hold, and metadata that grow while they are read, cost memory in
/// proportion to the file.
#[test]
fn lies_cost_nothing() {
    let header = |tensors: u64, entries: u64, rest: &[u8]| {
        [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &entries.to_le_bytes(), rest].concat()
    };
    let open = |file: &[u8]| within(FACTOR, file.len(), || GgufFile::from_bytes(file.to_vec()));
    const MILLION: usize = 1 << 20;
    // Counts that just fit into zeros: the second empty key is one too many.
    let zeros = vec![0; 13 * MILLION];
    for (tensors, entries) in [(0, MILLION), (MILLION / 2, 1), (0, usize::MAX)] {
        assert!(open(&header(tensors as u64, entries as u64, &zeros)).is_err());
    }
    // Short arrays are kept, long ones are not.
    let array = |key: u32, length: usize| {
        let key = key.to_le_bytes().map(|byte| b'a' + (byte & 15));
        let mut entry = [&4u64.to_le_bytes()[..], &key, &9u32.to_le_bytes()].concat();
        entry.extend([&0u32.to_le_bytes()[..], &(length as u64).to_le_bytes()].concat());
        entry.resize(entry.len() + length, 1);
        entry
    };
    let key = |at: u32| at & 15 | (at >> 4 & 15) << 8 | (at >> 8 & 15) << 16;
    let short: Vec<u8> = (0..4096).flat_map(|at| array(key(at), 256)).collect();
    let model = open(&header(0, 4096, &short)).unwrap();
    assert_eq!(model.config()["aaaa"].as_array().unwrap().len(), 256);
    let (model, held) = peak(|| GgufFile::from_bytes(header(0, 1, &array(0, 8 * MILLION))));
    assert_eq!(model.unwrap().config()["aaaa"]["length"], 8 * MILLION);
    assert!(held < 40 * MILLION, "{held}");
    // Two thousand million rows without columns are nothing, too.
    let mut rows = [&1u64.to_le_bytes()[..], b"w", &2u32.to_le_bytes(), &[0; 8]].concat();
    rows.extend([&((1u64 << 31) - 1).to_le_bytes()[..], &12u32.to_le_bytes(), &[0; 8]].concat());
    let model = open(&header(1, 0, &rows)).unwrap();
    let (weights, held) = peak(|| model.read("w").unwrap());
    assert!(matches!(weights, Data::Compressed(weights) if weights.k() == 0));
    assert!(held < 1 << 12, "{held}");
}

/// A small file with any one byte changed is read or refused, within memory.
#[test]
fn every_changed_byte_is_survived() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let files = crate::seeds::gguf_files(root);
    let small: Vec<&Vec<u8>> = files.iter().filter(|file| file.len() < 1000).collect();
    assert!(small.len() > 5);
    for file in small {
        let mut changed = file.clone();
        for at in 0..file.len() {
            for byte in [0, 1, 0x7f, 0xff, file[at] ^ 0x80, file[at].wrapping_add(1)] {
                changed[at] = byte;
                crate::targets::gguf::run(&changed);
            }
            changed[at] = file[at];
        }
    }
}
