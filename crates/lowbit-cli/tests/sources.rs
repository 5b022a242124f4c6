//! The commands that read models, given every kind of file and folder.

use lowbit_models::checkpoint::source::{self, Data, ModelSource};
use lowbit_models::checkpoint::{Content, Dtype, ModelFile, write_model};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

/// Runs the command and returns its code, stdout and stderr.
fn lowbit(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowbit"));
    command.args(args).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn fine(args: &[&str]) -> String {
    let (code, out, err) = lowbit(args);
    assert_eq!(code, Some(0), "{args:?}: {err}");
    out
}

fn refused(args: &[&str], says: &[&str]) {
    let (code, out, err) = lowbit(args);
    assert_eq!((code, &*out), (Some(2), ""), "{args:?}: {err}");
    for says in says {
        assert!(err.contains(says), "{args:?}: {err}");
    }
}

/// Whether commands that need an adapter can run; says why not.
fn gpu() -> bool {
    let (code, _, reason) = lowbit(&["adapters"]);
    if code != Some(0) {
        assert_ne!(std::env::var("LOWBIT_REQUIRE_GPU").as_deref(), Ok("1"), "{reason}");
        crate::common::skipped(reason);
    }
    code == Some(0)
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A GGUF file of tensors: name, sizes with the innermost first, number of the type, bytes of the data.
/// The data are zeros.
fn gguf(architecture: &str, tensors: &[(String, Vec<u64>, u32, u64)]) -> Vec<u8> {
    let names = [("general.architecture", architecture), ("general.name", "tiny\u{1b}")];
    gguf_with(&names.map(|(key, value)| (key, 8, text(value))), tensors)
}

/// A GGUF file with these metadata: key, number of the type, bytes of the value.
fn gguf_with(
    entries: &[(&str, u32, Vec<u8>)],
    tensors: &[(String, Vec<u64>, u32, u64)],
) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((entries.len() as u64).to_le_bytes());
    for (key, kind, value) in entries {
        file.extend([text(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
    }
    let mut at = 0u64;
    for (name, dims, kind, bytes) in tensors {
        file.extend(text(name));
        file.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|size| file.extend(size.to_le_bytes()));
        file.extend(kind.to_le_bytes());
        file.extend(at.to_le_bytes());
        at = (at + bytes).next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

/// Writes such a file with its data as a hole, so that its size costs nothing.
fn write_gguf(path: &PathBuf, tensors: &[(String, Vec<u64>, u32, u64)]) {
    let header = gguf("gemma3", tensors);
    let data: u64 = tensors.iter().map(|tensor| tensor.3.next_multiple_of(32)).sum();
    fs::write(path, &header).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(header.len() as u64 + data).unwrap();
}

const Q4_K: u32 = 12;
const F16: u32 = 1;

/// A tensor of `n` rows and `k` columns.
fn tensor(name: &str, n: u64, k: u64, kind: u32) -> (String, Vec<u64>, u32, u64) {
    let bytes = if kind == Q4_K { n * k / 256 * 144 } else { n * k * 2 };
    (name.to_owned(), vec![k, n], kind, bytes)
}

/// Shapes of a model of 270 million parameters, and a vocabulary: only the header is read.
#[test]
fn a_large_gguf_is_listed_at_once() {
    let scratch = Scratch::new();
    let mut tensors = vec![tensor("token_embd.weight", 262_144, 640, F16)];
    for layer in 0..18 {
        for (name, n, k) in [
            ("attn_q", 1024, 640),
            ("attn_k", 256, 640),
            ("attn_v", 256, 640),
            ("attn_output", 640, 1024),
            ("ffn_gate", 2048, 640),
            ("ffn_up", 2048, 640),
            ("ffn_down", 640, 2048),
        ] {
            // Rows of 640 are not whole blocks of 256.
            let kind = if k % 256 == 0 { Q4_K } else { F16 };
            tensors.push(tensor(&format!("blk.{layer}.{name}.weight"), n, k, kind));
        }
    }
    write_gguf(&scratch.path("model"), &tensors);
    let (input, json) = (scratch.text("model"), scratch.text("json"));
    let start = Instant::now();
    let out = fine(&["inspect", &input, "--json", &json]);
    // The target is a second; a debugger or a busy machine may take longer, reading the data as well.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(out.starts_with("GGUF, version 3, architecture gemma3, name tiny\\u{1b}\n"), "{out}");
    for line in [
        "token_embd.weight        token embedding   F16     262144×640  320 MiB       16.000",
        "blk.3.ffn_down.weight    down              Q4_K    640×2048    720 KiB        4.500",
    ] {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeeze(&out).contains(&squeeze(line)), "{out}");
    }
    let json = scratch.json("json");
    assert_eq!(json["family"], "GGUF");
    assert_eq!(json["architecture"], "gemma3");
    assert_eq!(json["metadata"]["general.architecture"], "gemma3");
    assert_eq!(json["totals"]["tensors"], 127);
    assert_eq!(json["totals"]["compressed"], 36);
    assert_eq!(json["totals"]["weights"], 262_144 * 640 + 18 * 640 * (2 * 1024 + 512 + 3 * 2048));
}

/// A GGUF file without quantized weights is imported, and can be compressed then.
#[test]
fn floats_of_a_gguf_are_imported() {
    let scratch = Scratch::new();
    let mut file = gguf("llama", &[tensor("output.weight", 2, 3, F16)]);
    file.extend((1..=12).collect::<Vec<u8>>());
    fs::write(scratch.path("in"), &file).unwrap();
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let out = fine(&["import", &input, "-o", &output]);
    assert!(out.contains("1 tensor, 0 compressed"), "{out}");
    let model = ModelFile::open(&output).unwrap();
    let imported = model.tensor("output.weight").unwrap();
    assert_eq!((imported.dtype, imported.shape), (Dtype::F16, &[2, 3][..]));
    assert_eq!(imported.bytes, (1..=12).collect::<Vec<u8>>());

    let none = scratch.text("none");
    refused(&["decompress", &input, "-o", &none], &["contains no compressed weights"]);
    if gpu() {
        // They are the same weights as those of the imported file.
        let compressed = scratch.text("compressed");
        fine(&["compress", &input, "-o", &compressed, "--scheme", "int8"]);
        let direct = source::open(&compressed).unwrap();
        fine(&["compress", &output, "-o", &compressed, "--scheme", "int8"]);
        let imported = source::open(&compressed).unwrap();
        let weights = imported.read("output.weight").unwrap();
        assert_eq!(weights, direct.read("output.weight").unwrap());
        assert!(matches!(weights, Data::Compressed(_)));
        fs::remove_file(compressed).unwrap();
    }
    refused(&["import", &input, "-o", &none, "--strip-prefix", "a."], &["for ONNX files"]);
    // A type without a format is listed, and refused by name.
    write_gguf(&scratch.path("iq"), &[("w".to_owned(), vec![256, 2], 16, 132)]);
    let input = scratch.text("iq");
    let out = fine(&["inspect", &input]);
    assert!(out.contains("cannot be imported: 1 × IQ2_XXS: "), "{out}");
    for command in ["import", "decompress"] {
        refused(&[command, &input, "-o", &none], &["IQ2_XXS", "`w`"]);
    }
    assert_eq!(scratch.names("."), ["in", "iq", "out"]);
}

/// A weight that cannot be read does not keep the others from being imported, decompressed and exported,
/// and every command says which it is and why.
#[test]
fn one_unusable_weight_of_a_gguf_is_left_out() {
    let scratch = Scratch::new();
    // One row of two blocks of Q4_0, whose second scale is infinite; and a row of TQ1_0.
    for (stored, (dims, kind, bytes), why) in [
        ("Q4_0", (vec![64, 1], 2, 36), "the scale of row 0, group 1 is inf: it must be finite"),
        ("TQ1_0", (vec![256, 1], 34, 54), "lowbit has no format for this type"),
    ] {
        let list = [
            ("bad.weight".to_owned(), dims, kind, bytes),
            ("good.weight".to_owned(), vec![32, 1], 2, 18),
        ];
        let mut file = gguf("llama", &list);
        let at = file.len();
        file.resize(at + 64 + 18, 0);
        file[at + 18..at + 20].copy_from_slice(&[0, 0x7c]);
        file[at + 64..at + 66].copy_from_slice(&[0, 0x3c]);
        fs::write(scratch.path("in"), &file).unwrap();
        let (input, output, json) = (scratch.text("in"), scratch.text("out"), scratch.text("json"));
        let left_out = format!("left out: 1 × {stored} (bad.weight): {why}\n");
        let only = || {
            let model = source::open(&output).unwrap();
            model.items().unwrap().into_iter().map(|item| item.name).collect::<Vec<_>>()
        };

        let out = fine(&["import", &input, "-o", &output, "--json", &json]);
        assert!(out.contains(&left_out), "{out}");
        assert_eq!(only(), ["good.weight"]);
        let json = scratch.json("json");
        assert_eq!(json["left_out"][0]["name"], "bad.weight");
        assert_eq!(json["left_out"][0]["why"], why);
        fs::remove_file(&output).unwrap();
        let (code, out, err) = lowbit(&["import", &input, "-o", &output, "--strict"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(out.contains(&left_out), "{out}");
        assert_eq!(only(), ["good.weight"]);

        let out = fine(&["export", &input, "-o", &output, "--to", "gguf"]);
        assert!(out.contains(&left_out), "{out}");
        assert_eq!(only(), ["good.weight"]);

        let (code, _, err) = lowbit(&["decompress", &input, "-o", &output]);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.contains(&format!("`bad.weight` is left out: {why}")), "{err}");
        assert_eq!(only(), ["good.weight"]);
        let values = ModelFile::open(&output).unwrap().read_f32("good.weight").unwrap();
        assert_eq!(values, [-8.0; 32]);
    }
}

fn write(path: PathBuf, tensors: &[(&str, f32)]) {
    let bytes: Vec<[u8; 4]> = tensors.iter().map(|&(_, value)| value.to_le_bytes()).collect();
    let contents = tensors.iter().zip(&bytes).map(|(&(name, _), bytes)| {
        (name, Content::Plain { dtype: Dtype::F32, shape: &[1, 1], bytes })
    });
    write_model(path, &contents.collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
}

/// A folder of shards is read by every command, and written again with `--shard-size`.
#[test]
fn shards_go_in_and_out() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("in")).unwrap();
    let names: Vec<String> =
        (1..=2).map(|at| format!("model-{at:05}-of-00002.safetensors")).collect();
    write(scratch.path("in").join(&names[0]), &[("a.weight", 1.0)]);
    write(scratch.path("in").join(&names[1]), &[("b.weight", 2.0), ("c", 3.0)]);
    let map: BTreeMap<_, _> =
        [("a.weight", &names[0]), ("b.weight", &names[1]), ("c", &names[1])].into();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(scratch.path("in/model.safetensors.index.json"), index).unwrap();
    fs::write(scratch.path("in/config.json"), r#"{"architectures": ["Tiny"]}"#).unwrap();
    let (input, json) = (scratch.text("in"), scratch.text("json"));
    let index = scratch.text("in/model.safetensors.index.json");
    for path in [&input, &index] {
        let out = fine(&["inspect", path, "--json", &json]);
        assert!(out.starts_with("safetensors, in 2 files, architecture Tiny\n"), "{out}");
        assert!(out.contains("3 tensors, 0 compressed"), "{out}");
        assert_eq!(scratch.json("json")["files"], serde_json::json!(names));
    }

    // One of them alone is a model, but not what is meant most of the time.
    let (code, out, err) = lowbit(&["inspect", &scratch.text(&format!("in/{}", names[1]))]);
    assert!(code == Some(0) && out.contains("2 tensors"), "{out}");
    assert!(err.contains("is file 2 of 2 of a model; its folder"), "{err}");

    fs::create_dir(scratch.path("out")).unwrap();
    let output = scratch.text("out");
    fine(&["import", &input, "-o", &output, "--shard-size", "8B"]);
    let written = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut all = written.to_vec();
    all.push("model.safetensors.index.json");
    assert_eq!(scratch.names("out"), all);
    let model = source::open(scratch.path("out")).unwrap();
    for (name, value) in [("a.weight", 1.0f32), ("b.weight", 2.0), ("c", 3.0)] {
        assert_eq!(model.read(name).unwrap(), Data::Plain(value.to_le_bytes()[..].into()));
    }

    // Nothing writes over what is read.
    let shard = scratch.text(&format!("in/{}", names[1]));
    let base = scratch.text("in/model.safetensors");
    for args in [
        &["import", &input, "-o", &index][..],
        &["import", &input, "-o", &shard],
        &["import", &input, "-o", &base, "--shard-size", "1GB"],
        &["import", &input, "-o", &input, "--shard-size", "1GB"],
        &["compress", &index, "-o", &shard, "--scheme", "int8"],
        // One of two files, which would be the first of the new ones.
        &["import", &shard, "-o", &base, "--shard-size", "1GB"],
    ] {
        let (code, _, err) = lowbit(args);
        assert_eq!(code, Some(2), "{args:?}: {err}");
        assert!(
            err.contains("would replace a file of IN") || err.contains("are the same file"),
            "{err}"
        );
    }
    refused(&["import", &input, "-o", &base, "--shard-size", "much"], &["2GB"]);

    fs::remove_file(&shard).unwrap();
    refused(&["inspect", &input], &[&names[1], "which cannot be found", "hint: fetch all files"]);
    fs::remove_file(scratch.path("in").join(&names[0])).unwrap();
    refused(&["inspect", &index], &["index of 2 files", "none of them lies beside it"]);
}

/// Every command names a file that is no model, and says what to do.
#[test]
fn what_is_no_model_is_named() {
    let scratch = Scratch::new();
    let zip = [&b"PK\x03\x04"[..], &[0; 22], &[16, 0, 0, 0], b"archive/data.pkl"].concat();
    let cases: [(&str, &[u8], &str, &str); 8] = [
        ("model.safetensors", b"", "an empty file", "download the file again"),
        (
            "model.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer",
            "`git lfs pull`",
        ),
        ("model.gguf", b"<!DOCTYPE html><html>", "a web page", "download the file again"),
        ("pytorch_model.bin", &zip, "a PyTorch checkpoint", "save the model as safetensors"),
        ("old.bin", b"\x80\x02}q\x00.", "a Python pickle", "save the model as safetensors"),
        ("config.json", b"{}", "a JSON file", "give the model file"),
        ("big.gguf", b"GGUF\0\0\0\x03", "big-endian", "gguf-convert-endian"),
        ("notes", b"hello", "no model of a kind", "lowbit reads safetensors"),
    ];
    let out = scratch.text("out");
    for (name, bytes, says, hint) in cases {
        fs::write(scratch.path(name), bytes).unwrap();
        let path = scratch.text(name);
        for args in [
            &["inspect", &path][..],
            &["import", &path, "-o", &out],
            &["decompress", &path, "-o", &out],
            &["compress", &path, "-o", &out, "--scheme", "int8"],
        ] {
            refused(args, &["cannot read", says, hint]);
        }
    }
    fs::create_dir(scratch.path("folder")).unwrap();
    refused(&["inspect", &scratch.text("folder")], &["a folder in which no file is a model"]);
    assert!(!scratch.path("out").exists());
}

/// A GGUF file in all its types goes to lowbit's own file, back to floats, and back to GGUF.
#[test]
fn gguf_goes_in_and_out() {
    let scratch = Scratch::new();
    let input =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../lowbit-models/tests/fixtures/gguf/blocks.gguf");
    let [own, plain, direct, back, json] =
        ["own", "plain", "direct", "back", "json"].map(|name| scratch.text(name));
    let out = fine(&["import", input, "-o", &own, "--json", &json]);
    assert!(out.contains("16 tensors, 13 compressed"), "{out}");
    assert!(scratch.json("json")["totals"]["unsupported"] == 0);
    let out = fine(&["inspect", &own]);
    assert!(out.starts_with("safetensors, compressed by lowbit\n"), "{out}");
    assert!(out.contains("int4-g32-min-i8s"), "{out}");
    fine(&["decompress", &own, "-o", &plain]);
    fine(&["decompress", input, "-o", &direct]);
    assert_eq!(fs::read(&plain).unwrap(), fs::read(&direct).unwrap());
    let want = fs::read(input.replace(".gguf", ".f32")).unwrap();
    let want: Vec<f32> = want.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let model = ModelFile::open(&plain).unwrap();
    let have: Vec<f32> = model.tensors().flat_map(|tensor| tensor.to_f32().unwrap()).collect();
    assert_eq!(have, want);

    refused(&["export", &own, "-o", &back, "--to", "gguf"], &["no metadata", "--metadata-of"]);
    fine(&["export", &own, "-o", &back, "--to", "gguf", "--metadata-of", input]);
    let written = fs::read(&back).unwrap();
    fine(&["export", input, "-o", &back, "--to", "gguf"]);
    assert_eq!(fs::read(&back).unwrap(), written);
    let squeeze = |path: &str| {
        let out = fine(&["inspect", path]);
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(squeeze(input), squeeze(&back));
    let none = scratch.text("none");
    refused(
        &["export", &plain, "-o", &none, "--to", "gguf", "--metadata-of", &own],
        &["is a model in safetensors", "--metadata-of names a GGUF file"],
    );
    refused(&["export", input, "-o", input, "--to", "gguf"], &["same file"]);
    refused(
        &["compress", input, "-o", &none, "--scheme", "int8"],
        &["13 of its weights are quantized already (IQ4_NL, ", "takes them as they are"],
    );
}

/// Metadata are those of one model: another has other names, and an output that would replace a part of the
/// file that has them is refused.
#[test]
fn metadata_belong_to_their_model() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("split")).unwrap();
    let part = |number: u16| scratch.text(&format!("split/m-{:05}-of-00002.gguf", number + 1));
    for number in 0..2u16 {
        let entries = [
            ("general.architecture", 8, text("llama")),
            ("split.no", 2, number.to_le_bytes().to_vec()),
            ("split.count", 2, 2u16.to_le_bytes().to_vec()),
            ("split.tensors.count", 5, 2i32.to_le_bytes().to_vec()),
        ];
        let mut file = gguf_with(&entries, &[(format!("t{number}"), vec![1, 1], 0, 4)]);
        file.extend([0; 4]);
        fs::write(part(number), file).unwrap();
    }
    let [input, output] = ["in", "out"].map(|name| scratch.text(name));
    write(scratch.path("in"), &[("t0", 1.0), ("t1", 2.0)]);
    let args = |output: &str| {
        ["export", &input, "-o", output, "--to", "gguf", "--metadata-of", &part(0)]
            .map(str::to_owned)
    };
    let kept = fs::read(part(1)).unwrap();
    let given = args(&part(1));
    refused(&given.each_ref().map(String::as_str), &["would replace a file of --metadata-of"]);
    assert_eq!(fs::read(part(1)).unwrap(), kept);
    let given = args(&output);
    fine(&given.each_ref().map(String::as_str));
    assert_eq!(
        source::open(&output).unwrap().read("t1").unwrap(),
        Data::Plain(2f32.to_le_bytes()[..].into())
    );
    fs::remove_file(&output).unwrap();

    write(scratch.path("in"), &[("model.layers.0.self_attn.q_proj.weight", 1.0)]);
    refused(
        &given.each_ref().map(String::as_str),
        &[
            "the metadata are those of another model",
            "`model.layers.0.self_attn.q_proj.weight`",
            "very model",
        ],
    );
    assert!(!scratch.path("out").exists());
}
