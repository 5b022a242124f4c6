//! Tests of preparing queries, keys and values for attention: what the case table does not vary.

use crate::common::host;
use lowbit::conformance::{Extent, Op, Status, run, table};

#[test]
fn dev_cases_pass() {
    let Some(host) = host() else { return };
    let extent = if std::env::var("FULL").is_ok() { Extent::Full } else { Extent::Quick };
    let cases: Vec<_> =
        table(extent).into_iter().filter(|case| matches!(case.op, Op::Rotary(_))).collect();
    eprintln!("{} cases", cases.len());
    let reports = run(std::slice::from_ref(host), &cases, &|_| ());
    let mut failed = 0;
    for report in &reports {
        if report.status != Status::Pass {
            failed += 1;
            if failed < 20 {
                eprintln!("{} {:?}", report.id, report.reason);
            }
        }
    }
    assert_eq!(failed, 0);
}
