//! `lowbit explore`: finds the best level of compression of a model.

use crate::adapter::AdapterArg;
use crate::error::{CliError, printable, warn};
use crate::explore_page::page;
use crate::layerwise::open_device;
use crate::report::{self, JsonArg, Report, right};
use crate::samples::SampleReader;
use crate::{Outcome, files, observe};
use clap::ArgGroup;
use lowbit_models::architecture::{self, Blueprint};
use lowbit_models::checkpoint::source::ModelSource;
use lowbit_models::checkpoint::{AtomicFile, Output};
use lowbit_models::compress::Pattern;
use lowbit_models::explore::{
    Assessed, Candidate, DEFAULT, Doing, Exploration, ExploreError, Job, Limit, remove_folder,
    run as explore,
};
use lowbit_models::layerwise::{Identity, LayerwiseRunError, Samples};
use pollster::block_on;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Samples of a language model and of an encoder, if options do not say it: of the calibration text, of what follows
/// them for probing, and of the evaluation text.
const SAMPLES: (usize, usize) = (16, 256);
const PROBES: (usize, usize) = (4, 32);
const EVAL: (usize, usize) = (8, 256);
/// The tokens of a window for probing: their logits are kept in memory.
const PROBE_TOKENS: usize = 128;

/// Find the best level of compression of a model: a format and a method for each weight, and what its input becomes.
///
/// Every candidate of every weight is made once from what is seen of its input. How much each weight matters is
/// measured on the device; then the best recipes of all sizes follow, and some of them, and the candidates as recipes for all
/// weights, are measured whole. Without a limit, the smallest recipe is chosen that loses at most 1 % of the
/// perplexity, or of the cosine. docs/explore.md explains the steps and what is assumed.
#[derive(clap::Args)]
#[command(group(ArgGroup::new("limit").args(["max_size", "target_bpw", "max_loss", "max_latency"])))]
pub struct Args {
    /// The model: a folder, a GGUF file, or a safetensors file with its config.json beside it
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The calibration text: for a language model windows are cut from it, for an encoder each line is a sample
    #[arg(long, value_name = "CALIBRATION")]
    text: PathBuf,
    /// The text on which recipes are measured. It should be another one than the calibration text
    #[arg(long, value_name = "TEXT")]
    eval: PathBuf,
    /// The page to write. The recipe is written beside it, as REPORT.recipe.toml, and without --json the
    /// JSON as REPORT.json
    #[arg(short, long, value_name = "REPORT.html", value_parser = files::to_file())]
    output: PathBuf,
    /// The size of the model's tensors in MB (1 000 000 bytes), at most
    #[arg(long, value_name = "MB", value_parser = parse_positive)]
    max_size: Option<f64>,
    /// The bits of a weight that is explored on average, at most
    #[arg(long, value_name = "B", value_parser = parse_positive)]
    target_bpw: Option<f64>,
    /// The loss beside the model as it is, at most, in per cent
    #[arg(long, value_name = "PERCENT", value_parser = parse_positive)]
    max_loss: Option<f64>,
    /// The milliseconds of a token on this adapter, at most
    #[arg(long, value_name = "MS", value_parser = parse_positive)]
    max_latency: Option<f64>,
    /// What may become of each weight, separated by commas: keep, or METHOD:FORMAT[:SPARSITY][@ACTIVATIONS], as in
    /// gptq:int4-g64-asym, awq:int4-g64-asym, rtn:q6_k, sparsegpt:int4-g64-asym:2:4 and rtn:int8-channel@int8-token,
    /// for which the weight's input becomes codes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = DEFAULT)]
    candidates: Vec<Candidate>,
    /// Leave weights whose names match as they are. May be given more than once
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<Pattern>,
    /// Use at most this many samples of the calibration text. The default is 16 windows, or 256 lines. What follows
    /// them in the text is for probing: up to 4 windows, or 32 lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    samples: Option<u32>,
    /// The tokens of a sample, at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=65536))]
    sample_tokens: u32,
    /// Use at most this many samples of the text of --eval. The default is 8 windows, or 256 lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    eval_samples: Option<u32>,
    /// The tokens of a sample of the text of --eval, at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=65536))]
    eval_tokens: u32,
    /// Measure mixed recipes of this many sizes, beside those of the candidates
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=256))]
    points: u32,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    json: JsonArg,
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let found = number.filter(|number| number.is_finite() && *number > 0.0);
    found.ok_or_else(|| "give a number above 0".to_owned())
}

/// A text by which a model was explored.
#[derive(Serialize)]
pub struct TextJson {
    pub file: String,
    pub samples: usize,
    pub tokens: usize,
}

/// The result as it is written as JSON and shown on the page.
#[derive(Serialize)]
pub struct Json {
    pub model: String,
    pub adapter: String,
    pub calibration: TextJson,
    pub probing: TextJson,
    pub eval: TextJson,
    /// The limit in words.
    pub limit: String,
    /// The file with the recipe of `chosen`, whose text is there too.
    pub recipe_file: String,
    /// The command that makes the model of `chosen`.
    pub command: String,
    pub seconds: f64,
    #[serde(flatten)]
    pub found: Exploration,
}

impl Args {
    fn limit(&self) -> Option<Limit> {
        let size = self.max_size.map(|megabytes| Limit::Size((megabytes * 1e6) as u64));
        size.or(self.target_bpw.map(Limit::Bits))
            .or(self.max_loss.map(Limit::Loss))
            .or(self.max_latency.map(Limit::Latency))
    }

    fn candidates(&self) -> Result<Vec<Candidate>, CliError> {
        for (index, candidate) in self.candidates.iter().enumerate() {
            let earlier = self.candidates.iter().take(index);
            if earlier.clone().any(|other| other.name() == candidate.name()) {
                return Err(CliError::new(format!("the candidate {candidate} is given twice"))
                    .hint("leave it out once"));
            }
        }
        Ok(self.candidates.clone())
    }
}

/// Says in words what the chosen recipe has to keep.
fn in_words(limit: Option<Limit>) -> String {
    match limit {
        None => "the smallest recipe that loses at most 1 %".into(),
        Some(Limit::Size(bytes)) => format!("at most {} MB", bytes as f64 / 1e6),
        Some(Limit::Bits(bits)) => format!("at most {bits} bits a weight"),
        Some(Limit::Loss(percent)) => format!("the smallest recipe that loses at most {percent} %"),
        Some(Limit::Latency(ms)) => format!("at most {ms} ms for a token"),
    }
}

/// The texts as tokens.
struct Texts {
    calibration: Samples,
    probing: Samples,
    eval: Samples,
}

fn read_texts(args: &Args, blueprint: &Blueprint) -> Result<Texts, CliError> {
    let reader = SampleReader::open(&args.model, blueprint)?;
    let most = args.samples.map_or(reader.of_kind(SAMPLES), |samples| samples as usize);
    let all = most + reader.of_kind(PROBES);
    let mut calibration = reader.read(&args.text, all, args.sample_tokens, "--sample-tokens")?;
    let mut probing = Samples::default();
    if calibration.texts.len() > most {
        probing.texts = calibration.texts.split_off(most);
    } else {
        let count = reader.of_kind(PROBES).min(calibration.texts.len());
        let first = calibration.texts.len() - count;
        probing.texts = calibration.texts.iter().skip(first).cloned().collect();
        warn(format!(
            "`{}` has no more samples than are used for calibration; the last {count} of them are used for probing too",
            args.text.display()
        ));
    }
    if blueprint.head.is_some() {
        probing.texts.iter_mut().for_each(|text| text.truncate(PROBE_TOKENS));
    }
    let most = args.eval_samples.map_or(reader.of_kind(EVAL), |samples| samples as usize);
    let eval = reader.read(&args.eval, most, args.eval_tokens, "--eval-tokens")?;
    Ok(Texts { calibration, probing, eval })
}

/// Explores a model.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let start = std::time::Instant::now();
    let recipe_file = args.output.with_extension("recipe.toml");
    let json_arg = JsonArg {
        json: Some(args.json.json.clone().unwrap_or_else(|| args.output.with_extension("json"))),
    };
    files::refuse_same(&files::named(&[
        ("--text", Some(&args.text)),
        ("--eval", Some(&args.eval)),
        ("REPORT.html", Some(&args.output)),
        ("REPORT.recipe.toml", Some(&recipe_file)),
        ("--json", json_arg.json.as_deref()),
    ]))?;
    let candidates = args.candidates()?;
    let source = files::open(&args.model)?;
    files::refuse_overwriting("MODEL", &args.model, &source, &Output::from(&*args.output))?;
    for left_out in source.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    let failed = |error: ExploreError| {
        let hint = hint(&error);
        CliError::new(format!("cannot explore `{}`", args.model.display()))
            .because(error)
            .hint(hint)
    };
    let blueprint = architecture::read(&source).map_err(|error| {
        CliError::new(format!("cannot read the model in `{}`", args.model.display()))
            .because(error)
            .hint("the model has to run to be explored")
    })?;
    let unwritten = |error| CliError::new("cannot write the report").because(error);
    let mut html = AtomicFile::create(&args.output).map_err(unwritten)?;
    let mut recipe = AtomicFile::create(&recipe_file).map_err(unwritten)?;
    let report = Report::open(&json_arg)?;
    let texts = read_texts(args, &blueprint)?;
    let host = open_device(&args.adapter)?;
    let mut folder = args.output.clone().into_os_string();
    folder.push(".partial");
    let folder = PathBuf::from(folder);
    let names: Vec<&str> = candidates.iter().map(Candidate::name).collect();
    let exclude: Vec<String> = args.exclude.iter().map(ToString::to_string).collect();
    let identity = Identity {
        model: observe::checksum(&args.model, &source)?,
        recipe: format!(
            "adapter {}; candidates {}; exclude {}; probing {:?}; eval {:?}",
            host.adapter_info().name,
            names.join(","),
            exclude.join(","),
            texts.probing.identity(),
            texts.eval.identity()
        ),
        calibration: texts.calibration.identity(),
    };
    let calibration = &texts.calibration.texts;
    let limit = args.limit();
    let job = Job {
        source: &source,
        blueprint: &blueprint,
        candidates,
        exclude: args.exclude.clone(),
        texts: calibration,
        probes: &texts.probing.texts,
        eval: &texts.eval.texts,
        rows: calibration.iter().map(Vec::len).max().unwrap_or(1).max(512),
        limit,
        points: args.points as usize,
        folder: folder.clone(),
        identity,
    };
    let bar = report::long_progress(0);
    let mut progress = |done: usize, all: usize, doing: Option<Doing<'_>>| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        if let Some(doing) = doing {
            bar.set_message(message(doing));
        }
    };
    let found = block_on(explore(&host, &job, &mut progress)).map_err(failed);
    bar.finish_and_clear();
    let found = found.map_err(|error| {
        let folder = folder.display();
        error
            .or_hint(&format!("what is finished stays in `{folder}`, and the same command goes on"))
    })?;
    for left_out in &found.left_out {
        warn(format!("`{}` is left out of the search: {}", left_out.name, left_out.why));
    }
    let text = |path: &Path, samples: &Samples| {
        let (samples, tokens, _) = samples.identity();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        TextJson { file, samples, tokens }
    };
    let json = Json {
        model: args.model.display().to_string(),
        adapter: host.adapter_info().name.clone(),
        calibration: text(&args.text, &texts.calibration),
        probing: text(&args.text, &texts.probing),
        eval: text(&args.eval, &texts.eval),
        limit: in_words(limit),
        recipe_file: recipe_file.display().to_string(),
        command: format!(
            "lowbit compress {} -o OUT.safetensors --recipe {} --calibration {} --samples {} --sample-tokens {}",
            args.model.display(),
            recipe_file.display(),
            args.text.display(),
            texts.calibration.texts.len(),
            args.sample_tokens
        ),
        seconds: start.elapsed().as_secs_f64(),
        found,
    };
    let page =
        page(&json).map_err(|why| CliError::new(format!("cannot draw the report: {why}")))?;
    let write = |file: &mut AtomicFile, text: &str| {
        let written = file.write_all(text.as_bytes());
        written.map_err(|error| CliError::new("cannot write the report").because(error))
    };
    write(&mut html, &page)?;
    write(&mut recipe, &json.found.chosen.assessed.recipe)?;
    recipe.commit().map_err(unwritten)?;
    html.commit().map_err(unwritten)?;
    report.finish(&table(&json, &args.output), &json)?;
    remove_folder(&folder).map_err(failed)?;
    Ok(Outcome::Fine)
}

fn message(doing: Doing<'_>) -> String {
    match doing {
        Doing::Observing(stage) => format!("{stage}: observing its inputs"),
        Doing::Advancing(stage) => format!("{stage}: running it"),
        Doing::Making { weight, candidate } => format!("{candidate} of {}", printable(weight)),
        Doing::Probing(block) => format!("how much matters {}", printable(block)),
        Doing::Measuring(what) => format!("measuring {what}"),
        Doing::Compressing(weight) => format!("applying the recipe to {}", printable(weight)),
        _ => String::new(),
    }
}

/// Suggests what to do about an error.
fn hint(error: &ExploreError) -> &'static str {
    match error {
        ExploreError::NoTexts(_) => "--text and --eval name files with text",
        ExploreError::NoneGoes { .. } => "--candidates names keep, or some without activations",
        ExploreError::NoCandidates => "--candidates names two or more, separated by commas",
        ExploreError::NoWeights => "--candidates names others; `lowbit inspect` lists the weights",
        ExploreError::Size { .. } | ExploreError::Bits { .. } => {
            "a larger limit, or smaller --candidates"
        }
        ExploreError::Loss { .. } => "a larger --max-loss, or larger --candidates, such as keep",
        ExploreError::Latency { .. } => "a larger --max-latency, or other --candidates",
        ExploreError::Layerwise(LayerwiseRunError::Other { .. }) => {
            "remove it, or finish that run with its own options"
        }
        ExploreError::Layerwise(
            LayerwiseRunError::Weight { .. } | LayerwiseRunError::Unsupported { .. },
        ) => "--exclude leaves the weight out, --candidates names others",
        ExploreError::Layerwise(LayerwiseRunError::Folder { .. }) => "may this user write there?",
        ExploreError::Source(error) => error.next_step(),
        ExploreError::Io(error) => error.system_step().unwrap_or("is there room for it?"),
        _ => "--adapter chooses another adapter, fewer --samples take less memory",
    }
}

/// Returns the table of what was measured.
fn table(json: &Json, output: &Path) -> String {
    let found = &json.found;
    let mut table = report::table(&["recipe", "size", "bits", "loss", "ms/token"], true);
    let mut row = |name: &str, assessed: &Assessed| {
        table.add_row([
            name.into(),
            right(report::bytes(assessed.bytes as u64)),
            right(format!("{:.2}", assessed.bits_per_weight)),
            right(format!("{:.3} %", assessed.loss)),
            right(format!("{:.3}", assessed.latency_ms)),
        ]);
    };
    let mut all: Vec<(&str, &Assessed)> =
        found.uniform.iter().map(|assessed| (assessed.recipe.as_str(), assessed)).collect();
    all.extend(found.mixed.iter().map(|assessed| ("mixed", assessed)));
    all.sort_by_key(|(_, assessed)| assessed.bytes);
    for (name, assessed) in all {
        row(name, assessed);
    }
    let chosen = &found.chosen.assessed;
    row("chosen, applied", chosen);
    format!(
        "{}{} of the model as it is: {:.4}, {}\nchosen ({}):\n\
         {}, {:.2} bits a weight, loss {:.3} %, in {:.0} s\n→ {} and {}\n",
        report::text(&table),
        found.metric,
        found.value,
        report::bytes(found.bytes as u64),
        json.limit,
        report::bytes(chosen.bytes as u64),
        chosen.bits_per_weight,
        chosen.loss,
        json.seconds,
        printable(&output.display().to_string()),
        printable(&json.recipe_file),
    )
}
