//! `lowbit decompress`: turns compressed weights back into plain f32.

use crate::error::{CliError, printable, warn};
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, files};
use lowbit_models::checkpoint::source::{Item, ItemKind, ModelSource, Readable, SourceError};
use lowbit_models::{Step, decompress};
use serde::Serialize;
use std::path::PathBuf;

/// Turn compressed weights back into plain f32 tensors.
///
/// Shapes are the original ones. Every other tensor is copied as it is.
#[derive(clap::Args)]
pub struct Args {
    /// A model with compressed weights: of `lowbit compress` or `lowbit import`, or a GGUF or ONNX file
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT", value_parser = files::to_file())]
    output: PathBuf,
    #[command(flatten)]
    shards: files::ShardArg,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// The format of the compressed weight.
    format: String,
    shape: Vec<usize>,
    bytes_before: usize,
    bytes_after: usize,
}

#[derive(Serialize)]
struct Json {
    input: String,
    output: String,
    tensors: Vec<Row>,
    copied: usize,
    bytes_before: usize,
    bytes_after: usize,
}

fn rows(items: &[Item]) -> Vec<Row> {
    let compressed = items.iter().filter(|item| is_compressed(item));
    let row = |item: &Item| Row {
        name: item.name.clone(),
        format: item.stored.clone(),
        shape: item.shape.clone(),
        bytes_before: item.bytes,
        bytes_after: 4 * item.elements(),
    };
    compressed.map(row).collect()
}

fn is_compressed(item: &Item) -> bool {
    !matches!(item.kind, ItemKind::Plain(_))
}

fn text(json: &Json) -> String {
    let mut table = report::table(&["tensor", "was", "shape", "from", "to"], false);
    for row in &json.tensors {
        table.add_row([
            printable(&row.name).into(),
            row.format.clone().into(),
            report::shape(&row.shape).into(),
            report::right(report::bytes(row.bytes_before as u64)),
            report::right(report::bytes(row.bytes_after as u64)),
        ]);
    }
    format!(
        "{}{} decompressed, {} copied: {} → {}\n",
        report::text(&table),
        report::count(json.tensors.len(), "weight"),
        report::count(json.copied, "other tensor"),
        report::bytes(json.bytes_before as u64),
        report::bytes(json.bytes_after as u64),
    )
}

/// Decompresses a file.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    files::refuse_same(&files::named(&[
        ("IN", Some(&args.input)),
        ("OUT", Some(&args.output)),
        ("--json", args.json.json.as_deref()),
    ]))?;
    let model = files::open(&args.input)?;
    let output = args.shards.output(&args.output);
    files::refuse_overwriting("IN", &args.input, &model, &output)?;
    let failed = |error: SourceError| {
        let hint = match &error {
            SourceError::Io(error) => error
                .system_step()
                .unwrap_or("the file is damaged, or `lowbit compress` did not write it"),
            _ => error.next_step(),
        };
        let message = format!("cannot decompress `{}`", args.input.display());
        CliError::new(message).because(error).hint(hint)
    };
    let model = Readable::new(&model).map_err(failed)?;
    if let Some(error) = model.refusal() {
        return Err(failed(error));
    }
    for left_out in model.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    let items = model.items().map_err(failed)?;
    let tensors = rows(&items);
    if tensors.is_empty() {
        let message = format!("`{}` contains no compressed weights", args.input.display());
        return Err(CliError::new(message).hint("`lowbit inspect` lists what it contains"));
    }
    let report = Report::open(&args.json)?;
    let progress = report::progress(tensors.len());
    let advance = &mut |step: Step<'_>| report::advance(&progress, step);
    let copied = decompress(&model, output, advance).map_err(failed)?;
    progress.finish_and_clear();
    let plain: usize = items.iter().filter(|item| !is_compressed(item)).map(|i| i.bytes).sum();
    let json = Json {
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        bytes_before: plain + tensors.iter().map(|row| row.bytes_before).sum::<usize>(),
        bytes_after: plain + tensors.iter().map(|row| row.bytes_after).sum::<usize>(),
        tensors,
        copied,
    };
    report.finish(&text(&json), &json)?;
    Ok(Outcome::Fine)
}
