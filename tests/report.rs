//! Tests of reports without a device: the contents of a page, and the differences of two reports.

use lowbit::conformance::{
    AdapterReport, CaseReport, ErrorOverBound, Extent, Kind, Report, Status, compare, json_of,
    page, table,
};

/// Returns a report of real cases in which all passed.
fn report(cases: usize) -> AdapterReport {
    let cases: Vec<CaseReport> = table(Extent::Quick)
        .iter()
        .step_by(37)
        .take(cases)
        .map(|case| {
            let json = serde_json::json!({
                "id": case.id(), "op": case.op.name(), "format": case.format.to_string(),
                "weights": case.format.code_type().name(), "group": "channel", "symmetric": true,
                "sparsity": case.format.sparsity().name(), "activations": case.activations_name(),
                "output": case.output_name(), "m": case.m, "n": case.n, "k": case.k,
                "kernel": "gemv_m1_l32", "error_over_bound": 0.25, "status": "pass",
                "bits": format!("{:016x}", case.m), "repeats": true,
            });
            serde_json::from_value(json).unwrap()
        })
        .collect();
    AdapterReport { name: "GPU".into(), passed: cases.len(), cases, ..AdapterReport::default() }
}

fn kinds(first: &AdapterReport, second: &AdapterReport) -> Vec<(Kind, String)> {
    let differences = compare(first, second).differences;
    differences.into_iter().map(|difference| (difference.kind, difference.id)).collect()
}

#[test]
fn a_page_holds_its_report() {
    let mut adapter = report(20);
    // The name of a driver and the quotes in a reason may contain anything.
    let evil = "</script><script>alert('1')</script> & \"two\"\u{7}";
    adapter.name = evil.into();
    adapter.cases[3].status = Status::Fail;
    adapter.cases[3].reason = Some(evil.into());
    adapter.cases[3].error_over_bound = ErrorOverBound::Ratio(f64::MAX);
    adapter.cases[4].repeats = Some(false);
    adapter.cases[5].error_over_bound = ErrorOverBound::Exact("exact".into());
    (adapter.passed, adapter.failed) = (19, 1);
    let report = Report::new(vec![adapter]);
    let page = page(&report).unwrap();
    assert_eq!(page.matches("<script").count(), 1, "only the JSON's own");
    assert_eq!(page.matches("</script>").count(), 1);
    let (html, _) = page.split_once("<script").unwrap();
    assert!(!html.contains("alert('1')") && html.contains("alert(&#39;1&#39;)"));
    assert!(!page.contains('\u{7}'));
    assert!(page.contains("1 failed, 1 with different bits in a second run, 19 passed"));
    for case in &report.adapters[0].cases[3..5] {
        assert!(page.contains(&case.id), "{}", case.id);
    }
    // The page loads nothing.
    for fetched in ["src=", "href=", "url(", "@import"] {
        assert!(!page.contains(fetched), "{fetched}");
    }
    let read: Report = serde_json::from_str(json_of(&page).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&report).unwrap());
    assert_eq!(read.adapters[0].name, evil);
    assert_eq!(json_of("{}"), None);
}

#[test]
fn what_differs_is_named() {
    let first = report(12);
    let same = compare(&first, &first);
    assert!(same.same_adapter && same.differences.is_empty() && !same.found_wrong());
    assert_eq!((same.compared, same.same_bits, same.bits_unknown), (12, 12, 0));

    let mut second = first.clone();
    second.cases[7].bits = Some("0".into());
    let id = |at: usize| first.cases[at].id.clone();
    assert_eq!(kinds(&first, &second), [(Kind::Bits, id(7))]);
    // The same adapter must give the same bits, but another adapter need not.
    assert!(compare(&first, &second).found_wrong());
    second.driver = "another".into();
    assert!(!compare(&first, &second).found_wrong());

    second.cases[9].status = Status::Fail;
    second.cases[2].status = Status::Skip;
    second.cases[2].bits = None;
    let gone = second.cases.remove(11);
    let differences = kinds(&first, &second);
    let expected = [
        (Kind::BeyondBound, id(9)),
        (Kind::Skipped, id(2)),
        (Kind::Bits, id(7)),
        (Kind::OnlyFirst, gone.id.clone()),
    ];
    assert_eq!(differences, expected);
    assert_eq!(kinds(&second, &first).last(), Some(&(Kind::OnlySecond, gone.id)));
    let comparison = compare(&first, &second);
    assert!(comparison.found_wrong());
    assert_eq!((comparison.compared, comparison.same_bits, comparison.bits_unknown), (11, 9, 1));
}
