//! `lowbit verify`: checks every kernel against the oracle.

use crate::Outcome;
use crate::adapter::{AdapterArg, DeviceArg, enumerate, matching};
use crate::compare;
use crate::error::{CliError, printable, warn};
use crate::files::{self, refuse_same};
use crate::report::{JsonArg, Report, progress, right, table, text};
use indicatif::ProgressBar;
use lowbit::conformance::{
    self, AdapterReport, Case, CaseReport, ErrorOverBound, Extent, Op, Speed, Status,
};
use lowbit::format::WeightFormat;
use lowbit::host::Host;
use lowbit::ops::{Activations, Select};
use lowbit_models::checkpoint::AtomicFile;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Check every kernel against the CPU oracle and its proven error bound
///
/// The exit code is 1 if any case fails. The first failures are listed with the command that repeats
/// only them.
#[derive(clap::Args)]
pub struct Args {
    /// The adapter to use: part of its name, driver or backend, its number, or `all`. The default is
    /// the best one
    #[arg(long, value_name = "NAME|all")]
    adapter: Option<String>,
    /// Run only a part of the table, with every decoder and schedule, in under a minute
    #[arg(long)]
    quick: bool,
    /// Run only the case with this id, or those whose id starts with it, or else contains it
    #[arg(long, value_name = "ID")]
    case: Option<String>,
    /// Run only every Nth case of the table. The table's loops have 2, 3, 4, 7 and 8 turns, so that
    /// an N without a common factor samples them evenly
    #[arg(long, value_name = "N", conflicts_with = "case")]
    every: Option<std::num::NonZeroUsize>,
    /// With --every N: start at this case, counted from 0, instead of the first. The offsets from 0
    /// to N - 1 together run every case once; larger ones are taken modulo N
    #[arg(long, value_name = "K", requires = "every")]
    offset: Option<usize>,
    /// Leave out the cases whose id starts with one of these, separated by commas
    #[arg(long, value_name = "ID", value_delimiter = ',', conflicts_with = "case")]
    except: Vec<String>,
    /// Run every case twice. A case whose bits differ has failed
    #[arg(long)]
    twice: bool,
    /// Write a web page with all cases by op, format and rows of X, each run twice, the facts about the
    /// adapter, and the speed of some kernels compared with the adapter's limits
    #[arg(long, value_name = "FILE.html", value_parser = files::to_file())]
    report: Option<PathBuf>,
    /// Compare two reports of --json or --report instead of running cases: show what exceeds the bound
    /// in one of them, and what has other bits
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = [
        "adapter", "quick", "case", "every", "offset", "except", "report", "twice", "without",
        "limits", "binding_limit",
    ])]
    compare: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    json: JsonArg,
}

/// The number of failures that are listed.
const LISTED: usize = 10;

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    if let [first, second] = &args.compare[..] {
        return compare::run(first, second, &args.json);
    }
    if let (Some(page), Some(json)) = (&args.report, &args.json.json) {
        refuse_same(&[("the report", page), ("the JSON", json)])?;
    }
    let report = Report::open(&args.json)?;
    let page_failed = || CliError::new("cannot write the report");
    let file = args.report.as_ref().map(AtomicFile::create).transpose();
    let file = file.map_err(|error| page_failed().because(error))?;
    let cases = wanted(args)?;
    let adapters = match &args.adapter {
        Some(_) => enumerate()?,
        None => vec![AdapterArg { adapter: None }.choose()?],
    };
    let mut reports = Vec::new();
    let mut said = String::new();
    let chosen = matching(&adapters, args.adapter.as_deref())?;
    for adapter in &chosen {
        if chosen.len() > 1 {
            // If stderr is closed, nobody can be told.
            let name = printable(&adapter.get_info().name);
            let _ = writeln!(std::io::stderr(), "on {name}, {} cases", cases.len());
        }
        let adapter = match verify(adapter, args, &cases) {
            // If one of several adapters has no device, the others are still tried.
            Err(error) if chosen.len() > 1 => {
                AdapterReport::without_device(&adapter.get_info(), error.line())
            }
            other => other?,
        };
        said = describe(&adapter);
        if chosen.len() > 1 {
            // The result is printed at once, because all adapters together take long.
            report.say(&said)?;
        }
        reports.push(adapter);
    }
    if reports.iter().all(|adapter| adapter.passed + adapter.failed == 0 && adapter.error.is_none())
    {
        let error = CliError::new("no case could run: all were skipped");
        return Err(error.hint(said.lines().find(|line| line.starts_with("skipped")).unwrap_or("")));
    }
    if reports.len() > 1 {
        said = overview(&reports);
    }
    let out = conformance::Report::new(reports);
    if let Some(mut file) = file {
        let page = conformance::page(&out).map_err(|error| page_failed().because(error))?;
        let written = file.write_all(page.as_bytes());
        written.map_err(|error| page_failed().because(error))?;
        file.commit().map_err(|error| page_failed().because(error))?;
    }
    report.finish(&said, &out)?;
    let right = out.adapters.iter().all(AdapterReport::is_right);
    Ok(if right { Outcome::Fine } else { Outcome::FoundWrong })
}

/// Returns the requested cases.
fn wanted(args: &Args) -> Result<Vec<Case>, CliError> {
    let extent = if args.quick { Extent::Quick } else { Extent::Full };
    let every = args.every.unwrap_or(std::num::NonZeroUsize::MIN);
    let wanted = |case: &Case| {
        let id = case.id();
        !args.except.iter().any(|start| id.starts_with(start.as_str()))
    };
    let cases = conformance::table(extent);
    let Some(id) = &args.case else {
        let sample = conformance::sample(cases, every, args.offset.unwrap_or(0));
        let some: Vec<_> = sample.into_iter().filter(wanted).collect();
        if some.is_empty() {
            return Err(CliError::new("--every, --offset and --except leave no case"));
        }
        return Ok(some);
    };
    let matches: [fn(&str, &str) -> bool; 3] =
        [|id, text| id == text, |id, text| id.starts_with(text), |id, text| id.contains(text)];
    let of = |matches: &fn(&str, &str) -> bool| {
        cases.iter().filter(|case| matches(&case.id(), id)).cloned().collect::<Vec<_>>()
    };
    let some = matches.iter().map(of).find(|some| !some.is_empty());
    some.ok_or_else(|| {
        let example = cases.first().map(Case::id).unwrap_or_default();
        CliError::new(format!("no case id contains `{}`", printable(id)))
            .hint(format!("ids are like {example}; without --quick there are more"))
    })
}

fn verify(adapter: &wgpu::Adapter, args: &Args, cases: &[Case]) -> Result<AdapterReport, CliError> {
    let info = adapter.get_info();
    let failed = |what: &str| CliError::new(format!("{what} {}", printable(&info.name)));
    let start = Instant::now();
    // The oracle and software adapters are limited by the CPU, so there is a device for each core.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let hosts = (0..threads).map(|_| args.device.host(adapter)).collect::<Result<Vec<_>, _>>();
    let hosts = hosts.map_err(|error| failed("cannot use").because(error))?;
    let bar = progress(cases.len());
    let times = if args.twice || args.report.is_some() { 2 } else { 1 };
    let renew = || args.device.host(adapter).ok();
    let reports = conformance::run_times(&hosts, cases, times, &renew, &|case: &CaseReport| {
        bar.set_message(case.id.clone());
        bar.inc(1);
    });
    bar.finish_and_clear();
    let Some(host) = hosts.first() else { return Err(failed("no device of")) };
    let mut report = AdapterReport::new(host, reports);
    report.options = args.device.to_string();
    report.seconds = start.elapsed().as_secs_f64();
    if args.report.is_some() {
        // The device of the cases may be lost, so this is another one. If it fails, the page is written
        // without times.
        let timed = args.device.host(adapter).map_err(|e| e.to_string());
        let bar = progress(1 + TIMED_SHAPES.len() * TIMED.len());
        let timed = timed.and_then(|host| speed(&host, &bar));
        bar.finish_and_clear();
        match timed {
            Ok(speed) => report.speed = Some(speed),
            Err(error) => warn(format!("no times of {}: {error}", printable(&info.name))),
        }
    }
    Ok(report)
}

/// The formats of weights and X that a report times.
const TIMED: [(&str, &str); 7] = [
    ("f32", "f32"),
    ("f16", "f32"),
    ("int8-channel", "f32"),
    ("int4-g64", "f32"),
    ("2:4+int8-channel", "f32"),
    ("int8-channel", "int8-token"),
    ("int4-g64", "int8-token"),
];

/// The rows of X, N and K that a report times: one row, which is limited by reading weights, and many.
const TIMED_SHAPES: [(usize, usize, usize); 2] = [(1, 2048, 2048), (64, 1024, 1024)];

fn speed(host: &Host, bar: &ProgressBar) -> Result<Speed, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    bar.set_message("timing: the adapter's limits");
    let limits = conformance::limits(host).map_err(|e| text(&e))?;
    let mut rows = Vec::new();
    for shape in TIMED_SHAPES {
        for (format, activations) in TIMED {
            bar.set_message(format!("timing: {format} × {activations}"));
            bar.inc(1);
            let format = format.parse::<WeightFormat>().map_err(|e| text(&e))?;
            let activations = activations.parse::<Activations>().map_err(|e| text(&e))?;
            let (how, op) = (&Select::Auto, Op::Matmul);
            let timed = conformance::time(host, &limits, how, op, format, activations, shape);
            rows.extend(timed.map_err(|e| text(&e))?);
        }
    }
    Ok(Speed { limits, rows })
}

/// Returns a table with a line for each adapter.
fn overview(adapters: &[AdapterReport]) -> String {
    let mut rows =
        table(&["adapter", "driver", "backend", "passed", "failed", "skipped", "s"], true);
    for adapter in adapters {
        rows.add_row([
            printable(&adapter.name).into(),
            printable(&adapter.driver).into(),
            adapter.backend.as_str().into(),
            right(adapter.passed),
            right(adapter.failed),
            right(adapter.skipped),
            right(format!("{:.0}", adapter.seconds)),
        ]);
    }
    format!("{} adapters\n{}", adapters.len(), text(&rows))
}

/// The cases of one op with one kind of weights.
#[derive(Default)]
struct Row<'a> {
    cases: usize,
    failed: usize,
    skipped: usize,
    worst: Option<(f64, &'a CaseReport)>,
    kernels: std::collections::BTreeSet<&'a str>,
}

fn describe(adapter: &AdapterReport) -> String {
    if let Some(error) = &adapter.error {
        let (name, error) = (printable(&adapter.full_name()), printable(error));
        return format!("{name}\nNO DEVICE {error}\n");
    }
    let mut rows: BTreeMap<(&str, &str, &str), Row> = BTreeMap::new();
    for case in &adapter.cases {
        let row = rows.entry((&case.op, &case.weights, &case.sparsity)).or_default();
        row.cases += 1;
        row.failed += usize::from(case.status == Status::Fail);
        row.skipped += usize::from(case.status == Status::Skip);
        if case.status == Status::Skip {
            continue;
        }
        row.kernels.insert(&case.kernel);
        if let ErrorOverBound::Ratio(ratio) = &case.error_over_bound
            && row.worst.is_none_or(|(worst, _)| *ratio > worst)
        {
            row.worst = Some((*ratio, case));
        }
    }
    let header = ["op and weights", "cases", "failed", "skipped", "worst", "in kernel"];
    let mut page = table(&header, false);
    for ((op, weights, sparsity), row) in &rows {
        let (worst, kernel) = match row.worst {
            // A case that was aborted, or whose bits differ, has no meaningful error.
            Some((ratio, case)) if ratio < 1e6 => (format!("{ratio:.3}"), case.kernel.clone()),
            Some((_, case)) => ("wrong".to_string(), case.kernel.clone()),
            None if row.skipped == row.cases => ("–".to_string(), String::new()),
            None => {
                ("exact".to_string(), row.kernels.iter().next_back().unwrap_or(&"").to_string())
            }
        };
        let mut what = op.to_string();
        for part in [*weights, *sparsity].into_iter().filter(|p| !matches!(*p, "none" | "dense")) {
            what.push_str(&format!(" {part}"));
        }
        page.add_row([
            what.into(),
            right(row.cases),
            right(row.failed),
            right(row.skipped),
            right(worst),
            kernel.into(),
        ]);
    }
    let AdapterReport { name, driver, backend, passed, failed, skipped, options, .. } = adapter;
    let (name, driver) = (printable(name), printable(driver));
    let mut page = format!("{name} ({driver}, {backend}){options}\n{}", text(&page));
    for case in adapter.cases.iter().filter(|case| case.status == Status::Fail).take(LISTED) {
        let reason = case.reason.as_deref().unwrap_or("no reason given");
        page.push_str(&format!(
            "FAIL {} [{}]\n  {}\n  repeat: {}\n",
            case.id,
            case.kernel,
            printable(reason),
            printable(&adapter.command(case)),
        ));
    }
    if *failed > LISTED {
        page.push_str(&format!("… and {} more; --json lists all\n", failed - LISTED));
    }
    for case in adapter.unsteady().take(LISTED) {
        page.push_str(&format!("NOT THE SAME TWICE {} [{}]\n", case.id, case.kernel));
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for case in adapter.cases.iter().filter(|case| case.status == Status::Skip) {
        *reasons.entry(case.reason.as_deref().unwrap_or("no reason given")).or_default() += 1;
    }
    for (reason, count) in reasons {
        page.push_str(&format!("skipped {count}: {}\n", printable(reason)));
    }
    let twice = adapter.cases.iter().filter(|case| case.repeats.is_some()).count();
    let steady = twice - adapter.unsteady().count();
    page.push_str(&format!(
        "worst: error as a share of its proven bound; exact: every bit\n\
         {passed} passed, {failed} failed, {skipped} skipped in {:.0} s\n",
        adapter.seconds
    ));
    if twice > 0 {
        page.push_str(&format!("{steady} of {twice} cases gave the same bits twice\n"));
    }
    page
}
