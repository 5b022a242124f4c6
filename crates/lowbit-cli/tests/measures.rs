//! `lowbit perplexity`, `lowbit bench --model`, and what commands say of the inputs of linear layers.

use crate::cli::{Scratch, command, fine, gpu, refused, stderr};
use crate::embed::npy;
use crate::tiny_language::{characters, tiny};
use serde_json::Value;
use std::fs;

/// A text of 50 tokens.
const TEXT: &str = "It is a truth universally acknowledged, that a man";

fn number(json: &Value, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("{key} is no number: {json}"))
}

/// The exponential of the mean of −ln p of each token of windows but the first.
fn perplexity(logits: &[Vec<f32>], ids: &[usize], window: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for (at, row) in logits.iter().enumerate().filter(|(at, _)| at % window != window - 1) {
        let exp: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum += exp.ln() - f64::from(row[ids[at + 1]]);
        count += 1;
    }
    (sum / f64::from(count)).exp()
}

#[test]
fn perplexities_are_those_of_the_logits() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let [text, json, npy_file] = ["text", "json", "logits.npy"].map(|name| scratch.text(name));
    fs::write(&text, TEXT).unwrap();
    let args = ["perplexity", &model, "--text", &text, "--window", "16", "--json", &json];
    let measured = |more: &[&str]| {
        let printed = fine(&[&args[..], more].concat());
        let json = scratch.json("json");
        let perplexity = format!("{:.4}", number(&json, "perplexity"));
        assert!(printed.contains(&perplexity), "{printed}");
        json
    };
    let two = measured(&["--windows", "2", "--logits", &npy_file]);
    assert_eq!((&two["windows"], &two["tokens"]), (&2.into(), &30.into()));
    for (key, value) in [("weights", "as stored"), ("activations", "f32"), ("kv", "f32")] {
        assert_eq!(two[key], value);
    }
    assert!(!two["adapter"].as_str().unwrap().is_empty());
    let logits = npy(&scratch.path("logits.npy"));
    assert_eq!((logits.len(), logits[0].len()), (32, 96));
    let all = characters();
    let ids: Vec<usize> =
        TEXT.chars().map(|c| all.iter().position(|known| *known == c).unwrap()).collect();
    let (have, want) = (number(&two, "perplexity"), perplexity(&logits, &ids, 16));
    assert!((have / want - 1.0).abs() < 1e-6 && want > 1.0, "{have} {want}");
    // Three whole windows are in the text, and one of another length is another measurement.
    let three = measured(&[]);
    assert_eq!((&three["windows"], &three["tokens"]), (&3.into(), &45.into()));
    assert_ne!(number(&three, "perplexity"), have);
    // Roundings of keys, values, activations and weights show, and cost little.
    let mut seen = vec![have];
    for (more, key, value) in [
        (&["--kv", "f16"][..], "kv", "f16"),
        (&["--kv", "int8"], "kv", "int8"),
        (&["--kv", "int4"], "kv", "int4"),
        (&["--activations", "f16"], "activations", "f16"),
        (&["--format", "int4-g64"], "weights", "int4-g64"),
        (&["--format", "int8-channel", "--activations", "int8"], "activations", "int8-g32"),
    ] {
        let json = measured(&[&["--windows", "2"], more].concat());
        assert_eq!(json[key], value, "{more:?}");
        let perplexity = number(&json, "perplexity");
        assert!((perplexity / have - 1.0).abs() < 0.5, "{more:?}: {perplexity}, {have} in f32");
        assert!(!seen.contains(&perplexity), "{more:?}: {perplexity} of {seen:?}");
        seen.push(perplexity);
    }
    let said = refused(&[&args[..], &["--windows", "4"]].concat());
    assert!(said.contains("hint: a smaller --window"), "{said}");
    let said = refused(&["perplexity", &model, "--text", &text, "--window", "1"]);
    assert!(said.contains("--window"), "{said}");
}

#[test]
fn a_model_is_measured() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let args = ["bench", "--model", &model, "-p", "8", "-n", "5", "--json", &json];
    let wide = ["--format", "int8-channel", "--activations", "int8-token", "--kv", "f16"];
    let printed = fine(&[&args[..], &wide].concat());
    assert!(printed.contains("dispatches and 1 submissions a token"), "{printed}");
    let json = scratch.json("json");
    assert_eq!((&json["prompt_tokens"], &json["decode_tokens"]), (&8.into(), &5.into()));
    for (key, value) in [("weights", "int8-channel"), ("activations", "int8-token"), ("kv", "f16")]
    {
        assert_eq!(json[key], value);
    }
    assert_eq!(json["linear_layers"], serde_json::json!({ "int8_inputs": 14, "float_inputs": 1 }));
    for key in ["prompt_tokens_per_s", "decode_tokens_per_s", "p50_ms", "share_of_read_rate"] {
        assert!(number(&json, key) > 0.0, "{key}: {json}");
    }
    assert!(number(&json, "p95_ms") >= number(&json, "p50_ms"));
    // Rates and latencies are of the same steps.
    let mean = 1e3 / number(&json, "decode_tokens_per_s");
    assert!(mean <= 4.0 * number(&json, "p95_ms"), "{json}");
    assert_eq!(number(&json, "submissions_per_token"), 1.0);
    let kinds = json["kinds"].as_array().unwrap();
    let sum: u64 = kinds.iter().map(|kind| kind["dispatches"].as_u64().unwrap()).sum();
    assert_eq!(json["dispatches_per_token"], sum);
    let matmul = kinds.iter().find(|kind| kind["name"] == "matmul").unwrap();
    // Two layers with four matrices each, and the head.
    assert_eq!(matmul["dispatches"], 9);
    // The weights of the layers take a byte each, the head's two, and the caches of 10 tokens two for each number.
    let layers = 2 * (32 * (64 + 32 + 32) + 64 * 32 + 3 * 32 * 64);
    let least = layers + 2 * 96 * 32 + 2 * 2 * 2 * 16 * 10 * 2;
    let bytes = number(&json, "bytes_per_token");
    // Drivers may round textures up.
    assert!(
        bytes >= f64::from(least) && bytes < number(&json, "device_bytes"),
        "{bytes} of {least}"
    );
    // Options of kernels and of models do not mix.
    let said = refused(&["bench", "--kv", "f16"]);
    assert!(said.contains("--model"), "{said}");
    let said = refused(&["bench", "--model", &model, "--shape", "1x8x8"]);
    assert!(said.contains("--shape"), "{said}");
    let said = refused(&["bench", "-p", "8"]);
    assert!(said.contains("--model"), "{said}");
    let said = refused(&["bench", "--beside", &model]);
    assert!(said.contains("--model"), "{said}");
}

/// Models that take turns: one that was cut reads fewer bytes a token.
#[test]
fn models_are_measured_beside_each_other() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, json) = (tiny(&scratch, "llama"), scratch.text("json"));
    let folder = scratch.text("cut");
    fs::create_dir(&folder).unwrap();
    let cut = format!("{folder}/model.safetensors");
    let keep = ["--keep-rows", "0.5", "--keep-heads", "2", "--format", "f16"];
    fine(&[&["compress", &model, "-o", &cut][..], &keep].concat());
    let args =
        ["bench", "--model", &model, "--beside", &cut, "-p", "8", "-n", "4", "--json", &json];
    let printed = fine(&args);
    assert!(printed.contains("The fastest of 5 turns"), "{printed}");
    let json = scratch.json("json");
    let rows = json["models"].as_array().unwrap();
    let [whole, cut] = &rows[..] else { panic!("{json}") };
    assert_eq!((number(whole, "token_speedup"), number(whole, "prompt_speedup")), (1.0, 1.0));
    for time in ["token", "prompt"] {
        let ms = |row: &Value| number(row, &format!("{time}_ms"));
        let speedup = number(cut, &format!("{time}_speedup"));
        assert!(ms(cut) > 0.0 && (speedup * ms(cut) / ms(whole) - 1.0).abs() < 1e-9, "{json}");
    }
    assert!(number(cut, "bytes_per_token") < number(whole, "bytes_per_token"), "{json}");
}

/// A file that was made of a GGUF file has no tokenizer, and takes that of the GGUF file.
#[test]
fn tokenizers_of_other_models_are_taken() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let [text, json, folder] = ["text", "json", "out"].map(|name| scratch.text(name));
    fs::write(&text, TEXT).unwrap();
    fs::create_dir(&folder).unwrap();
    let made = format!("{folder}/model.safetensors");
    fine(&["compress", &model, "-o", &made, "--format", "f32"]);
    fs::copy(format!("{model}/config.json"), format!("{folder}/config.json")).unwrap();
    let args = ["perplexity", &made, "--text", &text, "--window", "16", "--json", &json];
    let said = refused(&args);
    assert!(said.contains("tokenizer.json"), "{said}");
    fine(&[&args[..], &["--tokenizer", &model]].concat());
    let other = number(&scratch.json("json"), "perplexity");
    fine(&["perplexity", &model, "--text", &text, "--window", "16", "--json", &json]);
    let own = number(&scratch.json("json"), "perplexity");
    assert!((own / other - 1.0).abs() < 1e-5, "{own} {other}");
}

/// Linear layers that take no int8 inputs are counted and named: on stderr once, and in the JSON.
#[test]
fn inputs_that_stay_floats_are_counted() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let [text, line] = ["text", "line"].map(|name| scratch.text(name));
    fs::write(&text, TEXT).unwrap();
    fs::write(&line, "A line\n").unwrap();
    for name in ["llama", "qwen3-moe", "bert"] {
        tiny(&scratch, name);
    }
    // Llama: seven layers in each of two blocks, and the head. The mixture: queries, keys, values and output of one block,
    // its router, three layers of each of five experts, and the head. BERT: six layers in each of two blocks.
    let wide = ["--format", "int8-channel", "--activations", "int8-token"];
    for (model, options, int8, floats, reasons) in [
        ("llama", &[][..], 0, 15, &[][..]),
        ("llama", &["--activations", "f16"], 0, 15, &[]),
        ("llama", &["--activations", "int8"], 0, 15, &["f16 weights take no int8-g32 inputs"]),
        ("llama", &wide, 14, 1, &["f16 weights take no int8-token inputs"]),
        (
            "qwen3-moe",
            &wide,
            4,
            1 + 3 * 5 + 1,
            &["experts take floats", "f16 weights take no int8-token inputs"],
        ),
        ("bert", &wide, 12, 0, &[]),
    ] {
        let (path, json, out) = (scratch.text(model), scratch.text("json"), scratch.text("out"));
        let args = if model == "bert" {
            vec!["embed", &path, "--text", &line, "-o", &out, "--json", &json]
        } else {
            vec!["generate", &path, "--prompt", "ab", "--max-tokens", "1", "--json", &json]
        };
        let output = command(&[&args[..], options].concat()).output().unwrap();
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        let have = &scratch.json("json")["linear_layers"];
        let want = serde_json::json!({ "int8_inputs": int8, "float_inputs": floats });
        assert_eq!(*have, want, "{model} {options:?}");
        let warnings: Vec<&str> = said.lines().filter(|l| l.starts_with("warning: ")).collect();
        if reasons.is_empty() {
            assert!(warnings.is_empty(), "{model} {options:?}: {said}");
            continue;
        }
        let all = int8 + floats;
        let start = format!("warning: the inputs of {floats} of {all} linear layers stay f32: ");
        let [warning] = warnings[..] else { panic!("{model} {options:?}: {said}") };
        assert!(warning.starts_with(&start), "{warning}");
        assert!(reasons.iter().all(|reason| warning.contains(reason)), "{warning}");
    }
    // `perplexity` has the field as well, and the test above sees that of `bench`.
    let (model, json) = (scratch.text("llama"), scratch.text("json"));
    let args = ["perplexity", &model, "--text", &text, "--window", "16", "--windows", "1"];
    fine(&[&args[..], &["--json", &json], &wide].concat());
    let want = serde_json::json!({ "int8_inputs": 14, "float_inputs": 1 });
    assert_eq!(scratch.json("json")["linear_layers"], want);
}
