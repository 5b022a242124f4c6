use super::*;

#[derive(Deserialize)]
struct Fixture {
    /// Text, score and kind.
    tokens: Vec<(String, f32, i32)>,
    cases: Vec<Case>,
}

fn builder(tokens: &[(String, f32, i32)]) -> Builder {
    Builder::new()
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", tokens.iter().map(|token| token.0.as_str()))
        .floats("tokenizer.ggml.scores", &tokens.iter().map(|token| token.1).collect::<Vec<_>>())
        .integers("tokenizer.ggml.token_type", &tokens.iter().map(|t| t.2).collect::<Vec<_>>())
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../../tests/text/sentence_piece.json")).unwrap()
}

#[test]
fn tokens_are_those_of_sentencepiece() {
    let fixture = fixture();
    let tokenizer = builder(&fixture.tokens).tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 600);
    assert!(fixture.cases.len() > 30);
    for Case { text, ids } in &fixture.cases {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, false).unwrap(), text);
        // BOS is added unless the file says otherwise, EOS is not.
        assert_eq!(tokenizer.encode(text, true).unwrap(), [&[1], ids.as_slice()].concat());
        let mut stream = TextStream::new(false);
        let written: String = ids.iter().map(|&id| stream.push(&tokenizer, id).unwrap()).collect();
        // A stream continues a text, so the space before the first word is written.
        let space = if text.is_empty() { "" } else { " " };
        assert_eq!(written + &stream.finish(), format!("{space}{text}"));
    }
}

#[test]
fn whole_tokens_have_spaces_after_them_as_in_llama_cpp() {
    let tokens = fixture().tokens;
    let id = |text: &str| tokens.iter().position(|token| token.0 == text).unwrap() as u32;
    let tokenizer = builder(&tokens).tokenizer().unwrap();
    let part = |text: &str| tokenizer.encode(text, false).unwrap();
    let whole = part("<s>[INST] the [/INST]and</s>");
    let expected =
        [vec![1, id("[INST]")], part(" the "), vec![id("[/INST]")], part("and"), vec![2]];
    assert_eq!(whole, expected.concat());
    // `[/INST]` is text, the others are not.
    assert_eq!(tokenizer.decode(&whole, false).unwrap(), "[INST]  the [/INST] and");
    let unprefixed = builder(&tokens).flag("tokenizer.ggml.add_space_prefix", false);
    let unprefixed = unprefixed.tokenizer().unwrap();
    assert_eq!(unprefixed.encode(" the", false).unwrap(), part("the"));
    assert_eq!(unprefixed.decode(&part("the"), false).unwrap(), " the");
}

/// Bytes, and the tokens of a test.
fn small(more: &[(&str, f32, i32)]) -> Vec<(String, f32, i32)> {
    let mut tokens =
        vec![("<unk>".into(), 0.0, 2), ("<s>".into(), 0.0, 3), ("</s>".into(), 0.0, 3)];
    tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    tokens.extend(more.iter().map(|&(text, score, kind)| (text.into(), score, kind)));
    tokens
}

#[test]
fn equal_scores_merge_from_the_left() {
    let all = [("a", 0.0, 1), ("b", 0.0, 1), ("aa", -1.0, 1), ("ab", -1.0, 1), ("aaa", -0.0, 1)];
    let tokens = small(&all);
    let without = builder(&tokens).flag("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = without.tokenizer().unwrap();
    let texts = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, false).unwrap();
        ids.iter().map(|&id| tokens[id as usize].0.clone()).collect()
    };
    assert_eq!(texts("aab"), ["aa", "b"]);
    assert_eq!(texts("baab"), ["b", "aa", "b"]);
    assert_eq!(texts("aaaab"), ["aaa", "ab"]);
    // Without a token of its own, a character is its bytes.
    assert_eq!(texts("é"), ["<0xC3>", "<0xA9>"]);
    // The first of these bytes begins a character that does not end.
    let mut stream = TextStream::new(true);
    let mut push = |byte: u32| stream.push(&tokenizer, 3 + byte).unwrap();
    assert_eq!([push(0xe2), push(0x82), push(0xac)], ["", "", "€"]);
    assert_eq!([push(0xe2), push(0xff), push(0x41)], ["", "\u{fffd}\u{fffd}", "A"]);
    assert_eq!(push(0xf0), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(tokenizer.decode(&[3 + 0xff, 3 + 0x41], true).unwrap(), "\u{fffd}A");
}

#[test]
fn bad_vocabularies_are_refused_by_name() {
    let refuse = |tokens: &[(String, f32, i32)], want: &str| {
        let error = builder(tokens).tokenizer().unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(!error.next_step().is_empty());
    };
    let mut tokens = small(&[("a", f32::NAN, 1)]);
    refuse(&tokens, "the score of token 259 (`a`)");
    tokens[259].1 = 0.0;
    tokens[3 + 10].2 = 1;
    refuse(&tokens, "no token for the byte 0x0a");
    tokens[3 + 10].0 = "<0xG1>".into();
    tokens[3 + 10].2 = 6;
    refuse(&tokens, "token 13 (`<0xG1>`) is marked as a byte");
    let good = builder(&small(&[]));
    let extra = good.clone().flag("tokenizer.ggml.remove_extra_whitespaces", true);
    assert!(matches!(extra.tokenizer(), Err(TextError::Option { .. })));
    let map = good.clone().integers("tokenizer.ggml.precompiled_charsmap", &[1]);
    assert!(matches!(map.tokenizer(), Err(TextError::Option { .. })));
    assert!(good.tokenizer().is_ok());
}
