//! `lowbit verify --compare A B`: two reports side by side.

use crate::Outcome;
use crate::error::{CliError, printable};
use crate::report::{JsonArg, Report, table, text};
use lowbit::conformance::{self, AdapterReport, Comparison, Difference, Kind, compare, json_of};
use serde::Serialize;
use std::path::Path;

/// How many differences of a kind are listed.
const LISTED: usize = 10;

/// What `--json` holds.
#[derive(Serialize)]
struct Json {
    comparisons: Vec<Comparison>,
}

/// Reads both, compares adapter by adapter, prints what differs.
pub fn run(first: &Path, second: &Path, json: &JsonArg) -> Result<Outcome, CliError> {
    let report = Report::open(json)?;
    let (a, b) = (read(first)?, read(second)?);
    let pairs = pairs(&a.adapters, &b.adapters);
    if pairs.is_empty() {
        let names = |report: &conformance::Report| {
            let names: Vec<_> = report.adapters.iter().map(|a| printable(&a.name)).collect();
            names.join(", ")
        };
        return Err(CliError::new("the reports have no adapter in common")
            .hint(format!("{}: {}", first.display(), names(&a)))
            .hint(format!("{}: {}", second.display(), names(&b)))
            .hint("a report of one adapter each (--adapter) compares with any other"));
    }
    let comparisons: Vec<_> = pairs.into_iter().map(|(a, b)| compare(a, b)).collect();
    let page: String = comparisons.iter().map(describe).collect();
    let json = Json { comparisons };
    report.finish(&page, &json)?;
    let wrong = json.comparisons.iter().any(Comparison::found_wrong);
    Ok(if wrong { Outcome::FoundWrong } else { Outcome::Fine })
}

/// A report as `--json` or `--report` wrote it.
fn read(path: &Path) -> Result<conformance::Report, CliError> {
    let failed = |what: &str| CliError::new(format!("{what} {}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| failed("cannot read").because(e))?;
    let json = json_of(&text).unwrap_or(&text);
    serde_json::from_str(json).map_err(|error| {
        failed("no report of `lowbit verify` in")
            .because(error)
            .hint("make one with: lowbit verify --json FILE, or --report FILE.html")
    })
}

/// The same adapter in both, in order; or the only one of each.
fn pairs<'a>(
    a: &'a [AdapterReport],
    b: &'a [AdapterReport],
) -> Vec<(&'a AdapterReport, &'a AdapterReport)> {
    if let ([a], [b]) = (a, b) {
        return vec![(a, b)];
    }
    let key = |r: &'a AdapterReport| (&r.name, &r.driver, &r.backend, &r.options);
    a.iter().filter_map(|a| Some((a, b.iter().find(|b| key(b) == key(a))?))).collect()
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
        page.push_str("one adapter, and not the same bits: that is a defect\n");
    }
    page
}
