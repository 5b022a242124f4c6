//! Measuring schedules on a device, and plans that go by it.

use lowbit::format::{Granularity, WeightFormat};
use lowbit::host::{Host, HostError};
use lowbit::ops::matmul::{Problem, Tuning, TuningKey, candidates};
use lowbit::ops::{MatmulArgs, MatmulPlan, MatmulSpec, PlanError, Schedule, Select};
use pollster::block_on;
use std::sync::Arc;
use std::time::{Duration, Instant};

const N: u32 = 40;
const K: u32 = 96;

fn specs() -> Vec<MatmulSpec> {
    let int8 = WeightFormat::int8(Granularity::Channel);
    let group = |g| Granularity::group(g).unwrap();
    vec![
        MatmulSpec::new(9, N, K, WeightFormat::f32()),
        MatmulSpec::new(1, N, K, int8.two_four()).with_bias(),
        // To kernels one and the same.
        MatmulSpec::new(2, N, K, WeightFormat::int8(group(32))),
        MatmulSpec::new(2, N, K, WeightFormat::int8(group(64))),
        // Nothing to do.
        MatmulSpec::new(0, N, K, int8),
        MatmulSpec::new(4, 0, K, int8),
        MatmulSpec::new(4, N, 0, WeightFormat::f32()),
    ]
}

#[test]
fn what_is_measured_is_chosen() {
    let Some(host) = crate::common::own_host() else { return };
    let mut told = Vec::new();
    let budget = Duration::from_secs(600);
    let measured =
        host.measure(&specs(), budget, |next, of| told.push((next.problem, of))).unwrap();
    let problems: Vec<_> = measured.iter().map(|measured| measured.problem).collect();
    assert_eq!(told, problems.iter().map(|&problem| (problem, 6)).collect::<Vec<_>>());
    let expected = [(0, 1), (0, 8), (0, 9), (1, 1), (2, 1), (2, 2)];
    let specs = specs();
    assert_eq!(problems, expected.map(|(spec, m)| Problem::new(&specs[spec], m)));
    let caps = host.kernels().caps();
    for measured in &measured {
        let likely = candidates(&measured.spec, caps, measured.problem.m);
        // What would be chosen is always measured; what is hopeless may be left out.
        assert_eq!(measured.times[0].0, measured.selected);
        assert_eq!(measured.selected, likely[0]);
        for (schedule, time) in &measured.times {
            assert!(likely.contains(schedule) && *time > Duration::ZERO);
            // As fast as the fastest, but for the margin of noise.
            let best = measured.time(measured.best()).unwrap();
            assert!(best.mul_f64(0.97) <= *time, "{measured:?}");
        }
    }
    assert!(measured.iter().any(|measured| measured.times.len() >= 2), "{measured:?}");
    let tuning = Arc::new(Tuning::of(host.adapter_info(), &measured));
    assert_eq!(tuning.key, TuningKey::new(host.adapter_info()));
    for measured in &measured {
        let how = Select::Tuned(tuning.clone());
        let plan = block_on(MatmulPlan::new(host.kernels(), &measured.spec, how)).unwrap();
        assert_eq!(plan.kernel(measured.problem.m).schedule, measured.best());
    }
}

/// Whatever a tuning says, the product is right: integers come out bit for bit.
#[test]
fn every_tuned_schedule_computes_the_same() {
    let Some(host) = crate::common::own_host() else { return };
    let m = 9;
    let small = |i: u32| ((i * 37 + 11) % 13) as f32 - 6.0;
    let w: Vec<f32> = (0..N * K).map(small).collect();
    let x: Vec<f32> = (0..m * K).map(|i| small(i * 5 + 1)).collect();
    let mut expected = Vec::new();
    for row in x.chunks(K as usize) {
        for column in w.chunks(K as usize) {
            expected.push(row.iter().zip(column).map(|(a, b)| a * b).sum::<f32>().to_bits());
        }
    }
    let weights = host.compress(&w, N as usize, K as usize, &WeightFormat::f32()).unwrap();
    let spec = MatmulSpec::of(m, &weights);
    let x = host.storage(bytemuck::cast_slice(&x)).unwrap();
    for schedule in candidates(&spec, host.kernels().caps(), m) {
        let entries = vec![(Problem::new(&spec, m), schedule)];
        let tuning = Tuning::new(TuningKey::new(host.adapter_info()), entries);
        let how = Select::Tuned(Arc::new(tuning));
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, how)).unwrap();
        assert_eq!(plan.kernel(m).schedule, schedule);
        let y = host.zeros(spec.y_bytes(m)).unwrap();
        let args = MatmulArgs {
            activations: (&x).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        };
        let bound = block_on(plan.bind(args)).unwrap();
        host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();
        assert_eq!(host.read(&y, 0, expected.len()).unwrap(), expected, "{schedule}");
    }
}

/// An engine's kernels, with a cache that says what no device can run.
#[test]
fn a_tuning_that_does_not_apply_is_passed_over() {
    let Some(host) = crate::common::own_host() else { return };
    let host = Host::with_kernels(
        host.adapter_info().clone(),
        host.queue().clone(),
        host.kernels().clone(),
    );
    let spec = &specs()[0];
    let bad = Schedule::Gemv { lanes: 5, m_tile: 9 };
    let entries = [1, 8, 9].map(|m| (Problem::new(spec, m), bad)).to_vec();
    let tuning = Arc::new(Tuning::new(TuningKey::default(), entries));
    let plan = |how| block_on(MatmulPlan::new(host.kernels(), spec, how)).unwrap();
    let (tuned, auto) = (plan(Select::Tuned(tuning)), plan(Select::Auto));
    assert_eq!(format!("{:?}", tuned.row_ranges()), format!("{:?}", auto.row_ranges()));
}

#[test]
fn budgets_are_kept() {
    let Some(host) = crate::common::own_host() else { return };
    let spent = host.tune(&specs(), Duration::ZERO).unwrap();
    assert_eq!(spent.entries, []);
    let caps = host.kernels().caps();
    let all = [(0, 1), (0, 8), (0, 9), (1, 1), (2, 1), (2, 2)].iter().flat_map(|&(index, m)| {
        let spec = &specs()[index];
        let all = candidates(spec, caps, m).into_iter();
        all.map(|schedule| (Problem::new(spec, m), schedule)).collect::<Vec<_>>()
    });
    assert_eq!(spent.unmeasured, all.collect::<Vec<_>>());
    // Hours of work, cut short; one share is seconds at most, whatever the device.
    let large: Vec<_> = [256, 512, 768]
        .map(|n| MatmulSpec::new(16, n, 1024, WeightFormat::int4(Granularity::Channel)))
        .to_vec();
    let start = Instant::now();
    let tuning = host.tune(&large, Duration::from_millis(50)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(tuning.entries.len() <= 9);
    assert!(!tuning.unmeasured.is_empty());
    // No budget is too large.
    let whole = host.tune(&specs()[1..2], Duration::MAX).unwrap();
    assert_eq!((whole.entries.len(), whole.unmeasured.len()), (1, 0));
}

#[test]
fn bad_specs_are_refused() {
    let Some(host) = crate::common::own_host() else { return };
    let mut specs = specs();
    specs[1].max_m = 1 << 20;
    let refused = host.tune(&specs, Duration::from_secs(1));
    assert!(matches!(refused, Err(HostError::Plan(PlanError::TooLarge { name: "max_m", .. }))));
}
