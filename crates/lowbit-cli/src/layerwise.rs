//! `lowbit compress` by methods that look at what layers take, or that prune in other patterns than 2:4.

use crate::adapter::AdapterArg;
use crate::compress::Args;
use crate::error::{CliError, printable, warn};
use crate::layerwise_report::{self, CalibrationJson, Json};
use crate::model::STEP_TIMEOUT;
use crate::report::{self, Report};
use crate::samples::SampleReader;
use crate::{Outcome, files, observe};
use lowbit::host::Host;
use lowbit_models::architecture::{self, Blueprint};
use lowbit_models::checkpoint::AtomicFile;
use lowbit_models::checkpoint::source::{Family, ModelSource, Overlay, import};
use lowbit_models::compress::{Rule, SelectRequest};
use lowbit_models::device::{RunError, Stage};
use lowbit_models::layerwise::{
    Doing, Identity, Job, LayerwiseRunError, Loops, Plan, Plans, Samples, StatisticsFile,
    Treatment, WeightReport, input_norms, plans, remove_folder, run as compress,
};
use lowbit_models::transform::{Changed, Cut, InputNorms, TransformError, cut, rotate};
use pollster::block_on;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples of a language model and of an encoder, if `--samples` does not say it.
pub const SAMPLES: (usize, usize) = (32, 512);

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
    let mut request = with_activations(args, request)?;
    // As a rule, so that the recipe in the file says what was left out.
    let exclude = std::mem::take(&mut request.exclude);
    if !exclude.is_empty() {
        let treatment = Treatment::default();
        request.recipe.rules.insert(0, Rule { tensors: Some(exclude), scheme: None, treatment });
    }
    let request = &request;
    let output = args.shards.output(&args.output);
    let original = &files::open(&args.input)?;
    files::refuse_overwriting("IN", &args.input, original, &output)?;
    let read = [("--calibration", &method.calibration), ("--statistics", &method.statistics)];
    for (name, path) in read {
        if let Some(path) = path {
            files::refuse_same(&[(name, path), ("OUT", &args.output)])?;
        }
    }
    for left_out in original.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    let floats = if method.changes() {
        let floats = Overlay::dequantized(original);
        Some(floats.map_err(|error| unread(args).because(error))?)
    } else {
        None
    };
    let cut = match &floats {
        Some(model) if method.cuts() => {
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
        unread(args).because(error).hint("methods that look at inputs have to run the model")
    })?;
    let plans = selected(args, source, request)?;
    let report = Report::open(&args.json)?;
    let calibration = Calibration::read(args, source, &blueprint)?;
    // Rounding does not look at inputs. If the calibration text is there to choose what is cut, it does not run again.
    let looks = plans.values().any(|plan| plan.treatment.needs_inputs());
    let texts = if looks || !method.cuts() { calibration.texts() } else { &[] };
    let checksum = observe::checksum(&args.input, original)?;
    let recipe = format!("{}{}", method.comments(), request.recipe);
    let mut folder = args.output.clone().into_os_string();
    folder.push(".partial");
    let folder = PathBuf::from(folder);
    let job = Job {
        source,
        blueprint: &blueprint,
        plans,
        texts,
        statistics: calibration.statistics.as_ref(),
        rows: texts.iter().map(Vec::len).max().unwrap_or(1).max(512),
        loops: method.loops,
        folder: Some((
            folder.clone(),
            Identity {
                model: checksum,
                recipe: recipe.clone(),
                calibration: calibration.identity(),
            },
        )),
    };
    // Statistics need a device only for the loops over columns.
    let device =
        !texts.is_empty() || calibration.statistics.is_some() && method.loops != Loops::Host;
    let host = if device { Some(open_device(&args.adapter)?) } else { None };
    let (mut compressed, weights) = with_progress(host.as_ref(), &job).map_err(|error| {
        failed(args, error).or_hint(&format!(
            "what is finished stays in `{}`, and the same command goes on",
            folder.display()
        ))
    })?;
    let calibration = calibration.json(args);
    compressed.put_metadata("lowbit.recipe", &recipe);
    if let Some(calibration) = &calibration {
        let text = serde_json::to_string(calibration).unwrap_or_default();
        compressed.put_metadata("lowbit.calibration", text);
    }
    warn_of(&weights);
    import(&compressed, output, &mut |_| ()).map_err(|error| failed(args, error.into()))?;
    if let Some((path, text)) = config {
        write_config(&path, &text)?;
    }
    let json = Json {
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        recipe,
        calibration,
        adapter: host.map(|host| host.adapter_info().name.clone()),
        seconds: start.elapsed().as_secs_f64(),
        totals: layerwise_report::totals(&weights),
        weights,
    };
    report.finish(&layerwise_report::text(&json), &json)?;
    remove_folder(&folder).map_err(|error| failed(args, error))?;
    Ok(Outcome::Fine)
}

fn unread(args: &Args) -> CliError {
    CliError::new(format!("cannot read the model in `{}`", args.input.display()))
}

fn failed(args: &Args, error: LayerwiseRunError) -> CliError {
    let hint = hint(&error);
    CliError::new(format!("cannot compress `{}`", args.input.display())).because(error).hint(hint)
}

/// Returns what becomes of each weight, and warns of patterns that match nothing.
fn selected(
    args: &Args,
    source: &dyn ModelSource,
    request: &SelectRequest,
) -> Result<BTreeMap<String, Plan>, CliError> {
    let Plans { plans, unmatched, weights, .. } =
        plans(source, request).map_err(|error| unread(args).because(error))?;
    for pattern in unmatched {
        warn(format!("the pattern `{pattern}` matches no matrix of the model"));
    }
    if plans.is_empty() {
        let some: Vec<&str> = weights.iter().take(5).map(String::as_str).collect();
        return Err(CliError::new("no weight of the model is selected")
            .hint(format!("there is {}", printable(&some.join(", ")))));
    }
    Ok(plans)
}

/// The calibration: samples of a text that runs, or statistics of one that ran.
struct Calibration {
    samples: Option<Samples>,
    statistics: Option<StatisticsFile>,
}

impl Calibration {
    fn read(
        args: &Args,
        source: &dyn ModelSource,
        blueprint: &Blueprint,
    ) -> Result<Self, CliError> {
        let samples = match &args.method.calibration {
            Some(path) => Some(read_samples(args, path, blueprint)?),
            None => None,
        };
        let statistics = match &args.method.statistics {
            Some(path) => Some(observe::read(path, observe::checksum(&args.input, source)?)?),
            None => None,
        };
        Ok(Self { samples, statistics })
    }

    fn texts(&self) -> &[Vec<u32>] {
        self.samples.as_ref().map(|samples| &samples.texts[..]).unwrap_or_default()
    }

    /// Returns the number of samples and tokens, and a checksum of them.
    fn identity(&self) -> (usize, usize, u64) {
        match &self.statistics {
            Some(file) => observe::identity(file.parts()),
            None => self.samples.as_ref().map(Samples::identity).unwrap_or_default(),
        }
    }

    fn json(&self, args: &Args) -> Option<CalibrationJson> {
        let method = &args.method;
        let file = method.calibration.as_deref().or(method.statistics.as_deref())?;
        let (samples, tokens, checksum) = self.identity();
        Some(CalibrationJson {
            text: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            samples,
            tokens,
            checksum: format!("{checksum:016x}"),
            statistics: self.statistics.as_ref().map(|file| file.parts().to_vec()),
        })
    }
}

/// Compresses a model, with a progress bar that says the layer, the last error and the time left.
fn with_progress<'a>(
    host: Option<&Arc<Host>>,
    job: &Job<'a, '_>,
) -> Result<(Overlay<'a>, Vec<WeightReport>), LayerwiseRunError> {
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
    let done = block_on(compress(host, job, &mut progress));
    bar.finish_and_clear();
    done
}

/// Prints the warnings of weights, each once with the first weights that it is about.
fn warn_of(weights: &[WeightReport]) {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for weight in weights {
        for warning in &weight.warnings {
            names.entry(warning).or_default().push(&weight.name);
        }
    }
    for (warning, names) in names {
        let some = printable(&names[..names.len().min(3)].join(", "));
        let more = names.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        warn(format!("{some}{more}: {warning}"));
    }
}

fn write_config(path: &Path, text: &str) -> Result<(), CliError> {
    let failed = || CliError::new(format!("cannot write `{}`", path.display()));
    let mut file = AtomicFile::create(path).map_err(|error| failed().because(error))?;
    file.write_all(text.as_bytes()).map_err(|error| failed().because(error))?;
    file.commit().map_err(|error| failed().because(error))
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
        LayerwiseRunError::Run(RunError::Gram { .. }) => {
            "is the model sound? `lowbit perplexity` or `embed` runs it"
        }
        _ => {
            "--adapter chooses another adapter, fewer --samples or --sample-tokens take less memory"
        }
    }
}
