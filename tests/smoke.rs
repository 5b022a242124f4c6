use lowbit::conformance::*;
#[test]
fn smoke() {
    let extent = if std::env::var("FULL").is_ok() { Extent::Full } else { Extent::Quick };
    let cases: Vec<_> = table(extent).into_iter().filter(|c| c.op == Op::Matmul).collect();
    let hosts = [lowbit::host::Host::new().unwrap(), lowbit::host::Host::new().unwrap()];
    eprintln!("{} cases", cases.len());
    let t = std::time::Instant::now();
    let reports = run(&hosts, &cases, &|_| ());
    let mut bad = 0;
    for r in &reports {
        if r.status != Status::Pass {
            bad += 1;
            if bad < 30 {
                eprintln!("{} {} {:?}", r.id, r.kernel, r.reason);
            }
        }
    }
    let worst = reports
        .iter()
        .map(|r| match r.error_over_bound {
            ErrorOverBound::Ratio(r) => r,
            _ => 0.0,
        })
        .fold(0.0, f64::max);
    eprintln!(
        "bad {bad} of {} worst {worst} pipelines {} {} {:?}",
        reports.len(),
        hosts[0].kernels().cached_pipelines(),
        hosts[1].kernels().cached_pipelines(),
        t.elapsed()
    );
}
