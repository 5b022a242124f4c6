//! The `lowbit` command, run as users run it.

use half::{bf16, f16};
use lowbit::compress::calibrate::{Method, Observer, Statistics};
use lowbit::compress::{dequantize, prune_magnitude, quantize, relative_error};
use lowbit::format::{ActivationFunction, Quantization, StaticScale, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::DeviceWeights;
use lowbit_models::bert::{Dense, Encoder};
use lowbit_models::checkpoint::{
    Content, Dtype, LayerActivations, LayerRanges, ModelFile, RangeTarget, Ranges, read_compressed,
    write_model,
};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// The command, in an environment in which Mesa's Wayland probe has nothing to say.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowbit"));
    command.args(args).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command
}

pub fn lowbit(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must work.
pub fn fine(args: &[&str]) -> String {
    let output = lowbit(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    // stderr is a pipe here: no progress, no colours. (Drivers may print what they like.)
    assert!(!stderr(&output).contains(['\r', '\u{1b}']), "{args:?}");
    stdout(&output)
}

/// Runs a command that must be refused; gives what it says.
pub fn refused(args: &[&str]) -> String {
    let output = lowbit(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert_eq!(stdout(&output), "", "{args:?}");
    assert!(message.contains("error: "), "{args:?}: {message}");
    message
}

/// Whether commands that need an adapter can run; says why not, and does not let that
/// pass where an adapter is required.
pub fn gpu() -> bool {
    let output = lowbit(&["adapters"]);
    if output.status.success() {
        return true;
    }
    let reason = stderr(&output);
    assert_ne!(std::env::var("LOWBIT_REQUIRE_GPU").as_deref(), Ok("1"), "{reason}");
    crate::common::skipped(reason);
    false
}

pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

/// Values from −1 to 1, all different in f16 and bf16 too.
pub fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
}

/// Equal but for the last bit, which serde_json does not always read right.
fn close(json: &Value, value: f64) -> bool {
    // Both sides are rounded a few times.
    (json.as_f64().unwrap() - value).abs() <= 4.0 * f64::EPSILON * value.abs()
}

pub fn le_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The names of the weights of [`model`], their shapes, and the values they are read as.
fn weights() -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    let halves = values(4 * 40).into_iter().map(|value| f16::from_f32(value).to_f32());
    let brains = values(6 * 30).into_iter().map(|value| bf16::from_f32(value).to_f32());
    vec![
        ("layer.0.weight", vec![8, 33], values(8 * 33)),
        ("layer.1.weight", vec![4, 40], halves.collect()),
        ("layer.2.conv", vec![6, 2, 3, 5], brains.collect()),
        ("layer.3.empty", vec![0, 16], vec![]),
        ("layer.4.hollow", vec![3, 0], vec![]),
    ]
}

/// A small model: f32, f16 and bf16 weights, tensors to be copied, metadata.
fn model(path: PathBuf) {
    let weights = weights();
    let single = le_f32(&weights[0].2);
    let half: Vec<u8> =
        weights[1].2.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let brain: Vec<u8> =
        weights[2].2.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    let plain = |dtype, shape, bytes| Content::Plain { dtype, shape, bytes };
    let tensors = [
        ("layer.0.weight", plain(Dtype::F32, &weights[0].1[..], &single)),
        ("layer.1.weight", plain(Dtype::F16, &weights[1].1, &half)),
        ("layer.2.conv", plain(Dtype::BF16, &weights[2].1, &brain)),
        ("layer.3.empty", plain(Dtype::F32, &weights[3].1, &[])),
        ("layer.4.hollow", plain(Dtype::F32, &weights[4].1, &[])),
        ("layer.0.bias", plain(Dtype::F16, &[3], &[1, 2, 3, 4, 5, 6])),
        ("position", plain(Dtype::I64, &[1, 2], &[7; 16])),
        ("odd name\n", plain(Dtype::U8, &[1], &[9])),
    ];
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_model(path, &tensors, &metadata).unwrap();
}

#[test]
fn adapters_are_listed() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let text = fine(&["adapters", "--json", &scratch.text("adapters.json")]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let json = scratch.json("adapters.json");
    let adapters = json["adapters"].as_array().unwrap();
    assert!(!adapters.is_empty());
    for (index, adapter) in adapters.iter().enumerate() {
        assert_eq!(adapter["index"], index);
        for key in ["name", "driver", "driver_info", "backend", "device_type"] {
            assert!(adapter[key].is_string(), "{key}");
        }
        assert!(adapter["features"]["SHADER_F16"].is_boolean());
        assert!(adapter["limits"]["max_storage_buffer_binding_size"].as_u64().unwrap() > 0);
    }
    // `-`: JSON alone on stdout, the table on stderr.
    let output = lowbit(&["adapters", "--json", "-"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json);
    assert!(stderr(&output).ends_with(&text));
}

/// No Linux or Windows has Metal, and no Mac DirectX.
#[test]
fn without_an_adapter_it_says_what_to_install() {
    let foreign = if cfg!(target_os = "macos") { "dx12" } else { "metal" };
    let scratch = Scratch::new();
    model(scratch.path("in"));
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    for args in [&["adapters"][..], &["compress", &input, "-o", &output, "--scheme", "int8"]] {
        let output = command(args).env("WGPU_BACKEND", foreign).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let message = stderr(&output);
        assert!(message.contains("apt-get install mesa-vulkan-drivers libvulkan1"), "{message}");
    }
    assert_eq!(scratch.names(), ["in"]);
}

/// compress → inspect → decompress, against the library on the host.
#[test]
fn schemes_round_trip() {
    if !gpu() {
        return;
    }
    for (options, format) in [
        ("--scheme f32", "f32"),
        ("--scheme f16", "f16"),
        ("--scheme int16", "int16-channel"),
        ("--scheme int8", "int8-channel"),
        ("--scheme int8 --group tensor --asymmetric", "int8-tensor-asym"),
        ("--scheme int8 --group 7 --scales f16", "int8-g7-f16s"),
        ("--scheme int4", "int4-g128"),
        ("--scheme int4 --group 32 --asymmetric", "int4-g32-asym"),
        ("--scheme f16 --sparsity 2:4", "2:4+f16"),
        ("--scheme int8 --sparsity 2:4", "2:4+int8-channel"),
        ("--scheme int4 --group 8 --sparsity 2:4 --asymmetric", "2:4+int4-g8-asym"),
    ] {
        let scratch = Scratch::new();
        model(scratch.path("in"));
        let paths = ["in", "out", "back", "out.json", "inspect.json", "back.json"];
        let [input, output, back, json, inspected, restored] = paths.map(|name| scratch.text(name));
        let mut args = vec!["compress", &input, "-o", &output, "--check", "--json", &json];
        args.extend(["--tensors", "*"]);
        args.extend(options.split(' '));
        let text = fine(&args);
        assert!(text.contains("layer.0.weight") && text.contains("bits/weight"), "{text}");

        let format: WeightFormat = format.parse().unwrap();
        let model = ModelFile::open(scratch.path("out")).unwrap();
        let original = ModelFile::open(scratch.path("in")).unwrap();
        assert_eq!(model.metadata(), original.metadata());
        assert_eq!(model.compressed().len(), 5);
        let report = scratch.json("out.json");
        assert_eq!(report["format"], format.to_string());
        assert_eq!(report["written"], true);
        let rows = report["tensors"].as_array().unwrap();
        assert_eq!(rows.len(), 5);
        let mut expected = BTreeMap::new();
        for (row, (name, shape, values)) in rows.iter().zip(weights()) {
            let k = shape[1..].iter().product();
            let packed = quantize(&values, shape[0], k, &format).unwrap();
            assert_eq!(read_compressed(&model, name).unwrap(), packed, "{format} {name}");
            assert_eq!(model.compressed()[name].shape, shape);
            let error = relative_error(&values, &dequantize(&packed));
            assert_eq!(row["name"], name);
            assert_eq!(row["check"], "equal");
            assert!(close(&row["relative_error"], error), "{format} {name}: {row}");
            let bits = packed.geometry().sizes().bits_per_weight();
            assert!(close(&row["bits_per_weight"], bits), "{format} {name}: {row}");
            if format == WeightFormat::f32() {
                assert_eq!(error, 0.0);
            } else if format == WeightFormat::f16().two_four() && !values.is_empty() {
                let mask = prune_magnitude(&values, shape[0], k).unwrap();
                let keeps = |at| mask.keeps(at / k, at % k);
                let pruned: Vec<f32> =
                    (0..values.len()).map(|at| if keeps(at) { values[at] } else { 0.0 }).collect();
                assert!((error - relative_error(&values, &pruned)).abs() < 1e-3);
            }
            expected.insert(name, (shape, dequantize(&packed)));
        }
        for name in ["layer.0.bias", "position", "odd name\n"] {
            assert_eq!(model.tensor(name), original.tensor(name));
        }

        let text = fine(&["inspect", &output, "--json", &inspected]);
        assert!(text.contains(&format.to_string()) && text.contains("odd name\\n"), "{text}");
        let inspected = scratch.json("inspect.json");
        assert_eq!(inspected["totals"]["tensors"], 8);
        assert_eq!(inspected["totals"]["compressed"], 5);
        assert_eq!(
            inspected["totals"]["compressed_bits_per_weight"],
            report["totals"]["bits_per_weight"]
        );
        assert_eq!(inspected["metadata"]["format"], "pt");
        assert_eq!(inspected["totals"]["file_bytes"], fs::metadata(&output).unwrap().len());

        fine(&["decompress", &output, "-o", &back, "--json", &restored]);
        let back = ModelFile::open(scratch.path("back")).unwrap();
        assert!(back.compressed().is_empty());
        assert_eq!(back.metadata(), original.metadata());
        for (name, (shape, values)) in &expected {
            let tensor = back.tensor(name).unwrap();
            assert_eq!((tensor.dtype, tensor.shape), (Dtype::F32, &shape[..]));
            assert_eq!(tensor.bytes, le_f32(values), "{format} {name}");
        }
        for name in ["layer.0.bias", "position", "odd name\n"] {
            assert_eq!(back.tensor(name), original.tensor(name));
        }
        assert_eq!(scratch.json("back.json")["copied"], 3);
        let mut names = paths.map(str::to_owned);
        names.sort();
        assert_eq!(scratch.names(), names);
    }
}

#[test]
fn globs_choose_weights() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    model(scratch.path("in"));
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let base = ["compress", &input, "-o", &output, "--scheme", "int8"];
    for (globs, chosen) in [
        (&["--tensors", "*.weight"][..], &["layer.0.weight", "layer.1.weight"][..]),
        (&["--tensors", "layer.[12].*"], &["layer.1.weight", "layer.2.conv"]),
        (&["--tensors", "*conv", "--tensors", "layer.0*"], &["layer.0.weight", "layer.2.conv"]),
        (&["--tensors", "{*conv,nothing}"], &["layer.2.conv"]),
    ] {
        fine(&[&base[..], globs].concat());
        let model = ModelFile::open(scratch.path("out")).unwrap();
        assert_eq!(model.compressed().keys().collect::<Vec<_>>(), chosen);
        assert_eq!(model.plain().count(), 8 - chosen.len());
    }
    fine(&[&base[..], &["--adapter", "0"]].concat());
    for adapter in ["no such adapter", "99999"] {
        let message = refused(&[&base[..], &["--adapter", adapter]].concat());
        assert!(message.contains("hint: there is 0: "), "{message}");
    }
}

#[test]
fn bad_usage_is_refused() {
    let scratch = Scratch::new();
    model(scratch.path("in"));
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let compress =
        |more: &[&str]| refused(&[&["compress", &input, "-o", &output][..], more].concat());
    assert!(compress(&[]).contains("--scheme"));
    assert!(compress(&["--scheme", "int3"]).contains("int3"));
    assert!(compress(&["--scheme", "int8", "--group", "0"]).contains("group"));
    assert!(compress(&["--scheme", "f16", "--group", "8"]).contains("no scales"));
    assert!(compress(&["--scheme", "int16", "--asymmetric"]).contains("zero point"));
    assert!(compress(&["--scheme", "int8", "--tensors", "[a"]).contains("--tensors"));
    let message = compress(&["--scheme", "int8", "--tensors", "nothing"]);
    assert!(message.contains("layer.0.weight") && message.contains("layer.2.conv"), "{message}");
    let bias = compress(&["--scheme", "int8", "--tensors", "*bias"]);
    assert!(bias.contains("no weight matches"), "{bias}");

    let same = refused(&["compress", &input, "-o", &input, "--scheme", "int8"]);
    assert!(same.contains("same file"));
    let roundabout = scratch.text("./in");
    assert!(refused(&["decompress", &input, "-o", &roundabout]).contains("same file"));
    assert!(refused(&["inspect", &input, "--json", &input]).contains("same file"));
    assert!(refused(&["decompress", &input, "-o", &output]).contains("no compressed weights"));
    refused(&["no-such-command"]);
    assert_eq!(lowbit(&[]).status.code(), Some(2));
    assert_eq!(lowbit(&["--help"]).status.code(), Some(0));
    assert_eq!(scratch.names(), ["in"]);
}

#[test]
fn what_is_compressed_is_not_compressed_again() {
    let scratch = Scratch::new();
    let values = values(8 * 32);
    let format = "int8-channel".parse().unwrap();
    let packed = quantize(&values, 8, 32, &format).unwrap();
    let content = Content::Compressed { shape: &[8, 32], weights: &packed };
    write_model(scratch.path("in"), &[("w", content)], &BTreeMap::new()).unwrap();
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let message = refused(&["compress", &input, "-o", &output, "--scheme", "int4"]);
    assert!(message.contains("already compressed"), "{message}");
    assert_eq!(scratch.names(), ["in"]);
}

#[test]
fn damaged_input_is_refused() {
    let scratch = Scratch::new();
    model(scratch.path("in"));
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let whole = fs::read(&input).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        fs::write(&input, &whole[..length]).unwrap();
        for args in [
            &["inspect", &input][..],
            &["compress", &input, "-o", &output, "--scheme", "int8"],
            &["decompress", &input, "-o", &output],
        ] {
            let message = refused(args);
            assert!(message.contains("cannot read"), "{message}");
        }
        assert_eq!(scratch.names(), ["in"]);
    }
    refused(&["inspect", &scratch.text("none")]);
    refused(&["inspect", &scratch.text("")]);

    // Parts that lie are found by `inspect` and `decompress` alike.
    let header = r#"{"__metadata__":{"lowbit.version":"1","lowbit.tensors":
        "{\"w\":{\"format\":\"f16\",\"shape\":[2,4]}}"},
        "w.codes":{"dtype":"U32","shape":[1,2],"data_offsets":[0,8]}}"#;
    let header = header.replace('\n', "");
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    fs::write(&input, file).unwrap();
    for args in [&["inspect", &input][..], &["decompress", &input, "-o", &output]] {
        assert!(refused(args).contains("`w.codes` has shape [1, 2]"));
    }
    assert_eq!(scratch.names(), ["in"]);
}

#[test]
fn weights_that_cannot_be_compressed_leave_nothing() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let mut values = values(4 * 8);
    values[8 + 3] = f32::NAN;
    let bytes = le_f32(&values);
    let content = Content::Plain { dtype: Dtype::F32, shape: &[4, 8], bytes: &bytes };
    write_model(scratch.path("in"), &[("bad.weight", content)], &BTreeMap::new()).unwrap();
    fs::write(scratch.path("out"), b"earlier").unwrap();
    let (input, output, json) = (scratch.text("in"), scratch.text("out"), scratch.text("json"));
    let args = ["compress", &input, "-o", &output, "--scheme", "int8", "--json", &json];
    let message = refused(&args);
    assert!(message.contains("`bad.weight`") && message.contains("row 1"), "{message}");
    assert_eq!(scratch.names(), ["in", "out"]);
    assert_eq!(fs::read(&output).unwrap(), b"earlier");
}

#[test]
fn unwritable_output_is_refused_early() {
    let scratch = Scratch::new();
    model(scratch.path("in"));
    fs::create_dir(scratch.path("directory")).unwrap();
    let input = scratch.text("in");
    for bad in ["none/out", "directory", "in/out"] {
        let output = scratch.text(bad);
        let message = refused(&["compress", &input, "-o", &output, "--scheme", "int8"]);
        assert!(message.contains("cannot create"), "{message}");
        let message = refused(&["inspect", &input, "--json", &output]);
        assert!(message.contains("cannot write the JSON"), "{message}");
    }
    assert_eq!(scratch.names(), ["directory", "in"]);
    assert_eq!(fs::read_dir(scratch.path("directory")).unwrap().count(), 0);
}

#[test]
fn verify_repeats_one_case_and_writes_json() {
    let output = command(&["verify", "--quick", "--case", "matmul/int8-g64", "--json", "-"])
        .output()
        .unwrap();
    if output.status.code() == Some(2) && std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() {
        crate::common::skipped(String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert_eq!(output.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let adapter = &json["adapters"][0];
    assert!(["name", "driver", "backend"].iter().all(|key| adapter[key].is_string()));
    let cases = adapter["cases"].as_array().unwrap();
    assert_eq!(adapter["passed"].as_u64(), Some(cases.len() as u64));
    assert_eq!((&adapter["failed"], &adapter["skipped"]), (&0.into(), &0.into()));
    assert!(!cases.is_empty());
    for case in cases {
        // The text is in `int-matmul/int8-g64` too.
        assert!(["matmul", "int-matmul"].iter().any(|op| case["op"] == *op), "{case}");
        assert_eq!(case["weights"], "int8");
        assert_eq!((&case["group"], &case["sparsity"]), (&64.into(), &"dense".into()));
        assert_eq!(case["status"], "pass");
        assert!(case["symmetric"].is_boolean() && case["activations"].is_string());
        assert!(["m", "n", "k"].iter().all(|key| case[key].is_u64()));
        assert!(case["kernel"].as_str().unwrap().contains("int8"));
        assert!(case["error_over_bound"].as_f64().unwrap() <= 1.0);
    }
    let none = command(&["verify", "--case", "no such case"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
}

/// A report is a page and JSON at once, and compares with either; less of a device is no failure.
#[test]
fn reports_are_written_and_compared() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (html, json) = (scratch.text("a.html"), scratch.text("b.json"));
    let case = "matmul/int8-channel/f32-f32/";
    let said = fine(&["verify", "--quick", "--case", case, "--report", &html]);
    assert!(said.contains("gave the same bits twice"), "{said}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<h3>Speed</h3>"));
    fine(&["verify", "--quick", "--case", case, "--json", &json]);
    let said = fine(&["verify", "--compare", &html, &json]);
    assert!(said.contains("with the same bits") && !said.contains("other bits"), "{said}");

    // Other bits from the same adapter are wrong; so is no report at all.
    let mut changed: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    changed["adapters"][0]["cases"][0]["bits"] = "0123456789abcdef".into();
    let other = scratch.text("c.json");
    fs::write(&other, changed.to_string()).unwrap();
    let output = lowbit(&["verify", "--compare", &json, &other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("1 other bits"), "{}", stdout(&output));
    let message = refused(&["verify", "--compare", &json, "Cargo.toml"]);
    assert!(message.contains("not a report") && message.contains("--json"), "{message}");
    refused(&["verify", "--compare", &json, "missing.json"]);
    refused(&["verify", "--compare", &json]);
    let binary = scratch.text("binary");
    fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    for no_report in [&binary[..], "src"] {
        let message = refused(&["verify", "--compare", &json, no_report]);
        assert!(message.contains("lowbit verify --json"), "{message}");
    }
    let message = refused(&["verify", "--report", "-"]);
    assert!(message.contains("./-"), "{message}");
    let message = refused(&["verify", "--report", "/nowhere/at/all.html"]);
    assert!(message.contains("all.html") && !message.contains(".part"), "{message}");

    for less in [
        ["--without", "f16,subgroups,dot"],
        ["--limits", "webgpu"],
        ["--limits", "downlevel"],
        ["--binding-limit", "65536"],
    ] {
        let said = fine(&[&["verify", "--quick", "--case", "2:4+int4-g64"][..], &less].concat());
        assert!(said.contains(" passed, 0 failed") && said.contains(less[1]), "{said}");
        // A bias needs a fifth storage buffer.
        assert_eq!(said.contains("storage buffers"), less[1] == "downlevel", "{said}");
    }
    refused(&["verify", "--binding-limit", "12"]);
    refused(&["verify", "--limits", "none"]);
}

/// Ops on X alone: one by its id, although others go on from it, and names that no pipe tears.
#[test]
fn verify_covers_what_takes_x() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let json = scratch.text("json");
    let run = |case: &str| {
        let page = fine(&["verify", "--case", case, "--json", &json]);
        let cases = scratch.json("json")["adapters"][0]["cases"].as_array().unwrap().clone();
        (page, cases)
    };
    for (case, weights, kernel) in [
        ("quantize/f32-int8-tensor/m4k64/normal", "none", "activations_quantize.int8"),
        ("observe/f16-channel-bins16/m300k66/tiny", "none", "observe_histogram.xf16"),
        ("fake-quant/int4-g6-asym/f16-f32/m5k33/normal/lsq", "int4", "fake_forward.any"),
    ] {
        let all = run(case).1;
        let id = all[0]["id"].as_str().unwrap().to_owned();
        let (page, cases) = run(&id);
        assert_eq!((cases.len(), &cases[0]["status"]), (1, &"pass".into()), "{id}");
        assert_eq!((&cases[0]["weights"], &cases[0]["n"]), (&weights.into(), &0.into()));
        let name = cases[0]["kernel"].as_str().unwrap();
        assert!(name.starts_with(kernel) && page.lines().any(|l| l.ends_with(name)), "{page}");
    }
}

/// Two passes of fake quantization, one row of the others; what cannot be is refused.
#[test]
fn bench_measures_what_takes_x() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let json = scratch.text("json");
    let rows = |args: &[&str]| {
        fine(&[&["bench", "--shape", "2x4x64", "--json", &json], args].concat());
        let rows = scratch.json("json")["rows"].as_array().unwrap().clone();
        let name = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        for row in &rows {
            assert_eq!((&row["m"], &row["n"], &row["k"]), (&2.into(), &0.into(), &64.into()));
            assert!(row["share_of_limit"].as_f64().unwrap() > 0.0);
        }
        rows.iter().map(|row| (name(row, "op"), name(row, "weights"))).collect::<Vec<_>>()
    };
    let pair = |op: &str, what: &str| (op.to_owned(), what.to_owned());
    assert_eq!(
        rows(&["--op", "quantize", "--op", "observe"]),
        [
            pair("quantize", "int8-token"),
            pair("observe", "tensor-bins2048"),
            pair("observe", "channel-bins512")
        ]
    );
    assert_eq!(
        rows(&["--op", "fake-quant", "--format", "int4-g32-asym", "--activations", "f16"]),
        [pair("fake-quant", "int4-g32-asym"), pair("fake-quant backward", "int4-g32-asym")]
    );
    for bad in [
        &["--op", "quantize", "--activations", "f16"],
        &["--op", "observe", "--activations", "int8-token"],
        &["--activations", "int8-token", "--format", "f32"],
        &["--activations", "int8-token", "--format", "int8-g24"],
        &["--op", "fake-quant", "--format", "2:4+int8-channel"],
    ] {
        assert_eq!(lowbit(&[&["bench"], &bad[..]].concat()).status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn tuning_is_measured_stored_and_used() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (file, json) = (scratch.text("tuning"), scratch.text("json"));
    let shape = ["--shape", "2x40x96", "--format", "int8-channel"];
    let mut args = vec!["tune", "--budget", "300", "-o", &file, "--json", &json];
    args.extend(shape);
    let table = fine(&args);
    assert!(table.contains("int8-channel") && table.contains("without tuning"), "{table}");
    let rows = scratch.json("json")["rows"].as_array().unwrap().clone();
    let entries = scratch.json("tuning")["entries"].as_array().unwrap().clone();
    assert_eq!((rows.len(), entries.len()), (2, 2));
    for ((row, entry), m) in rows.iter().zip(&entries).zip([1, 2]) {
        assert_eq!((&row["m"], &row["n"], &row["k"]), (&m.into(), &40.into(), &96.into()));
        assert_eq!((&entry["m"], &entry["schedule"]), (&m.into(), &row["best"]));
        let ms = |schedule: &Value| {
            let times = row["times"].as_array().unwrap();
            let time = times.iter().find(|time| time["schedule"] == *schedule);
            time.unwrap()["ms"].as_f64().unwrap()
        };
        assert!(close(&row["gain"], ms(&row["selected"]) / ms(&row["best"])));
        assert!(row["gain"].as_f64().unwrap() >= 1.0);
        assert!(table.contains(row["best"].as_str().unwrap()));
    }

    // Another schedule than without tuning, so that its use is seen.
    let schedules = ["rows_m1_n2", "rows_m1_n4"];
    let other = schedules.into_iter().find(|name| rows[1]["selected"] != *name).unwrap();
    let text = fs::read_to_string(scratch.path("tuning")).unwrap();
    let best = rows[1]["best"].as_str().unwrap();
    fs::write(scratch.path("tuning"), text.replace(best, other)).unwrap();
    let mut args = vec!["bench", "--tuning", &file, "--json", &json];
    args.extend(shape);
    let kernel =
        |scratch: &Scratch| scratch.json("json")["rows"][0]["kernel"].as_str().unwrap().to_owned();
    assert!(!stderr(&lowbit(&args)).contains("warning: "));
    assert!(kernel(&scratch).starts_with(other), "{other}: {}", kernel(&scratch));

    // A stale one and a torn one are named, and everything goes on without.
    let stale = text.replace("version\": \"", "version\": \"9");
    for bad in [stale.as_str(), &text[..text.len() / 2]] {
        fs::write(scratch.path("tuning"), bad).unwrap();
        let output = lowbit(&args);
        assert_eq!(output.status.code(), Some(0));
        let message = stderr(&output);
        assert!(message.contains("warning: the tuning in `") && message.contains("is ignored"));
        assert!(kernel(&scratch).starts_with(rows[1]["selected"].as_str().unwrap()));
    }

    // Measurements of a reduced device are not kept.
    let args = ["tune", "--shape", "1x8x8", "--without", "textures", "-o", &file];
    let output = lowbit(&args);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("restricted device"), "{}", stderr(&output));
}

/// The budget is spent at once, so every schedule is listed as unmeasured, and no file is written.
#[test]
fn a_spent_tuning_budget_is_reported() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (file, json) = (scratch.text("tuning"), scratch.text("json"));
    let args = ["tune", "--shape", "2x40x96", "--format", "int8-channel", "--budget", "0"];
    let output = lowbit(&[&args[..], &["-o", &file, "--json", &json]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("nothing was measured"), "{}", stderr(&output));
    assert!(!scratch.path("tuning").exists());
    let rows = scratch.json("json")["rows"].as_array().unwrap().clone();
    let mut unmeasured = 0;
    for row in &rows {
        let schedules = row["unmeasured"].as_array().unwrap();
        assert!(
            schedules.contains(&row["selected"]) && row["times"].as_array().unwrap().is_empty()
        );
        unmeasured += schedules.len();
    }
    let line =
        format!("The budget left {unmeasured} schedules of {} problems unmeasured", rows.len());
    assert!(stdout(&output).contains(&line), "{}", stdout(&output));
}

/// A path that cannot be written is refused before anything is measured.
#[test]
fn an_unwritable_tuning_is_refused_first() {
    let scratch = Scratch::new();
    let (folder, missing) = (scratch.text(""), scratch.text("missing/tuning"));
    let (json, budget) = (scratch.text("json"), ["--shape", "1x8x8", "--budget", "1e9"]);
    for path in [&folder, &missing] {
        let output = lowbit(&[&["tune", "-o", path, "--json", &json][..], &budget].concat());
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains("cannot write the tuning"), "{}", stderr(&output));
    }
    let output = lowbit(&[&["tune", "-o", &json, "--json", &json][..], &budget].concat());
    assert!(stderr(&output).contains("are the same file"), "{}", stderr(&output));
    assert!(!scratch.path("json").exists());
}

#[test]
fn bad_tuning_arguments_are_refused() {
    for bad in [
        &["tune"][..],
        &["tune", "--shape", "1x2"],
        &["tune", "--shape", "1x8x8", "--budget", "-1"],
        &["tune", "--shape", "1x8x8", "--budget", "nan"],
        &["tune", "--shape", "1x8x8", "--budget", "1e300"],
        &["tune", "--shape", "1x8x8", "--format", "int3"],
    ] {
        let output = lowbit(bad);
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert_eq!(stdout(&output), "");
    }
}

/// A folder of a small encoder, and a text file of its sentences with blank lines between.
pub fn encoder(scratch: &Scratch) -> (String, String) {
    crate::tiny_bert::write(&scratch.path("model"), &crate::tiny_bert::tensors());
    fs::write(scratch.path("text"), format!("\n{}\n \n", crate::tiny_bert::TEXT.join("\n\n")))
        .unwrap();
    (scratch.text("model"), scratch.text("text"))
}

/// The number that `--adapter` knows the adapter of [`Host::new`] by.
fn adapter_of(host: &Host) -> String {
    let output = lowbit(&["adapters", "--json", "-"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let info = host.adapter_info();
    let same = |adapter: &&Value| {
        adapter["name"] == info.name.as_str()
            && adapter["backend"] == info.backend.to_string()
            && adapter["driver_info"] == info.driver_info.as_str()
    };
    json["adapters"].as_array().unwrap().iter().find(same).unwrap()["index"].to_string()
}

/// `Y = X · Wᵀ + b` of the encoder's weights as they are.
fn in_f32(host: &Host, encoder: &Encoder) -> Vec<DeviceWeights> {
    let upload = |dense: &Dense| {
        host.compress(&dense.weight, dense.n, dense.k, &WeightFormat::f32()).unwrap()
    };
    encoder.linears().map(upload).collect()
}

/// The file holds the statistics that plain host code computes from the same f32 encoder, as far as the
/// roundings of both networks allow.
#[test]
fn calibration_sees_what_the_layers_take() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = encoder(&scratch);
    let host = Host::new().unwrap();
    let encoder = Encoder::open(&scratch.path("model")).unwrap();
    let weights = in_f32(&host, &encoder);
    let name = |dense: &Dense| format!("{}.weight", dense.name);
    let both = |dense: &Dense| {
        let tensor = Statistics::new(Observer::tensor(name(dense), dense.k)).unwrap();
        let channels = Observer::channels(name(dense), dense.k).with_bins(0);
        (tensor, Statistics::new(channels).unwrap())
    };
    let seen: RefCell<Vec<_>> = RefCell::new(encoder.linears().map(both).collect());
    for text in crate::tiny_bert::TEXT {
        let linear = |dense: &Dense, x: &[f32], m: usize| {
            let (tensor, channels) = &mut seen.borrow_mut()[dense.index];
            tensor.observe(x)?;
            channels.observe(x)?;
            Ok(host.matmul(x, m, &weights[dense.index], Some(&dense.bias))?)
        };
        encoder.embed(text, &linear).unwrap();
    }
    let seen = seen.into_inner();

    let (file, json, adapter) = (scratch.text("ranges"), scratch.text("json"), adapter_of(&host));
    let base = ["calibrate", &model, "--text", &text, "-o", &file, "--adapter", &adapter];
    let base = [&base[..], &["--json", &json]].concat();
    for (options, method, format) in [
        (&[][..], "minmax", "int8-tensor"),
        (&["--per-channel"], "minmax", "int8-tensor"),
        (&["--activations", "int8-tensor-asym", "--method", "mse"], "mse", "int8-tensor-asym"),
        (&["--method", "percentile-99.9"], "percentile-99.9", "int8-tensor"),
    ] {
        let table = fine(&[&base[..], options].concat());
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains("encoder.layer.0.attention.self.query "), "{table}");
        assert!(table.contains("5 lines"), "{table}");
        let per_channel = options.contains(&"--per-channel");
        let target =
            RangeTarget { method: method.parse().unwrap(), format: format.parse().unwrap() };
        let mut want = Ranges { target: Some(target), ..Ranges::default() };
        for (tensor, channels) in &seen {
            want.insert(tensor.clone());
            if per_channel {
                want.insert_channels(channels.clone());
            }
        }
        let have = Ranges::read(&file).unwrap();
        alike(&have, &want);
        let report = scratch.json("json");
        assert_eq!((&report["lines"], &report["per_channel"]), (&5.into(), &per_channel.into()));
        assert_eq!((&report["method"], &report["format"]), (&method.into(), &format.into()));
        let rows = report["layers"].as_array().unwrap();
        assert_eq!(rows.len(), 6);
        for row in rows {
            let layer = &have.layers[row["name"].as_str().unwrap()];
            let made = layer.calibrate(target.method, target.format).unwrap();
            let StaticScale { scale, zero_point } = made.scheme();
            assert_eq!(row["scale"].as_f64().unwrap() as f32, scale);
            assert_eq!(row["zero_point"], zero_point);
            assert_eq!(row["max"].as_f64().unwrap() as f32, made.range().max());
        }
    }
}

/// Asserts that ranges are of the same layers, and the statistics of the same values up to f32 rounding. A
/// value of this network is a sum of up to 64 products after about 20 such sums in a row: 1,300 roundings of
/// 2⁻²⁴, of the largest value.
fn alike(have: &Ranges, want: &Ranges) {
    const CLOSE: f64 = 1300.0 / (1 << 24) as f64;
    assert_eq!(have.target, want.target);
    assert!(have.layers.keys().eq(want.layers.keys()));
    assert!(have.channels.keys().eq(want.channels.keys()));
    let alike = |name: &str, have: &Statistics, want: &Statistics| {
        assert_eq!(have.observer(), want.observer());
        let counts = |seen: &Statistics| (seen.rows(), seen.values(), seen.batches());
        assert_eq!(counts(have), counts(want), "{name}");
        let largest = want.absmax().unwrap().into_iter().fold(0.0, f32::max);
        for (have, want) in have.channels().iter().zip(want.channels()) {
            let pairs = [
                (have.min().into(), want.min().into()),
                (have.max().into(), want.max().into()),
                (have.average().0, want.average().0),
                (have.average().1, want.average().1),
            ];
            for (a, b) in pairs {
                let off: f64 = a - b;
                assert!(off.abs() <= CLOSE * f64::from(largest), "{name}: {a} and {b}");
            }
        }
    };
    for (name, want) in &want.layers {
        let (LayerRanges::Statistics(have), LayerRanges::Statistics(want)) =
            (&have.layers[name], want)
        else {
            panic!("{name}")
        };
        alike(name, have, want);
    }
    for (name, want) in &want.channels {
        alike(name, &have.channels[name], want);
    }
}

#[test]
fn a_resumed_calibration_equals_one_run() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = encoder(&scratch);
    let run = |output: &str, options: &[&str]| {
        fine(&[&["calibrate", &model, "--text", &text, "-o", output], options].concat())
    };
    let (whole, part) = (scratch.text("whole"), scratch.text("part"));
    // Averages depend on the order of what is seen.
    let options = ["--per-channel", "--method", "average", "--activations", "int8-tensor-asym"];
    run(&whole, &options);
    run(&part, &[&options[..], &["--limit", "2"]].concat());
    assert_ne!(fs::read(&whole).unwrap(), fs::read(&part).unwrap());
    // Onto itself; method, format and channels are those of the file.
    let table = run(&part, &["--resume", &part, "--skip", "2", "--limit", "1"]);
    assert!(table.contains("1 line after 2 before"), "{table}");
    run(&part, &["--resume", &part, "--skip", "3"]);
    assert_eq!(fs::read(&whole).unwrap(), fs::read(&part).unwrap());
    run(&part, &["--resume", &whole, "--method", "mse"]);
    let target = Ranges::read(&part).unwrap().target.unwrap();
    assert_eq!((target.method, target.format.is_symmetric()), (Method::Mse, false));
}

#[test]
fn calibrations_that_cannot_be_are_refused() {
    let scratch = Scratch::new();
    let (model, text) = encoder(&scratch);
    let output = scratch.text("ranges");
    let run = |model: &str, text: &str, more: &[&str]| {
        let message =
            refused(&[&["calibrate", model, "--text", text, "-o", &output], more].concat());
        assert!(!scratch.path("ranges").exists(), "{message}");
        message
    };
    let says = |message: &str, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "no `{part}` in {message}");
        }
    };
    says(&run(&model, &scratch.text("none"), &[]), &["cannot read", "none", "hint: "]);
    for empty in ["", "\n \n\t\n"] {
        fs::write(scratch.path("empty"), empty).unwrap();
        let message = run(&model, &scratch.text("empty"), &[]);
        says(&message, &["contains no text", "hint: give a file with one sentence"]);
    }
    fs::write(scratch.path("bytes"), b"good\nb\xffd\n").unwrap();
    says(&run(&model, &scratch.text("bytes"), &[]), &["line 2", "UTF-8", "hint: "]);
    says(&run(&model, &text, &["--skip", "5"]), &["contains 5 lines", "--skip leaves out 5"]);
    says(&run(&model, &text, &["--limit", "0"]), &["no lines", "hint: "]);
    says(&run(&model, &text, &["--method", "median"]), &["median", "percentile-99.99"]);
    says(&run(&model, &text, &["--activations", "int8-token"]), &["int8-token", "int8-tensor"]);
    says(&run(&scratch.text("none"), &text, &[]), &["cannot read", "none", "hint: "]);
    says(&run(&model, &text, &["--json", &text]), &["same file"]);
    let message = refused(&["calibrate", &model, "--text", &text, "-o", &text]);
    says(&message, &["--text and RANGES.json are the same file"]);
    let nowhere = scratch.text("no/where");
    says(&refused(&["calibrate", &model, "--text", &text, "-o", &nowhere]), &["cannot create"]);

    // Files to go on from: damaged, of another model, of scales alone, without channels.
    let resume = |contents: &[u8], more: &[&str]| {
        fs::write(scratch.path("old"), contents).unwrap();
        run(&model, &text, &[&["--resume", &scratch.text("old")], more].concat())
    };
    says(&resume(b"{", &[]), &["cannot continue", "hint: "]);
    let query = "encoder.layer.0.attention.self.query.weight";
    let seen = |name: &str, columns: usize| {
        let mut seen = Statistics::new(Observer::tensor(name, columns)).unwrap();
        seen.observe(&values(2 * columns)).unwrap();
        seen
    };
    let file = |layers: &[Statistics]| {
        let mut ranges = Ranges::default();
        layers.iter().for_each(|layer| ranges.insert(layer.clone()));
        ranges
    };
    let all = |columns: usize| {
        let encoder = Encoder::open(&scratch.path("model")).unwrap();
        let of = |dense: &Dense| {
            seen(&format!("{}.weight", dense.name), if dense.k == 32 { columns } else { dense.k })
        };
        encoder.linears().map(of).collect::<Vec<_>>()
    };
    let json = |ranges: &Ranges| ranges.to_json().unwrap();
    says(&resume(&json(&file(&[seen("other", 32)])), &[]), &["the model has no layer `other`"]);
    says(&resume(&json(&file(&[seen(query, 32)])), &[]), &["self.key.weight` is not there"]);
    says(&resume(&json(&file(&all(31))), &[]), &["another number of columns", query]);
    says(&resume(&json(&file(&all(32))), &["--per-channel"]), &["no statistics by channels"]);
    let mut unlike = all(32);
    unlike[1].observe(&values(32)).unwrap();
    says(&resume(&json(&file(&unlike)), &[]), &["have the same input", "key.weight"]);
    let mut fixed = file(&all(32));
    let LayerRanges::Statistics(first) = &fixed.layers[query] else { panic!("statistics") };
    let made = first.calibrate(Method::MinMax, "int8-tensor".parse().unwrap()).unwrap();
    fixed.layers.insert(query.to_owned(), LayerRanges::Calibration(made));
    says(&resume(&json(&fixed), &[]), &[query, "no statistics"]);
    let mut broken = all(32);
    broken[0].observe(&[f32::NAN; 32]).unwrap();
    says(&resume(&json(&file(&broken)), &[]), &[query, "not finite"]);
}

#[test]
fn what_is_not_finite_is_named_by_line_and_layer() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = encoder(&scratch);
    let with = |name: &str, at: usize, value: f32| {
        let mut tensors = crate::tiny_bert::tensors();
        tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap().2[at] = value;
        crate::tiny_bert::write(&scratch.path("model"), &tensors);
        let output = scratch.text("ranges");
        refused(&["calibrate", &model, "--text", &text, "-o", &output])
    };
    // Finite weights whose products are too large: of a normalization, in the first sentence.
    let message = with("embeddings.LayerNorm.weight", 0, f32::MAX);
    for part in ["line 2 of", "self.query.weight", "infinit", "channel 0", "hint: "] {
        assert!(message.contains(part), "{message}");
    }
    let table = "embeddings.word_embeddings.weight";
    let message = with(table, 4 * crate::tiny_bert::HIDDEN, f32::NAN);
    for part in [table, "row 4, column 0", "weights must be finite"] {
        assert!(message.contains(part), "{message}");
    }
    let message = with("encoder.layer.0.output.dense.weight", 65, f32::INFINITY);
    for part in ["encoder.layer.0.output.dense.weight", "row 1, column 1", "weights must be finite"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(scratch.names(), ["model", "text"]);
}

const MATRICES: &str = "encoder.*weight";

/// Calibrates the small encoder by channels too.
fn calibrated(scratch: &Scratch, options: &[&str]) -> (String, String) {
    let (model, text) = encoder(scratch);
    let ranges = scratch.text("ranges");
    fine(&[&["calibrate", &model, "--text", &text, "-o", &ranges], options].concat());
    (scratch.text("model/model.safetensors"), ranges)
}

/// Every way of saying what X becomes: stored, read back, listed.
#[test]
fn activations_are_stored_with_the_weights() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (input, file) = calibrated(&scratch, &["--method", "mse"]);
    let (output, json) = (scratch.text("out"), scratch.text("json"));
    let layers = &Ranges::read(&file).unwrap().layers;
    let compress = |scheme: &str, activations: &str| {
        let base = ["compress", &input, "-o", &output, "--scheme", scheme, "--json", &json];
        fine(&[&base[..], &["--tensors", MATRICES, "--activations", activations]].concat())
    };
    let fixed = |format: &str| {
        let format = format.parse().unwrap();
        move |name: &str| {
            let made = layers[name].calibrate(Method::Mse, format).unwrap();
            Quantization::Static(made.scheme())
        }
    };
    let dynamic = |format: &str| {
        let format = format.parse().unwrap();
        move |_: &str| Quantization::Dynamic(format)
    };
    type Want<'a> = Box<dyn Fn(&str) -> Quantization + 'a>;
    let given = format!("int8:static={file}");
    let asymmetric = format!("int8-tensor-asym:static={file}");
    let cases: [(&str, &str, Want<'_>); 5] = [
        ("int8", "int8:dynamic", Box::new(dynamic("int8-token"))),
        ("int4", "int8-g32-asym:dynamic", Box::new(dynamic("int8-g32-asym"))),
        ("int8", "int8-tensor:dynamic", Box::new(dynamic("int8-tensor"))),
        ("int8", &given, Box::new(fixed("int8-tensor"))),
        ("int4", &asymmetric, Box::new(fixed("int8-tensor-asym"))),
    ];
    for (scheme, activations, want) in cases {
        let page = compress(scheme, activations);
        let model = ModelFile::open(&output).unwrap();
        assert_eq!(model.compressed().len(), 6);
        let listed = fine(&["inspect", &output, "--json", &scratch.text("listed")]);
        let (compressed, inspected) = (scratch.json("json"), scratch.json("listed"));
        for name in model.compressed().keys() {
            let found = model.activations(name).unwrap().unwrap();
            assert_eq!(found, LayerActivations { quantization: want(name), factors: None });
            for report in [&compressed, &inspected] {
                let rows = report["tensors"].as_array().unwrap();
                let row = rows.iter().find(|row| row["name"] == name.as_str()).unwrap();
                let row = &row["activations"];
                let format = found.quantization.format().to_string();
                assert_eq!((&row["format"], &row["smoothed"]), (&format.into(), &false.into()));
                match found.quantization {
                    Quantization::Dynamic(_) => {
                        assert_eq!(row["scales"], "dynamic");
                        assert!(row["scale"].is_null());
                    }
                    Quantization::Static(StaticScale { scale, zero_point }) => {
                        assert_eq!(row["scales"], "static");
                        assert_eq!(row["scale"].as_f64().unwrap() as f32, scale);
                        assert_eq!(row["zero_point"], zero_point);
                    }
                }
            }
            let format = found.quantization.format().to_string();
            assert!(page.contains(&format) && listed.contains(&format), "{page}{listed}");
        }
        // Weights are what they are without, and so is what comes back of them.
        let weights = read_compressed(&model, "encoder.layer.0.output.dense.weight").unwrap();
        let plain = ModelFile::open(&input).unwrap();
        let w = plain.read_f32("encoder.layer.0.output.dense.weight").unwrap();
        let format = weights.format();
        assert_eq!(weights, quantize(&w, 32, 64, &format).unwrap());
    }
    // Plain files know of none.
    fine(&["compress", &input, "-o", &output, "--scheme", "int8", "--tensors", MATRICES]);
    let model = ModelFile::open(&output).unwrap();
    for name in model.compressed().keys() {
        assert_eq!(model.activations(name).unwrap(), None);
    }
    assert!(!fine(&["inspect", &output]).contains("activations"));
}

/// Smoothing keeps products, spends its factors where it says, and int8 loses less.
#[test]
fn smoothed_weights_keep_the_network() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (input, file) = calibrated(&scratch, &["--per-channel"]);
    let given = format!("int8:static={file}");
    let dynamic = format!("int8:dynamic={file}");
    let compress = |name: &str, options: &[&str]| {
        let output = scratch.text(name);
        let base = ["compress", &input, "-o", &output, "--scheme", "int8", "--tensors", MATRICES];
        fine(&[&base[..], options].concat());
        ModelFile::open(output).unwrap()
    };
    let plain = compress("plain", &["--activations", &given]);
    let smooth = compress("smooth", &["--activations", &given, "--smooth=0.5", "--check"]);
    let best = compress("best", &["--activations", &given, "--smooth"]);
    let dynamic = compress("dynamic", &["--activations", &dynamic, "--smooth=0.5"]);
    let original = ModelFile::open(&input).unwrap();
    let ranges = Ranges::read(&file).unwrap();

    let encoder = Encoder::open(&scratch.path("model")).unwrap();
    let name = |part: &str| format!("encoder.layer.0.{part}.weight");
    let factors = |part: &str| smooth.activations(&name(part)).unwrap().unwrap().factors;
    let shared = factors("attention.self.query").unwrap();
    assert_eq!(factors("attention.self.key").as_ref(), Some(&shared));
    assert_eq!(factors("attention.self.value").as_ref(), Some(&shared));
    assert_eq!(factors("attention.output.dense"), None);
    assert!(factors("intermediate.dense").is_some() && factors("output.dense").is_some());
    // The value's bias took what its rows took; nothing else that is no matrix changed.
    let bias = "encoder.layer.0.attention.self.value.bias";
    let (before, after) = (original.read_f32(bias).unwrap(), smooth.read_f32(bias).unwrap());
    let folded: Vec<f32> = before.iter().zip(&after).map(|(b, a)| b / a).collect();
    assert!(folded.iter().any(|s| *s != 1.0));
    for tensor in smooth.plain().filter(|tensor| tensor.name != bias) {
        assert_eq!(Some(tensor), original.tensor(tensor.name));
    }
    for dense in encoder.linears() {
        let name = format!("{}.weight", dense.name);
        let found = smooth.activations(&name).unwrap().unwrap();
        let ones = vec![1.0; dense.k];
        let s = match &found.factors {
            Some(factors) => factors,
            None => &folded,
        };
        assert!(s.iter().all(|s| s.to_bits() & 0x7f_ffff == 0), "powers of two");
        // W is scaled by columns, and the value's by rows too.
        let rows = if dense.name.ends_with("value") { &folded } else { &ones };
        let scaled = dense.weight.iter().enumerate();
        let scaled = scaled.map(|(i, w)| w * s[i % dense.k] / rows[i / dense.k % rows.len()]);
        let format = "int8-channel".parse().unwrap();
        let want = quantize(&scaled.collect::<Vec<_>>(), dense.n, dense.k, &format).unwrap();
        assert!(read_compressed(&smooth, &name).unwrap() == want, "{name}");
        // The scale is that of the largest smoothed channel.
        let absmax = ranges.channels[&name].absmax().unwrap();
        let most = absmax.iter().zip(s).map(|(x, s)| x / s).fold(0.0, f32::max);
        let scale = StaticScale { scale: most / 127.0, zero_point: 0 };
        assert_eq!(found.quantization, Quantization::Static(scale), "{name}");
        // Dynamic scales share the factors.
        let own = dynamic.activations(&name).unwrap().unwrap();
        assert_eq!(own.factors, found.factors);
        assert_eq!(own.quantization, Quantization::Dynamic("int8-token".parse().unwrap()));
    }

    // The encoder in W8A8, as an engine would run it.
    let host = Host::new().unwrap();
    let exact = in_f32(&host, &encoder);
    let embed = |text: &str, model: Option<&ModelFile>| {
        let linear = |dense: &Dense, x: &[f32], m: usize| {
            let Some(model) = model else {
                return Ok(host.matmul(x, m, &exact[dense.index], Some(&dense.bias))?);
            };
            let name = format!("{}.weight", dense.name);
            let weights = host.upload(&read_compressed(model, &name)?)?;
            let bias = model.read_f32(&format!("{}.bias", dense.name))?;
            let LayerActivations { quantization, factors } = model.activations(&name)?.unwrap();
            let factors = factors.unwrap_or_else(|| vec![1.0; dense.k]);
            let x: Vec<f32> = x.iter().zip(factors.iter().cycle()).map(|(x, s)| x / s).collect();
            let function = ActivationFunction::Identity;
            Ok(host.quantized_matmul(&x, m, &weights, Some(&bias), quantization, function)?)
        };
        encoder.embed(text, &linear).unwrap()
    };
    let off = |model: &ModelFile| -> f64 {
        let of = |text: &str| relative_error(&embed(text, None), &embed(text, Some(model)));
        crate::tiny_bert::TEXT.iter().map(|text| of(text)).sum()
    };
    let (without, with, best) = (off(&plain), off(&smooth), off(&best));
    assert!(with < without && best < without, "{with} and {best} are no less than {without}");

    // Decompressed, columns have their own size again.
    let back = scratch.text("back");
    fine(&["decompress", &scratch.text("smooth"), "-o", &back]);
    let back = ModelFile::open(&back).unwrap();
    let query = name("attention.self.query");
    let stored = dequantize(&read_compressed(&smooth, &query).unwrap());
    let want: Vec<f32> = stored.iter().zip(shared.iter().cycle()).map(|(w, s)| w / s).collect();
    assert_eq!(back.read_f32(&query).unwrap(), want);
    let listed = fine(&["inspect", &scratch.text("smooth")]);
    assert_eq!(listed.matches(", smoothed").count(), 5, "{listed}");
}

#[test]
fn activations_that_cannot_be_are_refused() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (input, file) = calibrated(&scratch, &[]);
    let output = scratch.text("out");
    let says = |options: &str, parts: &[&str]| {
        let base = ["compress", &input, "-o", &output];
        let message = refused(&[&base[..], &options.split(' ').collect::<Vec<_>>()].concat());
        for part in parts {
            assert!(message.contains(part), "no `{part}` in {message}");
        }
        assert!(!scratch.path("out").exists());
    };
    let matrices = format!("--tensors {MATRICES}");
    let int8 = format!("--scheme int8 {matrices}");
    let fixed = format!("--activations int8:static={file}");
    says(&format!("{int8} --activations int8"), &["int8:static=RANGES.json"]);
    says(&format!("{int8} --activations int8:static"), &["RANGES.json"]);
    says(&format!("{int8} --activations int8-token:static=a"), &["int8-token", "int8-tensor"]);
    says(
        &format!("{int8} --activations int8-g48:dynamic"),
        &["multiple of 32", "attention.output.dense"],
    );
    says(&format!("{int8} --smooth"), &["--activations"]);
    says(&format!("{int8} --smooth=1.5 {fixed}"), &["from 0 to 1"]);
    // Weights that integer products do not take, named, with what to do.
    let first = "encoder.layer.0.attention.output.dense.weight` as ";
    for scheme in ["f16", "int16", "int8 --group 8", "int4 --group 48 --sparsity 2:4"] {
        let line = format!("--scheme {scheme} {matrices} --activations int8:dynamic");
        let part = if scheme == "int4 --group 48 --sparsity 2:4" {
            // The rows have 64 columns, so a group of 48 leaves a shorter one.
            "encoder.layer.0.output.dense.weight` as 2:4+int4-g48"
        } else {
            first
        };
        says(&line, &[part, "hint: --scheme int8 or int4, --group a multiple of 32 (or 16"]);
    }
    // Embeddings are no linear layers.
    says(
        &format!("--scheme int8 --tensors * {fixed}"),
        &["no ranges of `embeddings.position_embeddings.weight`", "nearest name", "--tensors"],
    );
    says(&format!("{int8} {fixed} --smooth"), &["no ranges of the channels", "--per-channel"]);
    says(&format!("{int8} --activations int8:dynamic --smooth"), &["--smooth", "RANGES.json"]);
    says(&format!("{int8} --activations int8:static={input}"), &["same file"]);
    let none = scratch.text("none");
    says(&format!("{int8} --activations int8:static={none}"), &["none", "`lowbit calibrate`"]);

    let rewrite = |change: &dyn Fn(&mut Ranges)| {
        let mut ranges = Ranges::read(&file).unwrap();
        change(&mut ranges);
        ranges.write(scratch.path("changed")).unwrap();
        format!("{int8} --activations int8:static={}", scratch.text("changed"))
    };
    let (query, key) =
        ["query", "key"].map(|part| format!("encoder.layer.0.attention.self.{part}.weight")).into();
    let line = rewrite(&|ranges| drop(ranges.layers.remove(&query)));
    let near = format!("the nearest name there is `{key}`");
    says(&line, &[&format!("no ranges of `{query}`"), &near]);
    let line = rewrite(&|ranges| {
        ranges.insert(Statistics::new(Observer::tensor(query.clone(), 31)).unwrap());
    });
    says(&line, &["31 columns", &query, "which has 32"]);
    let line = rewrite(&|ranges| {
        ranges.insert(Statistics::new(Observer::tensor(query.clone(), 32)).unwrap());
    });
    says(&line, &["no scale for the input of", &query, "have been observed", "hint: "]);
}

#[test]
fn an_onnx_file_without_weights() {
    let scratch = Scratch::new();
    // The version of the format, and an empty graph.
    fs::write(scratch.path("model.onnx"), [8, 8, 0x3a, 0]).unwrap();
    let (input, output) = (scratch.text("model.onnx"), scratch.text("out"));
    let message = refused(&["compress", &input, "-o", &output, "--scheme", "int8"]);
    assert!(message.contains("has no F32, F16 or BF16 tensor"), "{message}");
    let message = refused(&["decompress", &input, "-o", &output]);
    assert!(message.contains("no compressed weights"), "{message}");
    assert_eq!(scratch.names(), ["model.onnx"]);
}

/// `lowbit train` hands its arguments to a program beside it, or on PATH, and has its exit code.
#[cfg(unix)]
#[test]
fn train_is_another_program() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    // A copy, since a build of lowbit-train may be beside the original.
    let own = scratch.path("lowbit");
    fs::copy(env!("CARGO_BIN_EXE_lowbit"), &own).unwrap();
    let folder = scratch.path("bin");
    fs::create_dir(&folder).unwrap();
    let run = || {
        let mut command = Command::new(&own);
        command.args(["train", "qat", "recipe.toml", "--seeds", "1,2", "--help"]);
        command.env("PATH", &folder).output().unwrap()
    };
    let write = |path: PathBuf, name: &str| {
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\"\nexit 7\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let output = run();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("cargo install --path crates/lowbit-train"), "{message}");
    for (place, path) in
        [("path", folder.join("lowbit-train")), ("beside", scratch.path("lowbit-train"))]
    {
        write(path, place);
        let output = run();
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(stdout(&output), format!("{place} qat recipe.toml --seeds 1,2 --help\n"));
    }
}
