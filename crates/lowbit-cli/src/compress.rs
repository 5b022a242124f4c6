//! `lowbit compress`: the weights of a model file, compressed on the GPU.

use crate::activations::{ActivationsArg, ActivationsJson, Plan};
use crate::adapter::AdapterArg;
use crate::error::{CliError, printable};
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, files, smooth};
use clap::ValueEnum;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use indicatif::ProgressBar;
use lowbit::compress::{dequantize, quantize, relative_error};
use lowbit::format::{
    CodeType, FormatError, Geometry, Granularity, PackedWeights, ScaleType, WeightFormat,
};
use lowbit::host::{Host, HostError};
use lowbit_models::checkpoint::{
    CompressedInfo, Entry, IoError, ModelFile, ModelWriter, Tensor, matrix_shape,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Compress the weights of a safetensors file on the GPU.
///
/// Weights are the F32, F16 and BF16 tensors of two or more dimensions; every other
/// tensor is copied as it is.
#[derive(clap::Args)]
pub struct Args {
    /// The file to read
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write, whole or not at all
    #[arg(short, long, value_name = "OUT", value_parser = files::to_file())]
    output: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
    /// Compress only weights whose names match; may be given more than once
    #[arg(long, value_name = "GLOB", default_value = "*")]
    tensors: Vec<String>,
    /// Store how the inputs of the weights become 8-bit codes: int8:dynamic for a scale a row made
    /// at run time (or int8-g64:dynamic, int8-token-asym:dynamic), int8:static=RANGES.json for one
    /// fixed by `lowbit calibrate`
    #[arg(long, value_name = "FORMAT:dynamic[=FILE]|static=FILE")]
    activations: Option<ActivationsArg>,
    /// Move outliers of the inputs into the weights (SmoothQuant), by ranges of channels; more so
    /// the larger ALPHA, 0 to 1, and without it as is best for each layer
    #[arg(long, value_name = "ALPHA", num_args = 0..=1, require_equals = true)]
    #[arg(value_parser = parse_alpha, requires = "activations")]
    smooth: Option<Option<f64>>,
    /// Compare with the CPU code for code; write nothing and exit with 1 if they differ
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(clap::Args)]
struct FormatArgs {
    /// What a weight is stored as
    #[arg(long)]
    scheme: Scheme,
    /// Weights that share a scale: a number of them, `channel` or `tensor`; `channel`
    /// without, and 128 for int4
    #[arg(long, value_name = "N|channel|tensor", value_parser = parse_group)]
    group: Option<Granularity>,
    /// Store a zero point a group (int8, int4)
    #[arg(long)]
    asymmetric: bool,
    /// How scales are stored (f16: int8, int4); f32 without
    #[arg(long)]
    scales: Option<ScalesArg>,
    /// Prune to two of every four weights first
    #[arg(long, value_name = "2:4")]
    sparsity: Option<SparsityArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scheme {
    Int8,
    Int4,
    Int16,
    F16,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScalesArg {
    F32,
    F16,
}

#[derive(Clone, Copy, ValueEnum)]
enum SparsityArg {
    #[value(name = "2:4")]
    TwoFour,
    Dense,
}

fn parse_alpha(text: &str) -> Result<f64, String> {
    let alpha = text.parse().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
    alpha.ok_or_else(|| "a number from 0 to 1 is needed".to_owned())
}

fn parse_group(text: &str) -> Result<Granularity, String> {
    match text {
        "channel" => Ok(Granularity::Channel),
        "tensor" => Ok(Granularity::Tensor),
        number => {
            let count = number.parse().map_err(|_| "a number, `channel` or `tensor` is needed")?;
            Granularity::group(count).map_err(|error: FormatError| error.to_string())
        }
    }
}

impl FormatArgs {
    fn format(&self) -> Result<WeightFormat, CliError> {
        let group = self.group;
        let channel = group.unwrap_or(Granularity::Channel);
        let mut format = match self.scheme {
            Scheme::F32 => WeightFormat::f32(),
            Scheme::F16 => WeightFormat::f16(),
            Scheme::Int16 => WeightFormat::int16(channel),
            Scheme::Int8 => WeightFormat::int8(channel),
            Scheme::Int4 => match group {
                Some(group) => WeightFormat::int4(group),
                None => WeightFormat::int4(Granularity::group(128).map_err(bad_format)?),
            },
        };
        if !format.code_type().is_integer() && (group.is_some() || self.scales.is_some()) {
            let message = format!("{} weights have no scales", format.code_type().name());
            return Err(CliError::new(message).hint("leave out --group and --scales"));
        }
        if self.asymmetric {
            format = format.asymmetric();
        }
        if let Some(ScalesArg::F16) = self.scales {
            format = format.with_scales(ScaleType::F16);
        }
        if let Some(SparsityArg::TwoFour) = self.sparsity {
            format = format.two_four();
        }
        format.check().map_err(bad_format)?;
        Ok(format)
    }
}

fn bad_format(error: FormatError) -> CliError {
    CliError::new("there is no such format")
        .because(error)
        .hint("`lowbit compress --help` lists what goes together")
}

#[derive(Serialize)]
struct Row {
    name: String,
    shape: Vec<usize>,
    /// CodeType type in the input.
    from: String,
    bytes_before: usize,
    bytes_after: usize,
    bits_per_weight: f64,
    /// `‖w − ŵ‖₂ / ‖w‖₂`, ŵ being what the file gives back.
    relative_error: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<ActivationsJson>,
    /// `equal`, or the first difference from the CPU; absent without `--check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<String>,
}

#[derive(Serialize)]
struct Totals {
    weights: usize,
    bytes_before: usize,
    bytes_after: usize,
    bits_per_weight: f64,
    relative_error: f64,
    /// Tensors that stay as they are, and their bytes.
    copied: usize,
    copied_bytes: usize,
}

#[derive(Serialize)]
struct AdapterJson {
    name: String,
    driver: String,
    backend: String,
}

#[derive(Serialize)]
struct Json {
    input: String,
    output: String,
    /// Whether the output was written: not if a check failed.
    written: bool,
    format: String,
    /// The α of `--smooth`; null where each layer has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    smooth: Option<Option<f64>>,
    adapter: AdapterJson,
    tensors: Vec<Row>,
    totals: Totals,
}

/// Why a weight could not be compressed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] IoError),
    #[error(transparent)]
    Smooth(#[from] smooth::Failure),
    #[error("weight `{name}`")]
    Host { name: String, source: HostError },
}

impl Failure {
    fn hint(&self) -> &'static str {
        match self {
            Self::Io(IoError::Io { .. }) => "is there room, and may this user write there?",
            Self::Io(IoError::UnexpectedTensor { .. }) => {
                "parts of a compressed weight take that name; leave the weight out with --tensors"
            }
            Self::Smooth(_) => "a lower --smooth, or none; --tensors chooses weights",
            Self::Io(_) => "`lowbit inspect` lists what the file holds",
            Self::Host { source: HostError::Make(_), .. } => {
                "--tensors chooses weights, --scheme and --scales another format"
            }
            Self::Host { .. } => "--adapter chooses another adapter, --tensors smaller weights",
        }
    }
}

/// The weights to compress.
fn select<'a>(model: &'a ModelFile, globs: &[String]) -> Result<Vec<Tensor<'a>>, CliError> {
    let globs = glob_set(globs)?;
    let is_weight = |tensor: &Tensor<'_>| tensor.is_float() && matrix_shape(tensor.shape).is_some();
    let weights: Vec<Tensor<'_>> = model.tensors().filter(is_weight).collect();
    let selected: Vec<_> =
        weights.iter().filter(|tensor| globs.is_match(tensor.name)).copied().collect();
    if !selected.is_empty() {
        return Ok(selected);
    }
    if weights.is_empty() {
        let message = "the file has no F32, F16 or BF16 tensor of two or more dimensions";
        return Err(CliError::new(message).hint("`lowbit inspect` lists what it has"));
    }
    let some: Vec<&str> = weights.iter().take(5).map(|tensor| tensor.name).collect();
    let more = if weights.len() > some.len() { ", …" } else { "" };
    Err(CliError::new("no weight matches --tensors")
        .hint(format!("there is {}{more}", printable(&some.join(", ")))))
}

fn glob_set(globs: &[String]) -> Result<GlobSet, CliError> {
    let bad = |error| CliError::new("a pattern of --tensors cannot be read").because(error);
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        // Tensor names are no paths: a backslash has no meaning but to escape.
        set.add(GlobBuilder::new(glob).backslash_escape(true).build().map_err(bad)?);
    }
    set.build().map_err(bad)
}

/// What the output holds.
fn entries(
    model: &ModelFile,
    selected: &[Tensor<'_>],
    format: WeightFormat,
) -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = model
        .tensors()
        .map(|tensor| {
            let shape = tensor.shape.to_vec();
            (tensor.name.to_owned(), Entry::Plain { dtype: tensor.dtype, shape })
        })
        .collect();
    for tensor in selected {
        let info = CompressedInfo { format, shape: tensor.shape.to_vec() };
        entries.insert(tensor.name.to_owned(), Entry::Compressed(info));
    }
    entries
}

fn compress_on_gpu(
    host: &Host,
    name: &str,
    w: &[f32],
    geometry: &Geometry,
) -> Result<PackedWeights, Failure> {
    let failed = |source| Failure::Host { name: name.to_owned(), source };
    let weights = host.compress(w, geometry.n, geometry.k, &geometry.format).map_err(failed)?;
    host.download(&weights).map_err(failed)
}

/// Sums of squares, for the relative error of everything together.
#[derive(Default)]
struct Sums {
    error: f64,
    norm: f64,
}

impl Sums {
    fn add(&mut self, w: &[f32], relative_error: f64) {
        let norm: f64 = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        self.norm += norm;
        self.error += relative_error * relative_error * norm;
    }

    fn relative_error(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.norm).sqrt() }
    }
}

/// Compresses and writes the selected weights one by one.
fn compress_all(
    host: &Host,
    selected: &[Tensor<'_>],
    format: WeightFormat,
    plan: &Plan,
    check: bool,
    writer: &mut ModelWriter,
    progress: &ProgressBar,
) -> Result<(Vec<Row>, Sums), Failure> {
    let mut rows = Vec::with_capacity(selected.len());
    let mut sums = Sums::default();
    for tensor in selected {
        let name = tensor.name;
        progress.set_message(printable(name));
        let info = CompressedInfo { format, shape: tensor.shape.to_vec() };
        let geometry = info.geometry(name)?;
        let w = match &plan.smoothing {
            Some(smoothing) => smoothing.weight(tensor)?,
            None => tensor.to_f32()?,
        };
        let packed = compress_on_gpu(host, name, &w, &geometry)?;
        let check = check.then(|| match quantize(&w, geometry.n, geometry.k, &format) {
            Ok(cpu) => first_difference(&packed, &cpu).unwrap_or_else(|| EQUAL.to_owned()),
            Err(error) => format!("refused by the CPU: {error}"),
        });
        let error = relative_error(&w, &dequantize(&packed));
        sums.add(&w, error);
        writer.write_compressed(name, &packed)?;
        let sizes = geometry.sizes();
        rows.push(Row {
            name: name.to_owned(),
            shape: info.shape,
            from: tensor.dtype.to_string(),
            bytes_before: tensor.bytes.len(),
            bytes_after: sizes.total(),
            bits_per_weight: sizes.bits_per_weight(),
            relative_error: error,
            activations: plan.layers.get(name).map(Into::into),
            check,
        });
        progress.inc(1);
    }
    Ok((rows, sums))
}

/// What `check` says of a weight that is as it should be.
const EQUAL: &str = "equal";

/// Where the GPU's weight differs from the CPU's first; `None` where they are equal.
fn first_difference(gpu: &PackedWeights, cpu: &PackedWeights) -> Option<String> {
    if gpu == cpu {
        return None;
    }
    let geometry = *cpu.geometry();
    if geometry != *gpu.geometry() {
        return Some(format!("{:?} is not {geometry:?}", gpu.geometry()));
    }
    for row in 0..geometry.n {
        for group in 0..geometry.groups {
            let (a, b) = (gpu.scale(row, group), cpu.scale(row, group));
            if a.to_bits() != b.to_bits() {
                return Some(format!("scale of row {row}, group {group}: {a:e}, CPU {b:e}"));
            }
            let (a, b) = (gpu.zero(row, group), cpu.zero(row, group));
            if a != b {
                return Some(format!("zero point of row {row}, group {group}: {a}, CPU {b}"));
            }
        }
        for at in 0..geometry.stored {
            let (a, b) = (gpu.column(row, at), cpu.column(row, at));
            if a != b {
                return Some(format!("kept column {at} of row {row}: {a}, CPU {b}"));
            }
            let (column, a, b) = (a, gpu.code(row, at), cpu.code(row, at));
            if a != b && geometry.format.code_type() == CodeType::F32 {
                return Some(format!("row {row}, column {column}: {a:#010x}, CPU {b:#010x}"));
            }
            if a != b {
                return Some(format!("row {row}, column {column}: code {a}, CPU {b}"));
            }
        }
    }
    Some("the padding of a row".to_owned())
}

fn text(json: &Json) -> String {
    let mut header = vec!["tensor", "from", "shape", "size", "bits/weight", "relative error"];
    let checked = json.tensors.iter().any(|row| row.check.is_some());
    let activations = json.tensors.iter().any(|row| row.activations.is_some());
    if activations {
        header.push("activations");
    }
    if checked {
        header.push("CPU");
    }
    let mut table = report::table(&header, false);
    for row in &json.tensors {
        let mut cells = vec![
            printable(&row.name).into(),
            row.from.clone().into(),
            report::shape(&row.shape).into(),
            report::right(report::bytes(row.bytes_after as u64)),
            report::right(format!("{:.3}", row.bits_per_weight)),
            report::right(format!("{:.3e}", row.relative_error)),
        ];
        if let Some(activations) = &row.activations {
            cells.push(activations.to_string().into());
        }
        if let Some(check) = &row.check {
            cells.push(check.into());
        }
        table.add_row(cells);
    }
    let totals = &json.totals;
    let mut text = report::text(&table);
    text.push_str(&format!(
        "{} to {} on {}: {} → {}, {:.3} bits a weight, relative error {:.3e}\n",
        report::count(json.tensors.len(), "weight"),
        json.format,
        printable(&json.adapter.name),
        report::bytes(totals.bytes_before as u64),
        report::bytes(totals.bytes_after as u64),
        totals.bits_per_weight,
        totals.relative_error,
    ));
    if json.written {
        let copied = report::bytes(totals.copied_bytes as u64);
        text.push_str(&format!(
            "{} copied as they are, {copied}\n",
            report::count(totals.copied, "other tensor"),
        ));
    } else {
        let bad = json.tensors.iter().filter(|row| is_wrong(row)).count();
        text.push_str(&format!(
            "not equal to the CPU's: {}; nothing was written\n",
            report::count(bad, "weight"),
        ));
    }
    text
}

fn is_wrong(row: &Row) -> bool {
    row.check.as_ref().is_some_and(|check| check != EQUAL)
}

/// Compresses a file.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let format = args.format.format()?;
    files::refuse_same(&files::named(&[
        ("IN", Some(&args.input)),
        ("OUT", Some(&args.output)),
        ("--activations", args.activations.as_ref().and_then(ActivationsArg::ranges)),
        ("--json", args.json.json.as_deref()),
    ]))?;
    let model = files::open(&args.input)?;
    if !model.compressed().is_empty() {
        let message = format!("`{}` is already compressed", args.input.display());
        return Err(CliError::new(message).hint("`lowbit decompress` turns it back first"));
    }
    let selected = select(&model, &args.tensors)?;
    let plan = match &args.activations {
        Some(arg) => Plan::new(arg, args.smooth, &model, &selected, format)?,
        None => Plan::default(),
    };
    let report = Report::open(&args.json)?;
    let failed = |error: Failure| {
        let hint = error.hint();
        let message = format!("cannot compress `{}`", args.input.display());
        CliError::new(message).because(error).hint(hint)
    };
    let entries = entries(&model, &selected, format);
    let (layers, metadata) = (plan.layers.clone(), model.metadata());
    let mut writer = ModelWriter::create_with_activations(&args.output, entries, layers, metadata)
        .map_err(|error| failed(error.into()))?;
    let adapter = args.adapter.choose()?;
    let host = Host::with_adapter(&adapter)
        .map_err(|error| CliError::new("cannot use the adapter").because(error))?;

    let progress = report::progress(selected.len());
    let (tensors, sums) =
        compress_all(&host, &selected, format, &plan, args.check, &mut writer, &progress)
            .map_err(failed)?;
    progress.finish_and_clear();

    let wrong = tensors.iter().any(is_wrong);
    let chosen: BTreeSet<&str> = selected.iter().map(|tensor| tensor.name).collect();
    let others: Vec<_> = model.tensors().filter(|tensor| !chosen.contains(tensor.name)).collect();
    if !wrong {
        for tensor in &others {
            let bytes = match &plan.smoothing {
                Some(smoothing) => smoothing.plain(tensor).map_err(|error| failed(error.into()))?,
                None => tensor.bytes.into(),
            };
            let written = writer.write_plain(tensor.name, &bytes);
            written.map_err(|error| failed(error.into()))?;
        }
        writer.finish().map_err(|error| failed(error.into()))?;
    }
    let weights = selected.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    let bytes_after = tensors.iter().map(|row| row.bytes_after).sum();
    let info = adapter.get_info();
    let json = Json {
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        written: !wrong,
        format: format.to_string(),
        smooth: args.smooth,
        adapter: AdapterJson {
            name: info.name,
            driver: info.driver,
            backend: info.backend.to_string(),
        },
        totals: Totals {
            weights,
            bytes_before: tensors.iter().map(|row| row.bytes_before).sum(),
            bytes_after,
            bits_per_weight: if weights == 0 {
                0.0
            } else {
                8.0 * bytes_after as f64 / weights as f64
            },
            relative_error: sums.relative_error(),
            copied: others.len(),
            copied_bytes: others.iter().map(|tensor| tensor.bytes.len()).sum(),
        },
        tensors,
    };
    report.finish(&text(&json), &json)?;
    Ok(if wrong { Outcome::FoundWrong } else { Outcome::Fine })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit::format::Scales;

    fn weights(codes: [u32; 4], scale: f32, zero: u8) -> PackedWeights {
        let format = WeightFormat::int8(Granularity::Channel).asymmetric();
        let scales = Scales::F32(vec![1.0, scale]);
        PackedWeights::from_parts(format, 2, 5, codes.into(), vec![], scales, vec![0, zero])
            .unwrap()
    }

    #[test]
    fn the_first_difference_is_named() {
        let cpu = weights([1, 2, 3, 4], 2.0, 7);
        let differs = |gpu| first_difference(&gpu, &cpu).unwrap();
        assert_eq!(first_difference(&cpu, &cpu), None);
        let scale = differs(weights([1, 2, 3, 4], 4.0, 7));
        assert_eq!(scale, "scale of row 1, group 0: 4e0, CPU 2e0");
        let zero = differs(weights([1, 2, 3, 4], 2.0, 8));
        assert_eq!(zero, "zero point of row 1, group 0: 8, CPU 7");
        let code = differs(weights([1, 2, 0xff03, 4], 2.0, 7));
        assert_eq!(code, "row 1, column 1: code -1, CPU 0");
    }

    /// Every format the options can name, and those that do not exist.
    #[test]
    fn options_to_formats() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            format: FormatArgs,
        }
        let format = |line: &str| {
            let words = std::iter::once("compress").chain(line.split_whitespace());
            let only = <Only as clap::Parser>::try_parse_from(words).ok()?;
            only.format.format().ok().map(|format| format.to_string())
        };
        for (line, name) in [
            ("--scheme int8", "int8-channel"),
            ("--scheme int4", "int4-g128"),
            ("--scheme int16 --group tensor", "int16-tensor"),
            ("--scheme f16 --sparsity 2:4", "2:4+f16"),
            ("--scheme f32 --sparsity dense", "f32"),
            ("--scheme int4 --group 7 --asymmetric --scales f16", "int4-g7-asym-f16s"),
            ("--scheme int8 --group channel --sparsity 2:4", "2:4+int8-channel"),
        ] {
            assert_eq!(format(line).as_deref(), Some(name), "{line}");
        }
        for line in [
            "",
            "--scheme int3",
            "--scheme int8 --group 0",
            "--scheme int8 --group -1",
            "--scheme int8 --group row",
            "--scheme f16 --group 8",
            "--scheme f32 --scales f16",
            "--scheme f16 --asymmetric",
            "--scheme int16 --asymmetric",
            "--scheme int16 --scales f16",
            "--scheme int8 --sparsity 1:4",
        ] {
            assert_eq!(format(line), None, "{line}");
        }
    }
}
