use super::choice::scaling;
use super::plan::row_range_of;
use super::{Activations, Decoder, MatmulSpec, Scaling, Schedule, select};
use crate::format::{Offset, ScaleType};
use crate::gpu::Caps;
use crate::ops::weights::in_textures;
use std::cmp::Reverse;
use std::time::Duration;

/// What measurements hold for: another adapter, driver or version of this crate has other
/// fastest kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TuningKey {
    /// The adapter's name, with vendor and device numbers.
    pub adapter: String,
    /// Vulkan, Metal, …
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// The version of this crate.
    pub version: String,
}

impl TuningKey {
    /// Returns the key of an adapter, for this version of the crate.
    pub fn new(info: &wgpu::AdapterInfo) -> Self {
        Self {
            adapter: format!("{} [{:04x}:{:04x}]", info.name, info.vendor, info.device),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            version: crate::VERSION.into(),
        }
    }
}

/// What the fastest schedule depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// How W is stored.
    pub decoder: Decoder,
    /// How scales are applied.
    pub scaling: Scaling,
    /// Whether zero points or minima are stored, and how.
    pub offset: Offset,
    /// How scales are stored.
    pub scale_type: ScaleType,
    /// Whether codes come out of textures.
    pub textures: bool,
    /// What X is.
    pub activations: Activations,
    /// Rows of X; what is measured for one number holds for its range.
    pub m: u32,
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
}

impl Problem {
    /// Returns the problem of a spec with `m` rows of X.
    pub fn new(spec: &MatmulSpec, m: u32) -> Self {
        Self {
            decoder: Decoder::of(&spec.weights),
            scaling: scaling(&spec.weights, spec.k, spec.format_use()),
            offset: spec.weights.offset(),
            scale_type: spec.weights.scale_type(),
            textures: spec.code_textures && in_textures(&spec.weights, spec.k),
            activations: spec.activations,
            m,
            n: spec.n,
            k: spec.k,
        }
    }

    /// Returns how far another problem's measurement is from this one; `None` if it says
    /// nothing: other kernels, another row range, or N or K more than twice or less than half.
    fn distance(&self, other: &Self) -> Option<f64> {
        // One float or the other is loaded as fast; a byte takes more to decode.
        let bytes = |scale_type: ScaleType| scale_type.bits() < 16;
        let kernels = |p: &Self| {
            let scales = (p.scaling, p.offset, bytes(p.scale_type));
            (p.decoder, scales, p.textures, p.activations)
        };
        let twice = |a: u32, b: u32| u64::from(a.max(b)) <= 2 * u64::from(a.min(b));
        let near = kernels(self) == kernels(other)
            && row_range_of(self.m) == row_range_of(other.m)
            && twice(self.n, other.n)
            && twice(self.k, other.k);
        let ratio = |a: u32, b: u32| (f64::from(a.max(1)) / f64::from(b.max(1))).ln().abs();
        near.then(|| ratio(self.m, other.m) + ratio(self.n, other.n) + ratio(self.k, other.k))
    }
}

/// Schedules measured to be fastest. Empty, it changes nothing.
///
/// [`Select::Tuned`](super::Select::Tuned) consults it;
/// [`Host::tune`](crate::host::Host::tune) makes one, and with the feature `serde`
/// [`to_json`](Self::to_json) and [`from_json`](Self::from_json) store it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tuning {
    /// The adapter, driver and version that it was measured with.
    pub key: TuningKey,
    /// The fastest schedule for each problem.
    pub entries: Vec<(Problem, Schedule)>,
    /// The schedules that the time budget left unmeasured, with their problems. A larger budget
    /// may find one of them to be faster than the entry for its problem.
    pub unmeasured: Vec<(Problem, Schedule)>,
}

impl Tuning {
    /// Creates a tuning that leaves nothing unmeasured.
    pub fn new(key: TuningKey, entries: Vec<(Problem, Schedule)>) -> Self {
        Self { key, entries, unmeasured: Vec::new() }
    }

    /// Picks the fastest schedules of what was measured on an adapter. A problem has no entry if
    /// the schedule that would be chosen without tuning was not measured.
    pub fn of(info: &wgpu::AdapterInfo, measured: &[Measured]) -> Self {
        let known = measured.iter().filter(|measured| measured.time(measured.selected).is_some());
        let unmeasured = |one: &Measured| {
            let problem = one.problem;
            one.unmeasured.clone().into_iter().map(move |schedule| (problem, schedule))
        };
        Self {
            key: TuningKey::new(info),
            entries: known.map(|measured| (measured.problem, measured.best())).collect(),
            unmeasured: measured.iter().flat_map(unmeasured).collect(),
        }
    }

    /// Returns the schedule for `m` rows: that of the nearest problem measured, or [`select`]'s
    /// where none is near or its schedule does not apply here. Pure, as `select` is.
    pub fn select(&self, spec: &MatmulSpec, caps: &Caps, m: u32) -> Schedule {
        let problem = Problem::new(spec, m);
        let near = self.entries.iter().filter_map(|(other, schedule)| {
            let distance = problem.distance(other)?;
            applies(*schedule, spec.activations, spec.k, caps).then_some((distance, *schedule))
        });
        let nearest = near.min_by(|a, b| a.0.total_cmp(&b.0));
        nearest.map_or_else(|| select(spec, caps, m), |(_, schedule)| schedule)
    }
}

/// Returns whether a schedule is one that `verify` runs for such X of K columns, and the device can
/// run it.
pub fn applies(schedule: Schedule, activations: Activations, k: u32, caps: &Caps) -> bool {
    schedule.check(caps).is_ok() && Schedule::for_activations(activations, k).contains(&schedule)
}

/// Returns every schedule that applies, the likeliest first: what [`select`] would choose, then
/// those that compute the fewest rows in vain, with large tiles before small ones. So a budget that
/// ends early has measured what matters most.
pub fn candidates(spec: &MatmulSpec, caps: &Caps, m: u32) -> Vec<Schedule> {
    let selected = select(spec, caps, m);
    let mut all = Schedule::for_activations(spec.activations, spec.k);
    all.retain(|schedule| applies(*schedule, spec.activations, spec.k, caps));
    all.sort_by_key(|schedule| {
        let rows = schedule.tile().0.max(1);
        let computed = u64::from(m).next_multiple_of(rows.into());
        (*schedule != selected, computed, Reverse(rows))
    });
    all
}

/// The measurements of one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// The spec whose turn it was.
    pub spec: MatmulSpec,
    /// The problem, of that spec and possibly of others.
    pub problem: Problem,
    /// What [`select`] chooses.
    pub selected: Schedule,
    /// The time of one matmul with each schedule that was measured, in that order.
    pub times: Vec<(Schedule, Duration)>,
    /// The schedules that the time budget did not suffice for. A schedule is neither here nor in
    /// `times` if a trial run was several times slower than that of `selected`, or if the driver
    /// does not compile it.
    pub unmeasured: Vec<Schedule>,
}

/// Shares of the time that another schedule must save to be preferred: less is noise.
const MARGIN: f64 = 0.03;

impl Measured {
    /// Starts with no measurement.
    pub(crate) fn new(spec: &MatmulSpec, caps: &Caps, m: u32) -> Self {
        let (problem, selected) = (Problem::new(spec, m), select(spec, caps, m));
        let (times, unmeasured) = (Vec::new(), Vec::new());
        Self { spec: spec.clone(), problem, selected, times, unmeasured }
    }

    /// Returns the time of a schedule, where it was measured.
    pub fn time(&self, schedule: Schedule) -> Option<Duration> {
        self.times.iter().find(|(of, _)| *of == schedule).map(|(_, time)| *time)
    }

    /// Returns the fastest schedule. What [`select`] chooses stays where nothing was measured that
    /// is faster by more than noise.
    pub fn best(&self) -> Schedule {
        let fastest = self.times.iter().min_by_key(|(_, time)| *time);
        match (fastest, self.time(self.selected)) {
            (Some((schedule, time)), Some(selected))
                if time.as_secs_f64() < (1.0 - MARGIN) * selected.as_secs_f64() =>
            {
                *schedule
            }
            _ => self.selected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Granularity, WeightFormat};
    use crate::gpu::AdapterClass;
    use crate::ops::FloatType;

    const ROWS: Schedule = Schedule::Rows { m_tile: 1, n_tile: 2 };

    fn caps() -> Caps {
        Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults())
    }

    fn spec(n: u32, k: u32) -> MatmulSpec {
        MatmulSpec::new(128, n, k, WeightFormat::int8(Granularity::Channel))
    }

    fn tuning(entries: &[(u32, u32, u32, Schedule)]) -> Tuning {
        let entries =
            entries.iter().map(|&(m, n, k, schedule)| (Problem::new(&spec(n, k), m), schedule));
        Tuning::new(TuningKey::default(), entries.collect())
    }

    #[test]
    fn the_nearest_measurement_counts() {
        let gemv = Schedule::Gemv { lanes: 32, m_tile: 4 };
        let tuned = tuning(&[(128, 4096, 4096, ROWS), (128, 1024, 4096, gemv)]);
        let got = |n, k, m| {
            let chosen = tuned.select(&spec(n, k), &caps(), m);
            (chosen != select(&spec(n, k), &caps(), m)).then_some(chosen)
        };
        for (n, k, m, expected) in [
            (4096, 4096, 128, Some(ROWS)),
            (4096, 4096, 65, Some(ROWS)),
            (8192, 2048, 4096, Some(ROWS)),
            (1024, 4096, 128, Some(gemv)),
            (512, 4096, 128, Some(gemv)),
            (2040, 4096, 128, Some(gemv)),
            (2056, 4096, 128, Some(ROWS)),
            // More than twice, less than half, another range.
            (8193, 4096, 128, None),
            (511, 4096, 128, None),
            (4096, 2047, 128, None),
            (4096, 8193, 128, None),
            (4096, 4096, 64, None),
            (0, 4096, 128, None),
            (u32::MAX, u32::MAX, u32::MAX, None),
        ] {
            assert_eq!(got(n, k, m), expected, "{n} {k} {m}");
        }
    }

    #[test]
    fn other_kernels_are_other_problems() {
        let tuned = tuning(&[(128, 4096, 4096, ROWS)]);
        let plain = spec(4096, 4096);
        assert_eq!(tuned.select(&plain, &caps(), 128), ROWS);
        let of = |weights| MatmulSpec { weights, ..plain.clone() };
        let group = |g| Granularity::group(g).unwrap();
        for other in [
            of(WeightFormat::int4(Granularity::Channel)),
            of(WeightFormat::int8(Granularity::Channel).asymmetric()),
            of(WeightFormat::int8(group(33))),
            of(WeightFormat::int8(group(64))),
            of(WeightFormat::int8(Granularity::Channel).two_four()),
            plain.clone().with_activations(FloatType::F16),
        ] {
            assert_eq!(tuned.select(&other, &caps(), 128), select(&other, &caps(), 128));
        }
        // What kernels do not differ by may differ.
        for same in [of(WeightFormat::int8(Granularity::Tensor)), plain.clone().with_bias()] {
            assert_eq!(tuned.select(&same, &caps(), 128), ROWS);
        }
    }

    /// A cache may say anything: nothing unsound is chosen.
    #[test]
    fn what_does_not_apply_is_passed_over() {
        let plain = spec(4096, 4096);
        for bad in [
            Schedule::Gemv { lanes: 3, m_tile: 1 },
            Schedule::Gemv { lanes: 64, m_tile: 7 },
            Schedule::Rows { m_tile: 4, n_tile: u32::MAX },
        ] {
            let tuned = tuning(&[(128, 4096, 4096, bad), (128, 4096, 2048, ROWS)]);
            assert_eq!(tuned.select(&plain, &caps(), 128), ROWS);
            let tuned = tuning(&[(128, 4096, 4096, bad)]);
            assert_eq!(tuned.select(&plain, &caps(), 128), select(&plain, &caps(), 128));
        }
        // Measured where there was more workgroup memory than here.
        let tuned = tuning(&[(1, 4096, 4096, Schedule::Tiled { m_tile: 32 })]);
        assert_eq!(tuned.select(&plain, &caps(), 1), Schedule::Tiled { m_tile: 32 });
        let small = Caps { max_workgroup_memory: 8 << 10, ..caps() };
        assert_eq!(tuned.select(&plain, &small, 1), select(&plain, &small, 1));
        assert_eq!(Tuning::default().select(&plain, &small, 1), select(&plain, &small, 1));
    }

    #[test]
    fn candidates_apply_and_the_selected_comes_first() {
        for m in [1, 2, 8, 64, 128, u32::MAX] {
            for class in [AdapterClass::Gpu, AdapterClass::Cpu] {
                let caps = Caps::from_limits(class, &wgpu::Limits::defaults());
                let all = candidates(&spec(64, 640), &caps, m);
                assert_eq!(all[0], select(&spec(64, 640), &caps, m));
                // Two are of CPU adapters alone.
                let others = if class == AdapterClass::Gpu { 2 } else { 0 };
                assert_eq!(all.len() + others, Schedule::all(640).len());
                assert!(all.iter().all(|s| applies(*s, spec(64, 640).activations, 640, &caps)));
            }
        }
        let small = Caps { max_invocations: 64, ..caps() };
        assert!(!candidates(&spec(64, 640), &small, 128).contains(&Schedule::Tiled { m_tile: 32 }));
    }

    #[test]
    fn a_tuning_lists_what_is_unmeasured() {
        let ms = Duration::from_millis;
        let mut half = Measured::new(&spec(64, 640), &caps(), 128);
        half.times = vec![(half.selected, ms(100))];
        half.unmeasured = vec![ROWS];
        let mut none = Measured::new(&spec(64, 640), &caps(), 1);
        none.unmeasured = vec![none.selected, ROWS];
        let info = wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Vulkan);
        let tuning = Tuning::of(&info, &[half.clone(), none.clone()]);
        assert_eq!(tuning.entries, [(half.problem, half.selected)]);
        let unmeasured =
            [(half.problem, ROWS), (none.problem, none.selected), (none.problem, ROWS)];
        assert_eq!(tuning.unmeasured, unmeasured);
    }

    #[test]
    fn noise_changes_nothing() {
        let ms = Duration::from_millis;
        let mut measured = Measured::new(&spec(64, 640), &caps(), 128);
        let selected = measured.selected;
        assert_eq!(measured.best(), selected);
        // Without the time of what would be chosen there is nothing to compare with.
        measured.times = vec![(ROWS, ms(1))];
        assert_eq!(measured.best(), selected);
        for (time, best) in [(96, ROWS), (98, selected), (100, selected), (200, selected)] {
            measured.times = vec![(selected, ms(100)), (ROWS, ms(time))];
            assert_eq!(measured.best(), best, "{time}");
        }
    }
}
