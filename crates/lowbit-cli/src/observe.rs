//! `lowbit observe`: statistics of what a model's linear layers take, in a file.

use crate::adapter::AdapterArg;
use crate::error::{CliError, printable, warn};
use crate::layerwise::{SAMPLES, hint, open_device};
use crate::report::{self, JsonArg, Report, right};
use crate::samples::SampleReader;
use crate::{Outcome, files};
use lowbit_models::architecture;
use lowbit_models::checkpoint::AtomicFile;
use lowbit_models::checkpoint::source::{ModelSource, model_checksum};
use lowbit_models::layerwise::{
    Doing, LayerwiseRunError, Recording, Samples, StatisticsError, StatisticsFile, TextPart,
    next_sample, record,
};
use pollster::block_on;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Collect statistics of what a model's linear layers take, for `lowbit compress --statistics`
///
/// Samples of a text run through the model as it is, and XᵀX and the sums of |x| of every layer's input are written
/// as exact integers. Files of several runs merge: whatever their order, and however the samples were shared out,
/// the sums are the same to the last bit. Each sample counts once; files of the same samples are refused.
#[derive(clap::Args)]
pub struct Args {
    /// The model: a folder, a GGUF file, or a safetensors file with its config.json and tokenizer.json beside
    /// it
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The text: for a language model windows are cut from it, for an encoder each line is a sample
    #[arg(long, value_name = "TEXT", required_unless_present = "merge")]
    calibration: Option<PathBuf>,
    /// The file to write. It appears whole or not at all
    #[arg(short, long, value_name = "STATISTICS", value_parser = files::to_file())]
    output: PathBuf,
    /// Skip this many samples of the text first. The default is 0, and with --resume all that the file has of this
    /// text
    #[arg(long, value_name = "N", requires = "calibration")]
    skip: Option<usize>,
    /// Use at most this many samples. The default is 32 windows, or 512 lines
    #[arg(long, value_name = "N", requires = "calibration")]
    samples: Option<usize>,
    /// The tokens of a sample, at most
    #[arg(long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=65536))]
    sample_tokens: u32,
    /// Continue an earlier run with more samples. This may be the file that is written
    #[arg(long, value_name = "STATISTICS", requires = "calibration")]
    resume: Option<PathBuf>,
    /// Add the statistics of these files, of the same model
    #[arg(long, value_name = "STATISTICS", num_args = 1..)]
    merge: Vec<PathBuf>,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    json: JsonArg,
}

/// What `--json` holds.
#[derive(Serialize)]
struct Json {
    model: String,
    output: String,
    /// The adapter; null if no text ran.
    adapter: Option<String>,
    /// The samples and tokens of this run, and of all runs.
    samples: u64,
    tokens: u64,
    samples_in_all: u64,
    tokens_in_all: u64,
    parts: Vec<TextPart>,
    inputs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    weights: Vec<String>,
    columns: usize,
}

/// Returns the checksum of a model.
pub fn checksum(path: &Path, source: &dyn ModelSource) -> Result<u64, CliError> {
    model_checksum(source).map_err(|error| {
        let hint = error.next_step();
        CliError::new(format!("cannot read `{}`", path.display())).because(error).hint(hint)
    })
}

/// Opens statistics, which must be of the model with this checksum.
pub fn read(path: &Path, model: u64) -> Result<StatisticsFile, CliError> {
    let opened = StatisticsFile::open(path);
    let checked = opened.and_then(|file| file.check_model(model).map(|()| file));
    checked.map_err(|error: StatisticsError| {
        CliError::new("cannot use the statistics")
            .because(error)
            .hint("give a file that `lowbit observe` wrote of this model")
    })
}

/// Returns the number of samples and tokens of parts of texts, and a checksum of them.
pub fn identity(parts: &[TextPart]) -> (usize, usize, u64) {
    parts.iter().fold((0, 0, 0), |(samples, tokens, checksum), part| {
        let add =
            |sum: usize, more: u64| sum.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
        (add(samples, part.samples), add(tokens, part.tokens), checksum.wrapping_add(part.checksum))
    })
}

fn text(json: &Json) -> String {
    let mut table = report::table(&["input of", "columns"], true);
    for row in &json.inputs {
        let names: Vec<&str> =
            row.weights.iter().map(|name| name.strip_suffix(".weight").unwrap_or(name)).collect();
        table.add_row([printable(&names.join(", ")).into(), right(row.columns)]);
    }
    let all = |samples: u64, tokens: u64| {
        let samples = report::count(usize::try_from(samples).unwrap_or(usize::MAX), "sample");
        let tokens = report::count(usize::try_from(tokens).unwrap_or(usize::MAX), "token");
        format!("{samples}, {tokens}")
    };
    let on = match &json.adapter {
        Some(adapter) => {
            format!(", of which {} now, on {}", all(json.samples, json.tokens), printable(adapter))
        }
        None => String::new(),
    };
    format!(
        "{}{} of {}{on} → {}\n",
        report::text(&table),
        report::count(json.inputs.len(), "input"),
        all(json.samples_in_all, json.tokens_in_all),
        printable(&json.output),
    )
}

/// Returns the samples to run, with the part of the text that they are.
fn samples(
    args: &Args,
    path: &Path,
    blueprint: &architecture::Blueprint,
    resumed: Option<&StatisticsFile>,
) -> Result<(Samples, TextPart), CliError> {
    let text = files::read_text(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tokens = args.sample_tokens as usize;
    let part = |samples: &Samples, skip| samples.part(&name, &text, skip, tokens);
    let have = resumed.map_or(0, |file| {
        let of_text = part(&Samples::default(), 0).text_checksum;
        usize::try_from(next_sample(file.parts(), of_text)).unwrap_or(usize::MAX)
    });
    let skip = args.skip.unwrap_or(have);
    let reader = SampleReader::open(&args.model, blueprint)?;
    let most = args.samples.unwrap_or(reader.of_kind(SAMPLES));
    let option = "--sample-tokens";
    let found = reader.of_text((path, &text), skip, most, args.sample_tokens, option)?;
    let part = part(&found, skip);
    Ok((found, part))
}

/// Observes a model.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let source = files::open(&args.model)?;
    let of_model: Vec<PathBuf> = files::of_model(&args.model, &source);
    let mut roles: Vec<(&str, Option<&Path>)> =
        of_model.iter().map(|path| ("a file of MODEL", Some(&**path))).collect();
    roles.push(("--calibration", args.calibration.as_deref()));
    roles.push(("STATISTICS", Some(&*args.output)));
    roles.push(("--json", args.json.json.as_deref()));
    files::refuse_same(&files::named(&roles))?;
    for left_out in source.omissions() {
        warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
    }
    let unread = || CliError::new(format!("cannot read the model in `{}`", args.model.display()));
    let blueprint = architecture::read(&source).map_err(|error| unread().because(error))?;
    let checksum = checksum(&args.model, &source)?;
    let resumed = args.resume.as_deref().map(|path| read(path, checksum)).transpose()?;
    let found = match &args.calibration {
        Some(path) => Some(samples(args, path, &blueprint, resumed.as_ref())?),
        None => None,
    };
    let others = args.merge.iter().map(|path| read(path, checksum));
    let merged: Vec<StatisticsFile> =
        resumed.map(Ok).into_iter().chain(others).collect::<Result<_, _>>()?;
    let report = Report::open(&args.json)?;
    // This checks before the work whether the file can be written.
    let output = AtomicFile::create(&args.output);
    drop(output.map_err(|error| CliError::new("cannot write the statistics").because(error))?);
    let host = if found.is_some() { Some(open_device(&args.adapter)?) } else { None };
    let own = found.as_ref().map(|(_, part)| (part.samples, part.tokens)).unwrap_or_default();
    let job = Recording {
        source: &source,
        checksum,
        blueprint: &blueprint,
        samples: found.as_ref().map(|(samples, part)| (&samples.texts[..], part.clone())),
        rows: args.sample_tokens as usize,
        merged: &merged,
    };
    let bar = report::long_progress(blueprint.layers.len() + 2);
    let mut progress = |doing: Doing<'_>| match doing {
        Doing::Observing(stage) => bar.set_message(format!("{stage}: observing its inputs")),
        Doing::Advancing(stage) => {
            bar.inc(1);
            bar.set_message(format!("{stage}: running it"));
        }
        _ => {}
    };
    let done = block_on(record(host.as_ref(), &job, &args.output, &mut progress));
    bar.finish_and_clear();
    let parts = done.map_err(|error: LayerwiseRunError| {
        let hint = hint(&error);
        CliError::new(format!("cannot observe `{}`", args.model.display()))
            .because(error)
            .hint(hint)
    })?;
    let written = read(&args.output, checksum)?;
    let (samples_in_all, tokens_in_all, _) = identity(&parts);
    let json = Json {
        model: args.model.display().to_string(),
        output: args.output.display().to_string(),
        adapter: host.map(|host| host.adapter_info().name.clone()),
        samples: own.0,
        tokens: own.1,
        samples_in_all: samples_in_all as u64,
        tokens_in_all: tokens_in_all as u64,
        inputs: written
            .inputs()
            .map(|(columns, weights)| Row { weights: weights.to_vec(), columns })
            .collect(),
        parts,
    };
    report.finish(&text(&json), &json)?;
    Ok(Outcome::Fine)
}
