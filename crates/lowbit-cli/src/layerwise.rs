//! `lowbit compress` by methods that look at what layers take, or that prune in other patterns than 2:4.

use crate::adapter::AdapterArg;
use crate::compress::Args;
use crate::error::{CliError, printable, warn};
use crate::model::STEP_TIMEOUT;
use crate::report::{self, Report, right};
use crate::samples::SampleReader;
use crate::{Outcome, files, observe};
use lowbit::compress::layerwise::Pattern as Sparsity;
use lowbit::host::Host;
use lowbit_models::architecture::{self, Blueprint};
use lowbit_models::checkpoint::AtomicFile;
use lowbit_models::checkpoint::source::{Family, ModelSource, Overlay, import};
use lowbit_models::compress::SelectRequest;
use lowbit_models::device::Stage;
use lowbit_models::layerwise::{
    ColumnOrder, Doing, Identity, Job, LayerwiseRunError, Loops, Method, Plans, Samples, TextPart,
    Treatment, WeightReport, input_norms, plans, remove_folder, run as compress,
};
use lowbit_models::transform::{Changed, Cut, InputNorms, Keep, TransformError, cut, rotate};
use pollster::block_on;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples of a language model and of an encoder, if `--samples` does not say it.
pub const SAMPLES: (usize, usize) = (32, 512);

/// How weights are made.
#[derive(clap::Args)]
pub struct MethodArgs {
    /// How weights are made: rtn (rounding to nearest, the default), gptq, awq, sparsegpt, wanda or magnitude.
    /// gptq, awq, sparsegpt and wanda look at what layers take when the model reads the calibration text
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// Which weights are pruned: 2:4 and other N:M (N of every M are kept, M up to 16), or the part to prune, as in
    /// 0.5. 2:4 is stored compressed, others as zeros
    #[arg(long, value_name = "PATTERN", value_parser = parse_sparsity)]
    sparsity: Option<Sparsity>,
    /// The calibration text: for a language model windows are cut from it, for an encoder each line is a sample
    #[arg(long, value_name = "TEXT")]
    pub calibration: Option<PathBuf>,
    /// Use these statistics of what layers take, which `lowbit observe` wrote of this model, instead of running a
    /// text. They are of the layers as they are, not of what they take once those before them are compressed
    #[arg(long, value_name = "STATISTICS")]
    #[arg(conflicts_with_all = ["calibration", "rotate", "keep_rows", "keep_heads"])]
    statistics: Option<PathBuf>,
    /// Use at most this many samples. The default is 32 windows, or 512 lines
    #[arg(long, value_name = "N", requires = "calibration")]
    samples: Option<usize>,
    /// The tokens of a sample, at most
    #[arg(long, value_name = "N", default_value_t = 512, requires = "calibration")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=65536))]
    sample_tokens: u32,
    /// The order in which gptq and sparsegpt take columns, and when they find scales: columns (as they are, scales of
    /// the weights as they were; the default), columns-updated (scales when a group is reached), activations (those
    /// with the largest inputs first, stored in that order) or activations-static (the same, stored as they are)
    #[arg(long, value_name = "ORDER")]
    order: Option<ColumnOrder>,
    /// What gptq and sparsegpt add to the diagonal of XᵀX, as a part of its mean. The default is 0.01
    #[arg(long, value_name = "PART")]
    damping: Option<f64>,
    /// Shrink the ranges of groups to where the error is least
    #[arg(long)]
    clip: bool,
    /// Where gptq and sparsegpt go through columns: auto (on the device, unless it is a software adapter), device
    /// (in f32) or host (in f64)
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = parse_loops)]
    loops: Loops,
    /// Permute columns before pruning to 2:4, so that larger weights are kept
    #[arg(long)]
    permute: bool,
    /// Prune by one threshold for all weights instead of one for each, with --method magnitude and a part as
    /// --sparsity: layers with small weights lose more than others
    #[arg(long)]
    global: bool,
    /// Rotate the residual stream and the heads of values by Hadamard matrices first (QuaRot), so that no channel
    /// is much larger than others. The model computes the same. Another SEED draws other signs
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    rotate: Option<u64>,
    /// Cut rows out of feed-forward blocks first, those of the least magnitude, or with --calibration of the least
    /// output: the rows that stay, as a number or as a part such as 0.75
    #[arg(long, value_name = "KEEP", value_parser = parse_keep)]
    keep_rows: Option<Keep>,
    /// Cut attention heads out first: the heads that stay, as a number or as a part
    #[arg(long, value_name = "KEEP", value_parser = parse_keep)]
    keep_heads: Option<Keep>,
}

fn parse_keep(text: &str) -> Result<Keep, String> {
    match (text.parse::<usize>(), text.parse::<f64>()) {
        (Ok(count), _) if count > 0 => Ok(Keep::Count(count)),
        (Err(_), Ok(share)) if share > 0.0 && share <= 1.0 => Ok(Keep::Share(share)),
        _ => Err("give a number of 1 or more, or a part above 0 and at most 1".to_owned()),
    }
}

fn parse_sparsity(text: &str) -> Result<Sparsity, String> {
    text.parse().map_err(|error: lowbit::compress::layerwise::LayerwiseError| error.to_string())
}

fn parse_loops(text: &str) -> Result<Loops, String> {
    match text {
        "auto" => Ok(Loops::Auto),
        "device" => Ok(Loops::Device),
        "host" => Ok(Loops::Host),
        _ => Err("it is none of auto, device and host".to_owned()),
    }
}

impl MethodArgs {
    /// Returns how the weights of one rule are made.
    pub fn treatment(&self) -> Treatment {
        let usual = Treatment::default();
        Treatment {
            method: self.method.unwrap_or_default(),
            sparsity: self.sparsity.unwrap_or(usual.sparsity),
            order: self.order.unwrap_or_default(),
            damping: self.damping.unwrap_or(usual.damping),
            clip: self.clip,
            permute: self.permute,
            global: self.global,
            ..usual
        }
    }

    /// Returns whether the model is to run, whatever the methods are.
    pub fn is_staged(&self) -> bool {
        self.calibration.is_some() || self.statistics.is_some() || self.changes()
    }

    /// Returns whether the model is changed before it is compressed.
    pub fn changes(&self) -> bool {
        self.rotate.is_some() || self.keep_rows.is_some() || self.keep_heads.is_some()
    }

    /// Describes these changes, as comments of a recipe.
    fn comments(&self) -> String {
        let keep = |name: &str, keep: Option<Keep>| match keep {
            Some(Keep::Count(count)) => format!("# --{name} {count}\n"),
            Some(Keep::Share(share)) => format!("# --{name} {share:?}\n"),
            None => String::new(),
        };
        let rotate = self.rotate.map_or(String::new(), |seed| format!("# --rotate={seed}\n"));
        let rows = keep("keep-rows", self.keep_rows);
        format!("{rows}{}{rotate}", keep("keep-heads", self.keep_heads))
    }
}

#[derive(Serialize)]
struct Json {
    input: String,
    output: String,
    /// The recipe, as `--recipe` takes it.
    recipe: String,
    calibration: Option<CalibrationJson>,
    /// The adapter; null if no text ran.
    adapter: Option<String>,
    seconds: f64,
    weights: Vec<WeightReport>,
    totals: Totals,
}

#[derive(Clone, Serialize)]
struct CalibrationJson {
    text: String,
    samples: usize,
    tokens: usize,
    checksum: String,
    /// The parts of texts of which `--statistics` has statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Vec<TextPart>>,
}

#[derive(Serialize)]
struct Totals {
    weights: usize,
    bytes_before: usize,
    bytes_after: usize,
    bits_per_weight: f64,
    /// Roots of the means of squares over all weights.
    output_error_before: Option<f64>,
    output_error: Option<f64>,
}

/// Compresses a model layer by layer.
pub fn run(args: &Args, request: &SelectRequest) -> Result<Outcome, CliError> {
    let start = std::time::Instant::now();
    let method = &args.method;
    if let Some(other) = args.rounding_only() {
        let error = CliError::new(format!("{other} goes with rounding to nearest only"));
        return Err(error.hint(
            "leave it out, or leave out --method, --sparsity, --calibration and --statistics",
        ));
    }
    let request = &with_activations(args, request)?;
    let failed = |error: LayerwiseRunError| {
        let hint = hint(&error);
        CliError::new(format!("cannot compress `{}`", args.input.display()))
            .because(error)
            .hint(hint)
    };
    let output = args.shards.output(&args.output);
    let source = files::open(&args.input)?;
    files::refuse_overwriting("IN", &args.input, &source, &output)?;
    let read = [("--calibration", &method.calibration), ("--statistics", &method.statistics)];
    for (name, path) in read {
        if let Some(path) = path {
            files::refuse_same(&[(name, path), ("OUT", &args.output)])?;
        }
    }
    for left_out in source.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    let unread = || CliError::new(format!("cannot read the model in `{}`", args.input.display()));
    let original = &source;
    let floats = if method.changes() {
        Some(Overlay::dequantized(original).map_err(|error| unread().because(error))?)
    } else {
        None
    };
    let cut = match &floats {
        Some(model) if method.keep_rows.is_some() || method.keep_heads.is_some() => {
            let request = Cut { feed: method.keep_rows, heads: method.keep_heads };
            let norms = norms(args, model)?;
            Some(changed(cut(model, &request, norms.as_ref()), model, args)?)
        }
        _ => None,
    };
    let before = cut.as_ref().or(floats.as_ref());
    let rotated = match (before, method.rotate) {
        (Some(model), Some(seed)) => Some(changed(rotate(model, seed), model, args)?),
        _ => None,
    };
    let source: &dyn ModelSource = match rotated.as_ref().or(before) {
        Some(changed) => changed,
        None => original,
    };
    let config = config_to_write(args, original, source)?;
    let blueprint = architecture::read(source).map_err(|error| {
        unread().because(error).hint("methods that look at inputs have to run the model")
    })?;
    let Plans { plans, unmatched, weights, .. } =
        plans(source, request).map_err(|error| unread().because(error))?;
    for pattern in unmatched {
        warn(format!("the pattern `{pattern}` matches no matrix of the model"));
    }
    if plans.is_empty() {
        let some: Vec<&str> = weights.iter().take(5).map(String::as_str).collect();
        return Err(CliError::new("no weight of the model is selected")
            .hint(format!("there is {}", printable(&some.join(", ")))));
    }
    let report = Report::open(&args.json)?;
    let calibration = match &method.calibration {
        Some(path) => Some(read_samples(args, path, &blueprint)?),
        None => None,
    };
    let statistics = match &method.statistics {
        Some(path) => Some(observe::read(path, observe::checksum(&args.input, source)?)?),
        None => None,
    };
    let texts = calibration.as_ref().map(|samples| &samples.texts[..]).unwrap_or_default();
    let identity = match &statistics {
        Some(file) => observe::identity(file.parts()),
        None => calibration.as_ref().map(Samples::identity).unwrap_or_default(),
    };
    let recipe = format!("{}{}", method.comments(), request.recipe);
    let mut folder = args.output.clone().into_os_string();
    folder.push(".partial");
    let folder = PathBuf::from(folder);
    let job = Job {
        source,
        blueprint: &blueprint,
        plans,
        texts,
        statistics: statistics.as_ref(),
        rows: texts.iter().map(Vec::len).max().unwrap_or(1).max(512),
        loops: method.loops,
        folder: Some((
            folder.clone(),
            Identity {
                model: source.files(),
                bytes: source.file_bytes() as u64,
                recipe: recipe.clone(),
                calibration: identity,
            },
        )),
    };
    // Statistics need a device only for the loops over columns.
    let device = !texts.is_empty() || statistics.is_some() && method.loops != Loops::Host;
    let host = if device { Some(open_device(&args.adapter)?) } else { None };
    let bar = report::long_progress(job.plans.len());
    let (mut error, mut layer) = (String::new(), String::new());
    let mut progress = |doing: Doing<'_>| {
        match doing {
            Doing::Observing(stage) => layer = format!("{stage}: observing its inputs"),
            Doing::Advancing(stage) => layer = format!("{stage}: running it as compressed"),
            Doing::Compressing(name) => layer = printable(name),
            Doing::Compressed(done) => {
                bar.inc(1);
                if let Some(now) = done.output_error {
                    error = format!(", the last error {:.2} %", 100.0 * now);
                }
            }
            _ => {}
        }
        bar.set_message(format!("{layer}{error}"));
    };
    let done = block_on(compress(host.as_ref(), &job, &mut progress)).map_err(failed);
    bar.finish_and_clear();
    let (mut compressed, weights) = done.map_err(|error| {
        error.or_hint(&format!(
            "what is finished stays in `{}`, and the same command goes on",
            folder.display()
        ))
    })?;
    let seen = method.calibration.as_deref().or(method.statistics.as_deref());
    let calibration = seen.map(|file| CalibrationJson {
        text: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        samples: identity.0,
        tokens: identity.1,
        checksum: format!("{:016x}", identity.2),
        statistics: statistics.as_ref().map(|file| file.parts().to_vec()),
    });
    compressed.put_metadata("lowbit.recipe", &recipe);
    if let Some(calibration) = &calibration {
        let text = serde_json::to_string(calibration).unwrap_or_default();
        compressed.put_metadata("lowbit.calibration", text);
    }
    for weight in &weights {
        for warning in &weight.warnings {
            warn(format!("{}: {warning}", printable(&weight.name)));
        }
    }
    import(&compressed, output, &mut |_| ()).map_err(|error| failed(error.into()))?;
    if let Some((path, text)) = config {
        let unwritten = || CliError::new(format!("cannot write `{}`", path.display()));
        let mut file = AtomicFile::create(&path).map_err(|error| unwritten().because(error))?;
        file.write_all(text.as_bytes()).map_err(|error| unwritten().because(error))?;
        file.commit().map_err(|error| unwritten().because(error))?;
    }
    remove_folder(&folder).map_err(failed)?;
    let json = Json {
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        recipe,
        calibration,
        adapter: host.map(|host| host.adapter_info().name.clone()),
        seconds: start.elapsed().as_secs_f64(),
        totals: totals(&weights),
        weights,
    };
    report.finish(&text(&json), &json)?;
    Ok(Outcome::Fine)
}

/// Returns the request with what `--activations` says of all weights. A recipe says it in its rules.
fn with_activations(args: &Args, request: &SelectRequest) -> Result<SelectRequest, CliError> {
    let mut request = request.clone();
    let Some(activations) = &args.activations else { return Ok(request) };
    let Some(format) = activations.without_ranges() else {
        let message = "--activations with a file of ranges goes with rounding to nearest only";
        return Err(CliError::new(message).hint("--activations int8:dynamic takes no ranges"));
    };
    if args.recipe.is_some() {
        let message = "--activations goes with recipes that only round to nearest";
        return Err(CliError::new(message).hint("rules say it: activations = \"int8-token\""));
    }
    for rule in request.recipe.rules.iter_mut().filter(|rule| rule.scheme.is_some()) {
        rule.treatment.activations = Some(format);
    }
    Ok(request)
}

/// Returns the norms of what the layers of a model take when it reads the calibration text, if there is one.
fn norms(args: &Args, model: &dyn ModelSource) -> Result<Option<InputNorms>, CliError> {
    let Some(path) = &args.method.calibration else { return Ok(None) };
    let failed = || CliError::new(format!("cannot observe `{}`", args.input.display()));
    let blueprint = architecture::read(model).map_err(|error| failed().because(error))?;
    let texts = read_samples(args, path, &blueprint)?.texts;
    let rows = texts.iter().map(Vec::len).max().unwrap_or(1).max(512);
    let host = open_device(&args.adapter)?;
    let bar = report::long_progress(Stage::all(&blueprint).len());
    let mut progress = |doing: Doing<'_>| match doing {
        Doing::Observing(stage) => bar.set_message(format!("{stage}: observing its inputs")),
        Doing::Advancing(_) => bar.inc(1),
        _ => {}
    };
    let seen = block_on(input_norms(&host, model, &blueprint, &texts, rows, &mut progress));
    bar.finish_and_clear();
    seen.map(Some).map_err(|error| {
        let hint = hint(&error);
        failed().because(error).hint(hint)
    })
}

/// Puts a change over a model.
fn changed<'a>(
    change: Result<Changed, TransformError>,
    model: &'a dyn ModelSource,
    args: &Args,
) -> Result<Overlay<'a>, CliError> {
    let failed = || CliError::new(format!("cannot change `{}`", args.input.display()));
    let hint = "compress it without --rotate, --keep-rows and --keep-heads";
    let change = change.map_err(|error| failed().because(error).hint(hint))?;
    change.over(model).map_err(|error| failed().because(error))
}

/// Returns the config.json that a changed model needs beside it, and its text. It must not replace another one.
fn config_to_write(
    args: &Args,
    original: &dyn ModelSource,
    changed: &dyn ModelSource,
) -> Result<Option<(PathBuf, String)>, CliError> {
    if original.config() == changed.config() || original.family() == Family::Gguf {
        return Ok(None);
    }
    let path = args.output.with_file_name("config.json");
    if path.exists() {
        let message =
            format!("the changed model needs a config.json, and `{}` is there", path.display());
        return Err(CliError::new(message).hint("give OUT a folder of its own"));
    }
    let text = serde_json::to_string_pretty(changed.config())
        .map_err(|error| CliError::new("cannot write the configuration").because(error))?;
    Ok(Some((path, text)))
}

/// Opens the device on which texts run.
pub fn open_device(adapter: &AdapterArg) -> Result<Arc<Host>, CliError> {
    let host = Host::with_adapter(&adapter.choose()?)
        .map_err(|error| CliError::new("cannot use the adapter").because(error))?;
    Ok(Arc::new(host.with_timeout(STEP_TIMEOUT)))
}

/// Reads the samples of a calibration text.
pub fn read_samples(args: &Args, path: &Path, blueprint: &Blueprint) -> Result<Samples, CliError> {
    let reader = SampleReader::open(&args.input, blueprint)?;
    let most = args.method.samples.unwrap_or(reader.of_kind(SAMPLES));
    reader.read(path, most, args.method.sample_tokens, "--sample-tokens")
}

/// Suggests what to do about an error.
pub fn hint(error: &LayerwiseRunError) -> &'static str {
    match error {
        LayerwiseRunError::NoTexts { .. } => {
            "--calibration names one, --statistics what `lowbit observe` wrote"
        }
        LayerwiseRunError::NoSamples => "--calibration names a text, --merge files",
        LayerwiseRunError::Statistics(_) => "observe this model again with `lowbit observe`",
        LayerwiseRunError::Twice(_) => {
            "leave one of the files out, or take other samples with --skip"
        }
        LayerwiseRunError::Other { .. } => "remove it, or finish that run with its own options",
        LayerwiseRunError::Source(error) => error.next_step(),
        LayerwiseRunError::Weight { .. } => {
            "--exclude leaves the weight out, --format chooses another format"
        }
        LayerwiseRunError::Unsupported { .. } => "--exclude leaves the weight out",
        LayerwiseRunError::Activations { .. } => {
            "say the same `activations` of both, or of neither"
        }
        LayerwiseRunError::Io(error) => error.system_step().unwrap_or("is there room for it?"),
        LayerwiseRunError::Folder { .. } => "may this user write there?",
        _ => {
            "--adapter chooses another adapter, fewer --samples or --sample-tokens take less memory"
        }
    }
}

fn totals(weights: &[WeightReport]) -> Totals {
    let count = weights.iter().map(|weight| weight.shape[0] * weight.shape[1]).sum();
    let bytes_after = weights.iter().map(|weight| weight.bytes).sum();
    let mean = |of: fn(&WeightReport) -> Option<f64>| {
        let squares: Vec<f64> = weights.iter().filter_map(of).map(|error| error * error).collect();
        let count = squares.len() as f64;
        (!squares.is_empty()).then(|| (squares.iter().sum::<f64>() / count).sqrt())
    };
    Totals {
        weights: count,
        bytes_before: weights.iter().map(|weight| weight.bytes_before).sum(),
        bytes_after,
        bits_per_weight: report::bits_per_weight(bytes_after, count),
        output_error_before: mean(|weight| weight.output_error_before),
        output_error: mean(|weight| weight.output_error),
    }
}

fn text(json: &Json) -> String {
    let percent = |error: Option<f64>| match error {
        Some(error) => right(format!("{:.2} %", 100.0 * error)),
        None => right("–"),
    };
    let mut header = vec!["weight", "method", "format", "sparsity", "rounded", "output error"];
    let activations = json.weights.iter().any(|weight| weight.activations.is_some());
    if activations {
        header.insert(4, "activations");
    }
    let mut table = report::table(&header, true);
    for weight in &json.weights {
        let name = weight.name.strip_suffix(".weight").unwrap_or(&weight.name);
        let mut cells = vec![
            printable(name).into(),
            weight.method.clone().into(),
            weight.format.clone().into(),
            weight.sparsity.clone().into(),
            percent(weight.output_error_before),
            percent(weight.output_error),
        ];
        if activations {
            cells.insert(4, weight.activations.as_deref().unwrap_or("floats").into());
        }
        table.add_row(cells);
    }
    let totals = &json.totals;
    let on = json.calibration.as_ref().map_or(String::new(), |calibration| {
        format!(
            " on {} and {}",
            report::count(calibration.samples, "sample"),
            report::count(calibration.tokens, "token")
        )
    });
    let error = totals.output_error.map_or(String::new(), |error| {
        let before = totals.output_error_before.unwrap_or(error);
        format!(
            ", output error {:.2} % (by rounding or magnitude {:.2} %)",
            100.0 * error,
            100.0 * before
        )
    });
    format!(
        "{}{}{on}: {} → {}, {:.2} bits a weight{error}, in {:.0} s → {}\n",
        report::text(&table),
        report::count(json.weights.len(), "weight"),
        report::bytes(totals.bytes_before as u64),
        report::bytes(totals.bytes_after as u64),
        totals.bits_per_weight,
        json.seconds,
        printable(&json.output),
    )
}
