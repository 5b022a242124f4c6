//! Matmuls of a mixture of experts: the matrix of each row of Y is one of several.

use super::{Activations, MatmulSpec, PlanError, Schedule};
use crate::gpu::{AdapterClass, Caps};
use crate::ops::DeviceWeights;

/// The experts of a mixture. W is `[count · N, K]`, their matrices one below the other
/// ([`PackedWeights::stack`](crate::format::PackedWeights::stack)).
///
/// A list of two u32 for each row of Y names a row of X and an expert: row i of Y is row `list[i][0]` of
/// X times the matrix of expert `list[i][1]`. Where there is no such expert, row i keeps what it
/// holds. A [`RoutePlan`](crate::ops::RoutePlan) writes such lists on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Experts {
    /// The number of experts.
    pub count: u32,
    /// The number of rows of X.
    pub x_rows: u32,
    /// The list is divided into runs of so many rows, each of a single expert: its rows come first, and
    /// rows of [`NO_EXPERT`](Self::NO_EXPERT) fill the rest. Kernels that take several rows at a time need a
    /// multiple of that.
    pub unit: u32,
}

/// Rows of Y up to which rows are taken one at a time: few of them share an expert.
const SINGLE_ROWS: u32 = 64;

impl Experts {
    /// The expert of rows that there are not.
    pub const NO_EXPERT: u32 = u32::MAX;

    /// Returns the schedule for `m` rows of Y. `bytes` of a block are loaded word by word, and `lanes` split
    /// K on GPUs.
    pub(super) fn select(&self, caps: &Caps, m: u32, bytes: u32, lanes: u32) -> Schedule {
        let m_tile = if m > SINGLE_ROWS && self.unit.is_multiple_of(4) { 4 } else { 1 };
        let wanted = match caps.class {
            AdapterClass::Gpu => Schedule::Gemv { lanes, m_tile },
            AdapterClass::Cpu if m_tile == 1 && bytes <= 16 => Schedule::Rows { m_tile, n_tile: 4 },
            AdapterClass::Cpu => Schedule::Rows { m_tile, n_tile: 2 },
        };
        let smallest = Schedule::Rows { m_tile: 1, n_tile: 2 };
        if wanted.check(caps).is_ok() { wanted } else { smallest }
    }

    /// Refuses schedules that have no kernel for experts, and those that take more rows at a time than
    /// are of one expert.
    pub(super) fn check_schedule(&self, schedule: Schedule) -> Result<(), PlanError> {
        let m_tile = match schedule {
            Schedule::Gemv { m_tile, .. } | Schedule::Rows { m_tile, .. } => m_tile,
            _ => {
                let what = format!("the schedule {schedule}; gemv and rows are for experts");
                return Err(PlanError::Experts { what });
            }
        };
        if self.unit.is_multiple_of(m_tile) {
            return Ok(());
        }
        let what = format!(
            "the schedule {schedule}: {} rows of the list are of one expert, and it takes {m_tile}",
            self.unit
        );
        Err(PlanError::Experts { what })
    }
}

impl MatmulSpec {
    /// Makes this a matmul of a mixture of experts. N is then the number of rows of W of one expert, and
    /// `max_m` the largest number of rows of the list and of Y. It is bound with
    /// [`bind_experts`](super::MatmulPlan::bind_experts).
    pub fn with_experts(mut self, experts: Experts) -> Self {
        self.experts = Some(experts);
        self
    }

    /// Takes row i of X for row i of Y: X has the rows of the list, as the matmul of experts before this one
    /// wrote them. The list then only names experts, and [`Experts::x_rows`] is not used.
    pub fn with_own_rows(mut self) -> Self {
        self.own_rows = true;
        self
    }

    /// Creates a spec for weights that stack the matrices of experts, in equal parts, which reads their
    /// textures if they have any. `max_m` is the largest number of rows of the list and of Y.
    pub fn of_experts(max_m: u32, weights: &DeviceWeights, experts: Experts) -> Self {
        let all = Self::of(max_m, weights);
        // Binding refuses weights whose rows are no multiple of that.
        let n = all.n / experts.count.max(1);
        let spec = Self::new(max_m, n, all.k, all.weights).with_experts(experts);
        Self { code_textures: all.code_textures, ..spec }
    }

    pub(super) fn check_experts(&self) -> Result<(), PlanError> {
        let Some(experts) = self.experts else { return Ok(()) };
        PlanError::check_dimensions(&[
            ("experts", experts.count, u16::MAX.into()),
            ("unit", experts.unit, MAX_UNIT),
        ])?;
        PlanError::check_index("experts · n", u64::from(experts.count) * u64::from(self.n))?;
        let refused = [
            (self.bias, "a bias"),
            (matches!(self.activations, Activations::Int8(_)), "quantized activations"),
            (self.batch != 1, "a batch"),
            (self.weights.is_permuted(), "weights with permuted columns"),
            // Kernels load two rows of W at once, the first of them an even one.
            (!self.n.is_multiple_of(2), "an odd number of rows of W for each expert"),
            (experts.unit == 0, "a list in runs of 0 rows; 1 is the least"),
        ];
        match refused.into_iter().find(|(refused, _)| *refused) {
            Some((_, what)) => Err(PlanError::Experts { what: what.into() }),
            None => Ok(()),
        }
    }
}

/// The largest number of rows of a list that are of one expert.
const MAX_UNIT: u32 = 64;
