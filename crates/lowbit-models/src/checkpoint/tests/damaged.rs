//! Truncated and changed files, and headers that are not true.

use super::*;

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
