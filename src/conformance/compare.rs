//! Comparisons of two reports: of two adapters, or of one adapter at two times.

use super::report::{AdapterReport, CaseReport, Status};
use serde::Serialize;
use std::collections::HashMap;

/// The way in which a case differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One report passes. In the other, the error exceeds its bound or the case could not finish.
    BeyondBound,
    /// The case ran in one report and was skipped in the other.
    Skipped,
    /// Both reports have the same status, but the results have different bits.
    Bits,
    /// Only the first report has the case.
    OnlyFirst,
    /// Only the second report has the case.
    OnlySecond,
}

impl Kind {
    /// Returns a readable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeyondBound => "beyond the bound",
            Self::Skipped => "skipped in one",
            Self::Bits => "other bits",
            Self::OnlyFirst => "only in the first",
            Self::OnlySecond => "only in the second",
        }
    }
}

/// A case that differs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The name of the case.
    pub id: String,
    /// The way in which it differs.
    pub kind: Kind,
    /// The kernel and the result in the first report.
    pub first: Option<Side>,
    /// The kernel and the result in the second report.
    pub second: Option<Side>,
}

impl Difference {
    /// Returns whether both reports used the same kernel.
    pub fn same_kernel(&self) -> bool {
        match (&self.first, &self.second) {
            (Some(first), Some(second)) => first.kernel == second.kernel,
            _ => false,
        }
    }
}

/// The result of a case in one report.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The kernel that ran.
    pub kernel: String,
    /// The largest error as a fraction of its bound, or 0 if all bits are right.
    pub error_over_bound: f64,
    /// The status of the case.
    pub status: Status,
    /// The reason why it failed or was skipped.
    pub reason: Option<String>,
}

impl Side {
    fn of(case: &CaseReport) -> Self {
        Self {
            kernel: case.kernel.clone(),
            error_over_bound: case.error_over_bound.ratio(),
            status: case.status,
            reason: case.reason.clone(),
        }
    }
}

/// The common cases and the differences of two reports.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The first adapter, with its driver and options.
    pub first: String,
    /// The second adapter, with its driver and options.
    pub second: String,
    /// Whether both have the same adapter, driver, options and version of this crate. Then the same
    /// kernel must give the same bits.
    pub same_adapter: bool,
    /// Number of cases that both reports have.
    pub compared: usize,
    /// Number of these whose results have the same bits.
    pub same_bits: usize,
    /// Number of these for which a report does not contain the bits.
    pub bits_unknown: usize,
    /// The differences, with the most serious first.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Returns whether something is wrong: a case exceeds its bound in one report only, or the same
    /// adapter and kernel gave different bits.
    pub fn found_wrong(&self) -> bool {
        let wrong = |kind| match kind {
            Kind::BeyondBound => true,
            Kind::Bits => self.same_adapter,
            _ => false,
        };
        self.differences.iter().any(|d| wrong(d.kind) && (d.kind != Kind::Bits || d.same_kernel()))
    }

    /// Returns the number of cases that differ in this way.
    pub fn count(&self, kind: Kind) -> usize {
        self.differences.iter().filter(|difference| difference.kind == kind).count()
    }
}

fn describe(adapter: &AdapterReport) -> String {
    format!("{}{}", adapter.full_name(), adapter.options)
}

fn by_id(report: &AdapterReport) -> HashMap<&str, &CaseReport> {
    report.cases.iter().map(|case| (case.id.as_str(), case)).collect()
}

/// Compares the cases of two reports by their names.
pub fn compare(first: &AdapterReport, second: &AdapterReport) -> Comparison {
    let (firsts, seconds) = (by_id(first), by_id(second));
    let (mut compared, mut same_bits, mut bits_unknown) = (0, 0, 0);
    let mut differences = Vec::new();
    for case in &first.cases {
        let Some(other) = seconds.get(case.id.as_str()) else {
            differences.push(difference(Kind::OnlyFirst, Some(case), None));
            continue;
        };
        compared += 1;
        let kind = match (case.status, other.status) {
            (a, b) if a == b => None,
            (Status::Fail, _) | (_, Status::Fail) => Some(Kind::BeyondBound),
            _ => Some(Kind::Skipped),
        };
        let bits = match (&case.bits, &other.bits) {
            (Some(a), Some(b)) => Some(a == b),
            _ => None,
        };
        match bits {
            Some(true) => same_bits += 1,
            Some(false) => {}
            None => bits_unknown += 1,
        }
        if let Some(kind) = kind.or((bits == Some(false)).then_some(Kind::Bits)) {
            differences.push(difference(kind, Some(case), Some(other)));
        }
    }
    for case in second.cases.iter().filter(|case| !firsts.contains_key(case.id.as_str())) {
        differences.push(difference(Kind::OnlySecond, None, Some(case)));
    }
    // The sort is stable, so cases of one kind keep the order of the table.
    differences.sort_by_key(|difference| difference.kind);
    let (name, other) = (describe(first), describe(second));
    let same_adapter = name == other && first.version == second.version;
    Comparison {
        first: name,
        second: other,
        same_adapter,
        compared,
        same_bits,
        bits_unknown,
        differences,
    }
}

fn difference(kind: Kind, first: Option<&CaseReport>, second: Option<&CaseReport>) -> Difference {
    let id = first.or(second).map(|case| case.id.clone()).unwrap_or_default();
    Difference { id, kind, first: first.map(Side::of), second: second.map(Side::of) }
}
