//! Finds which weights of a block of columns a fraction prunes: those with the lowest |w|/U_ii, over all rows.
//!
//! The threshold is found eight bits at a time, the highest first, among the bits of scores and then, if only
//! some of the weights of one score are pruned, among those of their places. The stages are all recorded. Those
//! after the threshold is known do nothing.

use super::{ColumnsSpec, WORKGROUP};
use crate::gpu::{
    Access, Binding, Const, Grid, KernelDesc, M_TABLE, Size, Variable, fragment, uniform,
};

/// Counts of eight bits.
const BINS: u32 = 256;

/// Words before the counts.
const STATE: u32 = 4;

/// Bytes of the state, after the masks.
pub(super) const STATE_BYTES: u64 = 4 * (STATE + BINS) as u64;

/// The largest number of dispatches for a block: it begins, four times eight bits of scores and of places are
/// counted and picked, and masks are written.
pub(super) const MOST_STEPS: u64 = 18;

const WIDTH: Variable =
    Variable { name: "width", meaning: "columns of the block: the parameter `width`" };
const ROWS: Variable =
    Variable { name: "rows", meaning: "rows that there is room for: the parameter `rows`" };

uniform! {
    /// The parameters of one stage.
    pub(super) struct Params for "SelectionParams" in "columns/selection" {
        n: u32,
        k: u32,
        rows: u32,
        first: u32,
        width: u32,
        count: u32,
        state_at: u32,
        stage: u32,
        shift: u32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

impl Params {
    /// Returns what the variables of the grid of the kernel that counts are.
    pub(super) fn sizes(&self) -> [(Variable, Size); 2] {
        [(WIDTH, Size::Fixed(self.width.into())), (ROWS, Size::Fixed(self.rows.into()))]
    }
}

/// Returns the kernel that counts and writes masks, and the one that picks bits by counts.
pub(super) fn shaders() -> [KernelDesc; 2] {
    let read = |number, name, holds| Binding::data(number, name, holds, Access::Read);
    let write = |number| {
        let holds = "which weights are kept, a bit each, and the state of the threshold";
        Binding::data(number, "masks", holds, Access::Write)
    };
    let kernel = |id: &str, name, grid, memory, data| KernelDesc {
        consts: vec![("M_TABLE", Const::U32(M_TABLE))],
        grid,
        workgroup_size: WORKGROUP,
        workgroup_memory: memory,
        ..KernelDesc::new(
            id.to_string(),
            vec![fragment(name)],
            [vec![Binding::params("p", Params::LAYOUT)], data].concat(),
        )
    };
    [
        kernel(
            "columns_select",
            "columns/select",
            Grid::new(&[(&[WIDTH], 32), (&[ROWS], WORKGROUP)]),
            4 * BINS,
            vec![read(3, "u", "U, row-major"), read(4, "w", "W by columns"), write(5)],
        ),
        kernel("columns_pick", "columns/pick", Grid::new(&[]), 4 * WORKGROUP, vec![write(3)]),
    ]
}

/// One dispatch.
pub(super) struct Step {
    /// Whether it is one of the kernel that picks, not of the one that counts.
    pub picks: bool,
    pub params: Params,
}

/// Stages, as `columns/selection` numbers them.
const BEGIN: u32 = 0;
const SCORES: u32 = 1;
const PLACES: u32 = 2;
const MASK: u32 = 3;

/// Returns the dispatches for a block of columns, in order. There are at most [`MOST_STEPS`].
pub(super) fn steps(spec: &ColumnsSpec, fraction: f64, first: u32, width: u32) -> Vec<Step> {
    // Rows are below 2²⁰ and columns of a block at most 128.
    let weights = spec.n * width;
    let params = Params {
        n: spec.n,
        k: spec.k,
        rows: spec.rows(),
        first,
        width,
        count: pruned(weights, fraction),
        state_at: spec.state_at() as u32,
        ..Params::default()
    };
    let step = |picks, stage, shift| Step { picks, params: Params { stage, shift, ..params } };
    let mut steps = vec![step(true, BEGIN, 0)];
    let bits = u32::BITS - weights.saturating_sub(1).leading_zeros();
    for (stage, bits) in [(SCORES, u32::BITS), (PLACES, bits)] {
        for shift in (0..bits).step_by(8).rev() {
            steps.extend([step(false, stage, shift), step(true, stage, shift)]);
        }
    }
    steps.push(step(false, MASK, 0));
    steps
}

/// Returns how many weights a fraction prunes.
fn pruned(weights: u32, fraction: f64) -> u32 {
    ((f64::from(weights) * fraction) as u32).min(weights)
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    #[test]
    fn stages_cover_all_bits() {
        let counted = |n, width| {
            let spec = ColumnsSpec::new(n, 300, None).with_pattern(Pattern::Fraction(0.3));
            let steps = steps(&spec, 0.3, 128, width);
            assert!(steps.len() as u64 <= MOST_STEPS);
            let counts = steps.iter().filter(|step| !step.picks);
            counts.map(|step| (step.params.stage, step.params.shift)).collect::<Vec<_>>()
        };
        let scores = [24, 16, 8, 0].map(|shift| (SCORES, shift));
        let all = |places: &[u32]| {
            let places = places.iter().map(|&shift| (PLACES, shift));
            scores.into_iter().chain(places).chain([(MASK, 0)]).collect::<Vec<_>>()
        };
        // One weight has no bits of a place, and 257 have nine.
        assert_eq!(counted(1, 1), all(&[]));
        assert_eq!(counted(2, 128), all(&[0]));
        assert_eq!(counted(257, 1), all(&[8, 0]));
        assert_eq!(counted(1 << 20, 128), all(&[24, 16, 8, 0]));
        assert_eq!([0.0, 0.5, 0.999].map(|part| pruned(7, part)), [0, 3, 6]);
    }
}
