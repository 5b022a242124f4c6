//! `lowbit bench --model`: measures a language model.

use crate::Outcome;
use crate::bench::Args;
use crate::error::CliError;
use crate::model::{LinearLayers, Loaded, ModelArgs, adapter_name, failed, warming};
use crate::report::{Report, bytes, right, table, text};
use lowbit::compress::Scheme;
use lowbit::conformance::limits;
use lowbit::ops::{Activations, FloatType};
use lowbit_models::device::{Sampling, SessionOptions};
use pollster::block_on;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Bench {
    model: String,
    adapter: String,
    weights: String,
    activations: String,
    linear_layers: LinearLayers,
    kv: String,
    prompt_tokens: u32,
    decode_tokens: u32,
    prompt_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    p50_ms: f64,
    p95_ms: f64,
    dispatches_per_token: usize,
    submissions_per_token: f64,
    bytes_per_token: u64,
    /// The time that the adapter's measured reads would take, as a share of the time taken.
    share_of_read_rate: f64,
    load_s: f64,
    warm_up_s: f64,
    device_bytes: u64,
    kinds: Vec<Kind>,
}

/// The ops of one kind in a step of one token.
#[derive(Serialize)]
struct Kind {
    name: String,
    dispatches: usize,
    ms: f64,
}

/// Measures a model: reads a prompt of pseudo-random tokens, and generates.
pub fn run(args: &Args, path: &Path) -> Result<Outcome, CliError> {
    let report = Report::open(&args.json)?;
    let format = match args.format[..] {
        [] => None,
        [format] => Some(Scheme::from(format)),
        _ => return Err(CliError::new("--model takes one --format")),
    };
    let activations = args.activations.unwrap_or(Activations::Float(FloatType::F32));
    let (adapter, device) = (args.adapter.clone(), args.device.clone());
    let options = ModelArgs::new(path.to_owned(), format, activations, adapter, device);
    let Loaded { model, load_time, linear_layers } = options.load()?;
    let refuse = |error| failed(path, "run", error);
    let cache = options.cache(&args.cache);
    let slots = (args.prompt_tokens + args.tokens) as usize;
    let start = Instant::now();
    let sizes = SessionOptions::default().with_slots(slots).with_cache(cache);
    let mut session = block_on(model.session(&sizes)).map_err(refuse)?;
    warming(&model, || block_on(session.warm_up())).map_err(refuse)?;
    let warm_up = start.elapsed();
    let vocab = model.blueprint().vocab as u32;
    let prompt: Vec<u32> =
        (0..args.prompt_tokens).map(|at| at.wrapping_mul(2_654_435_761) % vocab.max(1)).collect();
    let start = Instant::now();
    block_on(session.prompt(&prompt, &Sampling::GREEDY)).map_err(refuse)?;
    let prompt_time = start.elapsed();
    let submissions = session.submissions();
    let mut times = Vec::with_capacity(args.tokens as usize - 1);
    // The first token came with the prompt.
    for _ in 1..args.tokens {
        let start = Instant::now();
        block_on(session.next(&Sampling::GREEDY)).map_err(refuse)?;
        times.push(start.elapsed());
    }
    let steps = times.len().max(1) as f64;
    let submissions = (session.submissions() - submissions) as f64 / steps;
    let decode_time: Duration = times.iter().sum();
    times.sort();
    let at = |share: f64| times.get((share * (times.len() - 1) as f64).round() as usize);
    let [p50, p95] =
        [0.5, 0.95].map(|share| at(share).map_or(0.0, |time| time.as_secs_f64() * 1e3));
    let middle = (args.prompt_tokens + args.tokens / 2) as usize;
    let bytes_per_token = session.bytes_per_token(middle);
    let (dispatches, device_bytes) = (session.dispatches(1), session.device_bytes());
    let kinds = block_on(session.profile()).map_err(refuse)?;
    let limits = limits(model.host())
        .map_err(|error| CliError::new("cannot measure the limits").because(error))?;
    let least = bytes_per_token as f64 / limits.read_bytes_per_second();
    let bench = Bench {
        model: path.display().to_string(),
        adapter: adapter_name(&model),
        weights: options.weights_name(),
        activations: options.activations_name(),
        linear_layers,
        kv: cache.to_string(),
        prompt_tokens: args.prompt_tokens,
        decode_tokens: args.tokens,
        prompt_tokens_per_s: f64::from(args.prompt_tokens) / prompt_time.as_secs_f64(),
        decode_tokens_per_s: steps / decode_time.as_secs_f64(),
        p50_ms: p50,
        p95_ms: p95,
        dispatches_per_token: dispatches,
        submissions_per_token: submissions,
        bytes_per_token,
        share_of_read_rate: least * steps / decode_time.as_secs_f64(),
        load_s: load_time.as_secs_f64(),
        warm_up_s: warm_up.as_secs_f64(),
        device_bytes,
        kinds: kinds
            .iter()
            .map(|kind| Kind {
                name: kind.name.to_owned(),
                dispatches: kind.dispatches,
                ms: kind.time.as_secs_f64() * 1e3,
            })
            .collect(),
    };
    report.finish(&lines(&bench), &bench)?;
    Ok(Outcome::Fine)
}

fn lines(bench: &Bench) -> String {
    let mut rates = table(
        &["", "tokens", "tokens/s", "p50 ms", "p95 ms", "bytes a token", "of read rate"],
        true,
    );
    let prompt = format!("{:.1}", bench.prompt_tokens_per_s);
    rates.add_row(vec!["prompt".into(), right(bench.prompt_tokens), right(prompt)]);
    rates.add_row(vec![
        "decode".into(),
        right(bench.decode_tokens - 1),
        right(format!("{:.1}", bench.decode_tokens_per_s)),
        right(format!("{:.1}", bench.p50_ms)),
        right(format!("{:.1}", bench.p95_ms)),
        right(bytes(bench.bytes_per_token)),
        right(format!("{:.0} %", 100.0 * bench.share_of_read_rate)),
    ]);
    let mut kinds = table(&["op, in a step of one token", "dispatches", "ms"], true);
    for kind in &bench.kinds {
        let ms = right(format!("{:.2}", kind.ms));
        kinds.add_row(vec![kind.name.clone().into(), right(kind.dispatches), ms]);
    }
    format!(
        "{}\n{} dispatches and {} submissions a token; {} on {}\nThe times of ops are of submissions of each \
         kind alone, each with its wait.\n{}",
        text(&rates),
        bench.dispatches_per_token,
        bench.submissions_per_token,
        bytes(bench.device_bytes),
        bench.adapter,
        text(&kinds),
    )
}
