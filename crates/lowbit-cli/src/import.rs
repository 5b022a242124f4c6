//! `lowbit import`: converts a model of any format to one of this crate.

use crate::error::{CliError, printable};
use crate::listing::Listing;
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, files};
use lowbit_models::Step;
use lowbit_models::checkpoint::onnx::{LeftOut, OnnxFile};
use lowbit_models::checkpoint::source::{self, Model, ModelSource, Readable, SourceError};
use lowbit_models::checkpoint::{IoError, Output};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Import a model of another format: quantized weights as they are, everything else as plain tensors.
///
/// Weights keep their codes and scales, and parameters their names. `lowbit inspect` lists what would be
/// imported and what is left out.
#[derive(clap::Args)]
pub struct Args {
    /// The model to read: an ONNX, GGUF or safetensors file, the index of several files, or a folder
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The safetensors file to write. It appears whole or not at all
    #[arg(short, long, value_name = "OUT", value_parser = files::to_file())]
    output: PathBuf,
    #[command(flatten)]
    shards: files::ShardArg,
    /// Remove this from the names of an ONNX file that begin with it
    #[arg(long, value_name = "PREFIX")]
    strip_prefix: Option<String>,
    /// Exit with 1 if anything is left out. The file is written all the same
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    json: JsonArg,
}

/// A tensor or weight to import.
#[derive(Serialize)]
struct Row {
    name: String,
    compressed: bool,
    /// A weight format (`int8-channel`), or an element type (`F32`).
    format: String,
    shape: Vec<usize>,
    bytes: usize,
    /// The tensor of the ONNX file.
    source: String,
    /// Whether a plain tensor is `[K, N]` in the ONNX file and `[N, K]` here.
    transposed: bool,
    /// The first node that uses a weight, and its operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<String>,
    /// The tensor that is added to the product with a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    bias: Option<String>,
}

#[derive(Serialize)]
struct Left<'a> {
    name: &'a str,
    op: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct Totals {
    tensors: usize,
    compressed: usize,
    bytes: usize,
    left_out: usize,
    file_bytes: usize,
}

/// What `inspect` and `import` report about an ONNX file.
#[derive(Serialize)]
pub struct OnnxListing<'a> {
    input: String,
    /// The family of formats.
    family: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    tensors: Vec<Row>,
    left_out: Vec<Left<'a>>,
    totals: Totals,
    #[serde(skip)]
    prefix: Option<&'a str>,
}

impl<'a> OnnxListing<'a> {
    /// Lists what an open file contains.
    pub fn new(input: &Path, output: Option<&Path>, model: &'a OnnxFile) -> Result<Self, IoError> {
        let mut tensors = Vec::new();
        for weight in model.weights() {
            tensors.push(Row {
                name: weight.name.clone(),
                compressed: true,
                format: weight.format.to_string(),
                shape: weight.shape.clone(),
                bytes: weight.bytes()?,
                source: weight.source.clone(),
                transposed: false,
                node: Some(weight.node.clone()),
                op: Some(weight.op.clone()),
                bias: weight.bias.clone(),
            });
        }
        tensors.extend(model.tensors().iter().map(|tensor| Row {
            name: tensor.name.clone(),
            compressed: false,
            format: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes(),
            source: tensor.source.clone(),
            transposed: tensor.is_transposed(),
            node: None,
            op: None,
            bias: None,
        }));
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let left = |LeftOut { name, op, why, .. }: &'a LeftOut| Left { name, op, why };
        let left_out: Vec<_> = model.left_out().iter().map(left).collect();
        let totals = Totals {
            tensors: tensors.len(),
            compressed: model.weights().len(),
            bytes: tensors.iter().map(|row| row.bytes).sum(),
            left_out: left_out.len(),
            file_bytes: model.file_bytes(),
        };
        Ok(Self {
            input: input.display().to_string(),
            family: model.family().to_string(),
            output: output.map(|path| path.display().to_string()),
            tensors,
            left_out,
            totals,
            prefix: model.common_prefix(),
        })
    }

    /// Formats the listing as text. What is left out is counted by operator and reason.
    pub fn text(&self) -> String {
        let mut table = report::table(&["tensor", "format", "shape", "size", "from"], false);
        for row in &self.tensors {
            let from = match &row.op {
                Some(op) => format!("{} ({op})", row.source),
                None if row.transposed => format!("{} (transposed)", row.source),
                None if row.source == row.name => String::new(),
                None => row.source.clone(),
            };
            table.add_row([
                printable(&row.name).into(),
                row.format.clone().into(),
                report::shape(&row.shape).into(),
                report::right(report::bytes(row.bytes as u64)),
                printable(&from).into(),
            ]);
        }
        let mut text = format!("{}\n\n{}", self.family, report::text(&table));
        let totals = &self.totals;
        text.push_str(&format!(
            "{}, {} compressed, {}{}\n",
            report::count(totals.tensors, "tensor"),
            totals.compressed,
            report::bytes(totals.bytes as u64),
            match &self.output {
                Some(output) => format!(" → {}", printable(output)),
                None => " to import".to_owned(),
            },
        ));
        let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for Left { name, op, why } in &self.left_out {
            reasons.entry((op, why)).or_default().push(name);
        }
        for ((op, why), names) in reasons {
            let some: Vec<&str> = names.iter().take(3).copied().collect();
            let more = if names.len() > some.len() { ", …" } else { "" };
            let list = format!("{}{more}", some.join(", "));
            let line = format!("left out: {} × {op} ({list}): {why}", names.len());
            text.push_str(&format!("{}\n", printable(&line)));
        }
        if let Some(prefix) = self.prefix {
            let line = format!(
                "every dotted name begins with `{prefix}`: `lowbit import --strip-prefix {prefix}` \
                 removes it"
            );
            text.push_str(&format!("{}\n", printable(&line)));
        }
        text
    }
}

/// Imports a model.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    files::refuse_same(&files::named(&[
        ("IN", Some(&args.input)),
        ("OUT", Some(&args.output)),
        ("--json", args.json.json.as_deref()),
    ]))?;
    let model = files::open(&args.input)?;
    let output = args.shards.output(&args.output);
    files::refuse_overwriting("IN", &args.input, &model, &output)?;
    match model {
        Model::Onnx(model) => run_onnx(args, model, output),
        model => run_any(args, &model, output),
    }
}

fn failed(args: &Args, error: SourceError) -> CliError {
    let contents = "`lowbit inspect` lists what the file contains";
    let hint = match &error {
        SourceError::Io(error) => error.system_step().unwrap_or(contents),
        SourceError::Onnx(_) => contents,
        _ => error.next_step(),
    };
    CliError::new(format!("cannot import `{}`", args.input.display())).because(error).hint(hint)
}

/// Imports a safetensors or GGUF model.
fn run_any(args: &Args, model: &Model, output: Output) -> Result<Outcome, CliError> {
    if args.strip_prefix.is_some() {
        let message = format!("--strip-prefix is for ONNX files, and this is {}", model.family());
        return Err(CliError::new(message).hint("leave it out: the names are the model's own"));
    }
    let report = Report::open(&args.json)?;
    let model = Readable::new(model).map_err(|error| failed(args, error))?;
    let listing = Listing::new(&args.input, Some(&args.output), &model)
        .map_err(|error| failed(args, error))?;
    import(args, &model, output)?;
    report.finish(&listing.text(), &listing)?;
    let strict = args.strict && !model.omissions().is_empty();
    Ok(if strict { Outcome::FoundWrong } else { Outcome::Fine })
}

fn import(args: &Args, model: &dyn ModelSource, output: Output) -> Result<(), CliError> {
    let items = model.items().map_err(|error| failed(args, error))?;
    let progress = report::progress(items.len());
    let advance = &mut |step: Step<'_>| report::advance(&progress, step);
    source::import(model, output, advance).map_err(|error| failed(args, error))?;
    progress.finish_and_clear();
    Ok(())
}

/// Imports an ONNX file.
fn run_onnx(args: &Args, mut model: OnnxFile, output: Output) -> Result<Outcome, CliError> {
    if let Some(prefix) = &args.strip_prefix
        && model.strip_prefix(prefix).map_err(|error| failed(args, error.into()))? == 0
    {
        let message = format!("no name begins with `{}`", printable(prefix));
        return Err(CliError::new(message).hint("`lowbit inspect` lists the names"));
    }
    if model.weights().is_empty() && model.tensors().is_empty() {
        let message = format!("`{}` contains nothing to import", args.input.display());
        return Err(CliError::new(message).hint("`lowbit inspect` says what is left out, and why"));
    }
    let report = Report::open(&args.json)?;
    let listing = OnnxListing::new(&args.input, Some(&args.output), &model);
    let listing = listing.map_err(|error| failed(args, error.into()))?;
    import(args, &model, output)?;
    report.finish(&listing.text(), &listing)?;
    // Each thing that is left out is listed with its reason.
    Ok(if args.strict && !model.left_out().is_empty() {
        Outcome::FoundWrong
    } else {
        Outcome::Fine
    })
}
