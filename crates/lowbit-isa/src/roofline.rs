use crate::{Family, Peaks, Stats};
use lowbit::format::{DeviceLayout, FormatError, RowOrder};
use lowbit::ops::MatmulSpec;
use serde::Serialize;

/// What bounds a kernel from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Bytes from memory.
    Memory,
    /// Issue of vector operations.
    Valu,
}

/// The least time that a product can take by a GPU's published peaks. Derived, not measured:
/// latency, caches, clocks below boost and the time to launch come on top.
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
    /// Microseconds to read W as stored and X once, and to write Y.
    pub memory_us: f64,
    /// Microseconds to issue the main loop's vector operations, one a lane and clock.
    pub valu_us: f64,
    /// Whether the loop has no branches; else every one counts as taken, and `valu_us` is the
    /// most that it can be.
    pub exact: bool,
    /// The larger of the two.
    pub bound: Bound,
    /// `memory / max(memory, valu)`: the most of the memory's bandwidth that it can reach.
    pub share_of_memory: f64,
    /// `valu / max(memory, valu)`: how busy the vector units are at that.
    pub share_of_valu: f64,
}

/// Returns the bounds of `m` rows of X times the weights of `spec`:
///
/// `memory = (n · (codes + side data of a row) + X + Y) / bandwidth`,
/// `valu = ⌈m / x_rows⌉ · n · 32⌈k/32⌉ · cycles a weight / (units · 64 · clock)`.
///
/// None for a kernel whose main loop was not found, or has loops in it.
///
/// # Errors
/// Returns [`FormatError`] for weights that do not exist.
pub fn roof(
    stats: &Stats,
    x_rows: u32,
    spec: &MatmulSpec,
    m: u32,
    peaks: &Peaks,
) -> Result<Option<Roof>, FormatError> {
    let whole = stats.main_loop.as_ref().is_none_or(|main| main.inner_loops == 0);
    let Some(per_weight) = stats.per_weight.filter(|_| whole) else { return Ok(None) };
    let layout = DeviceLayout::new(spec.weights, spec.n as usize, spec.k as usize, RowOrder::Rows)?;
    let row_bytes = 4.0 * (layout.code_words + layout.side_words) as f64;
    let bytes = f64::from(spec.n) * row_bytes + (spec.x_bytes(m) + spec.y_bytes(m)) as f64;
    let weights = f64::from(spec.n) * f64::from(spec.k.next_multiple_of(32));
    let passes = f64::from(m.div_ceil(x_rows.max(1)));
    let cycles = passes * weights * per_weight.valu_cycles;
    let memory_us = 1e6 * bytes / peaks.memory;
    let valu_us = 1e6 * cycles / peaks.lane_operations();
    let most = memory_us.max(valu_us);
    Ok(Some(Roof {
        weights: spec.weights.to_string(),
        kernel: stats.kernel.clone(),
        family: stats.family,
        gpu: peaks.name,
        shape: [m, spec.n, spec.k],
        memory_us,
        valu_us,
        exact: per_weight.exact,
        bound: if memory_us >= valu_us { Bound::Memory } else { Bound::Valu },
        share_of_memory: memory_us / most,
        share_of_valu: valu_us / most,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::PerWeight;
    use super::*;
    use lowbit::format::WeightFormat;

    #[test]
    fn the_larger_time_binds() {
        let spec = MatmulSpec::new(8, 64, 64, WeightFormat::f32());
        let peaks = Peaks { name: "", memory: 1e9, units: 1, clock: 1e9 };
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
            main_loop: None,
            per_weight: Some(per_weight(64.0)),
        };
        // 16 KiB of W, 256 bytes of X and Y each; 4096 weights of 64 cycles on 64 lanes.
        let roof_of = |stats: &Stats, m| roof(stats, 4, &spec, m, &peaks).unwrap();
        let one = roof_of(&stats, 1).unwrap();
        assert!((one.memory_us - 16.896).abs() < 1e-9 && (one.valu_us - 4.096).abs() < 1e-9);
        assert_eq!((one.bound, one.share_of_memory), (Bound::Memory, 1.0));
        // Five rows of X take two passes of four.
        stats.per_weight = Some(per_weight(640.0));
        let five = roof_of(&stats, 5).unwrap();
        assert!((five.valu_us - 81.92).abs() < 1e-9);
        assert_eq!((five.bound, five.share_of_valu), (Bound::Valu, 1.0));
        stats.per_weight = None;
        assert_eq!(roof_of(&stats, 1), None);
    }
}
