//! Tiny language models with a tokenizer: those of `lowbit-models/tests/fixtures/models`, whose 96 tokens get a
//! character each.

use crate::cli::Scratch;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const FIXTURES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../lowbit-models/tests/fixtures/models");

/// Writes roles in brackets.
pub const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                            {% if add_generation_prompt %}[assistant]{% endif %}";

/// The characters of the tokens: printable ASCII and the end of a line, with a tabulator instead of `>`, so that no
/// text looks like the prompt of a conversation.
pub fn characters() -> Vec<char> {
    let printable = (' '..='~').map(|c| if c == '>' { '\t' } else { c });
    let all: Vec<char> = std::iter::once('\n').chain(printable).collect();
    assert_eq!(all.len(), 96);
    all
}

/// The texts of the tokens as byte-level BPE writes them.
fn pieces(texts: &[String]) -> serde_json::Map<String, Value> {
    let written = |c: char| match u32::from(c) {
        byte @ 0..=32 => char::from_u32(0x100 + byte).unwrap(),
        _ => c,
    };
    let numbered = texts.iter().enumerate();
    numbered.map(|(id, text)| (text.chars().map(written).collect(), id.into())).collect()
}

/// A `tokenizer.json` of tokens with these texts.
pub fn tokenizer(texts: &[String]) -> String {
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": pieces(texts), "merges": []
    });
    let all = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": bytes.clone(), "post_processor": null,
        "decoder": bytes, "model": model
    });
    all.to_string()
}

/// The text of tokens.
pub fn text_of(ids: &Value) -> String {
    let all = characters();
    let ids = ids.as_array().unwrap();
    ids.iter().map(|id| all[id.as_u64().unwrap() as usize]).collect()
}

/// The file of a fixture.
pub fn fixture(name: &str, file: &str) -> String {
    format!("{FIXTURES}/{name}/{file}")
}

/// Makes a folder with a tiny model, a tokenizer and a chat template. No token ends a text.
pub fn tiny(scratch: &Scratch, name: &str) -> String {
    let folder = scratch.path(name);
    fs::create_dir(&folder).unwrap();
    fs::copy(fixture(name, "model.safetensors"), folder.join("model.safetensors")).unwrap();
    fs::copy(fixture(name, "config.json"), folder.join("config.json")).unwrap();
    set(&folder, &[("bos_token_id", Value::Null), ("eos_token_id", Value::Null)]);
    let texts: Vec<String> = characters().into_iter().map(String::from).collect();
    fs::write(folder.join("tokenizer.json"), tokenizer(&texts)).unwrap();
    fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    folder.into_os_string().into_string().unwrap()
}

/// Changes settings of the `config.json` in a folder.
pub fn set(folder: &Path, settings: &[(&str, Value)]) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in settings {
        config[*key] = value.clone();
    }
    fs::write(&path, config.to_string()).unwrap();
}
