//! Reports of `lowbit verify`, as JSON or as pages: read, compared, and written as a page again.

use crate::memory::within;
use lowbit::conformance::{Report, compare, page};

pub fn run(data: &[u8]) {
    let Ok(report) = within(64, data.len(), || Report::read(data)) else { return };
    for first in report.adapters.iter().take(4) {
        for second in report.adapters.iter().take(4) {
            let comparison = compare(first, second);
            assert!(comparison.same_bits + comparison.bits_unknown <= comparison.compared);
            let _ = comparison.found_wrong();
        }
    }
    let made = page(&report).expect("memory for a page");
    let again = Report::read(made.as_bytes()).expect("a page that was just written");
    let text = |report: &Report| serde_json::to_string(report).expect("memory for a small text");
    assert_eq!(text(&again), text(&report));
}
