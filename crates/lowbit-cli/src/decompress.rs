//! `lowbit decompress`: turns compressed weights back into plain f32.

use crate::error::{CliError, printable};
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, files};
use lowbit_models::checkpoint::{IoError, ModelFile, Tensor, TensorKind, foreign};
use lowbit_models::{Step, decompress};
use serde::Serialize;
use std::path::PathBuf;

/// Turn compressed weights back into plain f32 tensors.
///
/// Shapes are the original ones. Every other tensor is copied as it is.
#[derive(clap::Args)]
pub struct Args {
    /// A file that `lowbit compress` wrote
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT", value_parser = files::to_file())]
    output: PathBuf,
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

fn rows(model: &ModelFile) -> Result<Vec<Row>, IoError> {
    let row = |name: &String| {
        let (info, sizes) = (&model.compressed()[name], model.check_compressed(name)?.sizes());
        Ok(Row {
            name: name.clone(),
            format: info.format.to_string(),
            shape: info.shape.clone(),
            bytes_before: sizes.total(),
            bytes_after: 4 * sizes.weights,
        })
    };
    model.compressed().keys().map(row).collect()
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
    if model.compressed().is_empty() {
        let kinds = model.plain().map(|tensor| {
            let Tensor { name, dtype, shape, .. } = tensor;
            TensorKind { name, dtype, shape }
        });
        let hint = match foreign(None, kinds) {
            Some(foreign) => format!(
                "its weights are quantized with {} ({}); `lowbit import` takes them first",
                foreign.format,
                printable(&foreign.evidence)
            ),
            None => "`lowbit inspect` lists what it contains".to_owned(),
        };
        let message = format!("`{}` contains no compressed weights", args.input.display());
        return Err(CliError::new(message).hint(hint));
    }
    let failed = |error| {
        let hint = match error {
            IoError::Io { .. } => "is there room, and may this user write there?",
            _ => "the file is damaged, or `lowbit compress` did not write it",
        };
        let message = format!("cannot decompress `{}`", args.input.display());
        CliError::new(message).because(error).hint(hint)
    };
    let tensors = rows(&model).map_err(failed)?;
    let report = Report::open(&args.json)?;
    let progress = report::progress(tensors.len());
    let advance = &mut |step: Step<'_>| report::advance(&progress, step);
    let copied = decompress(&model, &args.output, advance).map_err(failed)?;
    progress.finish_and_clear();
    let plain: usize = model.plain().map(|tensor| tensor.bytes.len()).sum();
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
