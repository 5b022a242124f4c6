//! `lowbit generate`: what it prints and writes, chats, and where texts end. tests/terminal.rs has terminals and
//! signals.

use crate::cli::{Scratch, command, fine, gpu, refused, stderr, stdout};
use crate::tiny_language::{TEMPLATE, fixture, set, text_of, tiny, tokenizer};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

/// Generates, and returns the JSON.
fn generated(scratch: &Scratch, args: &[&str]) -> Value {
    let json = scratch.text("json");
    let printed = fine(&[&["generate"], args, &["--json", &json]].concat());
    let json = scratch.json("json");
    assert_eq!(printed, format!("{}\n", json["text"].as_str().unwrap()), "{args:?}");
    json
}

/// Generates with lines on stdin.
fn interactive(args: &[&str], lines: &str) -> Output {
    let mut command = command(&[&["generate"], args, &["--interactive"]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

fn number(json: &Value, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("{key} is no number: {json}"))
}

#[test]
fn an_encoder_is_for_embed() {
    if !gpu() {
        return;
    }
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../lowbit-models/tests/fixtures/models/bert");
    let message = refused(&["generate", model, "--prompt", "ab"]);
    assert!(message.contains("makes no tokens: bert is an encoder"), "{message}");
    assert!(message.contains("hint: `lowbit embed`"), "{message}");
}

#[test]
fn the_json_has_the_text_and_what_it_took() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let json = generated(&scratch, &[&model, "--prompt", "ab", "--max-tokens", "9"]);
    assert_eq!((&json["tokens"], &json["prompt_tokens"]), (&9.into(), &2.into()));
    assert_eq!(json["token_ids"].as_array().unwrap().len(), 9);
    assert_eq!(json["text"], text_of(&json["token_ids"]));
    assert_eq!(json["ended"], "max_tokens");
    for key in ["prompt_tokens_per_s", "decode_tokens_per_s", "load_s", "warm_up_s"] {
        assert!(number(&json, key) > 0.0, "{key}: {json}");
    }
    // The weights, which are f16, and caches of 128 tokens.
    let weights = fs::metadata(Path::new(&model).join("model.safetensors")).unwrap().len();
    let peak = json["peak_device_bytes"].as_u64().unwrap();
    let caches = 2 * 2 * 2 * 16 * 128 * 4;
    assert!(peak > weights / 2 + caches && peak < 64 << 20, "{peak}");
    assert!(!json["adapter"].as_str().unwrap().is_empty());
    assert_eq!((&json["weights"], &json["kv"]), (&"as stored".into(), &"f32".into()));
    // A single token comes with the prompt: nothing is decoded.
    let one = generated(&scratch, &[&model, "--prompt", "ab", "--max-tokens", "1"]);
    assert_eq!((&one["tokens"], number(&one, "decode_tokens_per_s")), (&1.into(), 0.0));
    assert_eq!(one["token_ids"][0], json["token_ids"][0]);
    // With the JSON on stdout, the text is on stderr.
    let args = ["generate", &model, "--prompt", "ab", "--max-tokens", "9", "--json", "-"];
    let output = command(&args).output().unwrap();
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again["text"], json["text"]);
    assert!(stderr(&output).contains(json["text"].as_str().unwrap()), "{}", stderr(&output));
}

#[test]
fn seeds_repeat_texts() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let drawn = |more: &[&str]| {
        let args = [&model, "--prompt", "ab", "--max-tokens", "24"];
        generated(&scratch, &[&args[..], more].concat())["text"].as_str().unwrap().to_owned()
    };
    let first = drawn(&["--temperature", "1.5", "--seed", "7"]);
    assert_eq!(first, drawn(&["--temperature", "1.5", "--seed", "7"]));
    assert_ne!(first, drawn(&["--temperature", "1.5", "--seed", "8"]));
    // Drawing from one token is taking the most likely one.
    let greedy = drawn(&[]);
    assert_ne!(first, greedy);
    assert_eq!(drawn(&["--temperature", "1.5", "--top-k", "1"]), greedy);
    assert_eq!(drawn(&["--temperature", "1.5", "--top-p", "0"]), greedy);
    let args = ["generate", &model, "--prompt", "ab", "--temperature=-1"];
    assert!(refused(&args).contains("cannot sample"));
}

/// Options that choose among tokens do nothing where the most likely one is taken.
#[test]
fn options_without_an_effect_are_named() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let warnings = |more: &[&str]| {
        let args = [&["generate", &model, "--prompt", "ab", "--max-tokens", "2"], more].concat();
        let output = command(&args).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let said = stderr(&output);
        said.lines().filter(|line| line.starts_with("warning: ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(warnings(&[]), "");
    assert_eq!(warnings(&["--temperature", "0.7", "--top-k", "3", "--seed", "2"]), "");
    let said = warnings(&["--top-k", "3", "--seed", "2"]);
    assert!(said.contains("--top-k and --seed have no effect"), "{said}");
    assert!(said.contains("--temperature"), "{said}");
    let said = warnings(&["--top-p", "0.5"]);
    assert!(said.contains("--top-p has no effect"), "{said}");
}

#[test]
fn chats_are_written_by_the_template() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let chat = generated(&scratch, &[&model, "--chat", "--prompt", "hi", "--max-tokens", "8"]);
    let prompt = "[user]hi[assistant]";
    let plain = generated(&scratch, &[&model, "--prompt", prompt, "--max-tokens", "8"]);
    assert_eq!(chat["prompt_tokens"], prompt.len());
    assert_eq!(chat["token_ids"], plain["token_ids"]);
    let bare = generated(&scratch, &[&model, "--prompt", "hi", "--max-tokens", "8"]);
    assert_ne!(chat["token_ids"], bare["token_ids"]);
    // What the library says of templates is the hint.
    fs::remove_file(Path::new(&model).join("chat_template.jinja")).unwrap();
    let said = refused(&["generate", &model, "--chat", "--prompt", "hi"]);
    assert!(said.contains("has no chat template"), "{said}");
    assert!(said.contains("hint: ") && said.contains("chat_template.jinja"), "{said}");
}

/// The second turn of a conversation continues the whole text, of which only what is new is read.
#[test]
fn a_conversation_keeps_its_caches() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let args = [&model, "--max-tokens", "6"];
    let text = |args: &[&str]| generated(&scratch, args)["text"].as_str().unwrap().to_owned();
    let first = text(&[&args[..], &["--chat", "--prompt", "hi"]].concat());
    let whole = format!("[user]hi[assistant]{first}[user]bye[assistant]");
    let second = text(&[&args[..], &["--prompt", &whole]].concat());
    assert_ne!(second, text(&[&args[..], &["--chat", "--prompt", "bye"]].concat()));
    let json = scratch.text("talk");
    let output = interactive(&[&args[..], &["--json", &json]].concat(), "hi\n\nbye\n");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{first}\n{second}\n"));
    let json = scratch.json("talk");
    assert_eq!(json["text"], second);
    // The last token of the first answer was drawn and never read.
    assert_eq!(json["prompt_tokens"], 1 + "[user]bye[assistant]".len());
    // The first prompt may be an option, and a conversation may be empty.
    let json = scratch.text("talk");
    let prompted = [&args[..], &["--prompt", "hi", "--json", &json]].concat();
    assert_eq!(stdout(&interactive(&prompted, "bye")), format!("{first}\n{second}\n"));
    let output = interactive(&[&args[..], &["--json", &json]].concat(), "");
    assert!(output.status.success(), "{}", stderr(&output));
    let json = scratch.json("talk");
    assert_eq!((&json["tokens"], &json["ended"]), (&0.into(), &Value::Null));
}

/// Texts end with a token that ends them, where there is no more room, or after --max-tokens.
#[test]
fn the_json_says_why_a_text_ended() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let json = generated(&scratch, &[&model, "--prompt", "abcd", "--max-tokens", "9"]);
    assert_eq!(json["ended"], "max_tokens");
    // The first token that was not generated before is the end of texts now.
    let ids = json["token_ids"].as_array().unwrap();
    let at = (1..ids.len()).find(|&at| !ids[..at].contains(&ids[at])).unwrap();
    set(Path::new(&model), &[("eos_token_id", ids[at].clone())]);
    let ended = generated(&scratch, &[&model, "--prompt", "abcd", "--max-tokens", "9"]);
    assert_eq!((&ended["ended"], &ended["tokens"]), (&"eos".into(), &at.into()));
    assert_eq!(ended["token_ids"].as_array().unwrap()[..], ids[..at]);
    set(Path::new(&model), &[("eos_token_id", Value::Null)]);
    // The last of all tokens is drawn and not read.
    let path = scratch.text("json");
    let args = ["generate", &model, "--prompt", "abcd", "--context", "12", "--json", &path];
    let output = command(&args).output().unwrap();
    let json = scratch.json("json");
    assert_eq!((&json["ended"], &json["tokens"]), (&"context".into(), &9.into()));
    let said = stderr(&output);
    assert!(said.contains("warning: ") && said.contains("the context of 12 tokens"), "{said}");
    assert!(said.contains("--context"), "{said}");
    // A prompt is not cut.
    let said = refused(&["generate", &model, "--prompt", "abcd", "--context", "3"]);
    assert!(said.contains("4 tokens do not fit") && said.contains("--context"), "{said}");
}

/// A conversation ends where there is no more room for a prompt, or for an answer, and its result is written.
#[test]
fn a_full_context_ends_a_conversation() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let prompt = "[user]hi[assistant]".len();
    for (context, tokens) in [(prompt + 10, 6), (prompt + 3, 4)] {
        let (context, json) = (context.to_string(), scratch.text("json"));
        let args = [&model, "--max-tokens", "6", "--context", &context, "--json", &json];
        let output = interactive(&args, "hi\nbye\nbye\n");
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("ends the conversation") && said.contains("--context"), "{said}");
        let json = scratch.json("json");
        assert_eq!((&json["ended"], &json["tokens"]), (&"context".into(), &tokens.into()));
        assert_eq!(stdout(&output), format!("{}\n", json["text"].as_str().unwrap()));
    }
}

/// Keys and values take fewer bytes the fewer bits they have, and f16 activations fewer than f32.
#[test]
fn formats_of_caches_and_activations_are_used() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let args = [&model, "--prompt", "abcd", "--max-tokens", "3", "--context", "2000"];
    let bytes = |more: &[&str], key: &str, value: &str| {
        let json = generated(&scratch, &[&args[..], more].concat());
        assert_eq!(json[key], value, "{json}");
        json["peak_device_bytes"].as_u64().unwrap()
    };
    let by_kv = ["f32", "f16", "int8", "int4"].map(|kv| bytes(&["--kv", kv], "kv", kv));
    // Rows of 16 columns have as many words in int4 as in int8.
    assert!(by_kv[..3].is_sorted_by(|more, fewer| more > fewer), "{by_kv:?}");
    assert_eq!(by_kv[2], by_kv[3]);
    assert_eq!(bytes(&[], "kv", "f32"), by_kv[0]);
    assert!(bytes(&["--activations", "f16", "--kv", "f32"], "activations", "f16") < by_kv[0]);
    // Drivers may round the textures of small weights up; tests/measures.rs sees that formats are used.
    bytes(&["--format", "int4-g64"], "weights", "int4-g64");
    let said = refused(&["generate", &model, "--prompt", "ab", "--kv", "int2"]);
    assert!(said.contains("none of f32, f16, int8 and int4"), "{said}");
}

/// A GGUF file whose tokenizer is not understood, or that has none: the hint is a way that works.
#[test]
fn a_tokenizer_beside_a_gguf_file_takes_the_place_of_its_own() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let folder = scratch.path("both");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("model.gguf");
    let model = path.to_str().unwrap();
    let bytes = fs::read(fixture("llama-gguf", "model.gguf")).unwrap();
    for (bytes, named) in [
        (bytes.clone(), "tokenizer.ggml.model"),
        (with_tokenizer(&bytes, "tokenizer-of-another-kind"), "`tokenizer-of-another-kind`"),
    ] {
        let _ = fs::remove_file(folder.join("tokenizer.json"));
        fs::write(&path, bytes).unwrap();
        let said = refused(&["generate", model, "--prompt", "ab"]);
        let hint = "put the model's tokenizer.json and the .gguf file into a folder of their own, and give \
                    that folder";
        assert!(said.contains(named) && said.contains(hint), "{said}");
        let texts: Vec<String> =
            crate::tiny_language::characters().into_iter().map(String::from).collect();
        fs::write(folder.join("tokenizer.json"), tokenizer(&texts)).unwrap();
        let folder = folder.to_str().unwrap();
        let args = [folder, "--prompt", "ab", "--max-tokens", "4"];
        let json = generated(&scratch, &args);
        assert_eq!(json["text"], text_of(&json["token_ids"]));
        // So does a chat template.
        let jinja = scratch.path("both").join("chat_template.jinja");
        let said = refused(&[&["generate"], &args[..], &["--chat"]].concat());
        assert!(said.contains("put chat_template.jinja and the weights into a folder"), "{said}");
        fs::write(&jinja, TEMPLATE).unwrap();
        let json = generated(&scratch, &[&args[..], &["--chat"]].concat());
        assert_eq!(json["prompt_tokens"], "[user]ab[assistant]".len());
        fs::remove_file(jinja).unwrap();
    }
}

/// A GGUF file with the name of a tokenizer in its metadata. With 25 letters the entry has two words less than a
/// multiple of the alignment; a second one fills it.
fn with_tokenizer(bytes: &[u8], name: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let entry =
        |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let mut entries = entry("tokenizer.ggml.model", name);
    // The padding ends at a multiple of 32 bytes, so that the data stay aligned.
    let without = entry("general.name", "").len() + entries.len();
    entries.extend(entry("general.name", &"n".repeat(without.next_multiple_of(32) - without)));
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 2;
    [&bytes[..16], &count.to_le_bytes(), &entries, &bytes[24..]].concat()
}

/// SmolLM2, which `make model` fetches. Without it a test is skipped, unless `LOWBIT_REQUIRE_MODEL=1`.
fn smollm2() -> Option<String> {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    if Path::new(path).exists() {
        return Some(path.to_owned());
    }
    let missing = format!("there is no {path}: run `make model`");
    assert!(
        std::env::var_os("LOWBIT_REQUIRE_MODEL").is_none_or(|value| value != "1"),
        "{missing}, and LOWBIT_REQUIRE_MODEL is set"
    );
    crate::common::skipped(missing);
    None
}

/// A real model answers a question, and ends by itself.
#[test]
fn a_real_model_answers() {
    let Some(model) = smollm2().filter(|_| gpu()) else { return };
    let scratch = Scratch::new();
    let question = "What is the capital of France?";
    let args = [&model, "--chat", "--prompt", question, "--context", "128"];
    let json = generated(&scratch, &args);
    let text = json["text"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(json["ended"], "eos");
}
