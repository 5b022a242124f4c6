//! The demo: MiniLM, a real sentence encoder. Its 36 attention and feed-forward matrices are
//! compressed on the GPU in seven formats and multiplied without being unpacked, also with 8-bit
//! inputs whose scales are taken at run time or were calibrated on other sentences. The demo shows
//! the sizes, the accuracy that is lost, and the time.
//!
//!     make demo                                      # fetches the model first
//!     cargo run --release -p lowbit-demo -- FOLDER   # a BERT encoder of your own
//!
//! Exit codes: 0 if all is well, 1 if a cosine is below its floor, 2 if there is no model or no
//! adapter.

mod recipes;
mod sentences;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowbit::host::Host;
use lowbit_models::bert::{DeviceEncoder, Encoder, Error, Samples};
use recipes::{Recipe, recipes};
use sentences::{Sentence, alike, cosine, mean, sentences};
use std::{
    env, fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// The folder into which `make model` puts the model whose embeddings the fixture contains.
const MODEL: &str = "data/minilm";
/// Sentences for calibration; none of them is compared.
const CALIBRATION: &str = include_str!("calibration.txt");
const REPORT: &str = "target/demo.json";

/// The least cosine to the reference that the fixture's sentences must keep in `f32`.
const REFERENCE_FLOOR: f64 = 0.99999;

#[derive(serde::Serialize)]
struct Row {
    recipe: &'static str,
    format: String,
    bytes: usize,
    bits_per_weight: f64,
    mean_cosine_to_f32: f64,
    paraphrase: f64,
    unrelated: f64,
    ms_per_sentence: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("minilm: {}", chain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

/// Returns an error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

fn run() -> Result<bool, Error> {
    let given = env::args_os().nth(1).map(PathBuf::from);
    let folder = given.as_deref().unwrap_or(Path::new(MODEL));
    let encoder = Encoder::open(folder).map_err(|error| match given {
        Some(_) => chain(&error),
        None => {
            format!("{}\nrun `make demo`, which fetches the model into {MODEL}", chain(&error))
        }
    })?;
    let host = Host::new().map_err(|error| {
        format!("{}\nrun `make demo`, which installs a software adapter", chain(&error))
    })?;
    let sentences = sentences()?;
    let recipes = recipes()?;

    let adapter = host.adapter_info();
    let (matrices, weights) =
        encoder.linears().fold((0, 0), |(count, sum), dense| (count + 1, sum + dense.weight.len()));
    println!("{}: {matrices} matrices, {weights} weights", folder.display());
    println!("adapter: {} ({:?}), {}", adapter.name, adapter.backend, adapter.driver_info);

    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let steps = (recipes.len() * (sentences.len() + 1) + 1) as u64;
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style);

    bar.set_message("calibration");
    let samples = Samples::new(&host, &encoder, CALIBRATION.lines())?;
    bar.inc(1);

    let mut rows = Vec::new();
    let mut findings = Vec::new();
    let mut baseline = Vec::new();
    for recipe in &recipes {
        bar.set_message(recipe.name);
        let (row, embeddings) =
            measure(&host, &encoder, recipe, &samples, &sentences, &baseline, &bar)?;
        if baseline.is_empty() {
            baseline = embeddings;
            let references = sentences.iter().map(|sentence| &sentence.embedding);
            // The reference embeddings are those of one model only.
            if given.is_none() {
                let least = least_cosine(&baseline, references);
                findings.push(("f32 to the reference".to_string(), least, REFERENCE_FLOOR));
            }
        } else if let Some(floor) = recipe.floor {
            let least = least_cosine(&embeddings, &baseline);
            findings.push((format!("{} to f32", recipe.name), least, floor));
        }
        rows.push(row);
    }
    bar.finish_and_clear();

    print_table(&rows);
    println!();
    let mut passed = true;
    for (what, cosine, floor) in findings {
        let kept = cosine >= floor;
        passed &= kept;
        let verdict = if kept { "ok" } else { "FAILED" };
        println!("{verdict}: {what}: least cosine {cosine:.7}, at least {floor} asked");
    }
    write_report(Path::new(REPORT), &rows)?;
    println!("written: {REPORT}");
    Ok(passed)
}

/// Compresses the encoder, then embeds every sentence and measures the time. The first sentence is
/// embedded once before, since pipelines are compiled at their first use.
fn measure(
    host: &Host,
    encoder: &Encoder,
    recipe: &Recipe,
    samples: &Samples,
    sentences: &[Sentence],
    baseline: &[Vec<f32>],
    bar: &ProgressBar,
) -> Result<(Row, Vec<Vec<f32>>), Error> {
    let Recipe { format, inputs, .. } = *recipe;
    let compressed = DeviceEncoder::new(host, encoder, format, inputs, Some(samples))?;
    if let Some(first) = sentences.first() {
        compressed.embed(&first.text)?;
    }
    bar.inc(1);
    let mut embeddings = Vec::new();
    let mut times = Vec::new();
    for sentence in sentences {
        let start = Instant::now();
        embeddings.push(compressed.embed(&sentence.text)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
        bar.inc(1);
    }
    let to_f32: Vec<f64> = if baseline.is_empty() {
        vec![1.0; embeddings.len()]
    } else {
        embeddings.iter().zip(baseline).map(|(a, b)| cosine(a, b)).collect()
    };
    let (paraphrase, unrelated) = alike(sentences, &embeddings);
    let row = Row {
        recipe: recipe.name,
        format: recipe.format.to_string(),
        bytes: compressed.sizes().total(),
        bits_per_weight: compressed.sizes().bits_per_weight(),
        mean_cosine_to_f32: mean(&to_f32),
        paraphrase,
        unrelated,
        ms_per_sentence: mean(&times),
    };
    Ok((row, embeddings))
}

fn least_cosine<'a>(a: &[Vec<f32>], b: impl IntoIterator<Item = &'a Vec<f32>>) -> f64 {
    a.iter().zip(b).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min)
}

fn print_table(rows: &[Row]) {
    println!();
    println!(
        "{:<18} {:<15} {:>6} {:>6} {:>8} {:>6} {:>7} {:>8}",
        "recipe", "format", "MB", "bits/", "cosine", "para-", "unre-", "ms/"
    );
    println!(
        "{:<18} {:<15} {:>6} {:>6} {:>8} {:>6} {:>7} {:>8}",
        "", "", "", "weight", "to f32", "phrase", "lated", "sentence"
    );
    for row in rows {
        println!(
            "{:<18} {:<15} {:>6.2} {:>6.2} {:>8.5} {:>6.3} {:>7.3} {:>8.1}",
            row.recipe,
            row.format,
            row.bytes as f64 / 1e6,
            row.bits_per_weight,
            row.mean_cosine_to_f32,
            row.paraphrase,
            row.unrelated,
            row.ms_per_sentence
        );
    }
}

/// Writes the report to a file beside `path` and renames it, so that it appears whole or not at all.
fn write_report(path: &Path, rows: &[Row]) -> Result<(), Error> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let partial = path.with_extension("json.partial");
        fs::write(&partial, serde_json::to_string_pretty(rows)? + "\n")?;
        fs::rename(&partial, path)
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()).into())
}
