use super::case::Op;
use super::report::{Outcome, Trouble};
use super::{
    Case, CaseReport, attention, experts, fake, gate, gram, hadamard, integer, matmul, norm,
    observe, permute, positions, quantize, rotary, sample, softmax, weights,
};
use crate::host::Host;
use std::collections::HashMap;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::{Mutex, PoisonError};

/// Runs cases with one thread per host. Several devices of one adapter share the work. Cases with
/// the same kernels run on the same device, so that no kernel is compiled twice. `done` is called
/// after each case. The reports are in the order of the cases.
///
/// A case that cannot finish, for example because the device was lost, has failed.
#[cfg(not(target_arch = "wasm32"))]
pub fn run(hosts: &[Host], cases: &[Case], done: &(dyn Fn(&CaseReport) + Sync)) -> Vec<CaseReport> {
    run_times(hosts, cases, 1, &|| None, done)
}

/// Runs each case `times` times, but at least once. If the bits of the results differ between runs,
/// [`CaseReport::repeats`] says so. Only the first run is judged. `renew` replaces a device that
/// was lost, so that one bad kernel affects only one case.
#[cfg(not(target_arch = "wasm32"))]
pub fn run_times(
    hosts: &[Host],
    cases: &[Case],
    times: usize,
    renew: &(dyn Fn() -> Option<Host> + Sync),
    done: &(dyn Fn(&CaseReport) + Sync),
) -> Vec<CaseReport> {
    let queue = Mutex::new(groups(cases));
    let reports: Mutex<Vec<Option<CaseReport>>> = Mutex::new(vec![None; cases.len()]);
    std::thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| {
                let mut renewed = None;
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(group) = next() {
                    for index in group {
                        let host = renewed.as_ref().unwrap_or(host);
                        let report = pollster::block_on(run_one(host, &cases[index], times));
                        if host.kernels().lost_flag().reason().is_some() {
                            renewed = renew().or(renewed);
                        }
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

/// Returns the indices of cases that share kernels and therefore belong on one device. The groups
/// that take the longest are last and are popped first, so that no thread has a long one left at
/// the end.
pub fn groups(cases: &[Case]) -> Vec<Vec<usize>> {
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, case) in cases.iter().enumerate() {
        // Ops on X share no kernels with ops on weights.
        let alone = (!case.op.has_weights()).then(|| case.op.name());
        groups.entry((alone, case.format)).or_default().push(index);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| group.iter().map(|&i| cost(&cases[i])).sum::<u64>());
    groups
}

fn cost(case: &Case) -> u64 {
    // Compiling a kernel takes about as long as this many products.
    3_000_000 + (case.m * case.n.max(1) * case.k) as u64
}

/// Runs one case `times` times, but at least once. [`run`](fn@run) calls this for each case.
/// Browsers call it directly, because they have no threads and cannot block.
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
        Op::Gram => gram::run(host, case).await,
        Op::PermuteColumns => permute::run(host, case).await,
        Op::Positions { window } => Ok(positions::run(host, case, window).await?),
        Op::Gate { layout, output } => gate::run(host, case, layout, output).await,
        Op::Sample(how) => sample::run(host, case, how).await,
        Op::Softmax { capped } => softmax::run(host, case, capped).await,
        Op::Norm(normalized) => norm::run(host, case, normalized).await,
        Op::ExpertMatmul { count, unit } => experts::matmul(host, case, (count, unit)).await,
        Op::Route { top, unit, of_all } => experts::route(host, case, (top, unit, of_all)).await,
        Op::Combine { top, add } => experts::combine(host, case, (top, add)).await,
        Op::FakeQuant(from) => fake::run(host, case, from).await,
        Op::Hadamard { block } => hadamard::run(host, case, block).await,
        Op::Rotary(rotary) => rotary::run(host, case, &rotary).await,
        Op::Attention(of) => attention::run(host, case, &of).await,
    }
}
