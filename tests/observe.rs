//! Tests of observing X on the device, which must equal the host bit for bit.

use half::f16;
use lowbit::compress::calibrate::{Axis, Batch, CalibrateError, Method, Observer, Statistics};
use lowbit::host::{Host, HostError};
use lowbit::ops::{
    BindError, FloatType, ObserveArgs, ObserveError, ObservePlan, ObserveSpec, PlanError, Role,
    SubBuffer,
};
use pollster::block_on;

const HOLE: u32 = 0x7fc5_7fc5;

/// The offset of X and of the observation in bytes. It is not a multiple of a binding's alignment.
const X_AT: u64 = 32;
const Y_AT: u64 = 20;

fn hosts() -> Vec<&'static Host> {
    // The small host splits rows into several bindings and folds grids.
    crate::common::large_and_small(32 << 10, 5)
}

struct Job {
    spec: ObserveSpec,
    m: u32,
    /// The values of X, `[m, k]`, rounded to the type on the device.
    x: Vec<f32>,
}

impl Job {
    fn new(spec: ObserveSpec, m: u32, x: Vec<f32>) -> Self {
        let round = |x: f32| match spec.activations {
            FloatType::F16 => f16::from_f32(x).to_f32(),
            _ => x,
        };
        assert_eq!(x.len(), (m * spec.k) as usize);
        Self { x: x.into_iter().map(round).collect(), spec, m }
    }

    /// Creates a buffer with X surrounded by NaN.
    fn buffer(&self, host: &Host) -> wgpu::Buffer {
        let spec = &self.spec;
        let bytes = spec.activations.bytes();
        let elements = (X_AT + spec.x_bytes(spec.max_m)) / bytes + 16;
        let mut values = vec![f32::NAN; elements as usize];
        for (row, x) in self.x.chunks(spec.k.max(1) as usize).enumerate() {
            let at = (X_AT / bytes) as usize + row * spec.x_stride as usize;
            values[at..at + x.len()].copy_from_slice(x);
        }
        let half = |x: f32| u32::from(f16::from_f32(x).to_bits());
        let words: Vec<u32> = match spec.activations {
            FloatType::F16 => {
                let word = |pair: &[f32]| half(pair[0]) | half(*pair.get(1).unwrap_or(&0.0)) << 16;
                values.chunks(2).map(word).collect()
            }
            _ => values.iter().map(|x| x.to_bits()).collect(),
        };
        host.storage(&words).unwrap()
    }

    /// Records twice over the previous contents, and checks that nothing around the observation
    /// changed.
    fn run(&self, host: &Host) -> Batch {
        let spec = &self.spec;
        let plan = block_on(ObservePlan::new(host.kernels(), spec)).unwrap();
        let x = self.buffer(host);
        let (first, words) = ((Y_AT / 4) as usize, spec.words() as usize);
        let y = host.storage(&vec![HOLE; first + words + 9]).unwrap();
        let bound = block_on(plan.bind(ObserveArgs {
            activations: SubBuffer { buffer: &x, offset: X_AT },
            output: SubBuffer { buffer: &y, offset: Y_AT },
        }))
        .unwrap();
        host.submit(|pass| {
            bound.record(pass, spec.max_m).unwrap();
            bound.record(pass, self.m).unwrap();
        })
        .unwrap();
        let got = host.read(&y, 0, first + words + 9).unwrap();
        let mut around = got[..first].iter().chain(&got[first + words..]);
        assert!(around.all(|&w| w == HOLE), "{spec:?}: something else was written");
        plan.batch(self.m, &got[first..first + words]).unwrap()
    }

    fn expected(&self) -> Batch {
        let spec = &self.spec;
        let observer = match spec.axis {
            Axis::Channel => Observer::channels("layer", spec.k as usize),
            _ => Observer::tensor("layer", spec.k as usize),
        };
        Batch::of(&observer.with_bins(spec.bins as usize), &self.x).unwrap()
    }

    /// Compares bits as well, because −0 and +0 are equal in a batch.
    fn check(&self, host: &Host) -> Batch {
        let (got, want) = (self.run(host), self.expected());
        assert_eq!(got, want, "{:?}, m = {}", self.spec, self.m);
        for (got, want) in got.channels.iter().zip(&want.channels) {
            assert_eq!(got.min.to_bits(), want.min.to_bits());
            assert_eq!(got.max.to_bits(), want.max.to_bits());
        }
        got
    }
}

const AXES: [(Axis, u32); 4] =
    [(Axis::Tensor, 2048), (Axis::Channel, 16), (Axis::Tensor, 0), (Axis::Channel, 1)];

/// Returns columns of very different magnitudes, with zeros of both signs and values at the edges
/// of bins.
fn columns(m: u32, k: u32, seed: u64) -> Vec<f32> {
    let mut random = crate::common::Random(seed);
    let mut value = |i: u32| match random.next() % 8 {
        0 => 0.0,
        1 => -0.0,
        2 => -(i as f32 % 5.0) / 8.0,
        _ => (0..4).map(|_| random.float()).sum::<f32>() * [1.0, 1e-3, 300.0][i as usize % 3],
    };
    (0..m * k).map(|i| value(i % k.max(1))).collect()
}

#[test]
fn batches_are_the_hosts() {
    for host in hosts() {
        let shapes =
            [(0, 8), (3, 0), (1, 1), (2, 31), (3, 32), (5, 33), (9, 36), (300, 66), (257, 100)];
        for (j, (m, k)) in shapes.into_iter().enumerate() {
            for (i, (axis, bins)) in AXES.into_iter().enumerate() {
                for float in [FloatType::F32, FloatType::F16] {
                    let spec = ObserveSpec::new(m + 2, k, axis, bins).with_activations(float);
                    let stride = spec.x_stride + [0, 4, 6][(i + j) % 3];
                    let x = columns(m, k, j as u64);
                    Job::new(spec.with_stride(stride), m, x).check(host);
                }
            }
        }
    }
}

#[test]
fn odd_numbers_count_as_on_the_host() {
    for host in hosts() {
        let k = 68;
        let row = |fill: fn(u32) -> f32| (0..k).map(fill).collect::<Vec<f32>>();
        const TINY: f32 = f32::MIN_POSITIVE;
        let rows = [
            row(|_| 0.0),
            row(|_| -0.0),
            row(|_| -7.0),
            row(|i| if i % 2 == 0 { f32::MAX } else { -f32::MAX }),
            row(|i| f32::from_bits(i * 250_000)),
            row(|i| -f32::from_bits(i * 250_000)),
            row(|i| if i == 67 { TINY } else { -TINY.next_down() }),
            // Values at the edges of bins and next to them.
            row(|i| (i as f32 - 30.0) / 4.0),
            row(|i| ((i as f32 - 30.0) / 4.0).next_up()),
            row(|i| ((i as f32 - 30.0) / 4.0).next_down()),
            row(|i| 2f32.powi(i as i32 - 34)),
        ];
        for (axis, bins) in AXES {
            let spec = |m| ObserveSpec::new(m, k, axis, bins);
            for x in &rows {
                Job::new(spec(1), 1, x.clone()).check(host);
            }
            Job::new(spec(11), 11, rows.concat()).check(host);
            let halves = spec(11).with_activations(FloatType::F16);
            let finite = |x: &f32| x.clamp(-60000.0, 60000.0);
            let small = |x: &f32| if x.abs() < 1e-6 { x.signum() * 3e-8 } else { *x };
            let all = rows.concat().iter().map(finite).map(|x| small(&x)).collect();
            Job::new(halves, 11, all).check(host);
        }
    }
}

#[test]
fn what_is_not_finite_is_found() {
    for host in hosts() {
        for float in [FloatType::F32, FloatType::F16] {
            for (axis, bins) in AXES {
                let (m, k) = (600, 67);
                for at in [0, 66, 67, 300 * 67 + 32, 599 * 67 + 66] {
                    let mut x = columns(m, k, 3);
                    x[at] = f32::NAN;
                    x[599 * 67 + 66] = f32::INFINITY;
                    x[599 * 67 + 65] = f32::NEG_INFINITY;
                    let spec = ObserveSpec::new(m, k, axis, bins).with_activations(float);
                    let found = Job::new(spec, m, x).check(host).not_finite.unwrap();
                    let first = at.min(599 * 67 + 65);
                    let place = ((first / 67) as u64, (first % 67) as u64);
                    assert_eq!((found.row, found.column), place);
                }
            }
        }
    }
}

/// Values of 2²⁴ − 1 units make the low word of a sum wrap many times.
#[test]
fn sums_carry() {
    for host in hosts() {
        let below_two = 2f32.next_down();
        for axis in [Axis::Tensor, Axis::Channel] {
            let spec = ObserveSpec::new(2000, 36, axis, 4);
            let batch = Job::new(spec, 2000, vec![-below_two; 2000 * 36]).check(host);
            let values = if axis == Axis::Tensor { 72_000 } else { 2000 };
            assert_eq!(batch.channels[0].abs_units, values * ((1 << 24) - 1));
            assert_eq!(batch.channels[0].abs_sum(), values as f64 * f64::from(below_two));
        }
    }
}

#[test]
fn bins_are_as_wide_as_given() {
    for host in hosts() {
        for (axis, bins) in [(Axis::Tensor, 64), (Axis::Channel, 8)] {
            for exponent in [-100, -3, 0, 5, 100] {
                let (m, k) = (40, 33);
                let spec = ObserveSpec::new(m, k, axis, bins).with_bin_width(exponent);
                let job = Job::new(spec, m, columns(m, k, 8));
                let (got, narrow) = (job.run(host), job.expected());
                for (got, narrow) in got.channels.iter().zip(&narrow.channels) {
                    let width = exponent.max(narrow.histogram.width_exponent());
                    assert_eq!(got.histogram.width_exponent(), width);
                    assert_eq!(got.abs_units, narrow.abs_units);
                    // Pairs of bins are merged, one doubling at a time.
                    let mut counts = narrow.histogram.counts().to_vec();
                    for _ in narrow.histogram.width_exponent()..width {
                        let half = counts.len() / 2;
                        let mut merged = vec![0; counts.len()];
                        for i in 0..half {
                            merged[half + i / 2] += counts[half + i];
                            merged[half - 1 - i / 2] += counts[half - 1 - i];
                        }
                        counts = merged;
                    }
                    assert_eq!(got.histogram.counts(), counts);
                }
            }
        }
    }
}

/// Batches from the device and from the host give the same statistics and ranges.
#[test]
fn statistics_are_the_hosts() {
    let Some(host) = crate::common::host() else { return };
    for observer in [Observer::tensor("layer", 36), Observer::channels("layer", 36)] {
        let mut there = Statistics::new(observer.clone()).unwrap();
        let mut here = Statistics::new(observer).unwrap();
        for (seed, rows) in [(1, 40), (2, 1), (3, 0), (4, 300)] {
            let x = columns(rows, 36, seed);
            host.observe(&mut there, &x).unwrap();
            here.observe(&x).unwrap();
        }
        assert_eq!(there, here);
        assert!(there.ranges(Method::Mse, true).unwrap().iter().all(|range| range.absmax() > 0.0));
        host.observe(&mut there, &[f32::NAN; 36]).unwrap();
        let error = there.ranges(Method::MinMax, true).unwrap_err();
        assert!(matches!(error, CalibrateError::NonFinite { batch: 3, row: 0, nan: 36, .. }));
        let error = host.observe(&mut there, &[0.0; 35]).unwrap_err();
        assert!(matches!(error, HostError::Calibrate(CalibrateError::Length { have: 35, .. })));
        let spec = ObserveSpec::new(2, 35, there.observer().axis(), 2048);
        let x = host.zeros(1024).unwrap();
        let error = host.observe_buffer(&mut there, &spec, (&x).into(), 1).unwrap_err();
        assert!(matches!(error, HostError::Calibrate(CalibrateError::Mismatch { .. })));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let spec = ObserveSpec::new(2, 64, Axis::Tensor, 64);
    let plan_error = |spec: ObserveSpec| spec.check().unwrap_err();
    let stride = PlanError::Stride { role: Role::Activations, stride: 63, need: 64 };
    assert_eq!(plan_error(spec.clone().with_stride(63)), stride);
    let odd = spec.clone().with_activations(FloatType::F16).with_stride(65);
    assert!(matches!(plan_error(odd), PlanError::OddStride { stride: 65, .. }));
    let large = |error| matches!(error, PlanError::TooLarge { .. });
    assert!(large(plan_error(ObserveSpec::new(1 << 20, 64, Axis::Tensor, 64))));
    assert!(large(plan_error(ObserveSpec::new(1 << 19, 1 << 13, Axis::Tensor, 0))));
    assert!(large(plan_error(ObserveSpec::new(1, 1 << 20, Axis::Channel, 1 << 20))));
    let bins = ObserveSpec::new(2, 64, Axis::Tensor, 48).check().unwrap_err();
    assert_eq!(bins, PlanError::Calibrate(CalibrateError::Bins { bins: 48 }));
    assert!(spec.clone().with_bin_width(200).check().is_err());
    assert!(spec.clone().with_bin_width(i32::MIN).check().is_err());

    for host in hosts() {
        let plan = block_on(ObservePlan::new(host.kernels(), &spec)).unwrap();
        let (x, y) = (host.zeros(512).unwrap(), host.zeros(4 * spec.words()).unwrap());
        let small = host.zeros(64).unwrap();
        let at = |buffer, offset| SubBuffer { buffer, offset };
        let bind = |activations, output| {
            block_on(plan.bind(ObserveArgs { activations, output })).map(drop)
        };
        assert_eq!(bind(at(&x, 0), at(&y, 0)), Ok(()));
        let aliased = BindError::Aliased { role: Role::Activations };
        assert_eq!(bind(at(&y, 0), at(&y, 0)).unwrap_err(), aliased);
        assert!(matches!(bind(at(&small, 0), at(&y, 0)), Err(BindError::TooSmall { .. })));
        assert!(matches!(bind(at(&x, 0), at(&small, 0)), Err(BindError::TooSmall { .. })));
        assert!(matches!(bind(at(&x, 4), at(&y, 0)), Err(BindError::Misaligned { .. })));
        assert!(matches!(bind(at(&x, 0), at(&y, 2)), Err(BindError::Misaligned { .. })));
        let (activations, output) = (at(&x, 0), at(&y, 0));
        let bound = block_on(plan.bind(ObserveArgs { activations, output })).unwrap();
        host.submit(|pass| assert!(bound.record(pass, 3).is_err())).unwrap();
        // Words that were not recorded, or that were recorded with another number of rows.
        let words = |count: usize| vec![0; count];
        let count = spec.words() as usize;
        assert_eq!(plan.batch(2, &words(3)).unwrap_err(), ObserveError::Words(3));
        assert_eq!(plan.batch(2, &words(count + 1)).unwrap_err(), ObserveError::Words(count + 1));
        assert_eq!(plan.batch(3, &words(count)).unwrap_err(), ObserveError::Words(count));
        host.submit(|pass| bound.record(pass, 1).unwrap()).unwrap();
        let words = host.read(&y, 0, count).unwrap();
        assert!(plan.batch(1, &words).is_ok() && plan.batch(2, &words).is_err());
    }
    // An observation that does not fit into a binding is refused.
    let Some(host) = hosts().pop() else { return };
    let wide = ObserveSpec::new(1, 64, Axis::Channel, 1024);
    let plan = block_on(ObservePlan::new(host.kernels(), &wide)).unwrap();
    let (x, y) = (host.zeros(512).unwrap(), host.zeros(4 * wide.words()).unwrap());
    let args = ObserveArgs { activations: (&x).into(), output: (&y).into() };
    let error = block_on(plan.bind(args)).map(drop).unwrap_err();
    assert!(matches!(error, BindError::RowTooLarge { role: Role::Output, .. }));
}
