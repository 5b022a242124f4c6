use super::*;
use serde_json::{Value, json};
use std::fs;

/// A tokenizer of bytes `a` and `b`, their pair, a space, and three added tokens.
fn byte_level() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [
            {"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": true},
            {"id": 5, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": true},
            {"id": 6, "content": "é", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": false}
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3},
                  "merges": [["a", "b"]]}
    })
}

#[test]
fn a_folder_has_a_tokenizer_and_says_what_its_tokens_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(matches!(Tokenizer::open(path), Err(TextError::NoTokenizer { .. })));
    let file = path.join("tokenizer.json");
    fs::write(&file, byte_level().to_string()).unwrap();
    let tokenizer = Tokenizer::open(path).unwrap();
    // The end of a turn is known by its name; nothing says which token is BOS.
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.ends()), (None, None, &[5][..]));
    assert_eq!(tokenizer.vocab_size(), 7);
    // The file's limit of two tokens does not hold.
    assert_eq!(tokenizer.encode("ab ab a", true).unwrap(), [4, 2, 3, 2, 3, 0]);
    assert_eq!(tokenizer.encode("éab<|im_end|>", false).unwrap(), [6, 2, 5]);
    // The letter é of an added token is itself, not the byte that it stands for in others.
    assert_eq!(tokenizer.decode(&[4, 6, 2, 5], false).unwrap(), "éab");
    assert_eq!(tokenizer.decode(&[4, 6, 2, 5], true).unwrap(), "<s>éab<|im_end|>");
    let mut stream = TextStream::new(false);
    assert_eq!(stream.push(&tokenizer, 6).unwrap(), "é");
    assert!(stream.push(&tokenizer, 7).is_err());

    let config = r#"{"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}"#;
    fs::write(path.join("tokenizer_config.json"), config).unwrap();
    fs::write(path.join("generation_config.json"), r#"{"eos_token_id": [3, 5]}"#).unwrap();
    fs::write(path.join("config.json"), r#"{"eos_token_id": 1}"#).unwrap();
    // A model file leads to its folder.
    fs::write(path.join("model.safetensors"), "").unwrap();
    let tokenizer = Tokenizer::open(path.join("model.safetensors")).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(4), Some(5)));
    assert_eq!(tokenizer.ends(), [5, 3, 1]);
    assert!(tokenizer.adds_bos());

    fs::write(path.join("config.json"), r#"{"eos_token_id": 99}"#).unwrap();
    let error = Tokenizer::open(&file).unwrap_err();
    assert!(error.to_string().contains("`eos_token_id` is 99"), "{error}");
    fs::write(path.join("config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    assert!(matches!(Tokenizer::open(&file), Err(TextError::BadValue { .. })));
    fs::write(path.join("tokenizer_config.json"), r#"{"bos_token": "<t>"}"#).unwrap();
    let error = Tokenizer::open(&file).unwrap_err();
    assert!(error.to_string().contains("`bos_token` is `<t>`"), "{error}");
    fs::write(path.join("tokenizer_config.json"), "[").unwrap();
    assert!(matches!(Tokenizer::open(&file), Err(TextError::Json { .. })));
    fs::write(&file, "{}").unwrap();
    assert!(Tokenizer::open(&file).is_err());
    assert!(matches!(Tokenizer::open(path.join("none.json")), Err(TextError::Read { .. })));
}

#[test]
fn decoders_that_need_all_tokens_do_not_stream() {
    let mut value = byte_level();
    value["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let tokenizer = Tokenizer::from_json(value.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.decode(&[0, 5, 1], false).unwrap(), "a b");
    assert!(matches!(tokenizer.decode(&[7], false), Err(TextError::UnknownId { id: 7, .. })));
    let error = TextStream::new(false).push(&tokenizer, 0).unwrap_err();
    assert!(error.to_string().contains("WordPiece"), "{error}");
}

#[test]
fn spaces_and_bytes_of_sentencepiece_are_written() {
    let mut value = byte_level();
    value["pre_tokenizer"] = Value::Null;
    value["model"]["vocab"] =
        json!({"a": 0, "b": 1, "ab": 2, "\u{2581}": 3, "<0xC3>": 4, "<0xA9>": 5});
    value["added_tokens"] = json!([]);
    value["post_processor"] = Value::Null;
    let replace = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let steps = [replace, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let text = |decoders: Vec<Value>| {
        let mut value = value.clone();
        value["decoder"] = json!({"type": "Sequence", "decoders": decoders});
        let tokenizer = Tokenizer::from_json(value.to_string().as_bytes()).unwrap();
        tokenizer.decode(&[3, 2, 3, 4, 5], false).unwrap()
    };
    assert_eq!(text(steps.to_vec()), " ab é");
    assert_eq!(text([&steps[..], &[strip]].concat()), "ab é");
    value["decoder"] = json!({"type": "Metaspace", "replacement": "\u{2581}",
        "prepend_scheme": "always", "split": true});
    let tokenizer = Tokenizer::from_json(value.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.decode(&[3, 2, 3, 0], false).unwrap(), "ab a");
}

#[test]
fn panics_of_the_library_are_errors() {
    let panics = |value: &Value| match Tokenizer::from_json(value.to_string().as_bytes()) {
        Err(error @ TextError::LibraryPanic { .. }) => assert!(!error.next_step().is_empty()),
        other => panic!("{other:?}"),
    };
    // A merge whose second token is shorter than the prefix that it should have.
    let mut value = byte_level();
    value["model"]["continuing_subword_prefix"] = json!("##");
    panics(&value);
    // A token around a text that is not described.
    let mut value = byte_level();
    value["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("<t>");
    panics(&value);
}

#[test]
fn ids_that_do_not_fit_are_refused_by_name() {
    let refuse = |value: &Value, want: &str| {
        let error = Tokenizer::from_json(value.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), want);
    };
    let mut value = byte_level();
    value["model"]["vocab"]["b"] = json!(0);
    refuse(&value, "`a` and `b` are both token 0");
    let mut value = byte_level();
    value["model"]["vocab"]["x"] = json!(9);
    // The library would give the added tokens the ids from 5 on.
    let want = "the added token `<s>` has the id 4, where 5 follows from the vocabulary";
    refuse(&value, want);
}

/// MiniLM has a `tokenizer.json` of WordPiece. The ids are those that the library gives in Python.
#[test]
fn minilm_has_its_tokens() {
    let Some(tokenizer) = model("minilm") else { return };
    assert_eq!(tokenizer.vocab_size(), 30522);
    let ids = tokenizer.encode("It is a truth, universally acknowledged.", true).unwrap();
    assert_eq!(ids, [101, 2009, 2003, 1037, 3606, 1010, 21186, 8969, 1012, 102]);
    // What does not fit is left out at the end of the text, not of what is around it.
    let within =
        |most| tokenizer.encode_within("It is a truth, universally acknowledged.", most).unwrap();
    assert_eq!(within(10), (ids.clone(), 10));
    assert_eq!(within(5), (vec![101, 2009, 2003, 1037, 102], 10));
    assert_eq!(within(2), (vec![101, 102], 10));
    assert_eq!(within(1), (vec![102], 10));
    assert_eq!(within(0), (vec![], 10));
    assert_eq!(tokenizer.encode_within("", 1).unwrap(), (vec![101], 2));
    let text = "it is a truth, universally acknowledged.";
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert!(matches!(tokenizer.bytes(2009, false), Err(TextError::NotStreamed { .. })));
}
