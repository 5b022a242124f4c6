//! Files that are not what a command reads: what they are is named, and what to do about it.

use crate::cli::{Scratch, command, fine, le_f32, refused, stderr, stdout, values};
use lowbit_models::checkpoint::{Content, Dtype, write_model};
use std::collections::BTreeMap;
use std::fs;

#[test]
fn files_of_another_kind() {
    let scratch = Scratch::new();
    let [input, output] = ["in", "out"].map(|name| scratch.text(name));
    let zeros = [0u8; 64];
    let begin = |bytes: &[u8]| [bytes, &zeros].concat();
    for (bytes, is, hint) in [
        (begin(b"PK\x03\x04"), "it is a ZIP archive", "save the model as safetensors"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n".to_vec(),
            "it is a Git LFS pointer",
            "`git lfs pull`",
        ),
        (
            b"<!doctype html><html>Sign in</html>".to_vec(),
            "it is a web page",
            "download the file again",
        ),
        (begin(b"\x89HDF\r\n\x1a\n"), "it is an HDF5 file", "safetensors"),
        (b"{\"a\": 1}".to_vec(), "it is a JSON file", "the index of its shards"),
        (vec![], "it is an empty file", "download the file again"),
    ] {
        fs::write(scratch.path("in"), bytes).unwrap();
        for args in [
            &["inspect", &input][..],
            &["compress", &input, "-o", &output, "--scheme", "int8", "--host"],
            &["decompress", &input, "-o", &output],
            &["import", &input, "-o", &output],
        ] {
            let message = refused(args);
            assert!(message.contains(is) && message.contains(hint), "{args:?}: {message}");
        }
    }
    let index = scratch.text("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {}}"#).unwrap();
    let message = refused(&["compress", &index, "-o", &output, "--scheme", "int8"]);
    assert!(message.contains("no F32, F16 or BF16 tensor"), "{message}");
    fs::create_dir(scratch.path("folder")).unwrap();
    let message = refused(&["decompress", &scratch.text("folder"), "-o", &output]);
    assert!(message.contains("it is a folder in which no file is a model"), "{message}");
}

#[test]
fn a_missing_output_folder() {
    let scratch = Scratch::new();
    let input = scratch.text("in");
    let bytes = le_f32(&values(8));
    let content = Content::Plain { dtype: Dtype::F32, shape: &[2, 4], bytes: &bytes };
    write_model(scratch.path("in"), &[("a.weight", content)], &BTreeMap::new()).unwrap();
    for (output, why) in [("none/out", "none` does not exist"), ("in/out", "in` is no folder")] {
        let output = scratch.text(output);
        let message = refused(&["compress", &input, "-o", &output, "--scheme", "int8", "--host"]);
        assert!(message.contains("the folder `") && message.contains(why), "{message}");
    }
}

/// GPTQ's tensors are no compressed weights of this crate: `decompress` says whose they are.
#[test]
fn quantized_by_others() {
    let scratch = Scratch::new();
    let words = Content::Plain { dtype: Dtype::I32, shape: &[1, 4], bytes: &[0; 16] };
    let halves = Content::Plain { dtype: Dtype::F16, shape: &[1, 4], bytes: &[0; 8] };
    let tensors = [("l.qweight", words), ("l.scales", halves)];
    write_model(scratch.path("in"), &tensors, &BTreeMap::new()).unwrap();
    let message = refused(&["decompress", &scratch.text("in"), "-o", &scratch.text("out")]);
    assert!(message.contains("tensor `l.qzeros` is missing"), "{message}");
}

/// Names come from files. None of their characters reaches the terminal as a control code, in results,
/// errors, hints and warnings.
#[test]
fn names_are_escaped() {
    let scratch = Scratch::new();
    let [input, output] = ["in", "out"].map(|name| scratch.text(name));
    let odd = "块.0/\n\t\"quoted\" \u{1b}[31m\u{9b}2J\u{202e}\u{200b}.weight";
    let bytes = le_f32(&values(8));
    let content = Content::Plain { dtype: Dtype::F32, shape: &[2, 4], bytes: &bytes };
    write_model(scratch.path("in"), &[(odd, content)], &BTreeMap::new()).unwrap();
    let clean = |text: &str| {
        assert!(text.contains("块.0/\\n\\t"), "{text}");
        for c in ['\u{1b}', '\t', '\u{9b}', '\u{202e}', '\u{200b}'] {
            assert!(!text.contains(c), "{c:?} in {text:?}");
        }
    };
    clean(&fine(&["inspect", &input]));
    let compress = ["compress", &input, "-o", &output, "--scheme", "int8", "--host"];
    clean(&fine(&compress));
    clean(&refused(&[&compress[..], &["--tensors", "nothing"]].concat()));
    let run =
        command(&[&compress[..], &["--exclude", "块.0/\n\t\u{1b}"]].concat()).output().unwrap();
    assert!(run.status.success() && stdout(&run).contains("块"));
    clean(&stderr(&run));
}
