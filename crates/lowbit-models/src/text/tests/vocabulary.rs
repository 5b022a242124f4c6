use super::*;
use std::collections::BTreeMap;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// A file of byte-level BPE with the letters of some bytes.
fn file(tokens: &[&str], merges: &[&str]) -> Builder {
    Builder::new()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings(TOKENS, tokens.iter().copied())
        .strings(MERGES, merges.iter().copied())
}

fn refuse(builder: &Builder, want: &str) {
    let error = builder.tokenizer().unwrap_err();
    assert!(error.to_string().contains(want), "{error}");
    assert!(!error.next_step().is_empty());
}

#[test]
fn files_that_lie_are_refused_by_name() {
    let tokens = ["a", "b", "ab", "Ġ", "<end>"];
    let good = file(&tokens, &["a b"]);
    assert_eq!(good.tokenizer().unwrap().encode("ab a", true).unwrap(), [2, 3, 0]);

    refuse(&file(&["a", "b", "a"], &[]), "tokens 0 and 2 are both `a`");
    refuse(&file(&["a", ""], &[]), "token 1 is an empty text");
    refuse(&file(&[], &[]), "the vocabulary is empty");
    refuse(&file(&tokens, &["a b", "a c"]), "merge 1 (`a c`) names `c`");
    refuse(&file(&tokens, &["b a"]), "merge 0 (`b a`) names `ba`");
    refuse(&file(&tokens, &["ab"]), "merge 0 is `ab`");
    refuse(&file(&tokens, &["a b "]), "merge 0 is `a b `");
    refuse(&file(&tokens, &["a b", "a b"]), "merges 0 and 1 are both `a b`");
    let kinds = |kinds: &[i32]| good.clone().integers("tokenizer.ggml.token_type", kinds);
    refuse(&kinds(&[1, 1]), "`tokenizer.ggml.token_type` has 2 elements");
    refuse(&kinds(&[1, 1, 1, 7, 3]), "token 3 (`Ġ`) has the type 7");
    let id = |id: u32| good.clone().number("tokenizer.ggml.eos_token_id", id);
    refuse(&id(5), "`tokenizer.ggml.eos_token_id` is 5, and the vocabulary has 5 tokens");
    assert_eq!(id(4).tokenizer().unwrap().ends(), [4]);
    let adds = good.clone().flag("tokenizer.ggml.add_bos_token", true);
    refuse(&adds, "`tokenizer.ggml.bos_token_id`");
    refuse(&good.clone().string("tokenizer.ggml.add_eos_token", "yes"), "true or false");

    let other = |key: &str, value: &str| {
        let all = ["model", "pre"].map(|name| format!("tokenizer.ggml.{name}"));
        let mut builder = Builder::new().strings(TOKENS, tokens).strings(MERGES, []);
        for (name, usual) in all.iter().zip(["gpt2", "gpt-2"]) {
            builder = builder.string(name, if name == key { value } else { usual });
        }
        builder
    };
    refuse(&other("tokenizer.ggml.model", "rwkv"), "`rwkv`");
    refuse(&other("tokenizer.ggml.pre", "tekken"), "`tekken`");
    let none = Builder::new().string("tokenizer.ggml.model", "gpt2");
    refuse(&none, "no `tokenizer.ggml.tokens`");
    refuse(&none.clone().strings(TOKENS, tokens), "no `tokenizer.ggml.pre`");
    let pre = none.clone().string("tokenizer.ggml.pre", "gpt-2");
    refuse(&pre.clone().strings(TOKENS, tokens), "no `tokenizer.ggml.merges`");
    refuse(&pre.clone().integers(TOKENS, &[1]), "an array of type i32");
    refuse(&pre.number(TOKENS, 1), "a value of type u32");
    refuse(&Builder::new(), "no `tokenizer.ggml.model`");
    assert!(matches!(
        good.tokenizer().unwrap().decode(&[5], true),
        Err(TextError::UnknownId { id: 5, tokens: 5 })
    ));
}

#[test]
fn special_tokens_are_added_and_matched() {
    let tokens = ["a", "b", "ab", "Ġ", "<s>", "</s>", "<x y>"];
    let builder = file(&tokens, &["a b"])
        .integers("tokenizer.ggml.token_type", &[1, 1, 1, 1, 3, 3, 4])
        .number("tokenizer.ggml.bos_token_id", 4)
        .number("tokenizer.ggml.eos_token_id", 5)
        .number("tokenizer.ggml.eot_token_id", 6)
        .flag("tokenizer.ggml.add_bos_token", true)
        .flag("tokenizer.ggml.add_eos_token", true);
    let tokenizer = builder.tokenizer().unwrap();
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.ends(), [5, 6]);
    assert_eq!(tokenizer.encode("a", true).unwrap(), [4, 0, 5]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [4, 5]);
    let ids = tokenizer.encode("a<x y>b</s> a", false).unwrap();
    assert_eq!(ids, [0, 6, 1, 5, 3, 0]);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a<x y>b a");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a<x y>b</s> a");
}

fn blueprint(vocab: usize) -> Blueprint {
    use crate::architecture::{Embedding, Matrix};
    let tokens = Matrix { tensor: "t".into(), rows: None, transposed: false };
    let embedding = Embedding {
        tokens,
        scale: 1.0,
        positions: None,
        types: None,
        norm: None,
        projection: None,
    };
    Blueprint {
        family: "llama",
        hidden: 8,
        vocab,
        context: 8,
        embedding,
        layers: Vec::new(),
        final_norm: None,
        head: None,
    }
}

#[test]
fn the_wrong_tokenizer_is_an_error() {
    let tokenizer = file(&["a", "b", "ab"], &["a b"]).tokenizer().unwrap();
    assert!(tokenizer.check(&blueprint(3)).is_ok());
    let error = tokenizer.check(&blueprint(2)).unwrap_err();
    assert!(
        error.to_string().contains("3 tokens, the last `ab`, and the model has embeddings for 2")
    );
    assert!(matches!(
        tokenizer.check(&blueprint(4)),
        Err(TextError::TooFewTokens { tokens: 3, rows: 4 })
    ));
}

/// A `tokenizer.json` says nothing of padding: a table of a size that suits devices may have some.
#[test]
fn few_tokens_are_too_few_where_no_table_is_padded() {
    let open = |words: &[String]| {
        let vocabulary: BTreeMap<_, _> = words.iter().zip(0..).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::open(folder.path()).unwrap()
    };
    let mut words: Vec<String> = (0..60).map(|at| format!("w{at}")).collect();
    let tokenizer = open(&words);
    for (rows, fits) in [(59, false), (60, true), (61, false), (63, false), (64, true), (72, false)]
    {
        assert_eq!(tokenizer.check(&blueprint(rows)).is_ok(), fits, "{rows}");
    }
    // The text models of Gemma 3 have no embedding for images.
    words.push("<image_soft_token>".into());
    let tokenizer = open(&words);
    let gemma = Blueprint { family: "gemma3", ..blueprint(60) };
    assert!(tokenizer.check(&gemma).is_ok());
    assert!(tokenizer.check(&blueprint(60)).is_err());
    assert!(tokenizer.check(&Blueprint { family: "gemma3", ..blueprint(59) }).is_err());
}
