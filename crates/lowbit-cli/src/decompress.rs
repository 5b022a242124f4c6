//! `lowbit decompress`: compressed weights back to plain f32.

use crate::error::{CliError, printable};
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, files};
use lowbit::compress::dequantize;
use lowbit_models::checkpoint::{Dtype, Entry, IoError, ModelFile, ModelWriter, read_compressed};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Turn compressed weights back into plain f32 tensors.
///
/// Shapes are the original ones; every other tensor is copied as it is.
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
    /// The format it was in.
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

/// What the output holds.
fn entries(model: &ModelFile) -> BTreeMap<String, Entry> {
    let plain = model.plain().map(|tensor| {
        let entry = Entry::Plain { dtype: tensor.dtype, shape: tensor.shape.to_vec() };
        (tensor.name.to_owned(), entry)
    });
    let weights = model.compressed().iter().map(|(name, info)| {
        (name.clone(), Entry::Plain { dtype: Dtype::F32, shape: info.shape.clone() })
    });
    plain.chain(weights).collect()
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

fn write(model: &ModelFile, writer: &mut ModelWriter) -> Result<usize, IoError> {
    let progress = report::progress(model.compressed().len());
    let mut copied = 0;
    for tensor in model.plain() {
        writer.write_plain(tensor.name, tensor.bytes)?;
        copied += 1;
    }
    for name in model.compressed().keys() {
        progress.set_message(printable(name));
        let mut values = dequantize(&read_compressed(model, name)?);
        // Without codes of X there is nothing to smooth: the columns get their own size again.
        if let Some(factors) = model.activations(name)?.and_then(|x| x.factors) {
            values.iter_mut().zip(factors.iter().cycle()).for_each(|(w, s)| *w /= s);
        }
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        writer.write_plain(name, &bytes)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(copied)
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
        let message = format!("`{}` holds no compressed weights", args.input.display());
        return Err(CliError::new(message).hint("`lowbit inspect` lists what it holds"));
    }
    let failed = |error| {
        let hint = match error {
            IoError::Io { .. } => "is there room, and may this user write there?",
            _ => "the file is damaged, or not what `lowbit compress` wrote",
        };
        let message = format!("cannot decompress `{}`", args.input.display());
        CliError::new(message).because(error).hint(hint)
    };
    let tensors = rows(&model).map_err(failed)?;
    let report = Report::open(&args.json)?;
    let mut writer =
        ModelWriter::create(&args.output, entries(&model), model.metadata()).map_err(failed)?;
    let copied = write(&model, &mut writer).map_err(failed)?;
    writer.finish().map_err(failed)?;
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
