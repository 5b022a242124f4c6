//! Round trips, and files that lie.

use super::*;
use half::{bf16, f16};
use lowbit::format::{
    CodeType, FormatError, Granularity, Mask24, PackedWeights, Quantization, ScaleType, Scales,
    StaticScale, WeightFormat,
};
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tempfile::TempDir;

fn noise(count: usize, mut state: u32) -> Vec<u32> {
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 7) ^ state.rotate_left(13)
    };
    (0..count).map(|_| next()).collect()
}

/// Any legal weight of a format: what the codes mean does not matter here.
fn weights(name: &str, n: usize, k: usize) -> PackedWeights {
    let format: WeightFormat = name.parse().unwrap();
    let g = format.geometry(n, k).unwrap();
    let mask = Mask24::from_fn(n, k, |row, k| (k + row) % 4 == 2).unwrap();
    let metadata = if format.is_sparse() { mask.into_words() } else { vec![] };
    let scales = noise(g.scales, 3).into_iter().map(|bits| 1.0 + (bits % 100) as f32);
    let scales = match format.scale_type() {
        ScaleType::F32 => Scales::F32(scales.collect()),
        ScaleType::F16 => Scales::F16(scales.map(f16::from_f32).collect()),
    };
    let zeros = noise(g.zeros, 5).into_iter().map(|bits| bits as u8 & 0xf).collect();
    PackedWeights::from_parts(format, n, k, noise(n * g.code_words, 7), metadata, scales, zeros)
        .unwrap()
}

/// Every combination of element, granularity, symmetry, scales and sparsity.
fn formats() -> Vec<WeightFormat> {
    let g = |g| Granularity::group(g).unwrap();
    let mut formats = Vec::new();
    for granularity in [Granularity::Tensor, Granularity::Channel, g(3), g(32)] {
        for element in CodeType::ALL {
            if !element.is_integer() && granularity != Granularity::Tensor {
                continue; // floats have no scales
            }
            let base = match element {
                CodeType::F32 => WeightFormat::f32(),
                CodeType::F16 => WeightFormat::f16(),
                CodeType::Int16 => WeightFormat::int16(granularity),
                CodeType::Int8 => WeightFormat::int8(granularity),
                CodeType::Int4 => WeightFormat::int4(granularity),
                other => panic!("{other:?} has no constructor here"),
            };
            for format in [base, base.asymmetric()] {
                for format in [format, format.with_scales(ScaleType::F16)] {
                    if format.check().is_ok() && (element.is_integer() || format == base) {
                        formats.extend([format, format.two_four()]);
                    }
                }
            }
        }
    }
    formats
}

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    /// Names of the files there are.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

fn user_metadata() -> BTreeMap<String, String> {
    [("format", "pt"), ("note", "ünïcode \"quoted\"\n")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn every_format_round_trips() {
    let scratch = Scratch::new();
    let path = scratch.path("model.safetensors");
    let shapes = [(0, 5), (3, 0), (0, 0), (1, 1), (5, 31), (4, 32), (3, 33), (2, 72)];
    let stored: Vec<(String, PackedWeights)> = formats()
        .into_iter()
        .flat_map(|format| shapes.map(|(n, k)| (format, n, k)))
        .map(|(format, n, k)| {
            let name = format!("w.{format}.{n}.{k}");
            (name, weights(&format.to_string(), n, k))
        })
        .collect();
    let shapes: Vec<[usize; 2]> = stored.iter().map(|(_, w)| [w.n(), w.k()]).collect();
    let mut tensors: Vec<(&str, Content<'_>)> = stored
        .iter()
        .zip(&shapes)
        .map(|((name, weights), shape)| (name.as_str(), Content::Compressed { shape, weights }))
        .collect();
    let plain = [
        ("bias", Dtype::F32, vec![2], vec![1u8; 8]),
        ("flags", Dtype::BOOL, vec![3], vec![1, 0, 1]),
        ("wide", Dtype::I64, vec![1, 1, 1], vec![9; 8]),
        ("nothing", Dtype::F64, vec![0, 7], vec![]),
        ("scalar", Dtype::F8_E4M3, vec![], vec![5]),
        ("fours", Dtype::F4, vec![2, 2], vec![6, 7]),
    ];
    for (name, dtype, shape, bytes) in &plain {
        tensors.push((name, Content::Plain { dtype: *dtype, shape, bytes }));
    }
    write_model(&path, &tensors, &user_metadata()).unwrap();
    assert_eq!(scratch.names(), ["model.safetensors"]);

    let file = ModelFile::open(&path).unwrap();
    assert_eq!(*file.metadata(), user_metadata());
    assert_eq!(file.compressed().len(), stored.len());
    for (name, weights) in &stored {
        assert_eq!(read_compressed(&file, name).unwrap(), *weights, "{name}");
        assert_eq!(file.compressed()[name].shape, [weights.n(), weights.k()]);
    }
    let mut names: Vec<&str> = plain.iter().map(|tensor| tensor.0).collect();
    names.sort_unstable();
    assert_eq!(file.plain().map(|tensor| tensor.name).collect::<Vec<_>>(), names);
    for (name, dtype, shape, bytes) in &plain {
        assert_eq!(file.tensor(name).unwrap(), Tensor { name, dtype: *dtype, shape, bytes });
    }

    // Other readers read it, find every tensor aligned, and the same input gives the
    // same bytes.
    let bytes = std::fs::read(&path).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), file.tensors().count());
    for tensor in file.tensors() {
        let view = theirs.tensor(tensor.name).unwrap();
        assert_eq!(
            (view.dtype(), view.shape(), view.data()),
            (tensor.dtype, tensor.shape, tensor.bytes)
        );
        let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(offset * 8 % tensor.dtype.bitsize().next_power_of_two().max(8), 0);
    }
    tensors.reverse();
    write_model(&path, &tensors, &user_metadata()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn shapes_of_more_dimensions_are_kept() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let weights = weights("int8-channel", 3, 2 * 5 * 7);
    let content = Content::Compressed { shape: &[3, 2, 5, 7], weights: &weights };
    write_model(&path, &[("conv", content)], &BTreeMap::new()).unwrap();
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.compressed()["conv"].shape, [3, 2, 5, 7]);
    assert_eq!(read_compressed(&file, "conv").unwrap(), weights);

    assert_eq!(matrix_shape(&[3, 2, 5, 7]), Some((3, 70)));
    assert_eq!(matrix_shape(&[3, 0]), Some((3, 0)));
    for bad in [&[][..], &[5], &[1 << 31, 0], &[0, 1 << 31], &[2, 1 << 40, 1 << 40]] {
        assert_eq!(matrix_shape(bad), None, "{bad:?}");
    }
}

/// A file from its header and its data, whatever they say.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

#[test]
fn floats_widen_exactly_from_any_address() {
    let values: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let singles: Vec<u8> = [1.0f32, -0.0, 1e-40, f32::MAX, f32::INFINITY]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    // Headers of every length mod 8, so that data starts at every address mod 8.
    for pad in 0..8 {
        let header = format!(
            r#"{{"b":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}},
            "half":{{"dtype":"F16","shape":[65536],"data_offsets":[1,131073]}},
            "brain":{{"dtype":"BF16","shape":[256,256],"data_offsets":[131073,262145]}},
            "single":{{"dtype":"F32","shape":[5],"data_offsets":[262145,262165]}}}}{}"#,
            " ".repeat(pad)
        );
        let data = [&[7][..], &bytes, &bytes, &singles].concat();
        let file = ModelFile::from_bytes(raw(&header, &data)).unwrap();
        let same = |wide: f32, exact: f32| {
            wide.to_bits() == exact.to_bits() || wide.is_nan() && exact.is_nan()
        };
        let half = file.read_f32("half").unwrap();
        let brain = file.read_f32("brain").unwrap();
        for &bits in &values {
            assert!(same(half[usize::from(bits)], f16::from_bits(bits).to_f32()));
            assert!(same(brain[usize::from(bits)], f32::from_bits(u32::from(bits) << 16)));
            assert!(same(brain[usize::from(bits)], bf16::from_bits(bits).to_f32()));
        }
        let single = file.read_f32("single").unwrap();
        assert_eq!(single, [1.0, 0.0, 1e-40, f32::MAX, f32::INFINITY]);
        assert!(single[1].is_sign_negative());
        assert!(matches!(file.read_f32("b"), Err(IoError::NotFloat { .. })));
        assert!(matches!(file.read_f32("c"), Err(IoError::NotFound { .. })));
    }
}

/// A small file with every kind of part.
fn small() -> Vec<u8> {
    let scratch = Scratch::new();
    let path = scratch.path("small");
    let weights = weights("2:4+int4-g5-asym-f16s", 2, 9);
    let tensors = [
        ("w", Content::Compressed { shape: &[2, 9], weights: &weights }),
        ("bias", Content::Plain { dtype: Dtype::F16, shape: &[2], bytes: &[1, 2, 3, 4] }),
    ];
    write_model(&path, &tensors, &user_metadata()).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn every_truncation_is_refused() {
    let file = small();
    let scratch = Scratch::new();
    for length in 0..file.len() {
        assert!(ModelFile::from_bytes(file[..length].to_vec()).is_err(), "{length}");
        // Mapped files take the same way in, of which the shortest are the odd ones.
        if length < 20 || length % 97 == 0 {
            let path = scratch.path("cut");
            std::fs::write(&path, &file[..length]).unwrap();
            assert!(ModelFile::open(&path).is_err(), "{length}");
        }
    }
    let longer = [&file[..], &[0]].concat();
    assert!(matches!(ModelFile::from_bytes(longer), Err(IoError::Gap { .. })));
    assert!(ModelFile::from_bytes(file).is_ok());
}

/// No changed byte gives a panic, nor a file that other readers refuse.
#[test]
fn every_changed_byte_is_survived() {
    let file = small();
    for at in 0..file.len() {
        for value in [0, 1, b'0', b'9', b'"', b',', b'}', 0x80, 0xff, file[at] ^ 1] {
            let mut changed = file.clone();
            changed[at] = value;
            if let Ok(model) = ModelFile::from_bytes(changed.clone()) {
                assert!(SafeTensors::deserialize(&changed).is_ok(), "byte {at} = {value}");
                for name in model.compressed().keys() {
                    let _ = read_compressed(&model, name);
                }
                for tensor in model.tensors() {
                    let _ = tensor.to_f32();
                }
            }
        }
    }
}

#[test]
fn lying_headers_are_refused() {
    let open = |header: &str, bytes: usize| {
        ModelFile::from_bytes(raw(header, &vec![0; bytes])).map(|_| ()).unwrap_err()
    };
    let tensor = |name: &str, shape: &str, start: &str, end: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let one = |shape: &str, start: &str, end: &str| {
        open(&format!("{{{}}}", tensor("t", shape, start, end)), 8)
    };
    let two = |b: &str, start: &str, end: &str| {
        let (a, b) = (tensor("a", "[2]", "0", "8"), tensor(b, "[2]", start, end));
        open(&format!("{{{a},{b}}}"), 16)
    };
    let max = u64::MAX.to_string();
    let huge = (1u64 << 60).to_string();

    assert!(matches!(one("[2]", "0", "12"), IoError::BadOffsets { end: 12, have: 8, .. }));
    assert!(matches!(one("[2]", "8", "0"), IoError::BadOffsets { .. }));
    assert!(matches!(one("[2]", "0", &max), IoError::BadOffsets { .. }));
    assert!(matches!(one("[2]", &max, &max), IoError::BadOffsets { .. }));
    assert!(matches!(one("[1]", "4", "8"), IoError::Gap { start: 0, end: 4 }));
    assert!(matches!(one("[1]", "0", "4"), IoError::Gap { start: 4, end: 8 }));
    assert!(matches!(one("[3]", "0", "8"), IoError::WrongSize { have: 8, .. }));
    assert!(matches!(one(&format!("[{}]", 1u64 << 58), "0", "8"), IoError::WrongSize { .. }));
    for shape in [format!("[{huge}]"), format!("[{huge},{huge}]"), format!("[{max},{max},0]")] {
        assert!(matches!(one(&shape, "0", "8"), IoError::Overflow { .. }), "{shape}");
    }
    for (shape, start) in [("[-1]", "0"), ("[2.5]", "0"), ("[2]", "-8"), ("[1e99]", "0")] {
        assert!(matches!(one(shape, start, "8"), IoError::HeaderJson(_)));
    }

    let overlap = two("b", "4", "12");
    assert!(
        matches!(&overlap, IoError::Overlap { first, second } if first == "a" && second == "b")
    );
    assert!(matches!(two("b", "0", "8"), IoError::Overlap { .. }));
    assert!(matches!(two("a", "8", "16"), IoError::DuplicateName { name } if name == "a"));
    let empty = r#""a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let twice = open(&format!("{{{empty},{empty}}}"), 0);
    assert!(matches!(twice, IoError::DuplicateName { name } if name == "a"));

    for header in ["", "null", "[]", "{", "{}x", "{\"t\":1}", "{\"t\":{\"dtype\":\"F31\"}}"] {
        assert!(matches!(open(header, 0), IoError::HeaderJson(_)), "{header}");
    }
    let deep = format!("{{\"t\":{}", "[".repeat(100_000));
    assert!(matches!(open(&deep, 0), IoError::HeaderJson(_)));
    let not_text = [&1u64.to_le_bytes()[..], &[0xff]].concat();
    assert!(matches!(ModelFile::from_bytes(not_text), Err(IoError::HeaderJson(_))));
    let bad_metadata = r#"{"__metadata__":{"a":1}}"#;
    assert!(open(bad_metadata, 0).to_string().contains("header"));
    let twice = r#"{"__metadata__":{"a":"1","a":"2"}}"#;
    assert!(matches!(open(twice, 0), IoError::DuplicateName { .. }));
    let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(matches!(open(twice, 0), IoError::HeaderJson(_)));

    for length in [3, 100_000_001, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let file = [&length.to_le_bytes()[..], b"{}"].concat();
        let error = ModelFile::from_bytes(file).unwrap_err();
        assert!(matches!(error, IoError::HeaderLength { length: l, limit: 2 } if l == length));
    }
    assert!(ModelFile::from_bytes(raw("{}", &[])).is_ok());
    assert!(ModelFile::from_bytes(raw(r#"{"__metadata__":null}"#, &[])).is_ok());
}

/// Eight tensors of 2⁶¹ bytes: the sum of their sizes overflows.
#[test]
fn offsets_that_add_up_past_the_address_space() {
    let size = 1u128 << 61;
    let tensors: Vec<String> = (0..8)
        .map(|i| {
            let (start, end) = (i * size, ((i + 1) * size).min(u64::MAX.into()));
            let shape = end - start;
            format!(r#""t{i}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let file = raw(&format!("{{{}}}", tensors.join(",")), &[]);
    assert!(matches!(ModelFile::from_bytes(file), Err(IoError::BadOffsets { .. })));
}

/// Tensors of a file, as `(name, type, shape, bytes)`.
type Parts = Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>;

/// The parts of a 2×8 `int8-channel-asym` weight `w`.
fn parts() -> Parts {
    vec![
        ("w.codes", Dtype::U32, vec![2, 2], vec![3; 16]),
        (
            "w.scales",
            Dtype::F32,
            vec![2, 1],
            [1f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect(),
        ),
        ("w.zeros", Dtype::U8, vec![2, 1], vec![0, 1]),
    ]
}

const INDEX: &str = r#"{"w":{"format":"int8-channel-asym","shape":[2,8]}}"#;

/// A file written by the safetensors crate, with our keys as given.
fn foreign(parts: &Parts, version: Option<&str>, index: Option<&str>) -> Vec<u8> {
    let mut metadata = HashMap::new();
    for (key, value) in [("lowbit.version", version), ("lowbit.tensors", index)] {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value.to_owned());
        }
    }
    let views = parts.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize(views.collect::<Vec<_>>(), Some(metadata)).unwrap()
}

fn read(parts: &Parts, index: &str) -> Result<PackedWeights, IoError> {
    let file = ModelFile::from_bytes(foreign(parts, Some("1"), Some(index)))?;
    read_compressed(&file, "w")
}

#[test]
fn bad_parts_are_refused() {
    let weights = read(&parts(), INDEX).unwrap();
    assert_eq!((weights.n(), weights.k(), weights.zeros()), (2, 8, &[0, 1][..]));

    for lost in 0..3 {
        let mut parts = parts();
        let (name, ..) = parts.remove(lost);
        let error = read(&parts, INDEX).unwrap_err();
        assert!(
            matches!(&error, IoError::MissingPart { part, .. } if name.ends_with(part)),
            "{error}"
        );
    }
    for (wrong, dtype, shape) in
        [(0, Dtype::I32, vec![2, 2]), (1, Dtype::F16, vec![2, 2]), (2, Dtype::I8, vec![2, 1])]
    {
        let mut parts = parts();
        parts[wrong].1 = dtype;
        parts[wrong].2 = shape;
        let error = read(&parts, INDEX).unwrap_err();
        assert!(matches!(&error, IoError::WrongDtype { have, .. } if *have == dtype), "{error}");
    }
    for (wrong, shape) in [(0, vec![4]), (0, vec![1, 4]), (1, vec![1, 2]), (2, vec![2])] {
        let mut parts = parts();
        parts[wrong].2 = shape.clone();
        let error = read(&parts, INDEX).unwrap_err();
        assert!(matches!(&error, IoError::WrongShape { have, .. } if *have == shape), "{error}");
    }
    for (wrong, extra) in [("w.metadata", true), ("w", false)] {
        let mut parts = parts();
        parts.push((wrong, Dtype::U8, vec![0], vec![]));
        let error = read(&parts, INDEX).unwrap_err();
        assert!(matches!(&error, IoError::UnexpectedTensor { .. }), "{error} {extra}");
    }
    let mut parts = parts();
    parts[1].3 = vec![0; 8];
    let error = read(&parts, INDEX).unwrap_err();
    assert!(matches!(error, IoError::Format { source: FormatError::BadScale { row: 0, .. }, .. }));
    let symmetric = INDEX.replace("-asym", "");
    assert!(matches!(read(&parts, &symmetric), Err(IoError::UnexpectedTensor { .. })));
    let file = ModelFile::from_bytes(foreign(&parts, Some("1"), Some(INDEX))).unwrap();
    assert!(matches!(read_compressed(&file, "v"), Err(IoError::NotFound { .. })));
}

#[test]
fn bad_indexes_are_refused() {
    fn open(version: Option<&str>, index: Option<&str>) -> IoError {
        ModelFile::from_bytes(foreign(&parts(), version, index)).map(|_| ()).unwrap_err()
    }
    for version in ["0", "3", "1.0", "", "one"] {
        let error = open(Some(version), Some(INDEX));
        assert!(matches!(error, IoError::UnsupportedVersion { version: v } if v == version));
        assert!(matches!(open(Some(version), None), IoError::UnsupportedVersion { .. }));
    }
    assert!(matches!(open(None, Some(INDEX)), IoError::MissingKey { key: "lowbit.version" }));
    assert!(matches!(open(Some("1"), None), IoError::MissingKey { key: "lowbit.tensors" }));
    for index in [
        "",
        "{",
        "[]",
        "null",
        r#"{"w":{}}"#,
        r#"{"w":{"format":"f16"}}"#,
        r#"{"w":{"format":1,"shape":[2,8]}}"#,
        r#"{"w":{"format":"f16","shape":[2,-8]}}"#,
        r#"{"w":{"format":"f16","shape":[2,8],"more":1}}"#,
        r#"{"w":{"format":"f16","format":"f16","shape":[2,8]}}"#,
    ] {
        let error = open(Some("1"), Some(index));
        assert!(matches!(error, IoError::BadMetadata { .. }), "{index}: {error}");
    }
    let twice = format!("{},{}", INDEX.trim_end_matches('}'), &INDEX[1..]);
    let twice = twice.replacen("[2,8],", "[2,8]},", 1);
    assert!(matches!(open(Some("1"), Some(&twice)), IoError::DuplicateName { .. }), "{twice}");
    for format in ["", "int3", "int8", "f16-asym", "int8-g0"] {
        let index = INDEX.replace("int8-channel-asym", format);
        let error = open(Some("1"), Some(&index));
        assert!(matches!(&error, IoError::Format { name, .. } if name == "w"), "{error}");
    }
}

/// Shapes that the parts cannot have: nothing is allocated for what only the index says.
#[test]
fn huge_shapes_are_refused() {
    let huge = 1u64 << 60;
    for shape in [
        format!("[{huge},{huge}]"),
        format!("[{huge},1]"),
        format!("[1,{huge}]"),
        format!("[{huge},0]"),
        format!("[0,{huge}]"),
        format!("[2,{},{}]", u64::MAX, u64::MAX),
        "[16]".to_owned(),
        "[]".to_owned(),
    ] {
        let error = read(&parts(), &INDEX.replace("[2,8]", &shape)).unwrap_err();
        assert!(matches!(error, IoError::NotAMatrix { .. }), "{shape}: {error}");
    }
    let large = (1u64 << 31) - 1;
    let error = read(&parts(), &INDEX.replace("[2,8]", &format!("[{large},{large}]"))).unwrap_err();
    assert!(matches!(error, IoError::Format { source: FormatError::TooLarge { .. }, .. }));
    let error = read(&parts(), &INDEX.replace("[2,8]", &format!("[{large},8]"))).unwrap_err();
    assert!(matches!(error, IoError::WrongShape { .. }));
}

#[test]
fn other_files_are_opened_too() {
    let file = ModelFile::from_bytes(foreign(&parts(), None, None)).unwrap();
    assert!(file.compressed().is_empty());
    assert_eq!(file.plain().count(), 3);
}

#[test]
fn the_writer_refuses_misuse_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let packed = weights("int8-channel-asym", 2, 8);
    let other = weights("int8-channel", 2, 8);
    let none = BTreeMap::new();
    let compressed = |weights| Content::Compressed { shape: &[2, 8], weights };
    let plain = |bytes| Content::Plain { dtype: Dtype::U8, shape: &[2], bytes };

    let write = |tensors: &[(&str, Content<'_>)]| {
        let error = write_model(&path, tensors, &none).unwrap_err();
        assert!(scratch.names().is_empty());
        error
    };
    let clash = write(&[("w", compressed(&packed)), ("w.codes", plain(&[1, 2]))]);
    assert!(matches!(clash, IoError::UnexpectedTensor { .. }));
    let clash = write(&[("w", compressed(&other)), ("w.zeros", plain(&[1, 2]))]);
    assert!(matches!(clash, IoError::UnexpectedTensor { .. }));
    let clash = write(&[("a", plain(&[1, 2])), ("a", plain(&[1, 2]))]);
    assert!(matches!(clash, IoError::DuplicateName { .. }));
    let wrong = write(&[("a", plain(&[1, 2, 3]))]);
    assert!(matches!(wrong, IoError::NotAsDeclared { .. }));
    let wrong = write(&[("w", Content::Compressed { shape: &[8, 2], weights: &packed })]);
    assert!(matches!(wrong, IoError::NotAsDeclared { .. }));
    let wrong = write(&[("w", Content::Compressed { shape: &[16], weights: &packed })]);
    assert!(matches!(wrong, IoError::NotAMatrix { .. }));
    assert!(matches!(write(&[("__metadata__", plain(&[1, 2]))]), IoError::Reserved { .. }));
    let nibbles = Content::Plain { dtype: Dtype::F4, shape: &[1], bytes: &[1] };
    assert!(matches!(write(&[("f", nibbles)]), IoError::Overflow { .. }));
    for key in ["lowbit.version", "lowbit.tensors"] {
        let metadata = [(key.to_owned(), "1".to_owned())].into();
        let error = write_model(&path, &[], &metadata).unwrap_err();
        assert!(matches!(error, IoError::Reserved { .. }));
    }

    let entries: BTreeMap<String, Entry> = [
        ("a".to_owned(), Entry::Plain { dtype: Dtype::U8, shape: vec![2] }),
        (
            "w".to_owned(),
            Entry::Compressed(CompressedInfo { format: packed.format(), shape: vec![2, 8] }),
        ),
    ]
    .into();
    let mut writer = ModelWriter::create(&path, entries.clone(), &none).unwrap();
    assert!(matches!(writer.write_plain("b", &[]), Err(IoError::NotDeclared { .. })));
    writer.write_plain("a", &[1, 2]).unwrap();
    assert!(matches!(writer.write_plain("a", &[1, 2]), Err(IoError::NotDeclared { .. })));
    assert!(matches!(writer.finish(), Err(IoError::NotWritten { name }) if name == "w"));
    assert!(scratch.names().is_empty());

    let mut writer = ModelWriter::create(&path, entries.clone(), &none).unwrap();
    assert!(matches!(writer.write_plain("w", &[]), Err(IoError::NotAsDeclared { .. })));
    drop(writer);
    let mut writer = ModelWriter::create(&path, entries, &none).unwrap();
    assert!(matches!(writer.write_compressed("w", &other), Err(IoError::NotAsDeclared { .. })));
    assert!(matches!(writer.write_compressed("a", &packed), Err(IoError::NotAsDeclared { .. })));
    drop(writer);
    assert!(scratch.names().is_empty());
    let error = write_model(scratch.path("no/file"), &[], &none).unwrap_err();
    assert!(matches!(error, IoError::Io { doing: "create", .. }));
}

/// Disk full, by way of the limit on file sizes, is not portable to stage; what is: the
/// file is open and mapped while another takes its name.
#[test]
fn an_open_file_survives_its_replacement() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let plain = |bytes| [("a", Content::Plain { dtype: Dtype::U8, shape: &[3], bytes })];
    write_model(&path, &plain(&[1, 2, 3]), &BTreeMap::new()).unwrap();
    let file = ModelFile::open(&path).unwrap();
    write_model(&path, &plain(&[4, 5, 6]), &BTreeMap::new()).unwrap();
    assert_eq!(file.tensor("a").unwrap().bytes, [1, 2, 3]);
    assert_eq!(ModelFile::open(&path).unwrap().tensor("a").unwrap().bytes, [4, 5, 6]);
}

#[test]
fn what_is_no_file_is_an_error() {
    let scratch = Scratch::new();
    assert!(matches!(ModelFile::open(scratch.path("none")), Err(IoError::Io { .. })));
    assert!(matches!(ModelFile::open(scratch.0.path()), Err(IoError::Io { .. })));
}

/// What the X of weights becomes, in any order among the parts.
#[test]
fn activations_are_read_back() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let packed = weights("int8-channel-asym", 2, 8);
    let token = Quantization::Dynamic("int8-token".parse().unwrap());
    let fixed = |scale, zero_point| Quantization::Static(StaticScale { scale, zero_point });
    let factors: Vec<f32> = (0..8).map(|i| (i as f32).exp2() / 3.0).collect();
    let layers: BTreeMap<String, LayerActivations> = [
        ("a", token, None),
        ("b", Quantization::Dynamic("int8-g32-asym".parse().unwrap()), Some(factors.clone())),
        ("c", fixed(0.1, 0), None),
        ("d", fixed(f32::MIN_POSITIVE * 4.0, -128), Some(factors)),
    ]
    .into_iter()
    .map(|(name, quantization, factors)| {
        (name.to_owned(), LayerActivations { quantization, factors })
    })
    .collect();
    let info = CompressedInfo { format: packed.format(), shape: vec![2, 8] };
    let entry = |name: &str| (name.to_owned(), Entry::Compressed(info.clone()));
    let entries: BTreeMap<_, _> = ["a", "b", "c", "d", "e"].map(entry).into();
    let create = |layers: &BTreeMap<_, _>| {
        let none = BTreeMap::new();
        ModelWriter::create_with_activations(&path, entries.clone(), layers.clone(), &none)
    };
    let mut writer = create(&layers).unwrap();
    entries.keys().for_each(|name| writer.write_compressed(name, &packed).unwrap());
    writer.finish().unwrap();
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.plain().count(), 0);
    for name in entries.keys() {
        assert_eq!(file.activations(name).unwrap().as_ref(), layers.get(name), "{name}");
        assert_eq!(read_compressed(&file, name).unwrap(), packed);
    }
    assert!(matches!(file.activations("none"), Err(IoError::NotFound { .. })));

    // Who does not know of activations does not read the file.
    let header = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    assert!(header.contains(r#""lowbit.version":"2""#), "{header}");
    create(&BTreeMap::new()).unwrap();
    let one = |name: &str, quantization, factors| {
        let layers = [(name.to_owned(), LayerActivations { quantization, factors })].into();
        create(&layers).map(|_| ()).unwrap_err()
    };
    assert!(matches!(one("none", token, None), IoError::NotFound { .. }));
    assert!(matches!(one("a", fixed(0.0, 0), None), IoError::Activations { .. }));
    assert!(matches!(one("a", token, Some(vec![1.0; 7])), IoError::WrongShape { .. }));
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 2.0] {
        let mut factors = vec![1.0; 8];
        factors[5] = factor;
        assert!(matches!(one("a", token, Some(factors)), IoError::Factor { column: 5, .. }));
    }
    let taken = [entry("a"), entry("a.factors")].into();
    let layers =
        [("a".to_owned(), LayerActivations { quantization: token, factors: Some(vec![1.0; 8]) })];
    let none = BTreeMap::new();
    let taken = ModelWriter::create_with_activations(&path, taken, layers.into(), &none);
    assert!(matches!(taken.unwrap_err(), IoError::UnexpectedTensor { .. }));
}

#[test]
fn bad_activations_are_refused() {
    let with =
        |activations: &str| INDEX.replace("}}", &format!(r#","activations":{activations}}}}}"#));
    let open = |activations: &str, parts: &Parts| {
        let file = foreign(parts, Some("2"), Some(&with(activations)));
        ModelFile::from_bytes(file).and_then(|file| file.activations("w"))
    };
    let fine = open(r#"{"format":"int8-token"}"#, &parts()).unwrap().unwrap();
    assert_eq!(fine.quantization, Quantization::Dynamic("int8-token".parse().unwrap()));
    for bad in [
        "{}",
        "1",
        r#"{"format":"int8-token","more":1}"#,
        r#"{"format":"int8-tensor","static":{"scale":1.0}}"#,
        r#"{"format":"int8-tensor","static":{"zero_point":1}}"#,
        r#"{"format":"int8-tensor","static":{"scale":1.0,"zero_point":0,"more":1}}"#,
        r#"{"format":"int8-tensor","static":{"scale":1.0,"zero_point":99999999999}}"#,
        r#"{"format":"int8-tensor","static":{"scale":1e39,"zero_point":0}}"#,
    ] {
        let error = open(bad, &parts()).unwrap_err();
        assert!(matches!(error, IoError::BadMetadata { .. }), "{bad}: {error}");
    }
    for bad in [
        r#"{"format":"int4-token"}"#,
        r#"{"format":"int8-g48"}"#,
        r#"{"format":"int8-token","static":{"scale":1.0,"zero_point":0}}"#,
        r#"{"format":"int8-tensor","static":{"scale":1.0,"zero_point":1}}"#,
        r#"{"format":"int8-tensor-asym","static":{"scale":1.0,"zero_point":128}}"#,
        r#"{"format":"int8-tensor","static":{"scale":-1.0,"zero_point":0}}"#,
        r#"{"format":"int8-tensor","static":{"scale":1e-40,"zero_point":0}}"#,
    ] {
        let error = open(bad, &parts()).unwrap_err();
        assert!(matches!(error, IoError::Activations { .. }), "{bad}: {error}");
    }
    let smoothed = r#"{"format":"int8-token","smoothed":true}"#;
    let error = open(smoothed, &parts()).unwrap_err();
    assert!(matches!(error, IoError::MissingPart { part: "factors", .. }));
    let factors = |dtype, shape: Vec<usize>, value: f32| {
        let mut parts = parts();
        let bytes = [value; 8].into_iter().flat_map(f32::to_le_bytes).collect();
        parts.push(("w.factors", dtype, shape, bytes));
        parts
    };
    let fine = open(smoothed, &factors(Dtype::F32, vec![8], 2.0)).unwrap().unwrap();
    assert_eq!(fine.factors, Some(vec![2.0; 8]));
    let wrong = |dtype, shape, value| open(smoothed, &factors(dtype, shape, value)).unwrap_err();
    assert!(matches!(wrong(Dtype::I32, vec![8], 2.0), IoError::WrongDtype { .. }));
    assert!(matches!(wrong(Dtype::F32, vec![8, 1], 2.0), IoError::WrongShape { .. }));
    assert!(matches!(wrong(Dtype::F32, vec![8], 0.0), IoError::Factor { column: 0, .. }));
    // Without the word it is a tensor like others.
    let file = foreign(&factors(Dtype::F32, vec![8], 2.0), Some("1"), Some(INDEX));
    let file = ModelFile::from_bytes(file).unwrap();
    assert_eq!(file.activations("w").unwrap(), None);
    assert_eq!(file.plain().map(|tensor| tensor.name).collect::<Vec<_>>(), ["w.factors"]);
}
