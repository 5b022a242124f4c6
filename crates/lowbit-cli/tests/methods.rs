//! `lowbit compress` by methods that look at what layers take, that prune, or that change the model first.

use crate::cli::{Scratch, command, encoder, fine, gpu, refused, stderr};
use crate::tiny_language::tiny;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A calibration text of several windows of 24 characters, which are tokens of the tiny models.
fn text(scratch: &Scratch) -> String {
    let path = scratch.text("calibration.txt");
    let lines: String =
        (0..40).map(|i| format!("{} men, {} ways; so it goes.\n", i * 7, i)).collect();
    fs::write(&path, lines).unwrap();
    path
}

/// Compresses a model into a folder of its own, and returns the JSON.
fn compressed(scratch: &Scratch, model: &str, name: &str, args: &[&str]) -> (String, Value) {
    let folder = scratch.path(name);
    fs::create_dir(&folder).unwrap();
    let out = folder.join("model.safetensors").into_os_string().into_string().unwrap();
    let json = scratch.text("json");
    let tail = ["--sample-tokens", "24", "--json", &json];
    let calibrated = args.contains(&"--calibration");
    let tail = if calibrated { &tail[..] } else { &tail[2..] };
    let printed = fine(&[&["compress", model, "-o", &out], args, tail].concat());
    assert!(printed.contains("bits a weight"), "{printed}");
    let partial = format!("{out}.partial");
    assert!(!Path::new(&partial).exists(), "{partial} is left behind");
    for file in ["config.json", "tokenizer.json"] {
        let to = folder.join(file);
        if !to.exists() {
            fs::copy(Path::new(model).join(file), to).unwrap();
        }
    }
    (folder.into_os_string().into_string().unwrap(), scratch.json("json"))
}

fn perplexity(scratch: &Scratch, model: &str, text: &str) -> f64 {
    let json = scratch.text("perplexity.json");
    fine(&[
        "perplexity",
        model,
        "--text",
        text,
        "--window",
        "24",
        "--windows",
        "6",
        "--json",
        &json,
    ]);
    scratch.json("perplexity.json")["perplexity"].as_f64().unwrap()
}

#[test]
fn methods_make_models_that_run() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = (tiny(&scratch, "llama"), text(&scratch));
    let plain = perplexity(&scratch, &model, &text);
    for (name, args) in [
        ("gptq", &["--format", "int8-g16", "--method", "gptq"][..]),
        ("act", &["--format", "int8-g16", "--method", "gptq", "--order", "activations"]),
        ("awq", &["--format", "int8-g16", "--method", "awq"]),
        ("sparse", &["--format", "int8-g16", "--method", "sparsegpt", "--sparsity", "15:16"]),
        (
            "codes",
            &["--format", "int8-g16", "--method", "gptq", "--activations", "int8-token:dynamic"],
        ),
    ] {
        let args = [args, &["--calibration", &text]].concat();
        let (made, json) = compressed(&scratch, &model, name, &args);
        let weights = json["weights"].as_array().unwrap();
        assert!(weights.len() >= 14, "{name}: {}", weights.len());
        for weight in weights {
            let error = weight["output_error"].as_f64().unwrap();
            assert!(error > 0.0 && error < 0.2, "{name}: {weight}");
        }
        assert_eq!(json["calibration"]["text"], "calibration.txt");
        assert!(json["calibration"]["tokens"].as_u64().unwrap() > 500, "{name}");
        let found = perplexity(&scratch, &made, &text);
        assert!((found / plain - 1.0).abs() < 0.2, "{name}: {found}, and {plain} before");
        let inputs = &scratch.json("perplexity.json")["linear_layers"]["int8_inputs"];
        assert_eq!(*inputs, if name == "codes" { weights.len() } else { 0 }, "{name}");
        let said = if name == "codes" { "int8-token".into() } else { Value::Null };
        assert!(weights.iter().all(|weight| weight["activations"] == said), "{name}");
        // The file says how it was made, and the recipe can be used again.
        let header = fs::read(Path::new(&made).join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&header[8..8 + length]).unwrap();
        let metadata = &header["__metadata__"];
        assert_eq!(metadata["lowbit.recipe"], json["recipe"]);
        assert!(metadata["lowbit.calibration"].as_str().unwrap().contains("checksum"));
        let recipe = scratch.text("recipe.toml");
        fs::write(&recipe, json["recipe"].as_str().unwrap()).unwrap();
        let again = ["--recipe", &recipe, "--calibration", &text];
        let (again, _) = compressed(&scratch, &model, &format!("{name}-again"), &again);
        let read = |folder: &str| fs::read(Path::new(folder).join("model.safetensors")).unwrap();
        assert!(read(&again) == read(&made), "{name}: the recipe makes another file");
    }
}

#[test]
fn a_changed_model_runs() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = (tiny(&scratch, "llama"), text(&scratch));
    let plain = perplexity(&scratch, &model, &text);
    let (rotated, _) = compressed(&scratch, &model, "rotated", &["--scheme", "f32", "--rotate"]);
    let found = perplexity(&scratch, &rotated, &text);
    assert!((found / plain - 1.0).abs() < 1e-4, "{found}, and {plain} before");
    let cut = ["--scheme", "f32", "--keep-rows", "0.5", "--keep-heads", "2"];
    let (cut, json) = compressed(&scratch, &model, "cut", &cut);
    let config: Value =
        serde_json::from_slice(&fs::read(Path::new(&cut).join("config.json")).unwrap()).unwrap();
    assert_eq!(config["intermediate_size"], 32);
    assert_eq!(config["num_attention_heads"], 2);
    let down = json["weights"].as_array().unwrap().iter();
    let mut down = down.filter(|weight| weight["name"].as_str().unwrap().contains("down_proj"));
    assert!(down.all(|weight| weight["shape"] == serde_json::json!([32, 32])));
    assert!(perplexity(&scratch, &cut, &text).is_finite());
    // The changed model needs a config.json of its own.
    let beside =
        Path::new(&model).join("other.safetensors").into_os_string().into_string().unwrap();
    let message =
        refused(&["compress", &model, "-o", &beside, "--scheme", "f32", "--keep-rows", "8"]);
    assert!(message.contains("config.json") && message.contains("folder of its own"), "{message}");
}

#[test]
fn magnitude_takes_no_text_and_no_adapter() {
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let args = ["--scheme", "f16", "--method", "magnitude", "--sparsity", "0.5"];
    let (_, json) = compressed(&scratch, &model, "half", &args);
    assert_eq!(json["adapter"], Value::Null);
    assert_eq!(json["weights"][0]["sparsity"], "0.5");
    assert_eq!(json["weights"][0]["output_error"], Value::Null);
}

#[test]
fn what_does_not_fit_is_refused() {
    let scratch = Scratch::new();
    let (model, text) = (tiny(&scratch, "llama"), text(&scratch));
    let out = scratch.text("out.safetensors");
    for (args, why) in [
        (&["--scheme", "int4", "--method", "gptq"][..], "needs a calibration text"),
        (&["--scheme", "int4", "--method", "gptq", "--sparsity", "2:4"], "sparsegpt prunes"),
        (&["--scheme", "int4", "--method", "wanda"], "there is no sparsity"),
        (&["--scheme", "int4", "--method", "awq", "--order", "activations"], "no order of columns"),
        (&["--scheme", "int4", "--method", "nearest"], "is no method"),
        (&["--scheme", "int4", "--sparsity", "4:2"], "not a pruning pattern"),
        (&["--scheme", "int4", "--method", "gptq", "--damping", "2"], "damping"),
        (&["--scheme", "int4", "--samples", "3"], "--calibration"),
        (
            &["--scheme", "f16", "--method", "wanda", "--sparsity", "0.5", "--global"],
            "no threshold",
        ),
        (&["--scheme", "f16", "--method", "magnitude", "--sparsity", "6:8", "--global"], "is 6:8"),
        (&["--scheme", "int4", "--calibration", "a", "--statistics", "b"], "cannot be used with"),
        (&["--scheme", "int4", "--rotate", "--statistics", "b"], "cannot be used with"),
    ] {
        let output = command(&[&["compress", &model, "-o", &out], args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
        assert!(!Path::new(&out).exists());
    }
    if gpu() {
        let args = ["--scheme", "int4", "--method", "gptq", "--calibration", &text];
        let ranges = scratch.text("ranges.json");
        let fixed = format!("int8:static={ranges}");
        let recipe = scratch.text("gptq.toml");
        fs::write(&recipe, "[[rule]]\nformat = \"int4\"\nmethod = \"gptq\"\n").unwrap();
        let from_recipe = ["--recipe", &recipe, "--calibration", &text];
        for (args, activations, why) in [
            (&args[..], fixed.as_str(), "rounding to nearest only"),
            (&from_recipe[..], "int8:dynamic", "recipes that only round to nearest"),
        ] {
            let more = ["--activations", activations];
            let message = refused(&[&["compress", &model, "-o", &out], args, &more].concat());
            assert!(message.contains(why), "{message}");
        }
        // A folder of another run is not taken for this one's.
        let partial = format!("{out}.partial");
        fs::create_dir(&partial).unwrap();
        fs::write(Path::new(&partial).join("state.json"), "{}").unwrap();
        let message = refused(&[&["compress", &model, "-o", &out], &args[..]].concat());
        assert!(message.contains("another model, recipe or calibration text"), "{message}");
    }
}

/// Statistics are collected in parts by several processes, merged, continued, and used instead of the text.
#[test]
fn statistics_stand_for_a_text() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = (tiny(&scratch, "llama"), text(&scratch));
    let observe = |name: &str, args: &[&str]| {
        let (out, json) = (scratch.text(name), scratch.text("observed.json"));
        let tail = ["--sample-tokens", "24", "--json", &json];
        let printed = fine(&[&["observe", &model, "-o", &out], args, &tail].concat());
        assert!(printed.contains("inputs of"), "{printed}");
        (out, scratch.json("observed.json"))
    };
    let some = |args: &[&'static str]| -> Vec<String> {
        ["--calibration", &text].iter().chain(args).map(|arg| (*arg).to_owned()).collect()
    };
    let part = |name: &str, args: &[&'static str]| {
        let args = some(args);
        observe(name, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (one, json) = part("one", &["--samples", "12"]);
    assert_eq!((&json["samples"], &json["samples_in_all"]), (&json!(12), &json!(12)));
    assert_eq!(json["tokens_in_all"], 288);
    // Seven weights of each layer, which take four inputs, and the head.
    let inputs = json["inputs"].as_array().unwrap();
    assert_eq!(inputs.len(), 9);
    assert_eq!(
        inputs.iter().map(|input| input["weights"].as_array().unwrap().len()).sum::<usize>(),
        15
    );
    let (first, _) = part("first", &["--samples", "5"]);
    let (second, json) = part("second", &["--skip", "5", "--samples", "7"]);
    assert_eq!(json["parts"][0]["first"], 5);
    let (merged, json) = observe("merged", &["--merge", &second, &first]);
    assert_eq!((&json["samples"], &json["samples_in_all"]), (&json!(0), &json!(12)));
    assert_eq!(json["adapter"], Value::Null);
    let read = |path: &str| fs::read(path).unwrap();
    assert!(read(&merged) == read(&one), "parts that are merged differ from one run");
    let resumed = ["--calibration", &text, "--resume", &first, "--samples", "7"];
    let (resumed, _) = observe("first", &resumed);
    assert!(read(&resumed) == read(&one), "a continued run differs from one run");

    let gptq = ["--format", "int4-g16-asym", "--method", "gptq", "--statistics", &one];
    let (made, json) = compressed(&scratch, &model, "made", &gptq);
    assert_eq!(json["calibration"]["samples"], 12);
    assert_eq!(json["calibration"]["statistics"][0]["text"], "calibration.txt");
    for weight in json["weights"].as_array().unwrap() {
        let (before, after) = (&weight["output_error_before"], &weight["output_error"]);
        assert!(after.as_f64().unwrap() < before.as_f64().unwrap(), "{weight}");
        assert_eq!(weight["tokens"], 288);
    }
    let header = read(&format!("{made}/model.safetensors"));
    assert!(String::from_utf8_lossy(&header[..4000]).contains("sample_tokens"));
    assert!(perplexity(&scratch, &made, &text).is_finite());

    let out = scratch.text("refused");
    let other = tiny(&scratch, "qwen2");
    let cut = scratch.text("cut");
    fs::write(&cut, &read(&one)[..5000]).unwrap();
    let missing = scratch.text("missing");
    for (args, says) in [
        (&["observe", &other, "--merge", &one][..], "another model"),
        (&["observe", &model, "--merge", &one, &second], "counts once"),
        (&["observe", &model, "--merge", &cut], "cannot use the statistics"),
        (&["observe", &model, "--merge", &missing], "missing"),
        (&["observe", &model, "--calibration", &text, "--skip", "999"], "are skipped"),
        (&["observe", &model], "--calibration"),
        (
            &["compress", &other, "--scheme", "int4", "--method", "gptq", "--statistics", &one],
            "another model",
        ),
        (
            &["compress", &model, "--scheme", "int4", "--method", "gptq", "--statistics", &text],
            "statistics",
        ),
    ] {
        let message = refused(&[args, &["-o", &out]].concat());
        assert!(message.contains(says), "{args:?}: {message}");
        assert!(!Path::new(&out).exists(), "{args:?}");
    }
}

/// One threshold for all weights, and a file in which zeros take no room.
#[test]
fn pruned_weights_are_exported_behind_a_mask() {
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let args = ["--scheme", "f16", "--method", "magnitude", "--sparsity", "0.5", "--global"];
    let (half, json) = compressed(&scratch, &model, "half", &args);
    assert_eq!(json["weights"][0]["method"], "magnitude-global");
    assert!(json["recipe"].as_str().unwrap().contains("global = true"));
    let folder = scratch.path("masked");
    fs::create_dir(&folder).unwrap();
    let out = folder.join("model.safetensors").into_os_string().into_string().unwrap();
    fine(&["export", &half, "-o", &out, "--to", "sparse-bitmask"]);
    let size = |path: &str| fs::metadata(path).unwrap().len();
    assert!(size(&out) < size(&format!("{half}/model.safetensors")));
    // It comes back as it was.
    let (back, again) = (scratch.text("back.safetensors"), scratch.text("again.safetensors"));
    fine(&["decompress", &format!("{half}/model.safetensors"), "-o", &back]);
    fine(&["decompress", &folder.to_string_lossy(), "-o", &again]);
    let read = |path: &str| {
        let file = lowbit_models::checkpoint::ModelFile::open(path).unwrap();
        let own = |tensor: lowbit_models::checkpoint::Tensor<'_>| {
            (tensor.name.to_owned(), tensor.shape.to_vec(), tensor.to_f32().unwrap())
        };
        file.tensors().map(own).collect::<Vec<_>>()
    };
    assert_eq!(read(&again), read(&back));
    let out = scratch.text("dense.safetensors");
    let message = refused(&["export", &model, "-o", &out, "--to", "sparse-bitmask"]);
    assert!(message.contains("no weight has so many zeros"), "{message}");
}

/// One α for all layers: measured, reported, and what the file has is what `--smooth=ALPHA` makes of the same ranges.
#[test]
fn one_alpha_is_searched_for() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = encoder(&scratch);
    let input = format!("{model}/model.safetensors");
    let [out, again, json, ranges] = ["out", "again", "json", "ranges"].map(|n| scratch.text(n));
    let base = ["compress", &input, "--scheme", "int8", "--tensors", "encoder.*weight"];
    let search = ["--smooth=search", "--calibration", &text, "--json", &json];
    let dynamic = ["--activations", "int8:dynamic", "-o", &out];
    let printed = fine(&[&base[..], &dynamic, &search].concat());
    assert!(printed.contains("smoothed by α = ") && printed.contains("its own best"), "{printed}");
    let found = scratch.json("json");
    let search_json = &found["smooth_search"];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{found}"));
    let alpha = number(&search_json["alpha"]);
    assert_eq!(number(&found["smooth"]), alpha);
    let error = number(&search_json["output_error"]);
    assert!(error < number(&search_json["output_error_before"]), "{found}");
    assert!(search_json["tried"].as_array().unwrap().len() == 22, "{found}");
    assert!(
        search_json["tried"]
            .as_array()
            .unwrap()
            .iter()
            .all(|t| number(&t["output_error"]) >= error)
    );
    let layers = search_json["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 6);
    for layer in layers {
        let [before, with, best] = ["output_error_before", "output_error", "best_output_error"]
            .map(|key| number(&layer[key]));
        assert!(best <= before && best <= with && with < 0.2, "{layer}");
    }
    // What was seen of the text is what calibration sees of it.
    fine(&["calibrate", &model, "--text", &text, "-o", &ranges, "--per-channel"]);
    let given = format!("int8:dynamic={ranges}");
    let alpha = format!("--smooth={alpha}");
    fine(&[&base[..], &["--activations", &given, &alpha, "-o", &again]].concat());
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "another file");
    // Static scales follow from ranges, and so do the factors then.
    let fixed = format!("int8:static={ranges}");
    let printed = fine(&[&base[..], &["--activations", &fixed, "-o", &out], &search].concat());
    assert!(printed.contains("smoothed by α = "), "{printed}");
    for (more, says) in [
        (&["--activations", "int8:dynamic", "--smooth=search"][..], "--calibration"),
        (&["--activations", "int8:dynamic", "--smooth=most"], "`search`"),
        (
            &["--activations", "int8:dynamic", "--smooth=search", "--calibration", &text, "--host"],
            "--host",
        ),
        (
            &["--activations", "int8:dynamic", "--smooth=0.5", "--calibration", &text],
            "--smooth goes with rounding to nearest only",
        ),
    ] {
        let said = refused(&[&base[..], &["-o", &out], more].concat());
        assert!(said.contains(says), "{more:?}: {said}");
    }
}

/// The recipe in a file has what was left out as a rule, so that it makes the same file again; and what an option cannot
/// do is said.
#[test]
fn the_recipe_in_a_file_makes_it_again() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = (tiny(&scratch, "llama"), text(&scratch));
    let args = ["--method", "gptq", "--format", "int4-g32", "--calibration", &text];
    let out = ["--exclude", "*down_proj*", "--loops", "device", "--clip"];
    let (first, json) = compressed(&scratch, &model, "first", &[&args[..], &out].concat());
    let recipe = json["recipe"].as_str().unwrap();
    assert!(recipe.contains("down_proj") && recipe.contains("# --loops device"), "{recipe}");
    for weight in json["weights"].as_array().unwrap() {
        assert!(!weight["name"].as_str().unwrap().contains("down_proj"), "{weight}");
        assert!(weight["warnings"][0].as_str().unwrap().contains("no kernel clips"), "{weight}");
    }
    let file = scratch.text("recipe.toml");
    fs::write(&file, recipe).unwrap();
    let args = ["--recipe", &file, "--loops", "device", "--calibration", &text];
    let (again, _) = compressed(&scratch, &model, "again", &args);
    let read = |folder: &str| fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    assert!(read(&first) == read(&again), "the recipe makes another file");
    let out = scratch.text("none");
    let said = refused(&["compress", &model, "-o", &out, "--format", "int4-g32", "--clip"]);
    assert!(said.contains("clip needs a calibration text"), "{said}");
}
