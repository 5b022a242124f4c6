//! `lowbit inspect`: lists what a model file contains.

use crate::activations::ActivationsJson;
use crate::error::{CliError, printable};
use crate::report::{self, JsonArg, Report, bits_per_weight};
use crate::{Outcome, files, import};
use lowbit_models::checkpoint::{IoError, ModelFile};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// List the tensors of a safetensors file, compressed or not, or what `lowbit import` would make
/// from an ONNX file.
#[derive(clap::Args)]
pub struct Args {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Serialize)]
struct Row {
    name: String,
    compressed: bool,
    /// A weight format (`int4-g64-asym`), or an element type (`F32`).
    format: String,
    shape: Vec<usize>,
    weights: usize,
    bytes: usize,
    bits_per_weight: f64,
    /// How X of a compressed weight becomes codes, if the file says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<ActivationsJson>,
}

#[derive(Serialize)]
struct Totals {
    tensors: usize,
    compressed: usize,
    weights: usize,
    bytes: usize,
    bits_per_weight: f64,
    /// The bits of a compressed weight on average.
    compressed_bits_per_weight: f64,
    file_bytes: usize,
}

#[derive(Serialize)]
struct Json<'a> {
    file: String,
    metadata: &'a BTreeMap<String, String>,
    tensors: Vec<Row>,
    totals: Totals,
}

fn rows(model: &ModelFile) -> Result<Vec<Row>, IoError> {
    let mut rows = Vec::new();
    for (name, info) in model.compressed() {
        let sizes = model.check_compressed(name)?.sizes();
        rows.push(Row {
            name: name.clone(),
            compressed: true,
            format: info.format.to_string(),
            shape: info.shape.clone(),
            weights: sizes.weights,
            bytes: sizes.total(),
            bits_per_weight: sizes.bits_per_weight(),
            activations: model.activations(name)?.as_ref().map(Into::into),
        });
    }
    rows.extend(model.plain().map(|tensor| {
        // The product does not overflow: opening the file checked the size in bits.
        let (weights, bytes) = (tensor.shape.iter().product(), tensor.bytes.len());
        Row {
            name: tensor.name.to_owned(),
            compressed: false,
            format: tensor.dtype.to_string(),
            shape: tensor.shape.to_vec(),
            weights,
            bytes,
            bits_per_weight: bits_per_weight(bytes, weights),
            activations: None,
        }
    }));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

fn totals(rows: &[Row], file_bytes: usize) -> Totals {
    let sum = |compressed_only: bool, count: fn(&Row) -> usize| -> usize {
        rows.iter().filter(|row| row.compressed || !compressed_only).map(count).sum()
    };
    let (weights, bytes) = (sum(false, |row| row.weights), sum(false, |row| row.bytes));
    let (packed, packed_bytes) = (sum(true, |row| row.weights), sum(true, |row| row.bytes));
    Totals {
        tensors: rows.len(),
        compressed: sum(true, |_| 1),
        weights,
        bytes,
        bits_per_weight: bits_per_weight(bytes, weights),
        compressed_bits_per_weight: bits_per_weight(packed_bytes, packed),
        file_bytes,
    }
}

fn text(rows: &[Row], totals: &Totals) -> String {
    let mut header = vec!["tensor", "format", "shape", "size", "bits/weight"];
    let activations = rows.iter().any(|row| row.activations.is_some());
    if activations {
        header.push("activations");
    }
    let mut table = report::table(&header, false);
    for row in rows {
        let mut cells = vec![
            printable(&row.name).into(),
            row.format.clone().into(),
            report::shape(&row.shape).into(),
            report::right(report::bytes(row.bytes as u64)),
            report::right(format!("{:.3}", row.bits_per_weight)),
        ];
        if let Some(activations) = &row.activations {
            cells.push(activations.to_string().into());
        }
        table.add_row(cells);
    }
    let mut text = report::text(&table);
    text.push_str(&format!(
        "{}, {} compressed: {} in {:.3} bits a weight",
        report::count(totals.tensors, "tensor"),
        totals.compressed,
        report::bytes(totals.bytes as u64),
        totals.bits_per_weight,
    ));
    if totals.compressed > 0 {
        let bits = totals.compressed_bits_per_weight;
        text.push_str(&format!(", {bits:.3} where compressed"));
    }
    text.push('\n');
    text
}

fn inspect_onnx(args: &Args) -> Result<Outcome, CliError> {
    let model = import::open(&args.file)?;
    let report = Report::open(&args.json)?;
    let listing = import::Listing::new(&args.file, None, &model).map_err(|error| {
        CliError::new(format!("cannot list `{}`", args.file.display())).because(error)
    })?;
    report.finish(&listing.text(), &listing)?;
    Ok(Outcome::Fine)
}

/// Lists a file.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let json_path = args.json.json.as_deref();
    files::refuse_same(&files::named(&[("FILE", Some(&args.file)), ("--json", json_path)]))?;
    if import::is_onnx(&args.file) {
        return inspect_onnx(args);
    }
    let model = files::open(&args.file)?;
    let report = Report::open(&args.json)?;
    let tensors = rows(&model).map_err(|error| {
        CliError::new(format!("`{}` is damaged", args.file.display()))
            .because(error)
            .hint("make it again with `lowbit compress`")
    })?;
    let totals = totals(&tensors, model.file_bytes());
    let text = text(&tensors, &totals);
    let file = args.file.display().to_string();
    report.finish(&text, &Json { file, metadata: model.metadata(), tensors, totals })?;
    Ok(Outcome::Fine)
}
