//! The `lowbit` command, run as users run it.
#![cfg(feature = "cli")]

use half::{bf16, f16};
use lowbit::compress::{dequantize, prune_magnitude, quantize, relative_error};
use lowbit::format::WeightFormat;
use lowbit::io::{Content, Dtype, ModelFile, read_compressed, write_model};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// The command, in an environment in which Mesa's Wayland probe has nothing to say.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowbit"));
    command.args(args).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command
}

fn lowbit(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must work.
fn fine(args: &[&str]) -> String {
    let output = lowbit(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    // stderr is a pipe here: no progress, no colours. (Drivers may print what they like.)
    assert!(!stderr(&output).contains(['\r', '\u{1b}']), "{args:?}");
    stdout(&output)
}

/// Runs a command that must be refused; gives what it says.
fn refused(args: &[&str]) -> String {
    let output = lowbit(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert_eq!(stdout(&output), "", "{args:?}");
    assert!(message.contains("error: "), "{args:?}: {message}");
    message
}

/// Whether commands that need an adapter can run; says why not, and does not let that
/// pass where an adapter is required.
fn gpu() -> bool {
    let output = lowbit(&["adapters"]);
    if output.status.success() {
        return true;
    }
    let reason = stderr(&output);
    assert_ne!(std::env::var("LOWBIT_REQUIRE_GPU").as_deref(), Ok("1"), "{reason}");
    println!("skipped: {reason}");
    false
}

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

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

/// Values from −1 to 1, all different in f16 and bf16 too.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
}

/// Equal but for the last bit, which serde_json does not always read right.
fn close(json: &Value, value: f64) -> bool {
    // Both sides are rounded a few times.
    (json.as_f64().unwrap() - value).abs() <= 4.0 * f64::EPSILON * value.abs()
}

fn le_f32(values: &[f32]) -> Vec<u8> {
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
    write_model(scratch.path("in"), &[("bad", content)], &BTreeMap::new()).unwrap();
    fs::write(scratch.path("out"), b"earlier").unwrap();
    let (input, output, json) = (scratch.text("in"), scratch.text("out"), scratch.text("json"));
    let args = ["compress", &input, "-o", &output, "--scheme", "int8", "--json", &json];
    let message = refused(&args);
    assert!(message.contains("`bad`") && message.contains("row 1"), "{message}");
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
        eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr));
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
        assert_eq!((&case["op"], &case["weights"]), (&"matmul".into(), &"int8".into()));
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

    // What was measured without something is not kept.
    let args = ["tune", "--shape", "1x8x8", "--without", "textures", "-o", &file];
    let output = lowbit(&args);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is not to be kept"), "{}", stderr(&output));
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
