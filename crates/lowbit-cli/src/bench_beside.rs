//! `lowbit bench --model A --beside B`: measures language models in turn, so that their times can be compared.

use crate::Outcome;
use crate::bench::Args;
use crate::error::{CliError, printable};
use crate::model::{ModelArgs, adapter_name, failed, warming};
use crate::report::{Report, bytes, long_progress, right, table, text};
use lowbit::compress::Scheme;
use lowbit::ops::{Activations, FloatType};
use lowbit_models::device::{Sampling, SessionOptions};
use pollster::block_on;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often each model takes its turn.
const TURNS: usize = 5;

#[derive(Serialize)]
struct Beside {
    adapter: String,
    weights: String,
    activations: String,
    kv: String,
    prompt_tokens: u32,
    decode_tokens: u32,
    turns: usize,
    models: Vec<Row>,
}

/// The times of a model in its fastest turn: what else the machine does makes others slower.
#[derive(Serialize)]
struct Row {
    model: String,
    /// What a token reads: weights, and the cache in the middle of what is generated.
    bytes_per_token: u64,
    prompt_ms: f64,
    token_ms: f64,
    /// The time of the first model over this one's.
    prompt_speedup: f64,
    token_speedup: f64,
}

/// Returns the least time in milliseconds.
fn least(times: &[Duration]) -> f64 {
    times.iter().min().map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Measures the models.
pub fn run(args: &Args, first: &Path, others: &[PathBuf]) -> Result<Outcome, CliError> {
    let report = Report::open(&args.json)?;
    let format = match args.format[..] {
        [] => None,
        [format] => Some(Scheme::from(format)),
        _ => return Err(CliError::new("--model takes one --format")),
    };
    let activations = args.activations.unwrap_or(Activations::Float(FloatType::F32));
    let options = |path: &Path| {
        let (adapter, device) = (args.adapter.clone(), args.device.clone());
        ModelArgs::new(path.to_owned(), format, activations, adapter, device)
    };
    let paths: Vec<&Path> =
        std::iter::once(first).chain(others.iter().map(PathBuf::as_path)).collect();
    let mut models = Vec::with_capacity(paths.len());
    for path in &paths {
        models.push(options(path).load()?.model);
    }
    let slots = (args.prompt_tokens + args.tokens) as usize;
    let cache = options(first).cache(&args.cache);
    let sizes = SessionOptions::default().with_slots(slots).with_cache(cache);
    let mut sessions = Vec::with_capacity(models.len());
    for (model, path) in models.iter().zip(&paths) {
        let refuse = |error| failed(path, "run", error);
        let mut session = block_on(model.session(&sizes)).map_err(refuse)?;
        warming(model, || block_on(session.warm_up())).map_err(refuse)?;
        sessions.push((session, Vec::new(), Vec::new()));
    }
    let bar = long_progress(TURNS * sessions.len());
    for _ in 0..TURNS {
        for (((session, prompts, steps), model), path) in
            sessions.iter_mut().zip(&models).zip(&paths)
        {
            let refuse = |error| failed(path, "run", error);
            let vocab = (model.blueprint().vocab as u32).max(1);
            let prompt: Vec<u32> =
                (0..args.prompt_tokens).map(|at| at.wrapping_mul(2_654_435_761) % vocab).collect();
            session.rewind(0).map_err(refuse)?;
            let start = Instant::now();
            block_on(session.prompt(&prompt, &Sampling::GREEDY)).map_err(refuse)?;
            prompts.push(start.elapsed());
            let start = Instant::now();
            // The first token came with the prompt.
            for _ in 1..args.tokens {
                block_on(session.next(&Sampling::GREEDY)).map_err(refuse)?;
            }
            steps.push(start.elapsed() / (args.tokens - 1).max(1));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let middle = (args.prompt_tokens + args.tokens / 2) as usize;
    let mut rows: Vec<Row> = Vec::with_capacity(sessions.len());
    for ((session, prompts, steps), path) in sessions.iter().zip(&paths) {
        let (prompt_ms, token_ms) = (least(prompts), least(steps));
        let before =
            rows.first().map_or((prompt_ms, token_ms), |row| (row.prompt_ms, row.token_ms));
        rows.push(Row {
            model: path.display().to_string(),
            bytes_per_token: session.bytes_per_token(middle),
            prompt_ms,
            token_ms,
            prompt_speedup: before.0 / prompt_ms,
            token_speedup: before.1 / token_ms,
        });
    }
    let adapter = models.first().map_or(String::new(), adapter_name);
    let beside = Beside {
        adapter,
        weights: options(first).weights_name(),
        activations: options(first).activations_name(),
        kv: cache.to_string(),
        prompt_tokens: args.prompt_tokens,
        decode_tokens: args.tokens,
        turns: TURNS,
        models: rows,
    };
    report.finish(&lines(&beside), &beside)?;
    Ok(Outcome::Fine)
}

fn lines(beside: &Beside) -> String {
    let header =
        ["model", "bytes a token", "prompt ms", "times as fast", "token ms", "times as fast"];
    let mut rows = table(&header, true);
    for row in &beside.models {
        rows.add_row([
            printable(&row.model).into(),
            right(bytes(row.bytes_per_token)),
            right(format!("{:.1}", row.prompt_ms)),
            right(format!("{:.2}", row.prompt_speedup)),
            right(format!("{:.2}", row.token_ms)),
            right(format!("{:.2}", row.token_speedup)),
        ]);
    }
    format!(
        "{}\nThe fastest of {} turns, in each of which every model reads {} tokens and generates {}; on {}\n",
        text(&rows),
        beside.turns,
        beside.prompt_tokens,
        beside.decode_tokens,
        printable(&beside.adapter),
    )
}
