//! A BERT encoder of one layer, written to a folder: channels of very different sizes, as trained
//! ones have them.

use lowbit_models::checkpoint::{Content, Dtype, write_model};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Name, shape and values.
pub type Named = (String, Vec<usize>, Vec<f32>);

pub const HIDDEN: usize = 32;
pub const FFN: usize = 64;

const WORDS: [&str; 10] = ["[UNK]", "a", "the", "cat", "dog", "sits", "runs", "on", "under", "mat"];

/// Sentences of those words.
pub const TEXT: [&str; 5] = [
    "the cat sits on the mat",
    "a dog runs",
    "under the mat a cat",
    "the dog sits under a cat on the mat",
    "cat",
];

pub fn tensors() -> Vec<Named> {
    let mut state = 1u32;
    let mut noise = move |count: usize, size: f32| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| size * next()).collect()
    };
    let mut tensors = Vec::new();
    let embeddings = [("word", WORDS.len()), ("position", 16), ("token_type", 2)];
    for (kind, rows) in embeddings {
        let values = noise(rows * HIDDEN, 1.0);
        tensors.push((format!("embeddings.{kind}_embeddings.weight"), vec![rows, HIDDEN], values));
    }
    let layer = "encoder.layer.0";
    let norms = ["attention.output.LayerNorm", "output.LayerNorm"].map(|n| format!("{layer}.{n}"));
    for name in norms.into_iter().chain(["embeddings.LayerNorm".to_owned()]) {
        let large = |i: usize| if i % 11 == 4 { 40.0 } else { 1.0 };
        let scale = noise(HIDDEN, 0.5);
        let scale = scale.iter().enumerate().map(|(i, x)| (x + 1.0) * large(i)).collect();
        tensors.push((format!("{name}.weight"), vec![HIDDEN], scale));
        tensors.push((format!("{name}.bias"), vec![HIDDEN], noise(HIDDEN, 0.5)));
    }
    for (part, n, k) in [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", FFN, HIDDEN),
        ("output.dense", HIDDEN, FFN),
    ] {
        let large = |i: usize| if part.ends_with("value") && i / k == 7 { 30.0 } else { 1.0 };
        let weights = noise(n * k, 0.05).iter().enumerate().map(|(i, w)| w * large(i)).collect();
        tensors.push((format!("{layer}.{part}.weight"), vec![n, k], weights));
        tensors.push((format!("{layer}.{part}.bias"), vec![n], noise(n, 0.1)));
    }
    tensors
}

/// Writes config.json, tokenizer.json and model.safetensors.
pub fn write(folder: &Path, tensors: &[Named]) {
    let config = serde_json::json!({
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN, "num_attention_heads": 2,
        "intermediate_size": FFN, "num_hidden_layers": 1, "max_position_embeddings": 16,
        "vocab_size": WORDS.len(), "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    });
    let vocabulary: BTreeMap<_, _> = WORDS.iter().zip(0..).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let contents: Vec<_> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| {
            (name.as_str(), Content::Plain { dtype: Dtype::F32, shape, bytes })
        })
        .collect();
    write_model(folder.join("model.safetensors"), &contents, &BTreeMap::new()).unwrap();
}
