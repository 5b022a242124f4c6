//! Two reports side by side: what one adapter gives and another does not, or what it gave before.

use super::report::{AdapterReport, CaseReport, Status};
use serde::Serialize;
use std::collections::HashMap;

/// How a case differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One passes, the other is beyond the bound or broke off.
    BeyondBound,
    /// One ran, the other was skipped.
    Skipped,
    /// Both end alike, by different bits.
    Bits,
    /// Only the first report has it.
    OnlyFirst,
    /// Only the second report has it.
    OnlySecond,
}

impl Kind {
    /// For people.
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
    /// The case.
    pub id: String,
    /// How it differs.
    pub kind: Kind,
    /// As the first report has it: kernel and error over bound.
    pub first: Option<Side>,
    /// As the second has it.
    pub second: Option<Side>,
}

/// One report's word on a case.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The kernel that ran.
    pub kernel: String,
    /// The worst error, as a fraction of its bound; 0 where all bits are right.
    pub error_over_bound: f64,
    /// How it ended.
    pub status: Status,
    /// Why it failed or was skipped.
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

/// What two adapters' reports have in common, and what not.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The first adapter, with driver and options.
    pub first: String,
    /// The second.
    pub second: String,
    /// Whether they are the same adapter, driver and options: then bits must be the same too.
    pub same_adapter: bool,
    /// Cases that both have.
    pub compared: usize,
    /// Of these, those whose results have the same bits.
    pub same_bits: usize,
    /// Of these, those whose bits one of the reports does not tell.
    pub bits_unknown: usize,
    /// What differs, the gravest first.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Whether something is wrong: a case that is beyond the bound in one report only, or other bits
    /// from the same adapter.
    pub fn found_wrong(&self) -> bool {
        let wrong = |kind| match kind {
            Kind::BeyondBound => true,
            Kind::Bits => self.same_adapter,
            _ => false,
        };
        self.differences.iter().any(|difference| wrong(difference.kind))
    }

    /// How many differ in this way.
    pub fn count(&self, kind: Kind) -> usize {
        self.differences.iter().filter(|difference| difference.kind == kind).count()
    }
}

fn describe(adapter: &AdapterReport) -> String {
    let AdapterReport { name, driver, backend, options, .. } = adapter;
    format!("{name} ({driver}, {backend}){options}")
}

fn by_id(report: &AdapterReport) -> HashMap<&str, &CaseReport> {
    report.cases.iter().map(|case| (case.id.as_str(), case)).collect()
}

/// Compares the cases of two adapters, or of one at two times, by their ids.
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
    // Stable, so that within a kind the order is the table's.
    differences.sort_by_key(|difference| difference.kind);
    let (name, other) = (describe(first), describe(second));
    let same_adapter = name == other;
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
