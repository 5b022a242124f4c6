//! Files that are written and read back, and misuse of the writer.

use super::*;

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
