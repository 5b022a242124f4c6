//! Benchmark of recording a bound matmul: the time it takes, and the allocations it makes beyond
//! those of wgpu for the same commands. It runs on wgpu's noop device, so that no driver is
//! measured.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/counting.rs"]
mod counting;

use counting::{allocations, bare, bound, by_hand};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const RECORDINGS: usize = 100;

fn recording(c: &mut Criterion) {
    let noop = common::Noop::new(wgpu::Limits::defaults());
    let mut group = c.benchmark_group("recording");
    group.throughput(Throughput::Elements(RECORDINGS as u64));
    for (name, binding) in [("whole", u64::MAX), ("split", 8192)] {
        let bound = bound(&noop, binding);
        let bare = bare(&noop, bound.plan().kernel(70));
        let dispatches = bound.dispatches();
        let ours = |pass: &mut wgpu::ComputePass<'_>| {
            for _ in 0..RECORDINGS {
                bound.record(pass, 70).expect("m is in range");
            }
        };
        let theirs = |pass: &mut wgpu::ComputePass<'_>| {
            (0..RECORDINGS).for_each(|_| by_hand(pass, &bare, dispatches));
        };
        let (all, wgpu) = (allocations(&noop, ours), allocations(&noop, theirs));
        eprintln!(
            "recording/{name}: {dispatches} dispatches, {RECORDINGS} times: {all} allocations, \
             {wgpu} by wgpu alone, {} of lowbit's own",
            all as i64 - wgpu as i64
        );
        assert_eq!(all, wgpu);
        // The time to open and submit a pass is shared by a hundred recordings.
        group.bench_function(format!("{name}, lowbit"), |b| b.iter(|| allocations(&noop, ours)));
        group.bench_function(format!("{name}, by hand"), |b| b.iter(|| allocations(&noop, theirs)));
    }
    group.finish();
}

criterion_group!(benches, recording);
criterion_main!(benches);
