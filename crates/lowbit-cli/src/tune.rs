use crate::Outcome;
use crate::adapter::{AdapterArg, DeviceArg};
use crate::bench::Shape;
use crate::error::{CliError, printable};
use crate::files;
use crate::report::{JsonArg, Report, count, progress, right, table, text};
use lowbit::format::WeightFormat;
use lowbit::ops::matmul::{Measured, Tuning, code_textures_pay};
use lowbit::ops::{Activations, MatmulSpec, Schedule};
use lowbit_models::checkpoint::{AtomicFile, IoError};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Measure which kernels are fastest for your shapes, and store the result in a file
///
/// The command measures every schedule that the adapter can run, for M rows of X and for each
/// lower range of rows that kernels distinguish (1, 2 to 8, 9 to 64, more). Formats that kernels
/// do not distinguish (for example int8-g64 and int8-g128) are measured once. The file is valid
/// for this adapter, driver and version of lowbit, and is ignored elsewhere.
#[derive(clap::Args)]
pub struct Args {
    /// The largest number of rows of X, the rows of W and the columns; may be repeated
    #[arg(long, value_name = "MxNxK", required = true)]
    shape: Vec<Shape>,
    /// Formats of W; may be repeated
    #[arg(long, value_name = "FORMAT", default_values = ["int8-channel", "int4-g64-asym"])]
    format: Vec<WeightFormat>,
    /// The type of X: f32, f16, or a format of codes such as int8-token or int8-g128-asym
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    activations: Activations,
    /// How many seconds to measure in all; the output says what they did not suffice for
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    budget: Duration,
    /// Write the fastest schedules to this file; an existing file is replaced
    #[arg(short, long, value_name = "FILE", value_parser = files::to_file())]
    output: Option<PathBuf>,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    json: JsonArg,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// The output of `--json`.
#[derive(Serialize)]
struct Json {
    adapter: String,
    backend: String,
    driver: String,
    budget_seconds: f64,
    rows: Vec<Row>,
}

/// The measurements of one shape, weight format and row range.
#[derive(Serialize)]
struct Row {
    weights: String,
    activations: String,
    m: u32,
    n: u32,
    k: u32,
    /// The schedule that is chosen without tuning.
    selected: String,
    /// The fastest schedule, or `selected` if none is faster by more than noise.
    best: String,
    /// The time of `selected` divided by that of `best`; null if `selected` was not measured.
    gain: Option<f64>,
    times: Vec<Time>,
    /// The schedules that the budget did not suffice for.
    unmeasured: Vec<String>,
}

#[derive(Serialize)]
struct Time {
    schedule: String,
    /// Milliseconds of one matmul: the median of several submissions.
    ms: f64,
}

fn row(measured: &Measured) -> Row {
    let (problem, best) = (&measured.problem, measured.best());
    let seconds = |schedule| measured.time(schedule).map(|time| time.as_secs_f64());
    let gain = seconds(measured.selected).zip(seconds(best));
    let times = measured.times.iter().map(|(schedule, time)| Time {
        schedule: schedule.to_string(),
        ms: 1e3 * time.as_secs_f64(),
    });
    Row {
        weights: measured.spec.weights.to_string(),
        activations: problem.activations.to_string(),
        m: problem.m,
        n: problem.n,
        k: problem.k,
        selected: measured.selected.to_string(),
        best: best.to_string(),
        gain: gain.map(|(selected, best)| selected / best),
        times: times.collect(),
        unmeasured: measured.unmeasured.iter().map(Schedule::to_string).collect(),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    if args.output.is_some() && !args.device.is_empty() {
        return Err(CliError::new(
            "a tuning that was measured on a restricted device is not written to a file",
        )
        .hint("the file would apply to the whole adapter; omit -o, or omit --without and limits"));
    }
    // Both files are opened first, so that a path that cannot be written does not cost the time
    // of measuring.
    let paths = [("--output", args.output.as_deref()), ("--json", args.json.json.as_deref())];
    files::refuse_same(&files::named(&paths))?;
    let unwritable = |error: IoError| CliError::new("cannot write the tuning").because(error);
    let output = args.output.as_ref().map(AtomicFile::create).transpose().map_err(unwritable)?;
    let report = Report::open(&args.json)?;
    let adapter = args.adapter.choose()?;
    let info = adapter.get_info();
    let failed = |what: &str| CliError::new(format!("{what} on {}", printable(&info.name)));
    let host = args.device.host(&adapter).map_err(|e| failed("no device").because(e))?;
    let shapes = args.shape.iter().flat_map(|shape| args.format.iter().map(move |f| (shape, f)));
    let specs: Vec<MatmulSpec> = shapes
        .map(|(&Shape(m, n, k), &format)| {
            // `Shape` only parses numbers that are far below 2³².
            let mut spec = MatmulSpec::new(m as u32, n as u32, k as u32, format);
            spec.code_textures = code_textures_pay(&format, k as u32, host.kernels().caps());
            spec.with_activations(args.activations)
        })
        .collect();
    let bar = progress(0);
    let next = |measured: &Measured, of: usize| {
        bar.set_length(of as u64);
        bar.inc(u64::from(!bar.message().is_empty()));
        let problem = &measured.problem;
        let (m, n, k) = (problem.m, problem.n, problem.k);
        bar.set_message(format!("{} {m}×{n}×{k}", measured.spec.weights));
    };
    let measured = host
        .measure(&specs, args.budget, next)
        .map_err(|error| failed("cannot measure").because(error))?;
    bar.finish_and_clear();
    let tuning = Tuning::of(&info, &measured);
    let json = Json {
        adapter: info.name,
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        budget_seconds: args.budget.as_secs_f64(),
        rows: measured.iter().map(row).collect(),
    };
    // The table comes first, so that the measurements are not lost if the file cannot be written.
    report.finish(&page(&json), &json)?;
    if let Some(mut file) = output {
        if tuning.entries.is_empty() {
            return Err(CliError::new("nothing was measured, so the tuning is not written")
                .hint("give a larger --budget"));
        }
        file.write_all(tuning.to_json().as_bytes())
            .map_err(|error| CliError::new("cannot write the tuning").because(error))?;
        file.commit().map_err(unwritable)?;
    }
    Ok(Outcome::Fine)
}

fn page(json: &Json) -> String {
    let mut rows = table(&["weights", "M×N×K", "schedule", "ms", "gain", ""], false);
    for row in &json.rows {
        let mut names = [row.weights.clone(), format!("{}×{}×{}", row.m, row.n, row.k)].into_iter();
        let mut add = |schedule: &str, ms: String| {
            let (best, selected) = (schedule == row.best, schedule == row.selected);
            let gain = row.gain.filter(|_| best).map(|gain| format!("{gain:.2}×"));
            rows.add_row([
                names.next().unwrap_or_default().into(),
                names.next().unwrap_or_default().into(),
                schedule.into(),
                right(ms),
                right(gain.unwrap_or_default()),
                match (best, selected) {
                    (true, true) => "chosen, as without tuning",
                    (true, false) => "chosen",
                    (false, true) => "without tuning",
                    (false, false) => "",
                }
                .into(),
            ]);
        };
        if row.gain.is_none() {
            add(&row.selected, "–".into());
        }
        for time in &row.times {
            add(&time.schedule, format!("{:.3}", time.ms));
        }
        if !row.unmeasured.is_empty() {
            add(&format!("{} unmeasured", row.unmeasured.len()), "–".into());
        }
    }
    let mut page = format!("{} ({}, {})\n{}", json.adapter, json.driver, json.backend, text(&rows));
    let problems = json.rows.iter().filter(|row| !row.unmeasured.is_empty()).count();
    if problems > 0 {
        let schedules = json.rows.iter().map(|row| row.unmeasured.len()).sum();
        page += &format!(
            "The budget left {} of {} unmeasured; give a larger --budget.\n",
            count(schedules, "schedule"),
            count(problems, "problem"),
        );
    }
    page
}
