//! `lowbit embed`: makes a vector of each line of a text.

use crate::error::{CliError, warn};
use crate::model::{LinearLayers, Loaded, ModelArgs, adapter_name, failed, text_failed, warming};
use crate::report::{JsonArg, Report, count, progress, right, table, text};
use crate::{Outcome, files};
use lowbit_models::checkpoint::{AtomicFile, npy_header, write_npy_rows};
use lowbit_models::device::{EncoderOptions, Pooling};
use lowbit_models::text::Tokenizer;
use pollster::block_on;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of a step, unless a sentence has more: short sentences share a step.
const ROWS: usize = 512;

/// Make a vector of each line of a text with an encoder of sentences
///
/// OUT.npy is a NumPy file of f32, [lines, columns], and appears whole or not at all. Lines that have more
/// tokens than the model has positions are cut.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, UTF-8, with a sentence in each line. A blank line has a vector too
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT.npy", value_parser = files::to_file())]
    output: PathBuf,
    /// How the rows of a sentence become one vector: mean, cls (the first row) or max. The default is what
    /// 1_Pooling/config.json in the model's folder or a GGUF file's metadata says, or mean
    #[arg(long, value_name = "HOW")]
    pooling: Option<Pooling>,
    /// Leave the length of vectors as it is. Without this they are divided by it
    #[arg(long)]
    no_normalize: bool,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Serialize)]
struct Result {
    sentences: usize,
    columns: usize,
    tokens: usize,
    tokens_per_s: f64,
    weights: String,
    activations: String,
    linear_layers: LinearLayers,
    pooling: &'static str,
    adapter: String,
}

/// Returns how rows become a vector: what the command line says, or the model's folder.
fn pooling(args: &Args) -> std::result::Result<Pooling, CliError> {
    if let Some(pooling) = args.pooling {
        return Ok(pooling);
    }
    let said = Pooling::of_model(&args.model.model).map_err(|error| {
        let error = CliError::new("it is not known how to pool").because(error);
        error.hint("--pooling mean, cls or max takes the place of what the model's folder says")
    })?;
    Ok(said.unwrap_or(Pooling::Mean))
}

/// Returns the tokens of each line, and warns of lines that have more than the model takes.
fn tokens(
    tokenizer: &Tokenizer,
    content: &str,
    most: usize,
    path: &Path,
) -> std::result::Result<Vec<Vec<u32>>, CliError> {
    let (mut all, mut cut, mut first) = (Vec::new(), 0, None);
    for (number, line) in (1..).zip(content.lines()) {
        let (ids, have) = tokenizer.encode_within(line, most).map_err(|error| {
            text_failed(
                format!("cannot make tokens of line {number} of `{}`", path.display()),
                error,
            )
        })?;
        if have > ids.len() {
            cut += 1;
            first.get_or_insert((number, have));
        }
        all.push(ids);
    }
    if let Some((number, have)) = first {
        let (lines, are) = (count(cut, "line"), if cut == 1 { "is" } else { "are" });
        warn(format!(
            "{lines} of `{}` {are} cut after {most} tokens, which is all that the model takes; the first is \
             line {number}, which has {have}",
            path.display()
        ));
    }
    Ok(all)
}

/// Makes the vectors.
pub fn run(args: &Args) -> std::result::Result<Outcome, CliError> {
    let named = files::named(&[
        ("MODEL", Some(&args.model.model)),
        ("--text", Some(&args.text)),
        ("--output", Some(&args.output)),
        ("--json", args.json.json.as_deref()),
    ]);
    files::refuse_same(&named)?;
    let unwritten = |error| CliError::new("cannot write the vectors").because(error);
    let report = Report::open(&args.json)?;
    let content = files::read_text(&args.text)?;
    if content.is_empty() {
        let message = format!("`{}` contains no text", args.text.display());
        return Err(CliError::new(message).hint("give a file with a sentence in each line"));
    }
    let mut output = AtomicFile::create(&args.output).map_err(unwritten)?;
    let pooling = pooling(args)?;
    let refuse = |error| failed(&args.model.model, "run", error);
    let Loaded { model, linear_layers, .. } = args.model.load()?;
    if model.blueprint().head.is_some() {
        let family = model.blueprint().family;
        let message = format!("`{}` is no encoder of sentences", args.model.model.display());
        let error = CliError::new(format!("{message}: {family} is a language model"));
        return Err(error.hint("`lowbit generate` continues texts with it"));
    }
    let tokenizer = args.model.tokenizer(&model)?;
    let sentences = tokens(&tokenizer, &content, model.blueprint().context, &args.text)?;
    let tokens = sentences.iter().map(Vec::len).sum::<usize>();
    let longest = sentences.iter().map(Vec::len).max().unwrap_or(0);
    let rows = tokens.min(ROWS).max(longest).max(1);
    let options = EncoderOptions::default().with_rows(rows).with_pooling(pooling);
    let options = if args.no_normalize { options.without_normalization() } else { options };
    let encoder = block_on(model.encoder(&options)).map_err(refuse)?;
    warming(&model, || block_on(encoder.warm_up())).map_err(refuse)?;
    let bar = progress(sentences.len());
    let start = Instant::now();
    let vectors = block_on(encoder.embed_with(&sentences, |done| bar.set_position(done as u64)));
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let vectors = vectors.map_err(refuse)?;
    write(&mut output, &vectors, encoder.columns()).map_err(|error| {
        let error =
            CliError::new(format!("cannot write `{}`", args.output.display())).because(error);
        error.hint("is there room for it?")
    })?;
    let result = Result {
        sentences: vectors.len(),
        columns: encoder.columns(),
        tokens,
        tokens_per_s: if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
        weights: args.model.weights_name(),
        activations: args.model.activations_name(),
        linear_layers,
        pooling: pooling.name(),
        adapter: adapter_name(&model),
    };
    output.commit().map_err(unwritten)?;
    let header = ["sentences", "columns", "tokens", "tokens/s", "pooling", "adapter"];
    let mut lines = table(&header, true);
    lines.add_row(vec![
        right(result.sentences),
        right(result.columns),
        right(result.tokens),
        right(format!("{:.1}", result.tokens_per_s)),
        result.pooling.into(),
        result.adapter.clone().into(),
    ]);
    report.finish(&text(&lines), &result)?;
    Ok(Outcome::Fine)
}

/// Writes vectors as a NumPy file.
fn write(file: &mut AtomicFile, vectors: &[Vec<f32>], columns: usize) -> std::io::Result<()> {
    file.write_all(&npy_header(vectors.len(), columns))?;
    vectors.iter().try_for_each(|vector| write_npy_rows(file, vector))
}
