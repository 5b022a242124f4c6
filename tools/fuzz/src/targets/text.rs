//! What turns text into tokens, by the first byte of an input: a `tokenizer.json`, the vocabulary of a GGUF file, or
//! a chat template.

use lowbit_models::checkpoint::gguf::GgufFile;
use lowbit_models::text::{ChatTemplate, Message, TextStream, Tokenizer};
use std::sync::Once;

/// The first bytes of inputs.
pub const JSON: u8 = b'j';
pub const GGUF: u8 = b'g';
pub const TEMPLATE: u8 = b't';

/// Texts with everything that tokenizers look at: spaces, digits, scripts, special tokens, controls.
const TEXTS: [&str; 4] = [
    "",
    " It's 12345 degrees\n\n\tin Zürich",
    "<s>日本語 \u{301}🙂</s><0x0A>",
    "\0\u{7f}\u{2581}a",
];

/// The library for tokenizers panics on some files, which is an error here and not a fault. A fuzzer would end.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_library = |file: &str| file.contains("/tokenizers-");
            if !info.location().is_some_and(|at| is_library(at.file())) {
                before(info);
            }
        }));
    });
}

pub fn run(data: &[u8]) {
    quiet();
    let Some((kind, data)) = data.split_first() else { return };
    match *kind {
        JSON => tokenizer(Tokenizer::from_json(data)),
        GGUF => {
            let Ok(file) = GgufFile::from_bytes(data.to_vec()) else { return };
            tokenizer(Tokenizer::from_gguf(&file));
            if let Ok(template) = ChatTemplate::from_gguf(&file) {
                render(&template);
            }
        }
        TEMPLATE => {
            let text = String::from_utf8_lossy(data);
            match ChatTemplate::new(&text, Some("<s>"), None) {
                Ok(template) => render(&template),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        _ => {}
    }
}

/// Whatever a tokenizer makes of a text, its tokens are its own, and it can write them.
fn tokenizer(made: Result<Tokenizer, lowbit_models::text::TextError>) {
    let tokenizer = match made {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let count = tokenizer.vocab_size();
    let known = |id: u32| assert!((id as usize) < count, "{id} of {count}");
    tokenizer.ends().iter().copied().chain(tokenizer.bos()).chain(tokenizer.eos()).for_each(known);
    for text in TEXTS {
        for special in [false, true] {
            let Ok(ids) = tokenizer.encode(text, special) else { continue };
            ids.iter().copied().for_each(known);
            let _ = tokenizer.decode(&ids, special);
            let mut stream = TextStream::new(special);
            for &id in &ids {
                let _ = stream.push(&tokenizer, id);
            }
            let _ = stream.finish();
        }
        for most in [0, 1, 5] {
            if let Ok((ids, _)) = tokenizer.encode_within(text, most) {
                assert!(ids.len() <= most);
            }
        }
    }
}

fn render(template: &ChatTemplate) {
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let messages = [message("user", "a {{ b"), message("assistant", "<s>"), message("user", "")];
    for prompt in [false, true] {
        let _ = template.render(&messages, prompt);
    }
}
