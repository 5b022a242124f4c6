//! Tokenizers on small vocabularies that are built here, and on the models in data/.

mod chat;
mod json;
mod sentence_piece;
mod vocabulary;

use super::*;
use crate::checkpoint::gguf::tests::{Builder, text};
use serde::Deserialize;
use std::io::Write;

/// The tokens that a program of others gives a text.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

/// What `scripts/text/write.py` wrote for a model.
#[derive(Deserialize)]
struct Expected {
    tokens_of_novel: usize,
    cases: Vec<Case>,
}

impl Builder {
    fn strings<'a>(self, key: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let values: Vec<Vec<u8>> = values.into_iter().map(text).collect();
        self.array(key, 8, &values)
    }

    fn integers(self, key: &str, values: &[i32]) -> Self {
        let values: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.array(key, 5, &values)
    }

    fn floats(self, key: &str, values: &[f32]) -> Self {
        let values: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.array(key, 6, &values)
    }

    fn array(self, key: &str, kind: u32, values: &[Vec<u8>]) -> Self {
        let head = [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.entry(key, 9, &[head, values.concat()].concat())
    }

    fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    fn flag(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, &[value.into()])
    }

    fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        Tokenizer::from_gguf(&GgufFile::from_bytes(self.build()).unwrap())
    }
}

/// Opens a model of data/, or says why not. The larger one may be missing anywhere.
fn model(name: &str) -> Option<Tokenizer> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data")).join(name);
    if folder.is_dir() {
        return Some(Tokenizer::open(folder).unwrap());
    }
    let required = std::env::var_os("LOWBIT_REQUIRE_MODEL").is_some_and(|value| value == "1");
    let (target, required) =
        if name == "qwen2.5-coder" { ("language-models", false) } else { ("model", required) };
    assert!(
        !required,
        "data/{name} is missing, and LOWBIT_REQUIRE_MODEL is set: run `make {target}`"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Unlike `eprintln!` this reaches the log even if the test passes.
    let line = format!("SKIPPED: {test}: data/{name} holds no model: run `make {target}`");
    let _ = writeln!(std::io::stderr(), "{line}");
    None
}

fn compare(tokenizer: &Tokenizer, cases: &[Case]) {
    assert!(cases.len() > 30);
    for Case { text, ids } in cases {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, true).unwrap(), text);
        let mut stream = TextStream::new(true);
        let mut written = String::new();
        for &id in ids {
            written += &stream.push(tokenizer, id).unwrap();
        }
        written += &stream.finish();
        assert_eq!(&written, text);
    }
}

fn compare_with_others(name: &str, expected: &str) {
    let expected: Expected = serde_json::from_str(expected).unwrap();
    let Some(tokenizer) = model(name) else { return };
    compare(&tokenizer, &expected.cases);
    let novel = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/pride/pride.txt"));
    if let Ok(novel) = std::fs::read_to_string(novel) {
        let ids = tokenizer.encode(&novel, false).unwrap();
        assert_eq!(ids.len(), expected.tokens_of_novel);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), novel);
    }
}

#[test]
fn smollm2_has_the_tokens_of_transformers() {
    compare_with_others("smollm2", include_str!("../../tests/text/smollm2.json"));
    let Some(tokenizer) = model("smollm2") else { return };
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.ends(), [2, 0]);
    assert!(!tokenizer.adds_bos());
    assert_eq!(tokenizer.encode("", true).unwrap(), [0; 0]);
    // This vocabulary has no token for some bytes.
    let error = tokenizer.encode("ab\u{4}", true).unwrap_err();
    assert!(matches!(error, TextError::NoToken { byte: 4, at: 2 }), "{error}");
}

#[test]
fn qwen_has_the_tokens_of_transformers() {
    compare_with_others("qwen2.5-coder", include_str!("../../tests/text/qwen2.5-coder.json"));
    let Some(tokenizer) = model("qwen2.5-coder") else { return };
    assert_eq!(tokenizer.vocab_size(), 151936);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(151643), Some(151645)));
    assert_eq!(tokenizer.ends(), [151645, 151643]);
    // A token of the user is text, and a special one is not.
    let ids = tokenizer.encode("<tool_call><|im_end|>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<tool_call>");
}

/// What llama.cpp makes of the ways to split text, with the vocabulary of SmolLM2.
#[derive(Deserialize)]
struct Splits {
    splits: Vec<(String, Vec<Vec<u32>>)>,
}

#[test]
fn text_is_split_as_by_llama_cpp() {
    let texts: Expected =
        serde_json::from_str(include_str!("../../tests/text/smollm2.json")).unwrap();
    let splits: Splits =
        serde_json::from_str(include_str!("../../tests/text/splits.json")).unwrap();
    assert_eq!(splits.splits.len(), 5);
    if model("smollm2").is_none() {
        return;
    }
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/smollm2"));
    let crate::checkpoint::source::Model::Gguf(file) =
        crate::checkpoint::source::open(folder).unwrap()
    else {
        panic!("{} is no GGUF file", folder.display());
    };
    let strings = |key| file.strings(key).unwrap().unwrap();
    let (tokens, merges) = (strings("tokenizer.ggml.tokens"), strings("tokenizer.ggml.merges"));
    let kinds = file.integers("tokenizer.ggml.token_type").unwrap().unwrap();
    let kinds: Vec<i32> = kinds.iter().map(|&kind| i32::try_from(kind).unwrap()).collect();
    for (pre, all) in &splits.splits {
        let builder = Builder::new()
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", pre)
            .number("tokenizer.ggml.bos_token_id", 1)
            .strings("tokenizer.ggml.tokens", tokens.iter().map(String::as_str))
            .strings("tokenizer.ggml.merges", merges.iter().map(String::as_str))
            .integers("tokenizer.ggml.token_type", &kinds);
        let tokenizer = builder.tokenizer().unwrap();
        assert_eq!(tokenizer.adds_bos(), pre == "llama-bpe");
        assert_eq!(all.len(), texts.cases.len());
        for (Case { text, .. }, ids) in texts.cases.iter().zip(all) {
            assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{pre}: {text:?}");
        }
    }
}
