//! Tests of what a path leads to: files in the folder of a test, built here.

use super::*;
use crate::checkpoint::gguf;
use crate::checkpoint::{
    Content, Entry, IoError, LayerActivations, ModelFile, ModelWriter, Output, write_model,
};
use lowbit::compress::quantize;
use lowbit::format::Quantization;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes tensors of one byte each, by name and value.
    fn model(&self, name: &str, tensors: &[(&str, u8)]) -> PathBuf {
        let path = self.write(name, "");
        let bytes: Vec<[u8; 1]> = tensors.iter().map(|&(_, value)| [value]).collect();
        let contents: Vec<_> = tensors
            .iter()
            .zip(&bytes)
            .map(|(&(name, _), bytes)| {
                (name, Content::Plain { dtype: Dtype::U8, shape: &[1], bytes })
            })
            .collect();
        write_model(&path, &contents, &BTreeMap::new()).unwrap();
        path
    }

    fn index(&self, name: &str, map: &[(&str, &str)]) -> PathBuf {
        let map: BTreeMap<_, _> = map.iter().copied().collect();
        self.write(name, serde_json::json!({ "weight_map": map }).to_string())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

const INDEX: &str = "model.safetensors.index.json";

/// Opens a path and returns the names and values of its tensors of one byte.
fn values(path: &Path) -> Vec<(String, u8)> {
    let model = open(path).unwrap();
    let value = |item: &Item| match model.read(&item.name).unwrap() {
        Data::Plain(bytes) => bytes[0],
        Data::Compressed(_) => panic!("{} is compressed", item.name),
    };
    let items = model.items().unwrap();
    items.iter().map(|item| (item.name.clone(), value(item))).collect()
}

fn refused(path: &Path, says: &str) -> SourceError {
    let error = open(path).map(|model| format!("{model:?}")).unwrap_err();
    let (mut text, mut source) = (error.to_string(), std::error::Error::source(&error));
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(text.contains(says), "{text}");
    assert!(!error.next_step().is_empty());
    error
}

fn gguf(value: u8) -> Vec<u8> {
    gguf::tests::Builder::new().tensor("g", &[1], 24, &[value]).build()
}

/// ir_version 8 and an empty graph.
const ONNX: &[u8] = b"\x08\x08\x3a\x00";

#[test]
fn content_decides_and_not_the_name() {
    let scratch = Scratch::new();
    let st = scratch.model("a.gguf", &[("s", 1)]);
    let gg = scratch.write("b.onnx", gguf(2));
    let onnx = scratch.write("c.safetensors", ONNX);
    assert_eq!(open(&st).unwrap().family(), Family::Safetensors);
    assert_eq!(values(&gg), [("g".to_owned(), 2)]);
    assert_eq!(open(&gg).unwrap().family(), Family::Gguf);
    assert_eq!(open(&onnx).unwrap().family(), Family::Onnx);
    for (name, bytes, says) in [
        ("empty", &b""[..], "an empty file"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("page.safetensors", b"<!doctype html><title>404", "a web page"),
        ("config.json", b"{\"model_type\": \"bert\"}", "a JSON file"),
        ("pytorch_model.bin", b"\x80\x02}q\x00.", "a Python pickle"),
        ("x", b"no model at all", "no model of a kind that lowbit knows"),
    ] {
        let error = refused(&scratch.write(&format!("not/{name}"), bytes), says);
        assert!(matches!(error, SourceError::NotAModel { .. }));
    }
    refused(&scratch.path("nowhere"), "cannot open");
}

#[test]
fn folders_have_one_model() {
    let scratch = Scratch::new();
    let folder = |name: &str| scratch.path(name);
    scratch.model("single/any.bin", &[("a", 1)]);
    scratch.write("single/config.json", "{\"architectures\": [\"BertModel\"]}");
    scratch.write("single/README.md", "read me");
    let single = open(folder("single")).unwrap();
    assert_eq!(single.architecture(), Some("BertModel"));
    assert_eq!(values(&folder("single")), [("a".to_owned(), 1)]);
    // A model that is given by its file has the configuration beside it, too.
    assert_eq!(open(folder("single/any.bin")).unwrap().architecture(), Some("BertModel"));

    // `model.safetensors` is the model, whatever else there is.
    scratch.model("named/model.safetensors", &[("a", 2)]);
    scratch.model("named/adapter.safetensors", &[("b", 3)]);
    scratch.write("named/model.gguf", gguf(4));
    assert_eq!(values(&folder("named")), [("a".to_owned(), 2)]);

    scratch.write("several/q4.gguf", gguf(1));
    scratch.write("several/q8.gguf", gguf(2));
    let error = refused(&folder("several"), "the folder has 2 models: `q4.gguf`, `q8.gguf`");
    assert_eq!(error.next_step(), "give one of them");

    scratch.write("none/config.json", "{}");
    scratch.write("none/pytorch_model.bin", b"\x80\x02}");
    refused(&folder("none"), "a folder in which no file is a model");
    fs::create_dir(folder("empty")).unwrap();
    refused(&folder("empty"), "a folder in which no file is a model");
    scratch.write("lfs/model.onnx", "version https://git-lfs.github.com/spec/v1\n");
    refused(&folder("lfs"), "a Git LFS pointer");
    // A configuration that cannot be read is no configuration that is not there.
    scratch.write("single/config.json", "{\"architectures\": ");
    refused(&folder("single"), "config.json` is not valid");
}

#[test]
fn shards_and_their_index_agree() {
    let scratch = Scratch::new();
    let [first, second] = ["s-1.safetensors", "s-2.safetensors"];
    let good = [("a", first), ("b", first), ("c", second)];
    let write = || {
        scratch.model(first, &[("a", 1), ("b", 2)]);
        scratch.model(second, &[("c", 3)])
    };
    write();
    let index = scratch.index(INDEX, &good);
    let all = [("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 3)];
    assert_eq!(values(&index), all);
    assert_eq!(values(scratch.0.path()), all);
    assert_eq!(open(&index).unwrap().files(), [first, second]);
    // Another name of the index is as good.
    fs::rename(&index, scratch.path("x.safetensors.index.json")).unwrap();
    assert_eq!(values(scratch.0.path()), all);
    fs::remove_file(scratch.path("x.safetensors.index.json")).unwrap();
    refused(scratch.0.path(), "the folder has 2 models");

    let bad = |map: &[(&str, &str)], says: &str| refused(&scratch.index(INDEX, map), says);
    bad(
        &[("a", first), ("b", second), ("c", second)],
        "tensor `b` is in `s-2.safetensors`; it is in `s-1.safetensors`",
    );
    bad(
        &[("a", first), ("b", first), ("c", second), ("d", second)],
        "tensor `d` is in `s-2.safetensors`; it is in none of the files",
    );
    bad(&[("a", first), ("c", second)], "does not name tensor `b`, which is in `s-1.safetensors`");
    bad(&[("a", first), ("c", "s-3.safetensors")], "`s-3.safetensors`, which cannot be found");
    bad(&[("a", first), ("c", "../s")], "`../s`, which is not a path inside the model's folder");
    bad(&[("a", first), ("c", "/s")], "`/s`, which is not a path inside the model's folder");
    let twice = format!("{{\"weight_map\": {{\"a\": \"{first}\", \"a\": \"{second}\"}}}}");
    refused(&scratch.write(INDEX, twice), "`a` appears twice");
    let index = scratch.index(INDEX, &good);
    scratch.model(second, &[("c", 3), ("a", 1)]);
    refused(&index, "tensor `a` is in `s-1.safetensors` and in `s-2.safetensors`");
    scratch.write(second, b"\x02\0\0\0\0\0\0\0{");
    refused(&index, "the file `s-2.safetensors` of the model");

    let alone = scratch.index("alone/model.safetensors.index.json", &good);
    let error = refused(&alone, "an index of 2 files, and none of them lies beside it");
    assert!(matches!(error, SourceError::Io(IoError::IndexAlone { .. })));
}

#[cfg(unix)]
#[test]
fn links_of_a_cache_lead_to_shards() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new();
    scratch.model("blobs/11", &[("a", 1)]);
    scratch.index("blobs/22", &[("a", "s.safetensors")]);
    fs::create_dir_all(scratch.path("snapshots/x")).unwrap();
    symlink("../../blobs/11", scratch.path("snapshots/x/s.safetensors")).unwrap();
    let index = scratch.path("snapshots/x").join(INDEX);
    symlink("../../blobs/22", &index).unwrap();
    assert_eq!(values(&index), [("a".to_owned(), 1)]);
    assert_eq!(values(&scratch.path("snapshots/x")), [("a".to_owned(), 1)]);
    // An index that lies in the folder itself may not lead out of it.
    fs::remove_file(&index).unwrap();
    scratch.index(&format!("snapshots/x/{INDEX}"), &[("a", "s.safetensors")]);
    refused(&index, "a link that leads out of the model's folder");
}

/// Weights that others quantized are not copied as if they were tensors.
#[test]
fn quantized_by_others_is_named() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let refuse = |path: &Path, says: &str| {
        let model = open(path).unwrap();
        let error = import(&model, &out, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        let error = crate::decompress(&model, &out, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!out.exists());
    };
    refuse(
        &scratch.model("a", &[("l.qweight", 1)]),
        "the first is `l.weight`: tensor `l.qweight` is",
    );
    let named = scratch.model("c/model.safetensors", &[("l.weight", 1)]);
    scratch.write("c/config.json", "{\"quantization_config\": {\"quant_method\": \"aqlm\"}}");
    refuse(&named, "quantized by the method `aqlm`");
    let unknown = gguf::tests::Builder::new().tensor("w", &[256], 16, &[0; 66]).build();
    let unknown = open(scratch.write("d", unknown)).unwrap();
    let error = import(&unknown, &out, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("1 of its weights are stored as IQ2_XXS, first `w`"), "{error}");
}

/// A compressed model in shards is what it was before, and each file is a model by itself.
#[test]
fn shards_are_written_and_read_back() {
    let scratch = Scratch::new();
    let format = "int4-g8-asym".parse().unwrap();
    let weight = |seed: u32| {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 + seed) % 101) as f32 - 50.0).collect();
        quantize(&values, 4, 16, &format).unwrap()
    };
    let (first, second) = (weight(1), weight(2));
    let tensors = [
        ("a", Content::Compressed { shape: &[4, 16], weights: &first }),
        ("b", Content::Plain { dtype: Dtype::U8, shape: &[3], bytes: &[1, 2, 3] }),
        ("c", Content::Compressed { shape: &[4, 4, 4], weights: &second }),
        ("d", Content::Plain { dtype: Dtype::F32, shape: &[0], bytes: &[] }),
    ];
    let metadata: BTreeMap<String, String> = [("note".to_owned(), "kept".to_owned())].into();
    // 4 · 16 codes of half a byte, 4 · 2 scales of four bytes and zero points of one.
    let weight_bytes = 32 + 32 + 8;
    assert_eq!(first.geometry().sizes().total(), weight_bytes);
    let limit = |bytes: usize| NonZeroU64::new(bytes as u64).unwrap();
    for (bytes, count) in [(1, 4), (weight_bytes, 3), (weight_bytes + 3, 2), (1 << 20, 1)] {
        let scratch = Scratch::new();
        let output = Output::from(scratch.path("m.safetensors")).in_shards(limit(bytes));
        assert_eq!(output.entry_point(), scratch.path("m.safetensors.index.json"));
        write_model(output, &tensors, &metadata).unwrap();
        let mut names: Vec<_> =
            (1..=count).map(|at| format!("m-{at:05}-of-{count:05}.safetensors")).collect();
        names.push("m.safetensors.index.json".to_owned());
        assert_eq!(scratch.names(), names, "{bytes}");
        let Model::Safetensors(model) = open(scratch.0.path()).unwrap() else { panic!() };
        assert_eq!(*model.metadata(), metadata);
        let items: Vec<_> = model.items().unwrap().into_iter().map(|i| (i.name, i.shape)).collect();
        let shapes = [vec![4, 16], vec![3], vec![4, 4, 4], vec![0]];
        assert!(items.iter().map(|(_, shape)| shape).eq(&shapes), "{items:?}");
        assert_eq!(model.read("a").unwrap(), Data::Compressed(first.clone()));
        assert_eq!(model.read("c").unwrap(), Data::Compressed(second.clone()));
        assert_eq!(model.read("b").unwrap(), Data::Plain([1, 2, 3][..].into()));
        assert!(matches!(model.read("e"), Err(SourceError::NotFound { .. })));
        let index: Value =
            serde_json::from_slice(&fs::read(scratch.path("m.safetensors.index.json")).unwrap())
                .unwrap();
        assert_eq!(index["metadata"]["total_size"], 2 * weight_bytes + 3);
        assert_eq!(index["weight_map"]["a.codes"], names[0]);
        // Each file is a model by itself.
        let own = ModelFile::open(scratch.path(&names[0])).unwrap();
        assert_eq!(own.check_compressed("a").unwrap(), *first.geometry());

        // And back into one file, with what it says about X.
        let one = scratch.path("one.safetensors");
        import(&model, &one, &mut |_| ()).unwrap();
        let one = ModelFile::open(one).unwrap();
        assert_eq!(one.read("c").unwrap(), Data::Compressed(second.clone()));
        assert_eq!(*one.metadata(), metadata);
    }
    // Files that may be written are known before it is known how many there will be.
    let sharded = Output::from(scratch.path("m.st")).in_shards(limit(9));
    for (name, may) in [
        ("m.st.index.json", true),
        ("m-00002-of-00009.st", true),
        ("m-00002-of-00009.safetensors", false),
        ("m-2-of-9.st", false),
        ("m.st", false),
        ("n-00002-of-00009.st", false),
        ("sub/m.st.index.json", false),
    ] {
        assert_eq!(sharded.may_replace(&scratch.path(name)), may, "{name}");
    }
    let whole = Output::from(scratch.path("m.st"));
    assert!(whole.may_replace(&scratch.path("./m.st")));
    assert!(!whole.may_replace(&scratch.path("m-00002-of-00009.st")));
    // The path of a folder stands for the usual name in it.
    fs::create_dir(scratch.path("folder")).unwrap();
    let output = Output::from(scratch.path("folder")).in_shards(limit(1 << 20));
    assert_eq!(output.entry_point(), scratch.path("folder").join(INDEX));
}

/// Nothing appears before everything is written, and names are checked across files.
#[test]
fn shards_appear_together() {
    let scratch = Scratch::new();
    let plain = || Entry::Plain { dtype: Dtype::U8, shape: vec![1] };
    let output = || Output::from(scratch.path("m")).in_shards(NonZeroU64::MIN);
    let entries: BTreeMap<_, _> = ["a", "b"].map(|name| (name.to_owned(), plain())).into();
    let mut writer = ModelWriter::create(output(), entries.clone(), &BTreeMap::new()).unwrap();
    writer.write_plain("b", &[2]).unwrap();
    assert!(matches!(writer.write_plain("b", &[2]), Err(IoError::NotDeclared { .. })));
    assert!(matches!(writer.write_plain("c", &[2]), Err(IoError::NotDeclared { .. })));
    assert!(matches!(writer.finish(), Err(IoError::NotWritten { name }) if name == "a"));
    assert!(scratch.names().is_empty());

    let info = crate::checkpoint::CompressedInfo {
        format: "int8-channel".parse().unwrap(),
        shape: vec![1, 1],
    };
    let mut clash = entries;
    clash.insert("a.codes".to_owned(), plain());
    clash.insert("a".to_owned(), Entry::Compressed(info.clone()));
    let error = ModelWriter::create(output(), clash, &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, IoError::UnexpectedTensor { .. }), "{error}");

    // The activations go with their weight.
    let entries: BTreeMap<_, _> =
        ["a", "b"].map(|name| (name.to_owned(), Entry::Compressed(info.clone()))).into();
    let x = LayerActivations {
        quantization: Quantization::Dynamic("int8-token".parse().unwrap()),
        factors: Some(vec![2.0]),
    };
    let activations: BTreeMap<_, _> = [("b".to_owned(), x.clone())].into();
    let mut writer = ModelWriter::create_with_activations(
        output(),
        entries,
        activations.clone(),
        &BTreeMap::new(),
    )
    .unwrap();
    let weights = quantize(&[3.0], 1, 1, &info.format).unwrap();
    writer.write_compressed("b", &weights).unwrap();
    writer.write_compressed("a", &weights).unwrap();
    writer.finish().unwrap();
    assert_eq!(scratch.names(), ["m-00001-of-00002", "m-00002-of-00002", "m.index.json"]);
    let model = open(scratch.path("m.index.json")).unwrap();
    assert_eq!(model.activations("a").unwrap(), None);
    assert_eq!(model.activations("b").unwrap(), Some(x.clone()));
    let again = scratch.path("again");
    import(&model, &again, &mut |_| ()).unwrap();
    assert_eq!(open(again).unwrap().activations("b").unwrap(), Some(x));
}

/// An overlay has its own tensors, weights and settings, and those of the base that nothing replaces.
#[test]
fn overlays_replace_what_is_put_into_them() {
    let scratch = Scratch::new();
    let path = scratch.model("model.safetensors", &[("a", 1), ("b", 2)]);
    scratch.write("config.json", r#"{"architectures": ["Old"], "x": 1}"#);
    let base = open(&path).unwrap();
    let mut overlay = Overlay::new(&base);
    assert_eq!(overlay.items().unwrap(), base.items().unwrap());
    overlay.put_floats("b", vec![2, 1], &[0.5, -1.0]).unwrap();
    overlay.put_floats("0", vec![0], &[]).unwrap();
    let format = "int8-channel".parse::<lowbit::compress::Scheme>().unwrap().format();
    let packed = quantize(&[1.0, -2.0, 0.5, 3.0, 1.0, 0.0], 2, 3, &format).unwrap();
    overlay.put_packed("c", vec![2, 3, 1], packed.clone(), None).unwrap();
    let kinds: Vec<_> = overlay
        .items()
        .unwrap()
        .into_iter()
        .map(|item| (item.name, item.shape, item.kind, item.bytes))
        .collect();
    let (float, byte) = (ItemKind::Plain(Dtype::F32), ItemKind::Plain(Dtype::U8));
    let compressed = ItemKind::Compressed(format);
    let size = packed.geometry().sizes().total();
    assert_eq!(
        kinds,
        [
            ("0".to_owned(), vec![0], float.clone(), 0),
            ("a".to_owned(), vec![1], byte, 1),
            ("b".to_owned(), vec![2, 1], float, 8),
            ("c".to_owned(), vec![2, 3, 1], compressed, size),
        ]
    );
    assert_eq!(overlay.read("a").unwrap(), Data::Plain(vec![1].into()));
    let bytes: Vec<u8> = [0.5f32, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(overlay.read("b").unwrap(), Data::Plain(bytes.into()));
    assert_eq!(overlay.read("c").unwrap(), Data::Compressed(packed.clone()));
    assert!(matches!(overlay.read("d"), Err(SourceError::NotFound { .. })));
    assert_eq!((overlay.architecture(), overlay.config()["x"].as_u64()), (Some("Old"), Some(1)));
    overlay.put_config(serde_json::json!({"model_type": "new", "x": 2}));
    assert_eq!((overlay.architecture(), overlay.config()["x"].as_u64()), (Some("new"), Some(2)));

    // The parts of a weight are declared, so a file of it can be written and read again.
    let copy = scratch.path("copy.safetensors");
    import(&overlay, &copy, &mut |_| ()).unwrap();
    assert_eq!(open(&copy).unwrap().read("c").unwrap(), Data::Compressed(packed.clone()));

    let wrong = overlay.put_floats("a", vec![3], &[1.0]).unwrap_err();
    assert_eq!(wrong.to_string(), "1 numbers were given for `a` of shape [3]");
    let wrong = overlay.put_floats("a", vec![usize::MAX, 2], &[1.0]);
    assert!(matches!(wrong, Err(SourceError::WrongReplacement { .. })));
    for shape in [vec![3, 2], vec![6]] {
        let wrong = overlay.put_packed("c", shape, packed.clone(), None);
        assert!(matches!(wrong, Err(SourceError::WrongReplacement { .. })));
    }
}

/// Settings that are put over those of a file that was imported from GGUF are where such a file has them.
#[test]
fn overlays_replace_the_metadata_of_imported_files() {
    let scratch = Scratch::new();
    let path = scratch.write("model.gguf", gguf(2));
    let copy = scratch.path("copy.safetensors");
    import(&open(&path).unwrap(), &copy, &mut |_| ()).unwrap();
    for base in [open(&path).unwrap(), open(&copy).unwrap()] {
        let mut overlay = Overlay::new(&base);
        overlay.put_config(serde_json::json!({"general.architecture": "new"}));
        assert_eq!(overlay.metadata()["gguf.metadata"], r#"{"general.architecture":"new"}"#);
        assert_eq!(overlay.architecture(), Some("new"));
    }
}
