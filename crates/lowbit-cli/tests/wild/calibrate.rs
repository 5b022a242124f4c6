//! Which models `calibrate` takes for BERT, and which not.

use crate::cli::{Scratch, fine, gpu, lowbit, refused, stderr};
use crate::tiny_bert::{self, Named, TEXT};
use half::{bf16, f16};
use lowbit::format::Quantization;
use lowbit_models::checkpoint::{Content, Dtype, LayerRanges, ModelFile, Ranges, write_model};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// Writes the tensors of a model anew, in an element type and under other names.
fn rewrite(scratch: &Scratch, tensors: &[Named], dtype: Dtype, name: impl Fn(&str) -> String) {
    let bytes = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|&value| match dtype {
                Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
                Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            })
            .collect()
    };
    let named: Vec<_> =
        tensors.iter().map(|(n, shape, values)| (name(n), shape, bytes(values))).collect();
    let contents: Vec<_> = named
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), Content::Plain { dtype, shape, bytes }))
        .collect();
    write_model(scratch.path("model/model.safetensors"), &contents, &BTreeMap::new()).unwrap();
}

/// Changes fields of the model's `config.json`; null removes one.
fn configure(scratch: &Scratch, changes: &[(&str, Value)]) {
    let path = scratch.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value) in changes {
        config[field] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

/// Writes the tiny model and its text; returns the arguments of a calibration.
fn model(scratch: &Scratch) -> [String; 6] {
    tiny_bert::write(&scratch.path("model"), &tiny_bert::tensors());
    fs::write(scratch.path("text"), TEXT.join("\n")).unwrap();
    let words = ["calibrate", "model", "--text", "text", "-o", "ranges"];
    words.map(|word| match word {
        "model" | "text" | "ranges" => scratch.text(word),
        other => other.to_owned(),
    })
}

fn ranges(scratch: &Scratch, args: &[String]) -> Ranges {
    fine(&args.iter().map(String::as_str).collect::<Vec<_>>());
    Ranges::read(scratch.path("ranges")).unwrap()
}

/// A prefix, the names of TensorFlow, and elements of 16 bits are read, and give the ranges of the same
/// network, under the names of the file.
#[test]
fn bert_as_people_store_it() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let args = model(&scratch);
    let tensors = tiny_bert::tensors();
    let plain = ranges(&scratch, &args);
    // The statistics under the names without the prefix.
    let layers = |ranges: &Ranges, prefix: &str| {
        let bare = |(name, layer): (&String, &LayerRanges)| {
            let LayerRanges::Statistics(seen) = layer else { panic!("{name}") };
            seen.for_layer(name.strip_prefix(prefix).unwrap())
        };
        ranges.layers.iter().map(bare).collect::<Vec<_>>()
    };
    plain.write(scratch.path("plain")).unwrap();
    let norms = |name: &str| match name.rsplit_once("LayerNorm.") {
        Some((module, "weight")) => format!("{module}LayerNorm.gamma"),
        Some((module, _)) => format!("{module}LayerNorm.beta"),
        None => name.to_owned(),
    };
    let [file, out] = ["model/model.safetensors", "out"].map(|n| scratch.text(n));
    for prefix in ["", "bert.", "0.auto_model."] {
        rewrite(&scratch, &tensors, Dtype::F32, |name| format!("{prefix}{}", norms(name)));
        let found = ranges(&scratch, &args);
        assert_eq!(layers(&found, prefix), layers(&plain, ""), "`{prefix}`");
        // The ranges are found for the names of the file, those without a prefix too.
        for known in ["ranges", "plain"] {
            let fixed = format!("int8:static={}", scratch.text(known));
            let compress =
                ["compress", &file, "-o", &out, "--scheme", "int8", "--host", "--activations"];
            fine(&[&compress[..], &[&fixed]].concat());
            let model = ModelFile::open(&out).unwrap();
            let query = format!("{prefix}encoder.layer.0.attention.self.query.weight");
            assert_eq!(model.compressed().len(), 6);
            assert!(model.activations(&query).unwrap().is_some());
        }
    }
    for dtype in [Dtype::F16, Dtype::BF16] {
        // The network of the rounded weights, once in 16 bits and once in 32.
        let round = |value: &f32| match dtype {
            Dtype::F16 => f16::from_f32(*value).to_f32(),
            _ => bf16::from_f32(*value).to_f32(),
        };
        let rounded: Vec<Named> = tensors
            .iter()
            .map(|(name, shape, values)| {
                (name.clone(), shape.clone(), values.iter().map(round).collect())
            })
            .collect();
        rewrite(&scratch, &rounded, Dtype::F32, str::to_owned);
        let want = layers(&ranges(&scratch, &args), "");
        rewrite(&scratch, &rounded, dtype, str::to_owned);
        assert_eq!(layers(&ranges(&scratch, &args), ""), want, "{dtype}");
        assert_ne!(want, layers(&plain, ""));
    }
}

/// Models whose tensors have the names of BERT's, and that compute something else, are refused by name.
#[test]
fn no_model_is_taken_for_another() {
    let scratch = Scratch::new();
    let args = model(&scratch);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let says = |parts: &[&str]| {
        let message = refused(&args);
        for part in parts {
            assert!(message.contains(part), "no `{part}` in {message}");
        }
        assert!(!scratch.path("ranges").exists());
    };
    let text = |text: &str| Value::String(text.to_owned());
    for (other, what) in [
        ("albert", "`albert` is an unknown architecture"),
        ("mpnet", "there is no tensor `encoder.relative_attention_bias.weight`"),
        ("distilbert", "the configuration has no `dim`"),
        ("electra", "there is no tensor `embeddings_project.weight`"),
        ("llama", "the configuration has no `rms_norm_eps`"),
    ] {
        configure(&scratch, &[("model_type", text(other))]);
        says(&["cannot read the model in", what]);
    }
    configure(&scratch, &[("model_type", Value::Null)]);
    says(&["the configuration does not name the architecture (`model_type`)"]);
    configure(&scratch, &[("model_type", text("bert"))]);
    for positions in ["relative_key", "relative_key_query"] {
        configure(&scratch, &[("position_embedding_type", text(positions))]);
        says(&[&format!("`position_embedding_type` is `{positions}`, and only `absolute`")]);
    }
    configure(&scratch, &[("position_embedding_type", text("absolute"))]);
    configure(&scratch, &[("hidden_act", text("mish"))]);
    says(&["`hidden_act` is `mish`, and only one of"]);
    configure(&scratch, &[("hidden_act", text("gelu")), ("is_decoder", Value::Bool(true))]);
    says(&["`is_decoder` is true"]);
    configure(&scratch, &[("is_decoder", Value::Bool(false))]);
    // A table with fewer rows than the tokenizer has ids.
    let mut tensors = tiny_bert::tensors();
    let words = tensors.iter_mut().find(|t| t.0.contains("word_embeddings")).unwrap();
    words.1[0] = 6;
    words.2.truncate(6 * tiny_bert::HIDDEN);
    configure(&scratch, &[("vocab_size", 6.into())]);
    rewrite(&scratch, &tensors, Dtype::F32, str::to_owned);
    says(&[
        "the tokenizer has 10 tokens, the last `mat`",
        "embeddings for 6",
        "hint: take the tokenizer.json",
    ]);
    configure(&scratch, &[("vocab_size", 10.into())]);
    let both = |name: &str| {
        let other = "other.embeddings.token_type_embeddings.weight";
        if name.contains("token_type") { other.to_owned() } else { name.to_owned() }
    };
    rewrite(&scratch, &tiny_bert::tensors(), Dtype::F32, both);
    says(&["there is no tensor `embeddings.token_type_embeddings.weight`"]);
}

/// RoBERTa has the names of BERT's tensors, and its first position is another row: its ranges are its own.
#[test]
fn roberta_is_not_bert() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let args = model(&scratch);
    let bert = ranges(&scratch, &args);
    for how in [
        ("model_type", serde_json::json!("roberta")),
        ("architectures", serde_json::json!(["RobertaModel"])),
    ] {
        configure(&scratch, &[("model_type", Value::Null), ("pad_token_id", 1.into()), how]);
        let roberta = ranges(&scratch, &args);
        assert!(roberta.layers.keys().eq(bert.layers.keys()));
        assert!(roberta.layers.iter().all(|(name, layer)| bert.layers[name] != *layer));
    }
}

/// Language models are calibrated too, from folders, and their files are compressed with the ranges: those of a
/// mixture of experts, and of a model whose queries, keys and values share their input.
#[test]
fn language_models() {
    if !gpu() {
        return;
    }
    const MODELS: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../lowbit-models/tests/fixtures/models");
    for (name, layers, shared) in [
        ("llama", "self_attn.q_proj", "self_attn.v_proj"),
        ("qwen3-moe", "mlp.experts.1.gate_proj", "mlp.experts.2.up_proj"),
        ("gemma3", "mlp.gate_proj", "mlp.up_proj"),
    ] {
        let scratch = Scratch::new();
        let mut args = model(&scratch);
        for file in ["config.json", "model.safetensors"] {
            let from = std::path::Path::new(MODELS).join(name).join(file);
            fs::copy(from, scratch.path("model").join(file)).unwrap();
        }
        let config: Value =
            serde_json::from_slice(&fs::read(scratch.path("model/config.json")).unwrap()).unwrap();
        let count = config["vocab_size"].as_u64().unwrap();
        let path = scratch.path("model/tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        (words.len() as u64..count).for_each(|id| drop(words.insert(format!("w{id}"), id.into())));
        fs::write(&path, tokenizer.to_string()).unwrap();
        args[5] = scratch.text("ranges");
        let plain = ranges(&scratch, &args);
        let of = |part: &str| {
            let part = format!("layers.0.{part}.weight");
            let found = plain.layers.iter().find(|(name, _)| name.ends_with(&part));
            let Some((name, LayerRanges::Statistics(seen))) = found else { panic!("{part}") };
            (name.clone(), seen.for_layer(""))
        };
        assert_eq!(of(layers).1, of(shared).1, "{name}");
        assert_eq!(of(layers).1.batches(), TEXT.len() as u64);
        let [input, file, out] =
            ["model/model.safetensors", "ranges", "model/out.safetensors"].map(|n| scratch.text(n));
        let fixed = format!("int8:static={file}");
        let compress = ["compress", &input, "-o", &out, "--scheme", "int8", "--host"];
        // Not a head that is stored beside the embedding which takes its place.
        let layers_only = ["--tensors", "*_proj.weight", "--activations", &fixed];
        fine(&[&compress[..], &layers_only].concat());
        let file = ModelFile::open(&out).unwrap();
        let fixed = file.activations(&of(layers).0).unwrap().unwrap();
        assert!(matches!(fixed.quantization, Quantization::Static(_)));
        fs::rename(&out, &input).unwrap();
        let [model, text] = ["model", "text"].map(|name| scratch.text(name));
        fine(&["perplexity", &model, "--text", &text, "--window", "4", "--windows", "1"]);
    }
}

/// A line with more tokens than the encoder takes is cut, and that is said.
#[test]
fn long_lines_are_named() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let args = model(&scratch);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let quiet = lowbit(&args);
    assert!(quiet.status.success() && !stderr(&quiet).contains("is cut"), "{}", stderr(&quiet));
    let long = ["a cat", &"the dog ".repeat(20), "a mat", &"on ".repeat(17)].join("\n");
    fs::write(scratch.path("text"), long).unwrap();
    let output = lowbit(&args);
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("warning: line 2 of"), "{message}");
    assert!(
        message.contains("has 40 tokens and is cut after 16, and so is 1 other line"),
        "{message}"
    );
}
