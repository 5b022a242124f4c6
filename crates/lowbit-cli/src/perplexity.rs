//! `lowbit perplexity`: measures how well a model predicts a text.

use crate::error::CliError;
use crate::model::{CacheArg, LinearLayers, Loaded, ModelArgs, adapter_name, failed, text_failed};
use crate::report::{JsonArg, Report, progress, right, table, text};
use crate::{Outcome, files};
use lowbit_models::checkpoint::{AtomicFile, npy_header, write_npy_rows};
use lowbit_models::device::SessionOptions;
use lowbit_models::text::windows::windows;
use pollster::block_on;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// Measure how well a language model predicts a text: the exponential of the mean of −ln p over its tokens
///
/// The text is cut into windows, each of which is read by itself. All tokens of a window but the first are
/// predicted. If the tokenizer puts a token before texts, it takes the place of each window's first.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=65536))]
    window: u32,
    /// Take so many windows from the start of the text. The default is all whole ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    windows: Option<u32>,
    /// Also write the logits of all tokens, a NumPy file of f32, [tokens, vocabulary]. It appears whole or not
    /// at all
    #[arg(long, value_name = "OUT.npy", value_parser = files::to_file())]
    logits: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArg,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Serialize)]
struct Result {
    perplexity: f64,
    windows: usize,
    tokens: usize,
    weights: String,
    activations: String,
    linear_layers: LinearLayers,
    kv: String,
    adapter: String,
}

/// Measures the perplexity.
pub fn run(args: &Args) -> std::result::Result<Outcome, CliError> {
    let named = files::named(&[
        ("MODEL", Some(&args.model.model)),
        ("--text", Some(&args.text)),
        ("--logits", args.logits.as_deref()),
        ("--json", args.json.json.as_deref()),
    ]);
    files::refuse_same(&named)?;
    let report = Report::open(&args.json)?;
    let content = files::read_text(&args.text)?;
    let Loaded { model, linear_layers, .. } = args.model.load()?;
    let tokenizer = args.model.tokenizer(&model)?;
    let tokens = tokenizer.encode(&content, false).map_err(|error| {
        text_failed(format!("cannot make tokens of `{}`", args.text.display()), error)
    })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let count = args.windows.map(|count| count as usize);
    let windows = windows(&tokens, args.window as usize, count, bos).map_err(|error| {
        let error = CliError::new(format!("cannot cut `{}`", args.text.display())).because(error);
        error.hint("a smaller --window or fewer --windows take shorter texts")
    })?;
    let unwritten = |error| CliError::new("cannot write the logits").because(error);
    let mut logits = match &args.logits {
        Some(path) => {
            let mut file = AtomicFile::create(path).map_err(unwritten)?;
            let rows = windows.iter().map(Vec::len).sum();
            let written = file.write_all(&npy_header(rows, model.blueprint().vocab));
            Some((file, written))
        }
        None => None,
    };
    let cache = args.model.cache(&args.cache);
    let options = SessionOptions::default()
        .with_slots(args.window as usize)
        .with_cache(cache)
        .with_logit_rows(32);
    let bar = progress(windows.len());
    let keep = |rows: &[f32]| {
        if let Some((file, written @ Ok(()))) = &mut logits {
            *written = write_npy_rows(file, rows);
        }
    };
    let found = block_on(model.perplexity(&windows, &options, keep, |found| {
        bar.set_position(found.windows as u64);
        bar.set_message(format!("perplexity {:.3}", found.perplexity));
    }));
    bar.finish_and_clear();
    let found = found.map_err(|error| failed(&args.model.model, "run", error))?;
    if let Some((file, written)) = logits {
        let error = |error| CliError::new("cannot write the logits").because(error);
        written.map_err(|cause| error(cause).hint("is there room for it?"))?;
        file.commit().map_err(unwritten)?;
    }
    let result = Result {
        perplexity: found.perplexity,
        windows: found.windows,
        tokens: found.tokens,
        weights: args.model.weights_name(),
        activations: args.model.activations_name(),
        linear_layers,
        kv: cache.to_string(),
        adapter: adapter_name(&model),
    };
    let mut lines =
        table(&["weights", "activations", "kv", "windows", "tokens", "perplexity"], true);
    lines.add_row(vec![
        result.weights.clone().into(),
        result.activations.clone().into(),
        result.kv.clone().into(),
        right(result.windows),
        right(result.tokens),
        right(format!("{:.4}", result.perplexity)),
    ]);
    report.finish(&text(&lines), &result)?;
    Ok(Outcome::Fine)
}
