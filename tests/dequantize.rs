//! Tests of dequantizing and gathering in every format: what the case table does not vary.

use lowbit::conformance::{Case, Extent, Op, Status, run, table};
use lowbit::format::sample_formats;

/// The cases of the table in formats that nothing quantizes to.
#[test]
fn cases_of_the_table() {
    let Some(host) = crate::common::host() else { return };
    let reads = |case: &Case| matches!(case.op, Op::Dequantize | Op::Gather);
    let cases: Vec<_> = table(Extent::Full).into_iter().filter(reads).collect();
    let made: std::collections::HashSet<_> =
        crate::common::all_formats().into_iter().collect();
    let cases: Vec<_> = cases.into_iter().filter(|case| !made.contains(&case.format)).collect();
    eprintln!("{} cases of {} formats", cases.len(), sample_formats().len());
    let quick = table(Extent::Quick).into_iter().filter(reads).filter(|case| !made.contains(&case.format)).count();
    eprintln!("{quick} quick");
    let reports = run(std::slice::from_ref(host), &cases, &|_| ());
    for report in &reports {
        assert_eq!(report.status, Status::Pass, "{}: {:?}", report.id, report.reason);
    }
}
