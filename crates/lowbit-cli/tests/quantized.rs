//! The commands, given checkpoints that other tools have quantized.

use lowbit_models::checkpoint::{Content, Dtype, ModelFile, read_compressed, write_model};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs the command and returns its code, stdout and stderr.
fn lowbit(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowbit"));
    command.args(args).current_dir(folder).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Writes a GPTQ checkpoint with one weight `[8, 16]`, a damaged one, and a norm.
fn gptq(folder: &Path, config: Value) {
    let words = |count: usize| (0..count as u32).flat_map(|i| (i * 0x1234_5677).to_le_bytes());
    let (codes, zeros): (Vec<u8>, _) = (words(2 * 8).collect(), 0x7777_7777u32.to_le_bytes());
    let scales: Vec<u8> = (1..9).flat_map(|i| half_bits(i).to_le_bytes()).collect();
    let bad: Vec<u8> = [7u32; 16].iter().flat_map(|group| group.to_le_bytes()).collect();
    let mut tensors: Vec<(&str, Content<'_>)> = Vec::new();
    let plain = |dtype, shape, bytes| Content::Plain { dtype, shape, bytes };
    for (names, index) in [
        (["a.qweight", "a.qzeros", "a.scales", "a.g_idx"], [0; 64].as_slice()),
        (["b.qweight", "b.qzeros", "b.scales", "b.g_idx"], &bad),
    ] {
        tensors.push((names[0], plain(Dtype::I32, &[2, 8], &codes)));
        tensors.push((names[1], plain(Dtype::I32, &[1, 1], &zeros)));
        tensors.push((names[2], plain(Dtype::F16, &[1, 8], &scales)));
        tensors.push((names[3], plain(Dtype::I32, &[16], index)));
    }
    tensors.push(("norm.weight", plain(Dtype::F32, &[1], &[0, 0, 0, 0])));
    fs::create_dir(folder).unwrap();
    write_model(folder.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let config = json!({ "architectures": ["Test"], "quantization_config": config });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// The bits of i/1024 in f16, for i below 16.
fn half_bits(i: u16) -> u16 {
    let exponent = 15 - i.leading_zeros() as u16;
    (exponent + 5) << 10 | (i << (10 - exponent)) & 0x3ff
}

#[test]
fn inspect_import_export_and_decompress() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    gptq(&folder.join("in"), json!({ "quant_method": "gptq", "bits": 4, "group_size": -1 }));
    let (code, out, err) = lowbit(folder, &["inspect", "in", "--json", "list.json"]);
    assert_eq!(code, Some(0), "{err}");
    for says in [
        "quantized: GPTQ v1, 4 bits",
        "int4-channel-f16s",
        "left out: 1 × GPTQ (b.weight): entry 0 of `b.g_idx` is 7, but the weight has 1 groups",
        "architecture Test",
    ] {
        assert!(out.contains(says), "{out}");
    }
    let list: Value = serde_json::from_slice(&fs::read(folder.join("list.json")).unwrap()).unwrap();
    assert_eq!(list["left_out"][0]["name"], "b.weight");
    assert_eq!(list["tensors"][0]["format"], "int4-channel-f16s");
    // Codes and scales, taken as they are.
    let (code, _, err) = lowbit(folder, &["import", "in", "-o", "out.safetensors"]);
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = lowbit(folder, &["import", "in", "-o", "strict.safetensors", "--strict"]);
    assert_eq!(code, Some(1), "{err}");
    let file = ModelFile::open(folder.join("out.safetensors")).unwrap();
    let weights = read_compressed(&file, "a.weight").unwrap();
    assert_eq!((weights.n(), weights.k()), (8, 16));
    let word = |i: u32| i * 0x1234_5677;
    assert_eq!(weights.codes()[2 * 3..][..2], [word(3), word(8 + 3)]);
    assert_eq!(weights.scale(4, 0), 5.0 / 1024.0);
    let plain: Vec<&str> = file.plain().map(|tensor| tensor.name).collect();
    assert_eq!(plain, ["norm.weight"]);
    // Written for compressed-tensors, and read back.
    fs::create_dir(folder.join("ct")).unwrap();
    let args =
        ["export", "out.safetensors", "-o", "ct/model.safetensors", "--to", "pack-quantized"];
    let (code, _, err) = lowbit(folder, &args);
    assert_eq!(code, Some(0), "{err}");
    let (code, out, err) = lowbit(folder, &["inspect", "ct"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("quantized: pack-quantized, 4 bits"), "{out}");
    let (code, _, err) = lowbit(folder, &["import", "ct", "-o", "again.safetensors"]);
    assert_eq!(code, Some(0), "{err}");
    let again = ModelFile::open(folder.join("again.safetensors")).unwrap();
    assert_eq!(read_compressed(&again, "a.weight").unwrap(), weights);
    // What `decompress` leaves out, it says.
    let (code, _, err) = lowbit(folder, &["decompress", "in", "-o", "f32.safetensors"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("`b.weight` is left out"), "{err}");
    let values = ModelFile::open(folder.join("f32.safetensors")).unwrap();
    assert_eq!(values.read_f32("a.weight").unwrap(), lowbit::compress::dequantize(&weights));
}

#[test]
fn refusals_name_the_method_and_the_next_step() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let marlin = json!({ "quant_method": "gptq", "checkpoint_format": "marlin" });
    gptq(&folder.join("marlin"), marlin);
    let says =
        ["GPTQ weights are in the layout `marlin`", "save the model with `checkpoint_format`"];
    for args in [
        &["import", "marlin", "-o", "out.safetensors"][..],
        &["decompress", "marlin", "-o", "out.safetensors"],
        &["export", "marlin", "-o", "out.safetensors", "--to", "pack-quantized"],
    ] {
        let (code, out, err) = lowbit(folder, args);
        assert_eq!((code, &*out), (Some(2), ""), "{args:?}: {err}");
        for says in says {
            assert!(err.contains(says), "{args:?}: {err}");
        }
    }
    let (code, out, err) = lowbit(folder, &["inspect", "marlin"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("cannot be imported: its GPTQ weights are in the layout `marlin`"),
        "{out}"
    );
    assert!(!folder.join("out.safetensors").exists());
}
