//! `Y = X · Wᵀ (+ bias)` with compressed `W`.
//!
//! X is `[batch, m, K]`, W `[N, K]` shared by the batch, Y `[batch, m, N]`; sums are f32.
//! The error bound is that of [`reference`](crate::reference).

mod bind;
mod choice;
mod plan;
mod spec;
mod tuning;

pub use bind::{BoundMatmul, MatmulArgs, RecordError};
pub(crate) use choice::texture_width;
pub use choice::{
    Decoder, KernelChoice, Scaling, Schedule, UnknownSchedule, XLoad, code_textures_pay, select,
};
pub(crate) use plan::regimes;
pub use plan::{MatmulPlan, Regime, Select};
pub use spec::{MatmulSpec, PlanError};
pub use tuning::{Measured, Problem, Tuning, TuningKey, applies, candidates};

use bytemuck::{Pod, Zeroable};

/// Mirror of `Params` in `shaders/lib/matmul.wgsl`; a test compares the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Params {
    pub n0: u32,
    pub rows: u32,
    pub k: u32,
    pub blocks: u32,
    pub group_size: u32,
    pub groups: u32,
    pub side_stride: u32,
    pub scale_at: u32,
    pub zero_at: u32,
    pub x_offset: u32,
    pub x_stride: u32,
    pub x_batch: u32,
    pub y_offset: u32,
    pub y_stride: u32,
    pub y_batch: u32,
    pub batch: u32,
    pub m0: u32,
    pub m_cap: u32,
    pub bias_offset: u32,
    pub pad: u32,
}

/// Names and offsets of [`Params`], for the test against naga's reflection.
#[doc(hidden)]
pub fn params_layout() -> (usize, Vec<(&'static str, usize)>) {
    use std::mem::offset_of;
    let fields = vec![
        ("n0", offset_of!(Params, n0)),
        ("rows", offset_of!(Params, rows)),
        ("k", offset_of!(Params, k)),
        ("blocks", offset_of!(Params, blocks)),
        ("group_size", offset_of!(Params, group_size)),
        ("groups", offset_of!(Params, groups)),
        ("side_stride", offset_of!(Params, side_stride)),
        ("scale_at", offset_of!(Params, scale_at)),
        ("zero_at", offset_of!(Params, zero_at)),
        ("x_offset", offset_of!(Params, x_offset)),
        ("x_stride", offset_of!(Params, x_stride)),
        ("x_batch", offset_of!(Params, x_batch)),
        ("y_offset", offset_of!(Params, y_offset)),
        ("y_stride", offset_of!(Params, y_stride)),
        ("y_batch", offset_of!(Params, y_batch)),
        ("batch", offset_of!(Params, batch)),
        ("m0", offset_of!(Params, m0)),
        ("m_cap", offset_of!(Params, m_cap)),
        ("bias_offset", offset_of!(Params, bias_offset)),
        ("pad", offset_of!(Params, pad)),
    ];
    (size_of::<Params>(), fields)
}
