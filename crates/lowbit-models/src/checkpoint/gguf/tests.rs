//! Tests of the reader with files built here byte by byte.

use super::*;
use crate::checkpoint::source::{self, Model, ModelSource};
use crate::checkpoint::{CompressedInfo, Content, Dtype, Entry, LayerActivations, ModelWriter};
use serde_json::json;
use std::fs;

mod nvfp4;

/// A GGUF file under construction.
#[derive(Clone, Default)]
pub(crate) struct Builder {
    version: u32,
    entries: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
    alignment: usize,
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Builder {
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, ..Self::default() }
    }

    /// Adds an entry: a type and the bytes of a value.
    pub fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &text(value))
    }

    /// Adds a tensor, its innermost size first.
    pub fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        self.tensors.push((name.into(), dims.into(), kind, self.data.len() as u64));
        self.data.extend(data);
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.entries.len() as u64).to_le_bytes());
        file.extend(self.entries.concat());
        for (name, dims, kind, offset) in &self.tensors {
            file.extend(text(name));
            file.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(&self.data);
        file
    }
}

fn open(file: &Builder) -> Result<GgufFile, GgufError> {
    GgufFile::from_bytes(file.build()).map_err(|error| match error {
        SourceError::Gguf(error) => error,
        other => panic!("{other}"),
    })
}

fn small() -> Builder {
    let array = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("ü")].concat();
    Builder::new()
        .string("general.architecture", "llama")
        .entry("llama.block_count", 4, &2u32.to_le_bytes())
        .entry("llama.rms_epsilon", 6, &1e-5f32.to_le_bytes())
        .entry("tokenizer.tokens", 9, &array)
        .tensor("blk.0.attn_q.weight", &[32, 3], 2, &[7; 3 * 18])
        .tensor("blk.0.attn_norm.weight", &[5], 0, &[1; 20])
        .tensor("odd", &[256, 2], 137, &[9; 64])
}

#[test]
fn metadata_and_tensors_are_listed() {
    for version in [2, 3] {
        let model = open(&Builder { version, ..small() }).unwrap();
        assert_eq!(model.version(), version);
        assert_eq!(
            *model.config(),
            json!({
                "general.architecture": "llama",
                "llama.block_count": 2,
                "llama.rms_epsilon": 1e-5,
                "tokenizer.tokens": ["a", "ü"],
            })
        );
        let list: Vec<_> = model
            .tensors()
            .map(|t| (t.name, t.kind.to_string(), t.shape.to_vec(), t.bytes.to_vec()))
            .collect();
        assert_eq!(
            list,
            [
                ("blk.0.attn_norm.weight", "F32".to_owned(), vec![5], vec![1; 20]),
                // The file has the innermost size first.
                ("blk.0.attn_q.weight", "Q4_0".to_owned(), vec![3, 32], vec![7; 54]),
                ("odd", "ggml type 137".to_owned(), vec![2, 256], vec![9; 64]),
            ]
        );
        assert_eq!(model.architecture(), Some("llama"));
        let error = model.read("odd").unwrap_err().to_string();
        assert!(error.contains("`odd` is stored as ggml type 137"), "{error}");
    }
}

#[test]
fn each_kind_of_value_is_read() {
    let many = |kind: u32, count: u64, bytes: Vec<u8>| {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), &bytes].concat()
    };
    for (kind, bytes, want) in [
        (0, vec![200], json!(200)),
        (1, vec![200], json!(-56)),
        (2, 40_000u16.to_le_bytes().to_vec(), json!(40_000)),
        (3, (-5i16).to_le_bytes().to_vec(), json!(-5)),
        (5, (-7i32).to_le_bytes().to_vec(), json!(-7)),
        (6, 0.1f32.to_le_bytes().to_vec(), json!(0.1)),
        (6, f32::NAN.to_le_bytes().to_vec(), json!("NaN")),
        (7, vec![1], json!(true)),
        (10, u64::MAX.to_le_bytes().to_vec(), json!(u64::MAX)),
        (11, i64::MIN.to_le_bytes().to_vec(), json!(i64::MIN)),
        (12, 0.1f64.to_le_bytes().to_vec(), json!(0.1)),
        (9, many(9, 2, [many(0, 1, vec![3]), many(7, 0, vec![])].concat()), json!([[3], []])),
        (9, many(0, 257, vec![0; 257]), json!({"array": "u8", "length": 257})),
    ] {
        let model = open(&Builder::new().entry("key", kind, &bytes)).unwrap();
        assert_eq!(model.config()["key"], want);
    }
}

/// Damage of every kind is refused by name, and nothing is allocated for what is not there.
#[test]
fn damage_is_named() {
    let nested = |depth: usize| {
        let mut value = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
        value = value.repeat(depth);
        value.extend(0u32.to_le_bytes());
        value.extend(0u64.to_le_bytes());
        Builder::new().entry("deep", 9, &value)
    };
    assert!(open(&nested(7)).is_ok());
    let huge = [&0u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    let f32s = |dims: &[u64], data: &[u8]| Builder::new().tensor("t", dims, 0, data);
    let twice = small().tensor("odd", &[1], 24, &[1]);
    let mut overlap = small();
    overlap.tensors[1].3 = 32;
    let mut unaligned = small();
    unaligned.tensors[1].3 += 1;
    let mut outside = small();
    outside.tensors[1].3 = 1 << 40;
    let big_endian = Builder { version: 3u32.swap_bytes(), ..small() };
    let cases: Vec<(&str, Builder, &str)> = vec![
        ("version 1", Builder { version: 1, ..small() }, "GGUF version 1; versions 2 and 3"),
        ("version 0", Builder { version: 0, ..small() }, "GGUF version 0"),
        ("version 4", Builder { version: 4, ..small() }, "GGUF version 4"),
        ("big endian", big_endian, "GGUF version 3 in big-endian order"),
        ("a key twice", small().string("llama.block_count", "x"), "the key `llama.block_count`"),
        ("a tensor twice", twice, "the tensor `odd` appears twice"),
        ("too deep", nested(8), "`deep` has more than 8 arrays"),
        ("a type of value", Builder::new().entry("k", 13, &[0; 9]), "`k` has the type 13"),
        ("a long array", Builder::new().entry("k", 9, &huge), "18446744073709551615 elements"),
        ("a bool", Builder::new().entry("k", 7, &[2]), "`k` is 2, where 0 or 1"),
        (
            "text",
            Builder::new().entry("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]),
            "the value of `k` is not UTF-8",
        ),
        (
            "alignment 0",
            Builder::new().entry("general.alignment", 4, &[0; 4]),
            "`general.alignment` is 0, where a power of two",
        ),
        (
            "a large alignment",
            Builder::new().entry("general.alignment", 4, &(1u32 << 21).to_le_bytes()),
            "`general.alignment` is 2097152, where a power of two of at most 1 MiB",
        ),
        ("alignment text", Builder::new().string("general.alignment", "x"), "is \"x\", where"),
        ("five axes", f32s(&[1; 5], &[0; 4]), "`t` has 5 axes"),
        (
            "overflow",
            f32s(&[1 << 40, 1 << 40], &[]),
            "`t` [1099511627776, 1099511627776] overflows",
        ),
        ("bits overflow", f32s(&[1 << 59], &[]), "`t` [576460752303423488] overflows"),
        ("ragged", Builder::new().tensor("t", &[33], 2, &[0; 36]), "33 elements"),
        ("cut off", f32s(&[4], &[0; 12]), "`t` (F32) has 16 bytes from byte 0 of the data"),
        ("overlap", overlap, "tensors `blk.0.attn_q.weight` and `blk.0.attn_norm.weight` overlap"),
        ("unaligned", unaligned, "starts at byte 65"),
        ("outside", outside, "`blk.0.attn_norm.weight` (F32) has 20 bytes from byte 1099511627776"),
    ];
    for (what, file, says) in cases {
        let error = open(&file).unwrap_err();
        assert!(error.to_string().contains(says), "{what}: {error}");
        assert!(!error.next_step().is_empty());
    }
    for (what, at) in [("tensors", 8), ("entries of metadata", 16)] {
        let mut file = small().build();
        file[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        let error = GgufFile::from_bytes(file).unwrap_err().to_string();
        assert!(error.contains(&format!("1152921504606846976 {what}")), "{error}");
    }
    // Cut at each byte: an error, or a file whose tensors are all there.
    let whole = small().build();
    for length in 4..whole.len() {
        let result = GgufFile::from_bytes(whole[..length].to_vec());
        // Only the last tensor, whose type is not known, may be shorter.
        assert_eq!(result.is_ok(), length >= whole.len() - 64, "{length}");
    }
}

/// Files of `count`, each with one tensor.
fn parts(count: u16) -> Vec<Builder> {
    let part = |number: u16| {
        Builder::new()
            .string("general.architecture", if number == 0 { "llama" } else { "?" })
            .entry("split.no", 2, &number.to_le_bytes())
            .entry("split.count", 2, &count.to_le_bytes())
            .entry("split.tensors.count", 5, &i32::from(count).to_le_bytes())
            .tensor(&format!("t{number}"), &[1], 24, &[number as u8])
    };
    (0..count).map(part).collect()
}

#[test]
fn models_in_several_files() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |number: usize| scratch.path().join(format!("m-{number:05}-of-00003.gguf"));
    let write = |parts: &[Builder]| {
        for (number, part) in (1..).zip(parts) {
            fs::write(path(number), part.build()).unwrap();
        }
    };
    write(&parts(3));
    // Any of them opens all.
    for number in 1..=3 {
        let model = GgufFile::open(path(number)).unwrap();
        assert_eq!(model.architecture(), Some("llama"));
        let tensors: Vec<_> = model.tensors().map(|t| (t.name, t.bytes)).collect();
        assert_eq!(tensors, [("t0", &[0][..]), ("t1", &[1]), ("t2", &[2])]);
        assert_eq!(ModelSource::files(&model).len(), 3);
    }
    let refused = |number: usize, says: &str| {
        let error = GgufFile::open(path(number)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    let swapped = |at: usize, part: Builder| {
        let mut parts = parts(3);
        parts[at] = part;
        write(&parts);
    };
    swapped(1, parts(3)[2].clone());
    refused(1, "`m-00002-of-00003.gguf` says that its `split.no` is 2, where 1 is needed");
    refused(2, "the file is number 3 of 3, and its name does not end in `-00003-of-00003.gguf`");
    swapped(2, Builder::new());
    refused(1, "`split.count` is missing, where 3");
    swapped(1, Builder { version: 9, ..Builder::new() });
    refused(1, "the file `m-00002-of-00003.gguf` of the model");
    swapped(2, parts(3)[2].clone().tensor("t1", &[1], 24, &[9]));
    refused(1, "the files of the model have 4 tensors, where 3 are needed");
    let mut twice = parts(3)[2].clone();
    twice.tensors[0].0 = "t1".into();
    swapped(2, twice);
    refused(1, "the tensor `t1` appears twice");
    write(&parts(3));
    fs::remove_file(path(2)).unwrap();
    refused(3, "the model is in 3 files, and `m-00002-of-00003.gguf` is one which cannot be found");
    fs::write(path(2), b"version https://git-lfs").unwrap();
    refused(1, "`m-00002-of-00003.gguf` is one that is no GGUF file");
    let renamed = scratch.path().join("other.gguf");
    fs::write(&renamed, parts(3)[0].build()).unwrap();
    let error = GgufFile::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("its name does not end in `-00001-of-00003.gguf`"), "{error}");
    // One of one is a file like any other.
    fs::write(&renamed, parts(1)[0].build()).unwrap();
    assert_eq!(GgufFile::open(&renamed).unwrap().tensors().len(), 1);
}

/// A scale that is not finite is found without the codes exactly where reading refuses it: every two
/// bytes of a block become an infinity in turn, and every byte 255.
#[test]
fn scales_are_checked_as_they_are_read() {
    let mut refused = 0;
    for number in [2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 39, 40] {
        let kind = GgmlType::new(number);
        let (columns, bytes) = kind.block().unwrap();
        for at in 0..bytes {
            for faulty in [&[0, 0x7c][..], &[0xff]] {
                let mut data = vec![0; 2 * bytes];
                let end = (bytes + at + faulty.len()).min(data.len());
                data[bytes + at..end].copy_from_slice(&faulty[..end - bytes - at]);
                let shape = [2, columns];
                let tensor = GgufTensor { name: "w", kind, shape: &shape, bytes: &data };
                let (read, check) = (blocks::read(&tensor, 1.0), blocks::check(&tensor, 1.0));
                assert_eq!(read.is_err(), check.is_err(), "{kind}, byte {at}");
                refused += usize::from(check.is_err());
            }
        }
    }
    // Both faults in each of the 17 floats of the types, the byte of MXFP4, and those of NVFP4.
    assert_eq!(refused, 2 * 17 + 1 + 4);
}

/// What cannot be read is left out with the reason, and the rest is read.
#[test]
fn what_cannot_be_read_is_left_out() {
    use crate::checkpoint::source::Readable;
    let mut blocks = vec![0; 2 * 18];
    blocks[18..20].copy_from_slice(&[0, 0x7c]);
    let file = small().tensor("bad", &[32, 2], 2, &blocks).tensor("iq", &[256], 16, &[0; 66]);
    let model = open(&file).unwrap();
    let readable = Readable::new(&model).unwrap();
    let names: Vec<String> = readable.items().unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["blk.0.attn_norm.weight", "blk.0.attn_q.weight"]);
    let left: Vec<_> =
        readable.omissions().into_iter().map(|left| (left.name, left.what, left.why)).collect();
    let expected = [
        ("bad", "Q4_0", "the scale of row 1, group 0 is inf: it must be finite"),
        ("iq", "IQ2_XXS", "lowbit has no format for this type"),
        ("odd", "ggml type 137", "no type of ggml has this number"),
    ];
    let expected = expected.map(|(name, what, why)| (name.into(), what.into(), why.into()));
    assert_eq!(left, expected);
    assert!(readable.refusal().is_none());
    // Nothing is left of a model that has only these.
    let model = open(&Builder::new().tensor("iq", &[256], 16, &[0; 66])).unwrap();
    let refusal = Readable::new(&model).unwrap().refusal().unwrap().to_string();
    assert_eq!(
        refusal,
        "1 of its weights are stored as IQ2_XXS, first `iq`: lowbit has no format for this type"
    );
}

/// Opens a file that is read by ranges.
fn ranged(file: &Builder) -> Result<RangedGguf, SourceError> {
    let bytes = file.build();
    let length = bytes.len() as u64;
    let read = move |range: Range<u64>| {
        let part = bytes.get(range.start as usize..range.end as usize);
        part.map(<[u8]>::to_vec).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    };
    RangedGguf::open("model.gguf", length, Box::new(read))
}

#[test]
fn ranges_give_what_the_whole_file_gives() {
    // The second header is longer than what is read first, twice.
    let long = "x".repeat(17 << 20);
    for file in [small(), small().string("general.description", &long)] {
        let (whole, ranged) = (open(&file).unwrap(), ranged(&file).unwrap());
        assert_eq!(ranged.config(), whole.config());
        assert_eq!(ranged.head().strings("tokenizer.tokens").unwrap().unwrap(), ["a", "ü"]);
        assert_eq!(ranged.architecture(), whole.architecture());
        assert_eq!(ranged.file_bytes(), whole.file_bytes());
        assert_eq!(ranged.files(), ["model.gguf"]);
        let items = whole.items().unwrap();
        assert_eq!(ranged.items().unwrap(), items);
        for item in items {
            let name = &item.name;
            match (ranged.read(name), whole.read(name)) {
                (Ok(ranged), Ok(whole)) => assert_eq!(ranged, whole, "{name}"),
                (Err(ranged), Err(whole)) => assert_eq!(ranged.to_string(), whole.to_string()),
                (ranged, whole) => panic!("{name}: {ranged:?}, {whole:?}"),
            }
            assert_eq!(ranged.check(name).is_ok(), whole.check(name).is_ok(), "{name}");
        }
    }
}

#[test]
fn what_ranges_cannot_be_read_of_is_refused() {
    let refused = |read: ReadBytes, length| {
        RangedGguf::open("model.gguf", length, read).unwrap_err().to_string()
    };
    assert_eq!(refused(Box::new(|_| Ok(b"GGML".to_vec())), 4), "it is no GGUF file");
    let short = refused(Box::new(|_| Ok(b"GGUF".to_vec())), 100);
    assert_eq!(short, "cannot read `model.gguf`");
    let endless = |range: Range<u64>| {
        let mut bytes = Builder::new().build();
        // A count of entries that no file has.
        bytes[16..24].copy_from_slice(&(1u64 << 60).to_le_bytes());
        bytes.resize((range.end - range.start) as usize, 0);
        Ok(bytes)
    };
    let text = refused(Box::new(endless), 1 << 40);
    assert_eq!(text, "the header has more than 268435456 bytes");
    let text = refused(Box::new(|_| Ok(Vec::new())), u64::MAX);
    assert!(text.starts_with("the file has 18446744073709551615 bytes"), "{text}");
    let split = small().entry("split.count", 2, &2u16.to_le_bytes());
    let text = ranged(&split).unwrap_err().to_string();
    assert_eq!(text, "the file is one of 2 that have the model together, and is read alone here");
    let cut = small().tensor("end", &[32], 0, &[0; 100]);
    let error = ranged(&cut).unwrap_err();
    assert!(matches!(error, SourceError::Gguf(GgufError::Range { .. })), "{error}");
}

/// Writes a model of lowbit and opens it. `activations` belong to the weight `w.weight`.
fn own(
    folder: &Path,
    contents: &[(&str, Content<'_>)],
    activations: Option<LayerActivations>,
) -> Model {
    let path = folder.join("own");
    let entry = |content: &Content<'_>| match *content {
        Content::Plain { dtype, shape, .. } => Entry::Plain { dtype, shape: shape.to_vec() },
        Content::Compressed { shape, weights } => {
            Entry::Compressed(CompressedInfo { format: weights.format(), shape: shape.to_vec() })
        }
    };
    let entries = contents.iter().map(|(name, content)| ((*name).to_owned(), entry(content)));
    let activations = activations.map(|found| ("w.weight".to_owned(), found)).into_iter().collect();
    let mut writer = ModelWriter::create_with_activations(
        &path,
        entries.collect(),
        activations,
        &BTreeMap::new(),
    )
    .unwrap();
    for (name, content) in contents {
        match *content {
            Content::Plain { bytes, .. } => writer.write_plain(name, bytes).unwrap(),
            Content::Compressed { weights, .. } => writer.write_compressed(name, weights).unwrap(),
        }
    }
    writer.finish().unwrap();
    source::open(&path).unwrap()
}

fn written(model: &dyn ModelSource, metadata: &GgufMetadata, folder: &Path) -> GgufFile {
    let path = folder.join("written");
    write(model, metadata, &path, &mut |_| ()).unwrap();
    GgufFile::open(&path).unwrap()
}

/// What the metadata say about the types of tensors is made anew where a type changes, and only there.
#[test]
fn metadata_follow_the_types() {
    let folder = tempfile::tempdir().unwrap();
    let number = |value: u32| value.to_le_bytes();
    let original = Builder::new()
        .string("general.architecture", "llama")
        .entry("general.file_type", 4, &number(1))
        .string("quantize.imatrix.file", "calibration.dat")
        .entry("general.quantization_version", 4, &number(1))
        .string("general.name", "last")
        .tensor("big.weight", &[32, 4], 1, &[0; 256])
        .tensor("w.weight", &[32, 1], 1, &[0; 64])
        .tensor("norm", &[512], 0, &[0; 2048]);
    let original = GgufFile::from_bytes(original.build()).unwrap();
    let metadata = GgufMetadata::of(&original);
    let again = written(&original, &metadata, folder.path());
    assert!(again.entries().eq(original.entries()));

    let random = |format: &str, n| {
        lowbit::format::random_weights(format.parse().unwrap(), n, 32, 1, false).unwrap()
    };
    let norm = Content::Plain { dtype: Dtype::F32, shape: &[512], bytes: &[0; 2048] };
    // The type of most elements of matrices counts, and a vector is none.
    for (big, small, file_type) in [
        ("q8_0", "q4_0", json!(7)),
        ("q5_1", "q4_0", json!(9)),
        ("mxfp4", "q4_0", json!(38)),
        ("iq4_nl", "q4_0", json!(25)),
        ("f32", "f32", json!(0)),
    ] {
        let (big, small) = (random(big, 4), random(small, 1));
        let model = own(
            folder.path(),
            &[
                ("big.weight", Content::Compressed { shape: &[4, 32], weights: &big }),
                ("w.weight", Content::Compressed { shape: &[1, 32], weights: &small }),
                ("norm", norm),
            ],
            None,
        );
        let written = written(&model, &metadata, folder.path());
        let keys: Vec<&str> = written.entries().map(|(key, _)| key).collect();
        let kept = ["general.architecture", "general.file_type", "general.quantization_version"];
        assert_eq!(keys, [&kept[..], &["general.name"]].concat());
        assert_eq!(written.config()["general.file_type"], file_type);
        let blocks = file_type != json!(0);
        assert_eq!(written.config()["general.quantization_version"], if blocks { 2 } else { 1 });
    }
    // llama.cpp has no number for a model of integers.
    let model = own(
        folder.path(),
        &[("big.weight", Content::Plain { dtype: Dtype::I8, shape: &[4, 32], bytes: &[0; 128] })],
        None,
    );
    let config = written(&model, &metadata, folder.path()).config().clone();
    assert_eq!(config.get("general.file_type"), None);
    // Metadata that are of no file get both keys.
    let model = own(
        folder.path(),
        &[("w.weight", Content::Compressed { shape: &[4, 32], weights: &random("q4_1", 4) })],
        None,
    );
    let new = written(&model, &GgufMetadata::new("x"), folder.path()).config().clone();
    assert_eq!(
        (&new["general.file_type"], &new["general.quantization_version"]),
        (&json!(3), &json!(2))
    );
}

/// The metadata of a file are written with its own tensors only.
#[test]
fn metadata_of_another_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = GgufMetadata::of(&open(&small()).unwrap());
    let refused = |name: &str, shape: &[usize], says: &str| {
        let bytes = vec![0; shape.iter().product::<usize>() * 4];
        let plain = Content::Plain { dtype: Dtype::F32, shape, bytes: &bytes };
        let model = own(folder.path(), &[(name, plain)], None);
        let path = folder.path().join("none");
        let error = write(&model, &metadata, &path, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.next_step().contains("this very model"));
        assert!(!path.exists());
    };
    let hf = "model.layers.0.self_attn.q_proj.weight";
    refused(hf, &[3, 32], &format!("no tensor of that name, and the tensor to write is `{hf}`"));
    refused("blk.0.attn_q.weight", &[32, 3], "it has `blk.0.attn_q.weight` [3, 32]");
    let plain = Content::Plain { dtype: Dtype::F32, shape: &[5], bytes: &[0; 20] };
    let model = own(folder.path(), &[("blk.0.attn_norm.weight", plain)], None);
    let path = folder.path().join("part");
    let warnings = write(&model, &metadata, &path, &mut |_| ()).unwrap();
    assert!(
        warnings[0].starts_with("2 of the tensors")
            && warnings[0].contains("`blk.0.attn_q.weight`")
    );
}

/// A weight with smoothed inputs would give wrong products without its factors, and one with quantized inputs
/// only more exact ones.
#[test]
fn quantization_of_inputs_is_not_dropped_silently() {
    let folder = tempfile::tempdir().unwrap();
    let weights = lowbit::format::random_weights("q8_0".parse().unwrap(), 2, 32, 1, false).unwrap();
    let content = [("w.weight", Content::Compressed { shape: &[2, 32], weights: &weights })];
    let format = "int8-token".parse().unwrap();
    let activations = |factors| {
        Some(LayerActivations {
            quantization: lowbit::format::Quantization::Dynamic(format),
            factors,
        })
    };
    let (metadata, path) = (GgufMetadata::new("x"), folder.path().join("out"));
    let model = own(folder.path(), &content, activations(Some(vec![2.0; 32])));
    let error = write(&model, &metadata, &path, &mut |_| ()).unwrap_err().to_string();
    assert!(error.starts_with("`w.weight` is stored as ") && error.contains("smoothed"), "{error}");
    assert!(!path.exists());
    let model = own(folder.path(), &content, activations(None));
    let warnings = write(&model, &metadata, &path, &mut |_| ()).unwrap();
    assert!(
        matches!(&warnings[..], [one] if one.contains("1 of its weights") && one.contains("`w.weight`"))
    );
    let model = own(folder.path(), &content, None);
    assert_eq!(write(&model, &metadata, &path, &mut |_| ()).unwrap(), [] as [String; 0]);
}
