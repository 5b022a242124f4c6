//! `lowbit calibrate`: observes the inputs of a model's linear layers on sample text.

use crate::adapter::{AdapterArg, DeviceArg};
use crate::error::{CliError, printable, warn};
use crate::model::{adapter_name, failed, load};
use crate::report::{self, JsonArg, Report, right};
use crate::{Outcome, files};
use lowbit::compress::calibrate::{CalibrateError, Calibration, Method};
use lowbit::format::{ActivationFormat, ActivationGranularity};
use lowbit_models::architecture;
use lowbit_models::checkpoint::source::ModelSource;
use lowbit_models::checkpoint::{AtomicFile, LayerRanges, RangeTarget, Ranges};
use lowbit_models::device::{LoadOptions, Model, ModelStatistics, ObserveError};
use lowbit_models::text::Tokenizer;
use pollster::block_on;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Observe the inputs of a model's linear layers on sample text
///
/// Every line of text that is not blank goes through the model by itself, with f32 activations and the weights
/// as they are in the file; a line with more tokens than the model takes is cut. RANGES.json stores what was
/// observed of each layer's input and which scales are to be made from it. `lowbit compress
/// --activations int8:static=RANGES.json` uses them.
#[derive(clap::Args)]
pub struct Args {
    /// The model: a folder, a GGUF file, or a safetensors file with its config.json and tokenizer.json beside
    /// it
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Sample text with one sentence in each line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The file to write. It appears whole or not at all
    #[arg(short, long, value_name = "RANGES.json", value_parser = files::to_file())]
    output: PathBuf,
    /// How a range is made from what was observed: minmax, average, percentile-99.99, tails-99.99,
    /// mse or entropy. The default is minmax, and with --resume what the file says
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// The format that the scales are for: int8-tensor or int8-tensor-asym. The default is
    /// int8-tensor, and with --resume what the file says
    #[arg(long, value_name = "FORMAT", value_parser = parse_static)]
    activations: Option<ActivationFormat>,
    /// Also keep the range of every channel, which `lowbit compress --smooth` needs
    #[arg(long)]
    per_channel: bool,
    /// Skip this many lines first
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Use at most this many lines
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Continue an earlier run with more lines. This may be the file that is written
    #[arg(long, value_name = "RANGES.json")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    json: JsonArg,
}

fn parse_static(text: &str) -> Result<ActivationFormat, String> {
    let format: ActivationFormat =
        text.parse().map_err(|error: lowbit::format::ActivationError| error.to_string())?;
    match format.granularity() {
        ActivationGranularity::Tensor => Ok(format),
        _ => Err(CalibrateError::NotStatic { format }.to_string()),
    }
}

/// What `--json` holds.
#[derive(Serialize)]
struct Json {
    model: String,
    output: String,
    adapter: String,
    /// The lines of this run, and of all runs.
    lines: usize,
    lines_in_all: u64,
    method: String,
    format: String,
    per_channel: bool,
    layers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    columns: usize,
    /// The rows of the layer's input, which are tokens.
    rows: u64,
    min: f32,
    max: f32,
    scale: f32,
    zero_point: i32,
}

/// Returns the lines to use: their number in the file, from 1, and their text. Blank lines do not count.
fn lines<'a>(text: &'a str, args: &Args) -> Result<Vec<(usize, &'a str)>, CliError> {
    let path = args.text.display();
    let all = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
    let taken: Vec<_> = all.skip(args.skip).take(args.limit.unwrap_or(usize::MAX)).collect();
    if !taken.is_empty() {
        return Ok(taken);
    }
    if args.limit == Some(0) {
        return Err(CliError::new("no lines are requested").hint("--limit takes 1 or more"));
    }
    let there = text.lines().filter(|line| !line.trim().is_empty()).count();
    Err(match there {
        0 => CliError::new(format!("`{path}` contains no text"))
            .hint("give a file with one sentence in each line"),
        there => CliError::new(format!(
            "`{path}` contains {}, and --skip leaves out {}",
            report::count(there, "line"),
            args.skip
        ))
        .hint("give a lower --skip, or more text"),
    })
}

fn read_text(path: &Path) -> Result<String, CliError> {
    let failed = || CliError::new(format!("cannot read `{}`", path.display()));
    let bytes = fs::read(path)
        .map_err(|error| failed().because(error).hint("is it a file that this user may read?"))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        CliError::new(format!("line {line} of `{}` is not UTF-8", path.display()))
            .hint("convert the file with iconv, or take that line out")
    })
}

fn read_ranges(path: &Path) -> Result<Ranges, CliError> {
    Ranges::read(path).map_err(|error| {
        CliError::new("cannot continue the earlier run")
            .because(error)
            .hint("give a file that `lowbit calibrate` wrote, or start again without --resume")
    })
}

/// A line of the text: its number in the file, its text and its tokens.
struct Line<'a> {
    number: usize,
    text: &'a str,
    tokens: Vec<u32>,
}

/// Returns the tokens of each line. Warns of lines that have more than the model takes.
fn tokens<'a>(
    tokenizer: &Tokenizer,
    lines: &[(usize, &'a str)],
    most: usize,
    path: &Path,
) -> Result<Vec<Line<'a>>, CliError> {
    let (mut all, mut cut, mut first) = (Vec::new(), 0, None);
    for &(number, text) in lines {
        let (tokens, have) = tokenizer.encode_within(text, most).map_err(|error| {
            let message = format!("cannot make tokens of line {number} of `{}`", path.display());
            CliError::new(message).because(error)
        })?;
        if have > tokens.len() {
            cut += 1;
            first.get_or_insert((number, have, tokens.len()));
        }
        all.push(Line { number, text, tokens });
    }
    if let Some((number, have, taken)) = first {
        let more = match cut {
            1 => String::new(),
            2 => ", and so is 1 other line".to_owned(),
            _ => format!(", and so are {}", report::count(cut - 1, "other line")),
        };
        warn(format!(
            "line {number} of `{}` has {have} tokens and is cut after {taken}{more}",
            path.display()
        ));
    }
    Ok(all)
}

/// Runs every line through the model and observes the inputs of its layers.
fn observe(
    args: &Args,
    model: &Model,
    statistics: &mut ModelStatistics,
    lines: &[Line<'_>],
    channels: bool,
) -> Result<(), CliError> {
    let longest = lines.iter().map(|line| line.tokens.len()).max().unwrap_or(0).max(1);
    let mut observer = block_on(model.observer(longest, channels)).map_err(|error| {
        failed(&args.model, "calibrate", error).hint("--limit takes fewer lines, or shorten them")
    })?;
    let progress = report::progress(lines.len());
    for Line { number, text, tokens } in lines {
        progress.set_message(printable(text));
        block_on(observer.observe(statistics, tokens)).map_err(|error| {
            let hint = match error {
                ObserveError::NotFinite { .. } => {
                    "leave the line out, and see whether the model's weights are finite"
                }
                _ => "--limit takes fewer lines, --adapter chooses another adapter",
            };
            CliError::new(format!("line {number} of `{}` failed", args.text.display()))
                .because(error)
                .hint(hint)
        })?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// Returns the scales that follow from the ranges.
fn rows(ranges: &Ranges, target: RangeTarget) -> Result<Vec<Row>, CalibrateError> {
    let row = |(name, layer): (&String, &LayerRanges)| {
        let made: Calibration = layer.calibrate(target.method, target.format)?;
        let (columns, rows) = match layer {
            LayerRanges::Statistics(seen) => (seen.observer().columns(), seen.rows()),
            _ => (0, 0),
        };
        Ok(Row {
            name: name.clone(),
            columns,
            rows,
            min: made.range().min(),
            max: made.range().max(),
            scale: made.scheme().scale,
            zero_point: made.scheme().zero_point,
        })
    };
    ranges.layers.iter().map(row).collect()
}

fn text(json: &Json) -> String {
    let mut table = report::table(&["layer", "min", "max", "scale", "zero"], true);
    for row in &json.layers {
        // Every name is that of a weight.
        let name = row.name.strip_suffix(".weight").unwrap_or(&row.name);
        table.add_row([
            printable(name).into(),
            right(format!("{:.3}", row.min)),
            right(format!("{:.3}", row.max)),
            right(format!("{:.5}", row.scale)),
            right(row.zero_point),
        ]);
    }
    let channels = if json.per_channel { ", and channels" } else { "" };
    let earlier = json.lines_in_all.saturating_sub(json.lines as u64);
    let after = if earlier > 0 { format!(" after {earlier} before") } else { String::new() };
    format!(
        "{}{} from {}{after}, on {}\n{} by {}{channels} → {}\n",
        report::text(&table),
        report::count(json.layers.len(), "layer"),
        report::count(json.lines, "line"),
        printable(&json.adapter),
        json.format,
        json.method,
        printable(&json.output),
    )
}

/// Calibrates a model.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let source = files::open(&args.model)?;
    let of_model: Vec<PathBuf> = files::of_model(&args.model, &source);
    let named = |output| {
        let mut roles: Vec<(&str, Option<&Path>)> =
            of_model.iter().map(|path| ("a file of MODEL", Some(&**path))).collect();
        roles.extend([("--text", Some(&*args.text)), output]);
        roles.push(("--json", args.json.json.as_deref()));
        files::refuse_same(&files::named(&roles))
    };
    named(("RANGES.json", Some(&*args.output)))?;
    // It may be the same file as the output, but no other.
    named(("--resume", args.resume.as_deref()))?;
    let contents = read_text(&args.text)?;
    let lines = lines(&contents, args)?;
    let resumed = args.resume.as_deref().map(read_ranges).transpose()?;
    for left_out in source.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    let unread = || CliError::new(format!("cannot read the model in `{}`", args.model.display()));
    let blueprint = architecture::read(&source).map_err(|error| unread().because(error))?;
    let tokenizer = Tokenizer::open(&args.model).map_err(|error| unread().because(error))?;
    tokenizer.check(&blueprint).map_err(|error| {
        unread().because(error).hint("take the tokenizer.json that belongs to the model")
    })?;
    let lines = tokens(&tokenizer, &lines, blueprint.context, &args.text)?;
    let kept = resumed.as_ref().is_some_and(|file| !file.channels.is_empty());
    let before = resumed.as_ref().and_then(|file| file.target).unwrap_or_default();
    let target = RangeTarget {
        method: args.method.unwrap_or(before.method),
        format: args.activations.unwrap_or(before.format),
    };
    let channels = args.per_channel || kept;
    let statistics = ModelStatistics::new(&source, &blueprint, channels);
    let mut statistics =
        statistics.map_err(|error| CliError::new("cannot calibrate").because(error))?;
    if let Some(file) = &resumed {
        statistics.resume(file).map_err(|error| {
            CliError::new("cannot continue the earlier run")
                .because(error)
                .hint("start again without --resume, with all lines and the same options")
        })?;
    }
    let report = Report::open(&args.json)?;
    // This checks before the work whether the file can be written.
    let output = AtomicFile::create(&args.output);
    drop(output.map_err(|error| CliError::new("cannot write the ranges").because(error))?);
    let on = (&args.adapter, &args.device);
    let (model, _) = load(&args.model, &source, on, &LoadOptions::default())?;
    observe(args, &model, &mut statistics, &lines, channels)?;
    let ranges = statistics.ranges(target);
    let scales = rows(&ranges, target).map_err(|error| {
        CliError::new("cannot calibrate").because(error).hint("--method chooses another method")
    })?;
    let json = Json {
        model: args.model.display().to_string(),
        output: args.output.display().to_string(),
        adapter: adapter_name(&model),
        lines: lines.len(),
        lines_in_all: statistics.texts(),
        method: target.method.to_string(),
        format: target.format.to_string(),
        per_channel: !ranges.channels.is_empty(),
        layers: scales,
    };
    ranges.write(&args.output).map_err(|error| {
        let hint = error.system_step().unwrap_or("give another -o");
        CliError::new("cannot write the ranges").because(error).hint(hint)
    })?;
    report.finish(&text(&json), &json)?;
    Ok(Outcome::Fine)
}
