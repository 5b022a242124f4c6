//! Describes the rows of a step for rotary embedding and attention: where each token stands, where its
//! key and value go, and what it sees.
//!
//! The number of tokens before the step is on the device, and a step adds its rows to it. So a model that
//! generates text uploads nothing from one token to the next.

use super::buffers::{Window, check, check_aliases};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::Span;
use super::{BindError, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT, Pipeline,
    fragment, uniform,
};
use std::sync::Arc;

/// The rows of a step of one sequence, in order: `[position, slot, first, end]`, four u32 each.
///
/// Row i of a step after n tokens has position and slot n + i, and sees the slots up to its own: all, or
/// the last ones of a window. Rows that are described otherwise, such as those of several sequences, are
/// written by the caller.
///
/// After these rows, which take `16 · max_m` bytes, comes a list of the positions, one u32 for each row, as
/// a gather from a table of positions takes it ([`index_offset`](Self::index_offset)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PositionsSpec {
    /// The largest number of rows of a step.
    pub max_m: u32,
    /// The number of tokens that a token sees at most, itself included; `None` for all before it.
    pub window: Option<u32>,
    /// Whether the number of tokens counts this step. Where several ops describe one step, the last does.
    pub advance: bool,
    /// The index of position 0 in the list of positions.
    pub index_base: u32,
}

impl PositionsSpec {
    /// Creates a spec without a window, which counts the step.
    pub fn new(max_m: u32) -> Self {
        Self { max_m, window: None, advance: true, index_base: 0 }
    }

    /// Limits how many tokens a token sees.
    pub fn with_window(mut self, window: u32) -> Self {
        self.window = Some(window);
        self
    }

    /// Leaves the number of tokens as it is.
    pub fn without_advance(mut self) -> Self {
        self.advance = false;
        self
    }

    /// Sets the index of position 0 in the list of positions: the row of a table that belongs to it.
    pub fn with_index_base(mut self, base: u32) -> Self {
        self.index_base = base;
        self
    }

    /// Returns the number of bytes of output.
    pub fn output_bytes(&self) -> u64 {
        20 * u64::from(self.max_m)
    }

    /// Returns where the list of positions starts in the output, in bytes.
    pub fn index_offset(&self) -> u64 {
        16 * u64::from(self.max_m)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError::TooLarge`] if there are too many rows.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[("max_m", self.max_m, MAX_COUNT)])
    }

    /// Returns the kernel.
    pub fn shader(&self) -> KernelDesc {
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: "positions".into(),
            consts: vec![("M_TABLE", Const::U32(M_TABLE))],
            fragments: vec![fragment("attention/positions")],
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "state", "the number of tokens before the step", Access::Write),
                Binding::data(4, "rows", "position, slot, first, end of each row", Access::Write),
            ],
            grid: Grid::new(&[]),
            workgroup_size: 64,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// Returns every kernel of this op.
pub(crate) fn kernels(_: &Caps) -> Vec<KernelDesc> {
    vec![PositionsSpec::new(1).shader()]
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "PositionsParams" in "attention/positions" {
        state_at: u32,
        rows_at: u32,
        window: u32,
        advance: u32,
        index_at: u32,
        index_base: u32,
        pad: [u32; 2] = "pad0" "pad1",
    }
}

/// The compiled kernel for one [`PositionsSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct PositionsPlan {
    kernels: Kernels,
    spec: PositionsSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one op.
#[derive(Clone, Copy, Debug)]
pub struct PositionsArgs<'a> {
    /// The number of tokens before the step, one u32. Numbers from 2³¹ on are out of contract: positions
    /// wrap then.
    pub state: SubBuffer<'a>,
    /// The rows that are written, `[max_m, 4]` u32, and after them the positions, `[max_m]` u32.
    pub output: SubBuffer<'a>,
}

/// The op with its buffers.
pub type BoundPositions = Bound<PositionsPlan>;

impl PositionsPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &PositionsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader()).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &PositionsSpec {
        &self.spec
    }

    /// Checks the buffers and makes a bind group and one small uniform buffer.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: PositionsArgs<'_>) -> Result<BoundPositions, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let bytes = spec.output_bytes();
        check(Role::Positions, args.state, 4, 4)?;
        check(Role::Output, args.output, bytes, 4)?;
        check_aliases([(Role::Positions, args.state.buffer)], &[args.output.buffer])?;
        let mut draft = Draft::new(&self.kernels, "lowbit positions", Count::UpTo(spec.max_m), 1)?;
        if spec.max_m > 0 {
            let state = Window::new(caps, args.state.buffer, args.state.offset, 4);
            let rows = Window::new(caps, args.output.buffer, args.output.offset, bytes);
            if rows.size > caps.max_binding {
                let (role, need, limit) = (Role::Output, rows.size, caps.max_binding);
                return Err(BindError::RowTooLarge { role, need, limit });
            }
            let slot = draft.slot(Params {
                state_at: state.at(4),
                rows_at: rows.at(4),
                window: spec.window.unwrap_or(u32::MAX),
                advance: spec.advance.into(),
                index_at: rows.at(4) + 4 * spec.max_m,
                index_base: spec.index_base,
                pad: [0; 2],
            });
            let bound = [(3, state.into()), (4, rows.into())];
            let span = Span::all(spec.max_m);
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[]);
        }
        draft.bind(self.clone()).await
    }
}
