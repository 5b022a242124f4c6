//! The matrix of a report: one table per op, one row per format and one column per row range of m.

use super::escape;
use crate::conformance::report::{AdapterReport, CaseReport, ErrorOverBound, Status};
use std::collections::BTreeMap;

/// The ranges of m that have their own kernels.
const ROW_RANGES: [&str; 4] = ["m ≤ 1", "m 2–8", "m 9–64", "m > 64"];

fn row_range(m: usize) -> usize {
    match m {
        0..=1 => 0,
        2..=8 => 1,
        9..=64 => 2,
        _ => 3,
    }
}

/// The summary of the cases in a cell.
#[derive(Default)]
struct Cell<'a> {
    cases: usize,
    failed: usize,
    skipped: usize,
    unsteady: usize,
    /// The case to show: a failed one if there is one, otherwise the one with the largest error
    /// over bound.
    worst: Option<&'a CaseReport>,
}

/// Ranks cases for display: failures first, then cases that ran by their error, then skipped ones.
fn weight(case: &CaseReport) -> (u8, f64) {
    let rank = match case.status {
        Status::Fail => 2,
        Status::Pass => 1,
        Status::Skip => 0,
    };
    (rank, case.error_over_bound.ratio())
}

impl<'a> Cell<'a> {
    fn add(&mut self, case: &'a CaseReport) {
        self.cases += 1;
        self.failed += usize::from(case.status == Status::Fail);
        self.skipped += usize::from(case.status == Status::Skip);
        self.unsteady += usize::from(case.repeats == Some(false));
        if self.worst.is_none_or(|worst| weight(case) > weight(worst)) {
            self.worst = Some(case);
        }
    }

    fn html(&self, adapter: &AdapterReport) -> String {
        let Some(worst) = self.worst else { return "<td class=\"none\"></td>".into() };
        let (class, text) = match (worst.status, &worst.error_over_bound) {
            (Status::Fail, error) => ("fail", error.to_string()),
            (Status::Skip, _) => ("skip", "skipped".into()),
            (Status::Pass, ErrorOverBound::Exact(_)) => ("exact", "exact".into()),
            (Status::Pass, error) => ("", error.to_string()),
        };
        let unsteady = if self.unsteady > 0 { " unsteady" } else { "" };
        let ratio = worst.error_over_bound.ratio().clamp(0.0, 1.0);
        let reason = worst.reason.as_deref().map(|reason| format!("{}<br>", escape(reason)));
        let counts = [
            (self.failed, "failed"),
            (self.skipped, "skipped"),
            (self.unsteady, "with different bits in a second run"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!(", {count} {what}"))
            .collect();
        format!(
            "<td class=\"{class}{unsteady}\" style=\"--r:{ratio:.3}\"><details><summary>{text}</summary>\
             <div><b>{}</b><br>kernel {}<br>{}{} cases{}<br><code>{}</code></div></details></td>",
            escape(&worst.id),
            escape(&worst.kernel),
            reason.unwrap_or_default(),
            self.cases,
            counts.concat(),
            escape(&adapter.command(worst)),
        )
    }
}

/// Returns the sort key of a format: dense formats come before sparse ones, and wide types before
/// narrow ones.
fn order(case: &CaseReport) -> (bool, usize, &str) {
    let widths = ["none", "f32", "f16", "int16", "int8", "int4"];
    let width = widths.iter().position(|&name| name == case.weights).unwrap_or(widths.len());
    (case.sparsity != "dense", width, &case.format)
}

/// Returns one table per op.
pub(super) fn matrices(adapter: &AdapterReport) -> String {
    let mut ops: BTreeMap<&str, BTreeMap<_, [Cell<'_>; 4]>> = BTreeMap::new();
    for case in &adapter.cases {
        let rows = ops.entry(&case.op).or_default();
        let m = if matches!(&*case.op, "compress" | "dequantize") { 0 } else { case.m };
        rows.entry(order(case)).or_default()[row_range(m)].add(case);
    }
    let mut out = String::new();
    for (op, rows) in &ops {
        let used: Vec<usize> = (0..ROW_RANGES.len())
            .filter(|&at| rows.values().any(|cells| cells[at].cases > 0))
            .collect();
        // Ops on weights alone have no rows of X.
        let name = |at: usize| match *op {
            "compress" | "dequantize" => "all cases",
            _ => ROW_RANGES[at],
        };
        let header: String = used.iter().map(|&at| format!("<th>{}</th>", name(at))).collect();
        out.push_str(&format!(
            "<h3>{}</h3>\n<div class=\"scroll\"><table class=\"matrix\">\n<tr><th>format</th>{header}</tr>\n",
            escape(op)
        ));
        for ((_, _, format), cells) in rows {
            let cells: String = used.iter().map(|&at| cells[at].html(adapter)).collect();
            out.push_str(&format!("<tr><th>{}</th>{cells}</tr>\n", escape(format)));
        }
        out.push_str("</table></div>\n");
    }
    out
}
