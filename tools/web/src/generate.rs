//! Continues a text with a model of a GGUF file, which the page reads by ranges.

use crate::json;
use js_sys::{Function, Uint8Array};
use lowbit::gpu::AdapterClass;
use lowbit::host::{Host, HostError};
use lowbit_models::checkpoint::gguf::RangedGguf;
use lowbit_models::checkpoint::source::{ModelSource, SourceError};
use lowbit_models::device::{LoadOptions, Model, RunError, Sampling, SessionOptions};
use lowbit_models::text::{ChatTemplate, Message, TextError, TextStream, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::Cell;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use web_time::{Duration, Instant};

#[wasm_bindgen]
extern "C" {
    /// Returns bytes of the file that the user picked. The worker defines it: a function that Rust holds
    /// could not be passed to threads, which a source of tensors must allow.
    #[wasm_bindgen(js_name = lowbitRead, catch)]
    fn read_file(start: f64, end: f64) -> Result<Uint8Array, JsValue>;
    /// Takes the number of parts of the weights that are on the device, and of all parts.
    #[wasm_bindgen(js_name = lowbitProgress)]
    fn report_progress(done: f64, all: f64);
}

/// A model in device memory, with its tokenizer.
#[wasm_bindgen]
pub struct Generator {
    model: Model,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    about: About,
    /// Whether kernels have run, which drivers that compile late need.
    warm: Cell<bool>,
}

/// What the page shows of a model that is loaded.
#[derive(Serialize)]
struct About {
    name: Option<String>,
    family: String,
    layers: usize,
    vocabulary: usize,
    context: usize,
    weight_bytes: u64,
    /// Whether the file has a chat template. If it has one that is not understood, `template_problem` says
    /// why.
    has_template: bool,
    template_problem: Option<String>,
    adapter: String,
    software: bool,
    load_s: f64,
}

/// What the page asks for.
#[derive(Deserialize)]
struct Wanted {
    prompt: String,
    chat: bool,
    max_tokens: usize,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    seed: u64,
}

/// What a run took.
#[derive(Serialize)]
struct Generated {
    text: String,
    token_ids: Vec<u32>,
    prompt_tokens: usize,
    prompt_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    /// Seconds until the first token could be computed: kernels and buffers.
    prepare_s: f64,
    device_bytes: u64,
    /// Why no more tokens came: `end`, `limit` or `stopped`.
    ended: &'static str,
}

#[wasm_bindgen]
impl Generator {
    /// Opens the best adapter and loads the model of a file of `length` bytes, which `lowbitRead` reads.
    ///
    /// # Errors
    /// If there is no adapter, the model is not understood, or the device fails.
    pub async fn open(name: &str, length: f64) -> Result<Generator, JsError> {
        let start = Instant::now();
        let file = RangedGguf::open(name, length as u64, Box::new(read)).map_err(source)?;
        // What says no within a second comes before the weights.
        let tokenizer = Tokenizer::from_gguf(file.head()).map_err(|error| failure(&error))?;
        let (template, template_problem) = match ChatTemplate::from_gguf(file.head()) {
            Ok(template) => (Some(template), None),
            Err(TextError::NoTemplate { .. }) => (None, None),
            Err(error) => (None, Some(sentence(&error))),
        };
        let host = Host::new_async().await.map_err(|error| match error {
            HostError::NoAdapter(why) => {
                JsError::new(&format!("there is no GPU in a worker: {why}"))
            }
            error => failure(&error),
        })?;
        let host = Arc::new(host);
        let progress = |done, all| report_progress(done as f64, all as f64);
        let options = LoadOptions::default();
        let model = Model::from_source(&host, &file, &options, &progress).await.map_err(run)?;
        tokenizer.check(model.blueprint()).map_err(|error| failure(&error))?;
        let blueprint = model.blueprint();
        let about = About {
            name: file.config().get("general.name").and_then(Value::as_str).map(str::to_owned),
            family: blueprint.family.to_string(),
            layers: blueprint.layers.len(),
            vocabulary: blueprint.vocab,
            context: blueprint.context,
            weight_bytes: model.weight_bytes(),
            has_template: template.is_some(),
            template_problem,
            adapter: host.adapter_info().name.clone(),
            software: host.kernels().caps().class == AdapterClass::Cpu,
            load_s: start.elapsed().as_secs_f64(),
        };
        Ok(Self { model, tokenizer, template, about, warm: Cell::new(false) })
    }

    /// What the page shows of the model.
    ///
    /// # Errors
    /// If JSON cannot be written.
    pub fn about(&self) -> Result<String, JsError> {
        json(&self.about)
    }

    /// Why the device is lost; nothing while it is not. Then the model must be loaded again.
    pub fn lost(&self) -> Option<String> {
        self.model.host().kernels().lost_flag().reason().map(String::from)
    }

    /// Continues a prompt. `wanted` is JSON. `each` is called with every token and the text that is complete
    /// with it, and returns whether to go on.
    ///
    /// # Errors
    /// If a setting is out of range, the prompt is empty or too long, or the device fails.
    pub async fn generate(&self, wanted: &str, each: &Function) -> Result<String, JsError> {
        let wanted: Wanted = serde_json::from_str(wanted)?;
        let Wanted { temperature, top_k, top_p, seed, max_tokens, .. } = wanted;
        let sampling = Sampling::new(temperature, top_k, top_p, seed).map_err(run)?;
        let tokens = self.tokens(&wanted).map_err(|error| failure(&error))?;
        let start = Instant::now();
        let slots = tokens.len().saturating_add(max_tokens.max(1));
        let context = self.about.context;
        if slots > context {
            let have = tokens.len();
            return Err(JsError::new(&format!(
                "the prompt's {have} tokens and {max_tokens} more are more than the {context} that this \
                 model takes: make the prompt shorter, or ask for fewer tokens"
            )));
        }
        let options = SessionOptions::default().with_slots(slots);
        let mut session = self.model.session(&options).await.map_err(run)?;
        // On a processor it would take longer than what it saves.
        if !self.about.software && !self.warm.replace(true) {
            session.warm_up().await.map_err(run)?;
        }
        let prepare = start.elapsed();
        let start = Instant::now();
        let mut token = session.prompt(&tokens, &sampling).await.map_err(run)?;
        let prompt_time = start.elapsed();
        let start = Instant::now();
        let (mut text, mut ids, mut stream) = (String::new(), Vec::new(), TextStream::new(false));
        let ended = loop {
            if self.tokenizer.ends().contains(&token) {
                break "end";
            }
            ids.push(token);
            let piece = stream.push(&self.tokenizer, token).map_err(|error| failure(&error))?;
            text.push_str(&piece);
            let go_on = each.call2(&JsValue::NULL, &token.into(), &piece.into());
            if !go_on.map_err(thrown)?.is_truthy() {
                break "stopped";
            }
            if ids.len() >= max_tokens {
                break "limit";
            }
            token = session.next(&sampling).await.map_err(run)?;
        };
        let decode_time = start.elapsed();
        text.push_str(&stream.finish());
        json(&Generated {
            text,
            prompt_tokens: tokens.len(),
            prompt_tokens_per_s: rate(tokens.len(), prompt_time),
            // The first token comes with the prompt.
            decode_tokens_per_s: rate(ids.len().saturating_sub(1), decode_time),
            token_ids: ids,
            prepare_s: prepare.as_secs_f64(),
            device_bytes: session.device_bytes(),
            ended,
        })
    }
}

impl Generator {
    /// Returns the tokens of the prompt, as it is or as the chat template writes it.
    fn tokens(&self, wanted: &Wanted) -> Result<Vec<u32>, TextError> {
        match &self.template {
            Some(template) if wanted.chat => {
                let message = Message { role: "user".into(), content: wanted.prompt.clone() };
                let text = template.render(&[message], true)?;
                self.tokenizer.encode(&text, false)
            }
            _ => self.tokenizer.encode(&wanted.prompt, true),
        }
    }
}

/// Reads a range of the file through the worker.
fn read(range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let bytes = read_file(range.start as f64, range.end as f64);
    bytes.map(|bytes| bytes.to_vec()).map_err(|error| std::io::Error::other(text_of(&error)))
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// Returns what JavaScript threw as text.
fn text_of(thrown: &JsValue) -> String {
    let error = thrown.dyn_ref::<js_sys::Error>();
    error.map_or_else(|| format!("{thrown:?}"), |error| String::from(error.message()))
}

fn thrown(error: JsValue) -> JsError {
    JsError::new(&text_of(&error))
}

/// Writes an error with its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn failure(error: &dyn std::error::Error) -> JsError {
    JsError::new(&sentence(error))
}

fn with_step(error: &dyn std::error::Error, next: impl Display) -> JsError {
    JsError::new(&format!("{}; {next}", sentence(error)))
}

fn source(error: SourceError) -> JsError {
    with_step(&error, error.next_step())
}

fn run(error: RunError) -> JsError {
    match &error {
        RunError::Source(source) => with_step(&error, source.next_step()),
        _ => failure(&error),
    }
}
