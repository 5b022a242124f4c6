use crate::Outcome;
use crate::adapter::{AdapterArg, WithoutArg, enumerate, matching};
use crate::error::{CliError, printable};
use crate::report::{JsonArg, Report, progress, right, table, text};
use lowbit::conformance::{self, AdapterReport, Case, CaseReport, ErrorOverBound, Extent, Status};
use std::collections::BTreeMap;
use std::time::Instant;

/// Check every kernel against the CPU oracle and its proven error bound
///
/// Exit code 1 if any case fails. The first failures are listed with the command that
/// repeats just them.
#[derive(clap::Args)]
pub struct Args {
    /// Which adapter: part of its name, driver or backend, its number, or `all`; the best
    /// one without
    #[arg(long, value_name = "NAME|all")]
    adapter: Option<String>,
    /// A part of the table: every decoder and schedule, in under a minute
    #[arg(long)]
    quick: bool,
    /// Only the case with this id; or those whose id starts with it, or else holds it
    #[arg(long, value_name = "ID")]
    case: Option<String>,
    /// Only each Nth case of the table
    #[arg(long, value_name = "N")]
    every: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    without: WithoutArg,
    #[command(flatten)]
    json: JsonArg,
}

/// How many failures are listed.
const LISTED: usize = 10;

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let report = Report::open(&args.json)?;
    let extent = if args.quick { Extent::Quick } else { Extent::Full };
    let mut cases = conformance::table(extent);
    if let Some(every) = args.every {
        cases = cases.into_iter().step_by(every.get()).collect();
    }
    if let Some(id) = &args.case {
        let matches: [fn(&str, &str) -> bool; 3] =
            [|id, text| id == text, |id, text| id.starts_with(text), |id, text| id.contains(text)];
        let of = |matches: &fn(&str, &str) -> bool| {
            cases.iter().filter(|case| matches(&case.id(), id)).cloned().collect::<Vec<_>>()
        };
        cases = matches.iter().map(of).find(|some| !some.is_empty()).unwrap_or_default();
        if cases.is_empty() {
            let example = conformance::table(extent).first().map(Case::id).unwrap_or_default();
            return Err(CliError::new(format!("no case holds `{}`", printable(id)))
                .hint(format!("ids are like {example}; without --quick there are more")));
        }
    }
    let adapters = match &args.adapter {
        Some(_) => enumerate()?,
        None => vec![AdapterArg { adapter: None }.choose()?],
    };
    let chosen = matching(&adapters, args.adapter.as_deref())?;
    let mut out = conformance::Report { adapters: Vec::new() };
    let mut page = String::new();
    for adapter in chosen {
        let (adapter, seconds) = verify(adapter, &args.without, &cases)?;
        page.push_str(&describe(&adapter, &args.without, seconds));
        out.adapters.push(adapter);
    }
    report.finish(&page, &out)?;
    let failed = out.adapters.iter().any(|adapter| adapter.failed > 0);
    Ok(if failed { Outcome::FoundWrong } else { Outcome::Fine })
}

fn verify(
    adapter: &wgpu::Adapter,
    without: &WithoutArg,
    cases: &[Case],
) -> Result<(AdapterReport, f64), CliError> {
    let info = adapter.get_info();
    let start = Instant::now();
    // The oracle and software adapters are bound by the CPU: a device a core.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let hosts = (0..threads).map(|_| without.host(adapter)).collect::<Result<Vec<_>, _>>();
    let hosts = hosts.map_err(|error| {
        CliError::new(format!("cannot use {}", printable(&info.name))).because(error)
    })?;
    let bar = progress(cases.len());
    let reports = conformance::run(&hosts, cases, &|case: &CaseReport| {
        bar.set_message(case.id.clone());
        bar.inc(1);
    });
    bar.finish_and_clear();
    let count = |status| reports.iter().filter(|case| case.status == status).count();
    let report = AdapterReport {
        name: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        backend: info.backend.to_string(),
        passed: count(Status::Pass),
        failed: count(Status::Fail),
        skipped: count(Status::Skip),
        cases: reports,
    };
    Ok((report, start.elapsed().as_secs_f64()))
}

/// Cases of one op on one kind of weights.
#[derive(Default)]
struct Row<'a> {
    cases: usize,
    failed: usize,
    worst: Option<(f64, &'a CaseReport)>,
    kernels: std::collections::BTreeSet<&'a str>,
}

fn describe(adapter: &AdapterReport, without: &WithoutArg, seconds: f64) -> String {
    let mut rows: BTreeMap<(&str, &str, &str), Row> = BTreeMap::new();
    for case in &adapter.cases {
        let row = rows.entry((case.op, case.weights, case.sparsity)).or_default();
        row.cases += 1;
        row.failed += usize::from(case.status == Status::Fail);
        row.kernels.insert(&case.kernel);
        if let ErrorOverBound::Ratio(ratio) = case.error_over_bound
            && row.worst.is_none_or(|(worst, _)| ratio > worst)
        {
            row.worst = Some((ratio, case));
        }
    }
    let header = ["op and weights", "cases", "failed", "worst", "in kernel"];
    let mut page = table(&header, false);
    for ((op, weights, sparsity), row) in &rows {
        let (worst, kernel) = match row.worst {
            // Of a case that broke off, and of bits that differ, there is no error to speak of.
            Some((ratio, case)) if ratio < 1e6 => (format!("{ratio:.3}"), case.kernel.clone()),
            Some((_, case)) => ("wrong".to_string(), case.kernel.clone()),
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
            right(worst),
            kernel.into(),
        ]);
    }
    let AdapterReport { name, driver, backend, passed, failed, skipped, .. } = adapter;
    let mut page = format!("{name} ({driver}, {backend})\n{}", text(&page));
    for case in adapter.cases.iter().filter(|case| case.status == Status::Fail).take(LISTED) {
        let reason = case.reason.as_deref().unwrap_or("no reason given");
        page.push_str(&format!(
            "FAIL {} [{}]\n  {}\n  repeat: lowbit verify --case '{}'{without}\n",
            case.id,
            case.kernel,
            printable(reason),
            case.id
        ));
    }
    if *failed > LISTED {
        page.push_str(&format!("… and {} more; --json lists all\n", failed - LISTED));
    }
    page.push_str(&format!(
        "worst: error as a share of its proven bound; exact: every bit\n\
         {passed} passed, {failed} failed, {skipped} skipped in {seconds:.0} s\n"
    ));
    page
}
