//! `lowbit verify --compare A B`: compares two reports.

use crate::Outcome;
use crate::error::{CliError, printable};
use crate::report::{JsonArg, Report, table, text};
use lowbit::conformance::{self, AdapterReport, Comparison, Difference, Kind, compare};
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The largest report that is read. The full table on a dozen adapters takes fewer bytes.
const LARGEST: u64 = 1 << 28;

const HINT: &str = "make one with: lowbit verify --json FILE, or --report FILE.html";

/// The number of differences of each kind that are listed.
const LISTED: usize = 10;

/// What `--json` holds.
#[derive(Serialize)]
struct Json {
    comparisons: Vec<Comparison>,
    /// Adapters that are in only one report.
    alone: Vec<String>,
}

/// Reads both reports, compares them adapter by adapter and prints the differences.
pub fn run(first: &Path, second: &Path, json: &JsonArg) -> Result<Outcome, CliError> {
    let report = Report::open(json)?;
    let (a, b) = (read(first)?, read(second)?);
    let (pairs, alone) = pairs(&a.adapters, &b.adapters);
    if pairs.is_empty() {
        let names = |report: &conformance::Report| {
            let names: Vec<_> = report.adapters.iter().map(|a| printable(&a.name)).collect();
            names.join(", ")
        };
        let message = format!("no adapter is in both reports: {}; and {}", names(&a), names(&b));
        return Err(CliError::new(message)
            .hint("reports of one adapter each (--adapter) can be compared with any other"));
    }
    let comparisons: Vec<_> = pairs.into_iter().map(|(a, b)| compare(a, b)).collect();
    let mut page: String = comparisons.iter().map(describe).collect();
    for adapter in &alone {
        page.push_str(&format!("only in one report: {}\n", printable(adapter)));
    }
    let json = Json { comparisons, alone };
    report.finish(&page, &json)?;
    let wrong = json.comparisons.iter().any(Comparison::found_wrong);
    Ok(if wrong { Outcome::FoundWrong } else { Outcome::Fine })
}

/// Reads a report that `--json` or `--report` wrote.
fn read(path: &Path) -> Result<conformance::Report, CliError> {
    let failed = |what: &str| CliError::new(format!("{what} {}", path.display()));
    let unreadable = |error| failed("cannot read").because(error).hint(HINT);
    let mut bytes = Vec::new();
    // The size is limited because a pipe may have no end.
    let file = File::open(path).map_err(unreadable)?.take(LARGEST + 1);
    BufReader::new(file).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(&format!("a report has at most {LARGEST} bytes, unlike")).hint(HINT));
    }
    conformance::Report::read(&bytes)
        .map_err(|error| failed("not a report of `lowbit verify`:").because(error).hint(HINT))
}

/// Two reports to compare.
type Pair<'a> = (&'a AdapterReport, &'a AdapterReport);

/// Pairs the adapters that are in both reports, or the only ones, and lists the others.
fn pairs<'a>(a: &'a [AdapterReport], b: &'a [AdapterReport]) -> (Vec<Pair<'a>>, Vec<String>) {
    if let ([a], [b]) = (a, b) {
        return (vec![(a, b)], Vec::new());
    }
    let mut rest: Vec<&AdapterReport> = b.iter().collect();
    let (mut pairs, mut alone) = (Vec::new(), Vec::new());
    for a in a {
        let same = |b: &&AdapterReport| b.full_name() == a.full_name() && b.options == a.options;
        match rest.iter().position(same) {
            Some(at) => pairs.push((a, rest.remove(at))),
            None => alone.push(a.full_name()),
        }
    }
    alone.extend(rest.into_iter().map(AdapterReport::full_name));
    (pairs, alone)
}

fn describe(comparison: &Comparison) -> String {
    let Comparison { first, second, compared, same_bits, bits_unknown, .. } = comparison;
    let mut page = format!("A: {}\nB: {}\n", printable(first), printable(second));
    let told = compared - bits_unknown;
    page.push_str(&format!("{compared} cases in both, {same_bits} of {told} with the same bits\n"));
    let kinds = [Kind::BeyondBound, Kind::Skipped, Kind::Bits, Kind::OnlyFirst, Kind::OnlySecond];
    for kind in kinds {
        let count = comparison.count(kind);
        if count == 0 {
            continue;
        }
        page.push_str(&format!("\n{count} {}\n", kind.name()));
        let mut rows = table(&["case", "A", "B"], false);
        let of_kind = comparison.differences.iter().filter(|d| d.kind == kind);
        for difference in of_kind.take(LISTED) {
            let Difference { id, first, second, .. } = difference;
            let side = |side: &Option<conformance::Side>| match side {
                None => "–".to_string(),
                Some(side) => match &side.reason {
                    Some(reason) => printable(reason),
                    None => format!("{:.3} {}", side.error_over_bound, printable(&side.kernel)),
                },
            };
            rows.add_row([printable(id), side(first), side(second)]);
        }
        page.push_str(&text(&rows));
        if count > LISTED {
            page.push_str(&format!("… and {} more; --json lists all\n", count - LISTED));
        }
    }
    if comparison.same_adapter && comparison.count(Kind::Bits) > 0 {
        page.push_str("the same adapter gave different bits: that is a defect\n");
    }
    page
}
