//! `lowbit compress`: compresses the weights of a model file.

use crate::activations::{self, ActivationsArg, ActivationsJson, SmoothArg};
use crate::adapter::AdapterArg;
use crate::error::{CliError, printable, warn};
use crate::layerwise;
use crate::method_args::MethodArgs;
use crate::report::{self, JsonArg, Report};
use crate::smooth::{self, SearchJson};
use crate::{Outcome, files};
use clap::{ArgGroup, ValueEnum};
use lowbit::compress::Scheme;
use lowbit::format::{FormatError, Granularity, ScaleType, WeightFormat};
use lowbit::host::{Host, HostError};
use lowbit_models::checkpoint::{ForeignFormat, IoError, ModelFile, config_beside};
use lowbit_models::compress::{
    ActivationPlan, CompressedWeight, Compression, CompressionError, Maker, Pattern, Recipe,
    RecipeError, Rule, SelectError, SelectRequest, Selection, has_kernels, select,
};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Compress the weights of a model.
///
/// Compressed are the weights of linear layers, by the architecture that config.json beside the file
/// names, or else by the names of the matrices. --tensors and --recipe choose others among the F32, F16
/// and BF16 tensors of two or more dimensions. Every other tensor is copied as it is: embeddings, norms,
/// biases, and weights that are compressed already.
#[derive(clap::Args)]
#[command(group(ArgGroup::new("how").args(["scheme", "format_name", "recipe"]).required(true)))]
pub struct Args {
    /// The model to read: a safetensors, GGUF or ONNX file, the index of several files, or a folder
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The file to write. It appears whole or not at all
    #[arg(short, long, value_name = "OUT", value_parser = files::to_file())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
    /// Compress the float matrices whose names match, and only those. May be given more than once; * for
    /// all, embeddings included
    #[arg(long, value_name = "GLOB")]
    tensors: Vec<Pattern>,
    /// Leave tensors whose names match as they are. May be given more than once
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<Pattern>,
    /// Take the format of each tensor from a TOML file with rules in order; the first that matches
    /// decides. docs/models.md has an example
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["scheme", "format_name", "group", "asymmetric", "scales", "tensors"])]
    #[arg(conflicts_with_all = ["method", "sparsity", "order", "damping", "clip", "permute", "global"])]
    pub(crate) recipe: Option<PathBuf>,
    /// Store how the inputs of the weights become 8-bit codes: int8:dynamic for a scale for each row
    /// that is taken at run time (also int8-g64:dynamic, int8-token-asym:dynamic), or
    /// int8:static=RANGES.json for one scale that `lowbit calibrate` determined. Other methods than rounding to
    /// nearest take FORMAT:dynamic without ranges
    #[arg(long, value_name = "FORMAT:dynamic[=FILE]|static=FILE")]
    pub(crate) activations: Option<ActivationsArg>,
    /// Move outliers of the inputs into the weights (SmoothQuant), using the ranges of channels. A
    /// larger ALPHA, from 0 to 1, moves more; without ALPHA each layer gets the one from which the least
    /// error is expected. `search` finds one for all layers: the model reads the text of --calibration, and
    /// the error of each layer's output is measured with 21 values
    #[arg(long, value_name = "ALPHA|search", num_args = 0..=1, require_equals = true)]
    #[arg(requires = "activations")]
    smooth: Option<Option<SmoothArg>>,
    /// Compare the result with the CPU's code for code. If they differ, write nothing and exit with 1
    #[arg(long)]
    check: bool,
    /// Compress on all cores of the CPU. This takes no adapter
    #[arg(long, conflicts_with_all = ["adapter", "check"])]
    pub(crate) host: bool,
    #[command(flatten)]
    pub(crate) method: MethodArgs,
    #[command(flatten)]
    pub(crate) shards: files::ShardArg,
    #[command(flatten)]
    pub(crate) adapter: AdapterArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(clap::Args)]
struct FormatArgs {
    /// The type in which weights are stored
    #[arg(long)]
    scheme: Option<SchemeArg>,
    /// The format by its name, instead of --scheme and the options that go with it: int3-g64-asym, nf4,
    /// mxfp4, nvfp4, e4m3-channel, or q4_0, q4_k, q6_k and others as ggml makes them. docs/formats.md has
    /// all of them. Formats without a kernel that makes them are made on the CPU
    #[arg(long = "format", value_name = "NAME")]
    #[arg(conflicts_with_all = ["scheme", "group", "asymmetric", "scales"])]
    format_name: Option<Scheme>,
    /// The weights that share a scale: a number of them, `channel` or `tensor`. The default is
    /// `channel`, and 128 for int4
    #[arg(long, value_name = "N|channel|tensor", value_parser = parse_group)]
    group: Option<Granularity>,
    /// Store a zero point for each group (int8 and int4)
    #[arg(long)]
    asymmetric: bool,
    /// The type in which scales are stored (f16 for int8 and int4 only). The default is f32
    #[arg(long)]
    scales: Option<ScalesArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemeArg {
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

fn parse_group(text: &str) -> Result<Granularity, String> {
    match text {
        "channel" => Ok(Granularity::Channel),
        "tensor" => Ok(Granularity::Tensor),
        number => {
            let count = number.parse().map_err(|_| "give a number, `channel` or `tensor`")?;
            Granularity::group(count).map_err(|error: FormatError| error.to_string())
        }
    }
}

impl Args {
    /// Names an option that only rounding to nearest takes, if it is given.
    pub fn rounding_only(&self) -> Option<&'static str> {
        [
            (self.smooth.is_some(), "--smooth"),
            (self.check, "--check"),
            (self.host && self.method.is_staged(), "--host"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

impl FormatArgs {
    fn scheme(&self) -> Result<Option<Scheme>, CliError> {
        let Some(scheme) = self.scheme else { return Ok(self.format_name) };
        let group = self.group;
        let channel = group.unwrap_or(Granularity::Channel);
        let mut format = match scheme {
            SchemeArg::F32 => WeightFormat::f32(),
            SchemeArg::F16 => WeightFormat::f16(),
            SchemeArg::Int16 => WeightFormat::int16(channel),
            SchemeArg::Int8 => WeightFormat::int8(channel),
            SchemeArg::Int4 => match group {
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
        format.check().map_err(bad_format)?;
        Ok(Some(format.into()))
    }
}

fn bad_format(error: FormatError) -> CliError {
    CliError::new("this format does not exist")
        .because(error)
        .hint("`lowbit compress --help` lists what goes together")
}

#[derive(Serialize)]
struct Row {
    name: String,
    shape: Vec<usize>,
    /// The element type in the input.
    from: String,
    /// The format in the output.
    format: String,
    bytes_before: usize,
    bytes_after: usize,
    bits_per_weight: f64,
    /// `‖w − ŵ‖₂ / ‖w‖₂`, where ŵ is what the file gives back.
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
    /// The number of tensors that stay as they are, and their bytes.
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
    /// Whether the output was written. It is not written if a check failed.
    written: bool,
    /// The format of all compressed weights, or `mixed`.
    format: String,
    /// The α of `--smooth`; null if each layer has its own. Absent if X is not smoothed.
    #[serde(skip_serializing_if = "Option::is_none")]
    smooth: Option<Option<f64>>,
    /// What `--smooth=search` measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    smooth_search: Option<SearchJson>,
    /// The adapter; null for the CPU.
    adapter: Option<AdapterJson>,
    tensors: Vec<Row>,
    totals: Totals,
}

/// Suggests what to do about an error.
fn hint(error: &CompressionError) -> &'static str {
    if let CompressionError::Io(error) = error
        && let Some(step) = error.system_step()
    {
        return step;
    }
    match error {
        CompressionError::Io(IoError::UnexpectedTensor { .. }) => {
            "parts of a compressed weight take that name; leave the weight out with --exclude"
        }
        CompressionError::Smoothing(_) => "a lower --smooth, or none; --exclude leaves weights out",
        CompressionError::Host { source: HostError::QuantizeWeights(_), .. }
        | CompressionError::Compress { .. } => {
            "--exclude leaves the weight out, --scheme and --scales choose another format"
        }
        CompressionError::Host { .. } => {
            "--adapter chooses another adapter, --host the CPU, --exclude leaves the weight out"
        }
        _ => "`lowbit inspect` lists what the file holds",
    }
}

/// Returns which weights are to be compressed, and to what.
fn request(args: &Args) -> Result<SelectRequest, CliError> {
    let mut request = match (&args.recipe, args.format.scheme()?) {
        (Some(path), _) => SelectRequest { recipe: read_recipe(path)?, ..Default::default() },
        (None, Some(scheme)) => {
            let tensors = (!args.tensors.is_empty()).then(|| args.tensors.clone());
            let rule = Rule::new(tensors, Some(scheme), args.method.treatment());
            let rules = vec![rule.map_err(|why| {
                CliError::new(why).hint(
                    "`lowbit compress --help` lists methods, patterns of sparsity and formats",
                )
            })?];
            SelectRequest { recipe: Recipe { rules }, ..Default::default() }
        }
        // The parser of the command line does not let this through.
        (None, None) => {
            return Err(CliError::new("none of --scheme, --format and --recipe is given"));
        }
    };
    request.exclude = args.exclude.clone();
    Ok(request)
}

fn read_recipe(path: &Path) -> Result<Recipe, CliError> {
    Recipe::read(path).map_err(|error| {
        let hint = match error {
            RecipeError::Read { .. } => "is it a file of text that this user may read?",
            _ => "docs/models.md has an example",
        };
        CliError::new(format!("cannot use the recipe `{}`", path.display()))
            .because(error)
            .hint(hint)
    })
}

/// Returns the weights to compress.
fn selected<'a>(
    model: &'a ModelFile,
    request: &SelectRequest,
    input: &Path,
) -> Result<Selection<'a>, CliError> {
    let config = config_beside(input).unwrap_or_else(|error| {
        warn(format!("config.json is left aside: {error}"));
        None
    });
    select(model, config.as_ref(), request).map_err(|error| match error {
        SelectError::AlreadyCompressed => {
            CliError::new(format!("`{}` is already compressed", input.display()))
                .hint("`lowbit decompress` turns it back first")
        }
        SelectError::NoneSelected { weights } => {
            CliError::new("no weight matches --tensors or the recipe").hint(some_of(&weights))
        }
        SelectError::NoLinear { ref weights } => {
            let there = some_of(weights);
            CliError::new(format!("cannot compress `{}`", input.display()))
                .because(error)
                .hint(format!("--tensors chooses tensors by name; {there}"))
        }
        SelectError::Foreign(ref foreign) => {
            let hint = match foreign.format {
                ForeignFormat::Other => {
                    "give the model as it was before it was quantized".to_owned()
                }
                _ => format!(
                    "`lowbit import {} -o OUT.safetensors` takes its codes and scales as they are",
                    printable(&input.display().to_string())
                ),
            };
            CliError::new(format!("cannot compress `{}`", input.display()))
                .because(error)
                .hint(hint)
        }
        SelectError::Turned { .. } => {
            CliError::new(format!("cannot compress `{}`", input.display()))
                .because(error)
                .hint("--tensors chooses weights that are [N, K]; transpose the others first")
        }
        error => CliError::new(error.to_string()).hint("`lowbit inspect` lists what it has"),
    })
}

/// Names some of the weights that there are.
fn some_of(weights: &[String]) -> String {
    let some: Vec<&str> = weights.iter().take(5).map(String::as_str).collect();
    let more = if weights.len() > some.len() { ", …" } else { "" };
    format!("there is {}{more}", printable(&some.join(", ")))
}

/// What [`Json`] says of several formats.
const MIXED: &str = "mixed";

/// Opens the device that is asked for.
fn open_device(args: &Args) -> Result<(Host, wgpu::AdapterInfo), CliError> {
    let adapter = args.adapter.choose().map_err(|error| error.or_hint("--host takes none"))?;
    let host = Host::with_adapter(&adapter)
        .map_err(|error| CliError::new("cannot use the adapter").because(error))?;
    Ok((host, adapter.get_info()))
}

/// What `check` says of a weight that equals the CPU's.
const EQUAL: &str = "equal";

fn row(weight: CompressedWeight, checked: bool) -> Row {
    let difference = weight.difference.map(|difference| difference.to_string());
    let checked = checked && has_kernels(&weight.scheme);
    Row {
        name: weight.name,
        shape: weight.shape,
        from: weight.from.to_string(),
        format: weight.scheme.to_string(),
        bytes_before: weight.bytes_before,
        bytes_after: weight.sizes.total(),
        bits_per_weight: weight.sizes.bits_per_weight(),
        relative_error: weight.relative_error,
        activations: weight.activations.as_ref().map(Into::into),
        check: checked.then(|| difference.unwrap_or_else(|| EQUAL.to_owned())),
    }
}

fn text(json: &Json) -> String {
    let mut header = vec!["tensor", "from", "shape", "size", "bits/weight", "relative error"];
    let mixed = json.format == MIXED;
    if mixed {
        header.insert(1, "format");
    }
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
        if mixed {
            cells.insert(1, row.format.clone().into());
        }
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
        if mixed { "formats of their own" } else { &json.format },
        json.adapter.as_ref().map_or("the CPU".to_owned(), |adapter| printable(&adapter.name)),
        report::bytes(totals.bytes_before as u64),
        report::bytes(totals.bytes_after as u64),
        totals.bits_per_weight,
        totals.relative_error,
    ));
    if let Some(search) = &json.smooth_search {
        text.push_str(&search.text());
    }
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
    files::refuse_same(&files::named(&[
        ("IN", Some(&args.input)),
        ("OUT", Some(&args.output)),
        ("--activations", args.activations.as_ref().and_then(ActivationsArg::ranges)),
        ("--recipe", args.recipe.as_deref()),
        ("--calibration", args.method.calibration.as_deref()),
        ("--json", args.json.json.as_deref()),
    ]))?;
    let request = request(args)?;
    let searched = args.smooth == Some(Some(SmoothArg::Search));
    let staged = if searched { args.method.changes() } else { args.method.is_staged() };
    if request.recipe.rules.iter().any(|rule| !rule.treatment.is_plain()) || staged {
        return layerwise::run(args, &request);
    }
    let output = args.shards.output(&args.output);
    let model = files::open_plain(&args.input, &output)?;
    let Selection { weights: selected, unmatched, .. } = selected(&model, &request, &args.input)?;
    for pattern in unmatched {
        warn(format!("the pattern `{pattern}` matches no float matrix of the file"));
    }
    let report = Report::open(&args.json)?;
    let (plan, smooth, smooth_search) = match &args.activations {
        Some(arg) if searched => {
            let (plan, search) = smooth::search(args, arg, &model, &selected)?;
            (plan, search.alpha.map(Some), Some(search))
        }
        Some(arg) => {
            let alpha = args.smooth.map(|smooth| smooth.and_then(SmoothArg::alpha));
            (activations::plan(arg, alpha, &model, &selected)?, alpha, None)
        }
        None => (ActivationPlan::default(), None, None),
    };
    let failed = |error: CompressionError| {
        let hint = hint(&error);
        let message = format!("cannot compress `{}`", args.input.display());
        CliError::new(message).because(error).hint(hint)
    };
    let compression = Compression::create(output, &model, &selected, &plan)
        .map_err(|error| failed(error.into()))?;
    let by_kernels = selected.iter().filter(|chosen| has_kernels(&chosen.scheme)).count();
    let device = if args.host || by_kernels == 0 { None } else { Some(open_device(args)?) };
    if args.check && by_kernels < selected.len() {
        let count = report::count(selected.len() - by_kernels, "weight");
        warn(format!("no kernel makes {count}: the CPU does, and --check compares nothing there"));
    }
    let maker = match &device {
        None => Maker::Cpu,
        Some((host, _)) if args.check => Maker::Checked(host),
        Some((host, _)) => Maker::Device(host),
    };
    let progress = report::progress(selected.len());
    let done =
        compression.run(maker, &mut |step| report::advance(&progress, step)).map_err(failed)?;
    progress.finish_and_clear();

    let weights = selected.iter().map(|chosen| chosen.tensor.shape.iter().product::<usize>()).sum();
    let tensors: Vec<Row> =
        done.weights.into_iter().map(|weight| row(weight, args.check)).collect();
    let bytes_after = tensors.iter().map(|row| row.bytes_after).sum();
    let mut formats = tensors.iter().map(|row| row.format.as_str());
    let format = formats.next().unwrap_or_default();
    let format = if formats.all(|other| other == format) { format } else { MIXED }.to_owned();
    let json = Json {
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        written: done.written,
        format,
        smooth,
        smooth_search,
        adapter: device.map(|(_, info)| AdapterJson {
            name: info.name,
            driver: info.driver,
            backend: info.backend.to_string(),
        }),
        totals: Totals {
            weights,
            bytes_before: tensors.iter().map(|row| row.bytes_before).sum(),
            bytes_after,
            bits_per_weight: report::bits_per_weight(bytes_after, weights),
            relative_error: done.relative_error,
            copied: done.copied,
            copied_bytes: done.copied_bytes,
        },
        tensors,
    };
    report.finish(&text(&json), &json)?;
    Ok(if json.written { Outcome::Fine } else { Outcome::FoundWrong })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every format the options can name, and those that do not exist.
    #[test]
    fn options_to_formats() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            format: FormatArgs,
            #[command(flatten)]
            method: MethodArgs,
        }
        let format = |line: &str| {
            let words = std::iter::once("compress").chain(line.split_whitespace());
            let only = <Only as clap::Parser>::try_parse_from(words).ok()?;
            let scheme = only.format.scheme().ok().flatten()?;
            let rule = Rule::new(None, Some(scheme), only.method.treatment()).ok()?;
            rule.scheme.map(|scheme| scheme.to_string())
        };
        for (line, name) in [
            ("--scheme int8", "int8-channel"),
            ("--scheme int4", "int4-g128"),
            ("--scheme int16 --group tensor", "int16-tensor"),
            ("--scheme f16 --sparsity 2:4", "2:4+f16"),
            ("--scheme f32 --sparsity dense", "f32"),
            ("--scheme int4 --group 7 --asymmetric --scales f16", "int4-g7-asym-f16s"),
            ("--scheme int8 --group channel --sparsity 2:4", "2:4+int8-channel"),
            ("--scheme int8 --sparsity 1:4", "int8-channel"),
            ("--format int4-g64 --sparsity 2:4 --method magnitude", "2:4+int4-g64"),
            ("--format q4_k", "q4_k"),
            ("--format int3-g64-asym4", "int3-g64-asym4"),
            ("--format int4-g32-f16s", "int4-g32-f16s"),
            ("--format nf4", "nf4-g64"),
        ] {
            assert_eq!(format(line).as_deref(), Some(name), "{line}");
        }
        for line in [
            "--scheme int3",
            "--format int3",
            "--format q4_k --group 32",
            "--format nf4 --scheme int8",
            "--scheme int8 --group 0",
            "--scheme int8 --group -1",
            "--scheme int8 --group row",
            "--scheme f16 --group 8",
            "--scheme f32 --scales f16",
            "--scheme f16 --asymmetric",
            "--scheme int16 --asymmetric",
            "--scheme int16 --scales f16",
            "--scheme int8 --sparsity 4:4",
            "--format int3-g64 --sparsity 2:4",
        ] {
            assert_eq!(format(line), None, "{line}");
        }
    }
}
