//! Compressed weights whose index or parts are not valid.

use super::*;

/// Tensors of a file, as `(name, type, shape, bytes)`.
type Parts = Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>;

/// Returns the parts of a 2×8 `int8-channel-asym` weight `w`.
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
    parts[1].3 = vec![0xff; 8];
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
