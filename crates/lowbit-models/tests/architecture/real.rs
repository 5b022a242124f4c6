//! Models that people use, if `scripts/fetch-model.sh` has fetched them.

use crate::common::data;
use crate::sentences::{cosine, sentences};
use lowbit_models::architecture::{self, Blueprint, Pairs, Rotary, RotaryScaling, reference};
use lowbit_models::checkpoint::source::{self, Model};
use std::path::PathBuf;
use tokenizers::Tokenizer;

/// Opens a model of `data/`, if it is there.
fn open(path: PathBuf) -> (Model, Blueprint) {
    let model = source::open(path).unwrap();
    let blueprint = architecture::read(&model).unwrap();
    (model, blueprint)
}

#[test]
fn smollm2_is_a_llama() {
    let Some(file) = data("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model") else { return };
    let (_, blueprint) = open(file);
    let Blueprint { family, hidden, vocab, context, ref layers, .. } = blueprint;
    assert_eq!((family, hidden, vocab, context, layers.len()), ("llama", 576, 49152, 8192, 30));
    let scaling = RotaryScaling::None;
    let rotary = Rotary { dim: 64, pairs: Pairs::Adjacent, base: 1e5, scaling };
    for layer in layers {
        let attention = &layer.attention;
        assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (9, 3, 64));
        assert_eq!(attention.rotary.as_ref(), Some(&rotary));
    }
    let head = blueprint.head.unwrap();
    assert_eq!(head.linear.matrix, blueprint.embedding.tokens);
}

#[test]
fn qwen_coder_is_a_qwen2() {
    let file = "qwen2.5-coder/Qwen2.5-Coder-0.5B-Instruct.gguf";
    let Some(file) = data(file, "language-models") else { return };
    let (_, blueprint) = open(file);
    assert_eq!((blueprint.family, blueprint.hidden, blueprint.layers.len()), ("qwen2", 896, 24));
    let scaling = RotaryScaling::None;
    let rotary = Rotary { dim: 64, pairs: Pairs::Split, base: 1e6, scaling };
    for layer in &blueprint.layers {
        let attention = &layer.attention;
        assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (14, 2, 64));
        assert_eq!(attention.rotary.as_ref(), Some(&rotary));
        assert!(attention.query.bias.is_some() && attention.output.bias.is_none());
    }
}

/// The means of the last residuals are the embeddings that an independent program gives.
#[test]
fn minilm_gives_the_reference() {
    let Some(file) = data("minilm/model.safetensors", "model") else { return };
    let mut tokenizer = Tokenizer::from_file(file.with_file_name("tokenizer.json")).unwrap();
    let (model, blueprint) = open(file);
    tokenizer.with_padding(None);
    for sentence in sentences().unwrap().iter().step_by(3) {
        let tokens = tokenizer.encode(sentence.text.as_str(), true).unwrap();
        let tokens = tokens.get_ids();
        let seen = vec![true; tokens.len()];
        let hidden = reference::hidden(&model, &blueprint, tokens, &seen).unwrap();
        let mut sum = vec![0.0; blueprint.hidden];
        for row in hidden.chunks(blueprint.hidden) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let mean: Vec<f32> = sum.into_iter().map(|x| x as f32).collect();
        let cosine = cosine(&mean, &sentence.embedding);
        // The reference has seven digits of each number.
        assert!(cosine >= 0.999_999, "{}: {cosine}", sentence.text);
    }
}
