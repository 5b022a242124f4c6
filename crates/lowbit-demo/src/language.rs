//! SmolLM2 in three formats: the text that follows a prompt, perplexity, size and speed.

use crate::models::Error;
use crate::report;
use lowbit::compress::Scheme;
use lowbit::format::{Granularity, WeightFormat};
use lowbit::host::Host;
use lowbit_models::checkpoint::source::{self, ModelSource};
use lowbit_models::device::{LoadOptions, Model, Sampling, SessionOptions};
use lowbit_models::text::Tokenizer;
use lowbit_models::text::windows::windows;
use pollster::block_on;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What `scripts/fetch-model.sh smollm2 pride` fetches.
const MODEL: &str = "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const TEXT: &str = "data/pride/pride.txt";
const REPORT: &str = "target/demo-lm.json";

const PROMPT: &str = "Once upon a time, in a small village by the sea,";
/// Tokens to generate.
const TOKENS: usize = 32;
/// Tokens of the part of the text whose perplexity is measured, which is its beginning.
const WINDOW: usize = 512;

#[derive(serde::Serialize)]
struct Row {
    format: String,
    /// All weights in device memory.
    bytes: u64,
    /// The perplexity of the first tokens of the text; none if there is no text.
    perplexity: Option<f64>,
    decode_tokens_per_s: f64,
    #[serde(skip)]
    text: String,
}

/// The formats of linear layers, by their names; the first is the file's own.
fn formats() -> Result<[(String, Option<Scheme>); 3], Error> {
    let int8 = WeightFormat::int8(Granularity::Channel);
    let int4 = WeightFormat::int4(Granularity::group(64)?);
    let scheme = |format: WeightFormat| (format.to_string(), Some(format.into()));
    Ok([("q4_1".into(), None), scheme(int8), scheme(int4)])
}

/// Runs the model in all formats, prints a table and the texts, and writes the report. Without the
/// model it says so.
pub fn run(host: &Arc<Host>) -> Result<(), Error> {
    println!();
    if !Path::new(MODEL).is_file() {
        println!("SKIPPED: no {MODEL}: no language model is run; `make demo` fetches it");
        return Ok(());
    }
    let source = source::open(Path::new(MODEL))?;
    let tokenizer = Tokenizer::open(MODEL)?;
    let prompt = tokenizer.encode(PROMPT, true)?;
    let window = match std::fs::read_to_string(TEXT) {
        Ok(text) => {
            let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
            windows(&tokenizer.encode(&text, false)?, WINDOW, Some(1), bos)?
        }
        Err(error) => {
            println!("SKIPPED: {TEXT}: {error}: no perplexity is measured; `make demo` fetches it");
            Vec::new()
        }
    };
    let formats = formats()?;
    // Weights, warm-up, tokens, and the window, which takes about as long as these.
    let bar = report::progress(formats.len() * (2 + TOKENS + window.len() * TOKENS))?;
    bar.suspend(|| print_head(!window.is_empty()));
    let mut rows = Vec::new();
    for (name, scheme) in formats {
        let mut step = |what: &str, steps: usize| {
            bar.inc(steps as u64);
            bar.set_message(format!("{name}: {what}"));
        };
        let row = measure(host, &source, &tokenizer, (&name, scheme), &prompt, &window, &mut step)?;
        bar.suspend(|| print_row(&row));
        rows.push(row);
    }
    bar.finish_and_clear();
    for row in &rows {
        println!("\n{}:", row.format);
        print!("{}", report::wrapped(&format!("{PROMPT}{}", row.text), 2));
    }
    println!();
    report::write(REPORT, &rows)
}

/// Runs the model in one format. `step` is called with what comes next and how many steps were made.
fn measure(
    host: &Arc<Host>,
    source: &dyn ModelSource,
    tokenizer: &Tokenizer,
    (name, scheme): (&str, Option<Scheme>),
    prompt: &[u32],
    window: &[Vec<u32>],
    step: &mut dyn FnMut(&str, usize),
) -> Result<Row, Error> {
    step("loading", 0);
    let mut options = LoadOptions::default();
    options.scheme = scheme;
    let model = block_on(Model::from_source(host, source, &options, &|_, _| ()))?;
    tokenizer.check(model.blueprint())?;
    step("compiling", 1);
    let sizes = SessionOptions::default().with_slots(prompt.len() + TOKENS);
    let mut session = block_on(model.session(&sizes))?;
    block_on(session.warm_up())?;
    step("generating", 1);
    let mut tokens = vec![block_on(session.prompt(prompt, &Sampling::GREEDY))?];
    let mut time = Duration::ZERO;
    let mut steps = 0;
    // A text may end before.
    while tokens.len() < TOKENS && tokens.last().is_none_or(|last| !tokenizer.ends().contains(last))
    {
        let start = Instant::now();
        tokens.push(block_on(session.next(&Sampling::GREEDY))?);
        time += start.elapsed();
        steps += 1;
        step("generating", 1);
    }
    drop(session);
    step("measuring perplexity", TOKENS - steps);
    let perplexity = if window.is_empty() {
        None
    } else {
        let sizes = SessionOptions::default().with_slots(WINDOW).with_logit_rows(32);
        Some(block_on(model.perplexity(window, &sizes, |_| (), |_| ()))?.perplexity)
    };
    step("done", window.len() * TOKENS);
    Ok(Row {
        format: name.to_owned(),
        bytes: model.weight_bytes(),
        perplexity,
        // A text that ends at once has no rate.
        decode_tokens_per_s: if steps == 0 { 0.0 } else { steps as f64 / time.as_secs_f64() },
        text: tokenizer.decode(&tokens, false)?,
    })
}

fn print_head(measured: bool) {
    println!("{MODEL}: {TOKENS} tokens after a prompt");
    println!("linear layers: q4_1 as in the file, and made of it: int8 and int4");
    if measured {
        println!("perplexity: of the first {WINDOW} tokens of {TEXT}");
    }
    println!();
    println!("{:<18} {:>8} {:>11} {:>9}", "format", "MB", "perplexity", "tokens/s");
}

fn print_row(row: &Row) {
    let perplexity = row.perplexity.map_or("–".to_owned(), |p| format!("{p:.3}"));
    let megabytes = row.bytes as f64 / 1e6;
    let rate = row.decode_tokens_per_s;
    println!("{:<18} {megabytes:>8.2} {perplexity:>11} {rate:>9.1}", row.format);
}
