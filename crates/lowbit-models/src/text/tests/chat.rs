use super::*;
use std::collections::BTreeMap;
use std::fs;

#[derive(Deserialize)]
struct Chat {
    /// Its name in `Chats::templates`, if it is not that of the model.
    #[serde(default)]
    template: String,
    messages: Vec<Message>,
    prompt: bool,
    text: Option<String>,
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Chats {
    templates: BTreeMap<String, String>,
    cases: Vec<Chat>,
}

#[derive(Deserialize)]
struct OfModel {
    chats: Vec<Chat>,
}

fn check(template: &ChatTemplate, chat: &Chat) {
    match (template.render(&chat.messages, chat.prompt), &chat.text, &chat.refused) {
        (Ok(text), Some(want), _) => assert_eq!(&text, want, "{}", chat.template),
        (Err(TextError::Refused { reason }), None, Some(want)) => assert_eq!(&reason, want),
        (have, want, refused) => panic!("{}: {have:?}, {want:?}, {refused:?}", chat.template),
    }
}

#[test]
fn well_known_shapes_give_the_text_of_jinja() {
    let chats: Chats =
        serde_json::from_str(include_str!("../../../tests/text/chats.json")).unwrap();
    assert_eq!(chats.templates.len(), 4);
    assert_eq!(chats.cases.len(), 24);
    assert!(chats.cases.iter().any(|chat| chat.refused.is_some()));
    for chat in &chats.cases {
        let template = &chats.templates[&chat.template];
        check(&ChatTemplate::new(template, Some("<s>"), Some("</s>")).unwrap(), chat);
    }
}

fn compare_with_others(name: &str, expected: &str) {
    let expected: OfModel = serde_json::from_str(expected).unwrap();
    assert_eq!(expected.chats.len(), 6);
    let Some(tokenizer) = model(name) else { return };
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data")).join(name);
    let template = ChatTemplate::open(folder).unwrap();
    for chat in &expected.chats {
        check(&template, chat);
        let text = template.render(&chat.messages, chat.prompt).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        let turns = chat.messages.len();
        let ends = ids.iter().filter(|id| tokenizer.ends().contains(id)).count();
        // Both templates have a message of the system of their own.
        assert!((turns..=turns + 1).contains(&ends), "{text}");
    }
}

#[test]
fn smollm2_has_the_text_of_transformers() {
    compare_with_others("smollm2", include_str!("../../../tests/text/smollm2.json"));
}

#[test]
fn qwen_has_the_text_of_transformers() {
    compare_with_others("qwen2.5-coder", include_str!("../../../tests/text/qwen2.5-coder.json"));
}

fn render(template: &str) -> Result<String, TextError> {
    let message = Message { role: "user".into(), content: "Hi".into() };
    ChatTemplate::new(template, None, None)?.render(&[message], true)
}

#[test]
fn templates_have_limits() {
    let limited = |template: &str| match render(template) {
        Err(error @ TextError::TemplateFuel { .. }) => assert!(!error.next_step().is_empty()),
        other => panic!("{template}: {other:?}"),
    };
    limited("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}");
    // A text that doubles 40 times would have a terabyte.
    let double = "{% set ns = namespace(x='0123456789abcdef') %}{% for i in range(40) %}";
    limited(&format!("{double}{{% set ns.x = ns.x ~ ns.x %}}{{% endfor %}}"));
    limited(&format!("{double}{{% set ns.x = ns.x + ns.x %}}{{% endfor %}}"));
    limited(&format!("{double}{{% set ns.x = [ns.x, ns.x] | tojson %}}{{% endfor %}}"));
    limited(&format!("{double}{{% set ns.x = ns.x.replace('', ns.x) %}}{{% endfor %}}"));
    limited("{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}");

    let fails = |template: &str, want: &str| {
        let error = render(template).unwrap_err();
        assert!(error.to_string().contains(want), "{template}: {error}");
        assert!(!error.next_step().is_empty());
    };
    let recursion = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    fails(recursion, "recursion");
    fails(&format!("{}{}", "{{ ".to_owned() + &"(".repeat(100_000), "}}"), "line 1");
    fails("\n\n{% if %}", "line 3 of the chat template: syntax error");
    fails("\n{{ x.y }}", "line 2 of the chat template: undefined value");
    fails("{% include 'file' %}", "line 1");
    fails("{{ nothing() }}", "line 1 of the chat template: unknown function");
    fails("{{ 1 | tojson(ensure_ascii=true) }}", "ensure_ascii");
    fails(
        "{{ raise_exception('not this') }}",
        "the chat template refuses these messages: not this",
    );
    fails("{{ strftime_now('%Q') }}", "no format of a time");
    fails(&" ".repeat((1 << 20) + 1), "has 1048577 bytes; at most 1048576");
    fails("{{ {} | tojson(indent=99999999999) }}", "steps");
}

#[test]
fn a_template_knows_little() {
    assert_eq!(
        render("{{ bos_token is defined }}{{ tools is none }}{{ x }}").unwrap(),
        "FalseTrue"
    );
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.len() == 4 && year.parse::<u32>().unwrap() >= 2025, "{year}");
}

#[test]
fn templates_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = |path: &Path| ChatTemplate::open(path).unwrap().render(&[], false).unwrap();
    assert!(matches!(ChatTemplate::open(path), Err(TextError::NoTemplate { .. })));
    let config = path.join("tokenizer_config.json");
    let list = r#"{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default",
        "template": "{{ bos_token }} list"}], "bos_token": {"content": "<s>"}}"#;
    fs::write(&config, list).unwrap();
    assert_eq!(text(path), "<s> list");
    fs::write(&config, r#"{"chat_template": "one {{ eos_token }}", "eos_token": "E"}"#).unwrap();
    assert_eq!(text(path), "one E");
    assert_eq!(text(&config), "one E");
    let jinja = path.join("chat_template.jinja");
    fs::write(&jinja, "file {{ eos_token }}").unwrap();
    assert_eq!(text(path), "file E");
    assert_eq!(text(&jinja), "file E");
    fs::write(&config, "{").unwrap();
    assert!(matches!(ChatTemplate::open(path), Err(TextError::Json { .. })));
    fs::write(&jinja, [0xff]).unwrap();
    fs::write(&config, "{}").unwrap();
    assert!(matches!(ChatTemplate::open(path), Err(TextError::Read { .. })));

    let gguf = Builder::new()
        .string("tokenizer.chat_template", "{{ bos_token }}{{ eos_token }}")
        .strings("tokenizer.ggml.tokens", ["a", "b"])
        .number("tokenizer.ggml.eos_token_id", 1);
    let path = path.join("model.gguf");
    fs::write(&path, gguf.build()).unwrap();
    assert_eq!(text(&path), "b");
    fs::write(&path, Builder::new().build()).unwrap();
    assert!(matches!(ChatTemplate::open(&path), Err(TextError::NoTemplate { .. })));
}
