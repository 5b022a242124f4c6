use super::case::Op;
use super::report::{Outcome, Trouble};
use super::{Case, CaseReport, fake, integer, matmul, observe, quantize, weights};
use crate::host::Host;
use std::collections::HashMap;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::{Mutex, PoisonError};

/// Runs cases, a thread a host: several devices of one adapter share the work. Cases of one
/// format stay together, so that no kernel is compiled twice. `done` is called after each
/// case. Reports come in the order of the cases.
///
/// A case that cannot run to its end, because the device was lost, say, has failed.
#[cfg(not(target_arch = "wasm32"))]
pub fn run(hosts: &[Host], cases: &[Case], done: &(dyn Fn(&CaseReport) + Sync)) -> Vec<CaseReport> {
    run_times(hosts, cases, 1, done)
}

/// The same with each case run so many times, at least once: results must have the same bits each
/// time, or [`CaseReport::repeats`] says that they have not. The first run is what is judged.
#[cfg(not(target_arch = "wasm32"))]
pub fn run_times(
    hosts: &[Host],
    cases: &[Case],
    times: usize,
    done: &(dyn Fn(&CaseReport) + Sync),
) -> Vec<CaseReport> {
    let queue = Mutex::new(groups(cases));
    let reports: Mutex<Vec<Option<CaseReport>>> = Mutex::new(vec![None; cases.len()]);
    std::thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(group) = next() {
                    for index in group {
                        let report = pollster::block_on(run_one(host, &cases[index], times));
                        done(&report);
                        let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                        reports[index] = Some(report);
                    }
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.into_iter().flatten().collect()
}

/// Indices of cases that share kernels, and so belong on one device; those that take longest last,
/// to be popped first, so that no thread is left with a long one at the end.
pub fn groups(cases: &[Case]) -> Vec<Vec<usize>> {
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, case) in cases.iter().enumerate() {
        // Ops on X alone share no kernel with those on weights.
        let alone = (!case.op.has_weights()).then(|| case.op.name());
        groups.entry((alone, case.format)).or_default().push(index);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| group.iter().map(|&i| cost(&cases[i])).sum::<u64>());
    groups
}

fn cost(case: &Case) -> u64 {
    // About what compiling a kernel costs, in products.
    3_000_000 + (case.m * case.n.max(1) * case.k) as u64
}

/// Runs one case so many times, at least once: what [`run`](fn@run) does with each, and what a
/// browser calls, where nothing waits and there are no threads.
pub async fn run_one(host: &Host, case: &Case, times: usize) -> CaseReport {
    host.restart_read_checksum();
    let outcome = self::outcome(host, case).await;
    let ran = outcome.is_ok();
    let bits = host.restart_read_checksum().filter(|_| ran);
    let mut report = CaseReport::new(case, outcome);
    report.bits = bits.map(|bits| format!("{bits:016x}"));
    if ran && times > 1 {
        let mut same = true;
        for _ in 1..times {
            same &= self::outcome(host, case).await.is_ok() && host.restart_read_checksum() == bits;
        }
        report.repeats = Some(same);
    }
    report
}

async fn outcome(host: &Host, case: &Case) -> Result<Outcome, Trouble> {
    match case.op {
        Op::Matmul => matmul::run(host, case).await,
        Op::IntegerMatmul(quantized) => integer::run(host, case, &quantized).await,
        Op::Compress => weights::compress(host, case).await,
        Op::Dequantize | Op::Gather => weights::rows(host, case).await,
        Op::Quantize { format, given } => quantize::run(host, case, format, given).await,
        Op::Observe { axis, bins } => Ok(observe::run(host, case, axis, bins).await?),
        Op::FakeQuant(from) => fake::run(host, case, from).await,
    }
}
