use crate::memory::{LINE_BYTES, Measured, Operand};
use crate::{Family, Peaks, Stats};
use lowbit::format::{DeviceLayout, FormatError, RowOrder};
use lowbit::ops::MatmulSpec;
use serde::Serialize;

/// What bounds a kernel from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Lines from memory.
    Memory,
    /// Lines that subgroups ask the caches of their compute units for.
    Cache,
    /// Cycles of workgroup memory.
    Workgroup,
    /// Issue of vector operations.
    Valu,
}

impl Bound {
    /// Returns the name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cache => "cache",
            Self::Workgroup => "workgroup memory",
            Self::Valu => "VALU",
        }
    }
}

/// The least time that a product can take by a GPU's published peaks. Derived, not measured:
/// latency, what caches miss, clocks below boost and the time to launch come on top.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roof {
    /// The weights' format.
    pub weights: String,
    /// The kernel.
    pub kernel: String,
    /// The family that it was compiled for.
    pub family: Family,
    /// The GPU.
    pub gpu: &'static str,
    /// Rows of X, rows of W, columns.
    pub shape: [u32; 3],
    /// Microseconds to read the lines of W as stored and of X once, and to write those of Y.
    pub memory_us: f64,
    /// Microseconds to look up the lines that subgroups touch: one of 128 bytes a compute unit and
    /// clock, which is assumed and not published.
    pub cache_us: f64,
    /// Microseconds of workgroup memory, with its conflicts: one access to each of 32 banks a compute
    /// unit and clock.
    pub workgroup_us: f64,
    /// Microseconds to issue the main loop's vector operations, one a lane and clock.
    pub valu_us: f64,
    /// Whether the loop has no branches; else every one counts as taken, and `valu_us` is the
    /// most that it can be.
    pub exact: bool,
    /// The largest of the four.
    pub bound: Bound,
    /// `memory / largest`: the most of the memory's bandwidth that it can reach.
    pub share_of_memory: f64,
    /// `valu / largest`: how busy the vector units are at that.
    pub share_of_valu: f64,
}

/// The part of a roofline that depends on the addresses of lanes, for all workgroups of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Lines of 128 bytes that subgroups touch.
    pub lines: f64,
    /// Cycles of workgroup memory.
    pub workgroup_cycles: f64,
    /// Bytes that a lane loads from workgroup memory for each of its weights: those of the
    /// workgroup, divided by its lanes.
    pub workgroup_bytes: f64,
}

impl Traffic {
    /// Returns the traffic of a traced product for subgroups of `width` lanes.
    pub fn new(measured: &Measured, width: u16) -> Self {
        let (choice, trace) = (&measured.choice, &measured.trace);
        let kernel = choice.name();
        let counted = trace.count(&kernel, width);
        let of_all = measured.groups as f64 / trace.groups().max(1) as f64;
        let lines: u64 = Operand::ALL
            .iter()
            .filter_map(|operand| counted.lines.get(operand))
            .map(|lines| lines.lines[LINE_BYTES.len() - 1])
            .sum();
        let (_, rows) = choice.schedule.tile();
        let weights = f64::from(rows) * f64::from(measured.columns) * trace.groups() as f64;
        Self {
            lines: lines as f64 * of_all,
            workgroup_cycles: counted.banks.cycles as f64 * of_all,
            workgroup_bytes: trace.workgroup_loads(&kernel) as f64 / weights.max(1.0),
        }
    }
}

/// Returns the bounds of `m` rows of X times the weights of `spec`:
///
/// `memory = 128 · (⌈codes/128⌉ + ⌈side data/128⌉ + ⌈X/128⌉ + ⌈Y/128⌉) / bandwidth`,
/// `cache = lines / (units · clock)`, `workgroup = cycles / (units · clock)`,
/// `valu = ⌈m / x_rows⌉ · n · 32⌈k/32⌉ · cycles a weight / (units · 64 · clock)`.
///
/// A loop within the main one has as many trips as it takes to load what was traced from workgroup
/// memory. None for a kernel whose main loop was not found, has several loops in it, or one that does
/// not load from there.
///
/// # Errors
/// Returns [`FormatError`] for weights that do not exist.
pub fn roof(
    stats: &Stats,
    x_rows: u32,
    spec: &MatmulSpec,
    m: u32,
    traffic: &Traffic,
    peaks: &Peaks,
) -> Result<Option<Roof>, FormatError> {
    let cycles = stats.per_weight.zip(cycles_per_weight(stats, traffic));
    let Some((per_weight, cycles_per_weight)) = cycles else { return Ok(None) };
    let layout = DeviceLayout::new(spec.weights, spec.n as usize, spec.k as usize, RowOrder::Rows)?;
    let w =
        [layout.code_words, layout.side_words].map(|words| 4 * words as u64 * u64::from(spec.n));
    let line = u64::from(LINE_BYTES[2]);
    let operands = [w[0], w[1], spec.x_bytes(m), spec.y_bytes(m)];
    let bytes: u64 = operands.iter().map(|bytes| bytes.next_multiple_of(line)).sum();
    let weights = f64::from(spec.n) * f64::from(spec.k.next_multiple_of(32));
    let passes = f64::from(m.div_ceil(x_rows.max(1)));
    let cycles = passes * weights * cycles_per_weight;
    let unit_clocks = f64::from(peaks.units) * peaks.clock;
    let times = [
        (Bound::Memory, bytes as f64 / peaks.memory),
        (Bound::Cache, traffic.lines / unit_clocks),
        (Bound::Workgroup, traffic.workgroup_cycles / unit_clocks),
        (Bound::Valu, cycles / peaks.lane_operations()),
    ]
    .map(|(bound, seconds)| (bound, 1e6 * seconds));
    // The first of equals.
    let (bound, most) = times
        .into_iter()
        .rev()
        .fold((Bound::Valu, 0.0), |most, time| if time.1 >= most.1 { time } else { most });
    let [(_, memory_us), (_, cache_us), (_, workgroup_us), (_, valu_us)] = times;
    Ok(Some(Roof {
        weights: spec.weights.to_string(),
        kernel: stats.kernel.clone(),
        family: stats.family,
        gpu: peaks.name,
        shape: [m, spec.n, spec.k],
        memory_us,
        cache_us,
        workgroup_us,
        valu_us,
        exact: per_weight.exact,
        bound,
        share_of_memory: memory_us / most,
        share_of_valu: valu_us / most,
    }))
}

/// Returns the cycles of vector issue a weight, with the trips of a loop within the main one.
fn cycles_per_weight(stats: &Stats, traffic: &Traffic) -> Option<f64> {
    let per_weight = stats.per_weight?;
    let main = stats.main_loop.as_ref()?;
    match (main.inner_loops, &main.inner) {
        (0, _) => Some(per_weight.valu_cycles),
        (1, Some(inner)) if inner.lds_bytes > 0 => {
            let outside = main.counts.lds_bytes.saturating_sub(inner.lds_bytes) as f64;
            let loaded = traffic.workgroup_bytes * per_weight.weights;
            let trips = (loaded - outside) / inner.lds_bytes as f64;
            let cycles = (inner.valu + 3 * inner.quarter_rate) as f64;
            // It is counted once.
            Some(per_weight.valu_cycles + (trips - 1.0).max(0.0) * cycles / per_weight.weights)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, MainLoop, PerWeight};
    use lowbit::format::WeightFormat;

    #[test]
    fn the_larger_time_binds() {
        let spec = MatmulSpec::new(8, 64, 64, WeightFormat::f32());
        let peaks = Peaks { name: "", memory: 1e9, units: 1, clock: 1e9 };
        let mut traffic = Traffic { lines: 1e3, workgroup_cycles: 2e3, workgroup_bytes: 0.0 };
        let per_weight = |valu_cycles| PerWeight {
            weights: 128.0,
            valu_cycles,
            valu: valu_cycles,
            loads: 1.0,
            code_loads: 1.0,
            code_bytes: 4.0,
            exact: true,
        };
        let mut stats = Stats {
            kernel: String::new(),
            family: Family::Navi31,
            workgroup: 64,
            wave: 64,
            vgprs: 1,
            sgprs: 1,
            lds: 0,
            spilled_vgprs: 0,
            spilled_sgprs: 0,
            scratch: 0,
            occupancy: 16,
            instructions: 1,
            valu: None,
            counts: Default::default(),
            main_loop: Some(MainLoop {
                counts: Counts::default(),
                inner_loops: 0,
                inner: None,
                branches: 0,
            }),
            per_weight: Some(per_weight(64.0)),
        };
        // 16 KiB of W, 256 bytes of X and Y each; 4096 weights of 64 cycles on 64 lanes.
        let roof_of = |stats: &Stats, m, traffic: &Traffic| {
            roof(stats, 4, &spec, m, traffic, &peaks).unwrap()
        };
        let one = roof_of(&stats, 1, &traffic).unwrap();
        assert!((one.memory_us - 16.896).abs() < 1e-9 && (one.valu_us - 4.096).abs() < 1e-9);
        assert_eq!((one.bound, one.share_of_memory), (Bound::Memory, 1.0));
        assert!((one.cache_us - 1.0).abs() < 1e-9 && (one.workgroup_us - 2.0).abs() < 1e-9);
        // Five rows of X take two passes of four.
        stats.per_weight = Some(per_weight(640.0));
        let five = roof_of(&stats, 5, &traffic).unwrap();
        assert!((five.valu_us - 81.92).abs() < 1e-9);
        assert_eq!((five.bound, five.share_of_valu), (Bound::Valu, 1.0));
        // Lines that subgroups ask for may bound it, and so may banks.
        traffic.lines = 1e5;
        let bound = roof_of(&stats, 5, &traffic).unwrap();
        assert_eq!((bound.bound, bound.share_of_valu), (Bound::Cache, 0.8192));
        traffic.workgroup_cycles = 1e6;
        assert_eq!(roof_of(&stats, 5, &traffic).unwrap().bound, Bound::Workgroup);
        // A loop within the main one that loads 16 of the 64 bytes that a trip of 128 weights loads: four
        // trips of it instead of the one that is counted.
        let inner = Counts { valu: 128, lds_bytes: 16, ..Counts::default() };
        let counts = Counts { lds_bytes: 16, ..Counts::default() };
        traffic.workgroup_bytes = 0.5;
        stats.main_loop =
            Some(MainLoop { counts, inner_loops: 1, inner: Some(inner), branches: 0 });
        stats.per_weight = Some(per_weight(64.0));
        let looped = roof_of(&stats, 1, &traffic).unwrap();
        assert!((looped.valu_us - 4.096 * 67.0 / 64.0).abs() < 1e-9, "{looped:?}");
        if let Some(main) = &mut stats.main_loop {
            main.inner_loops = 2;
        }
        assert_eq!(roof_of(&stats, 1, &traffic), None);
        stats.per_weight = None;
        assert_eq!(roof_of(&stats, 1, &traffic), None);
    }
}
