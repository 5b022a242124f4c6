//! `Y = f(X · Wᵀ (+ bias))` with compressed `W`.
//!
//! X is `[batch, m, K]`, W `[N, K]` shared by the batch, Y `[batch, m, N]`; f is an
//! [`ActivationFunction`](crate::format::ActivationFunction), usually the identity. Where X is
//! floats, sums are f32. Where X is [quantized](crate::ops::quantize_activations), products and their sums
//! are integers, and exact, over every *slice* of K in which scales do not change; slices are
//! scaled and added in f32. The error bounds are those of [`reference`](crate::reference).

mod bind;
mod choice;
mod integer;
mod name;
mod plan;
mod schedule;
mod spec;
mod step;
mod tuning;
#[cfg(feature = "serde")]
mod tuning_file;

pub use super::weights::code_textures_pay;
pub use bind::{BoundMatmul, MatmulArgs};
pub use choice::{Decoder, KernelChoice, Scaling, XLoad, YStore, select};
#[doc(hidden)]
pub use integer::integer_specs;
pub use integer::{Groups, Integer};
pub use name::UnknownKernel;
pub(crate) use plan::row_ranges;
#[doc(hidden)]
pub use plan::sums_shader;
pub use plan::{MatmulPlan, RowRange, Select};
pub use schedule::{Schedule, UnknownSchedule};
pub use spec::MatmulSpec;
pub use step::Step;
pub use tuning::{Measured, Problem, Tuning, TuningKey, applies, candidates};
#[cfg(feature = "serde")]
pub use tuning_file::BadTuning;

use super::{Activations, Output, PlanError};
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
    pub y_slice: u32,
    pub slice: u32,
    pub w_slices: u32,
    pub x_slices: u32,
    pub x_scale_at: u32,
    pub x_zero_at: u32,
    pub x_sum_at: u32,
    pub out_scale: f32,
    pub out_inverse: f32,
    pub out_zero: i32,
    pub pad: [u32; 2],
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
        ("y_slice", offset_of!(Params, y_slice)),
        ("slice", offset_of!(Params, slice)),
        ("w_slices", offset_of!(Params, w_slices)),
        ("x_slices", offset_of!(Params, x_slices)),
        ("x_scale_at", offset_of!(Params, x_scale_at)),
        ("x_zero_at", offset_of!(Params, x_zero_at)),
        ("x_sum_at", offset_of!(Params, x_sum_at)),
        ("out_scale", offset_of!(Params, out_scale)),
        ("out_inverse", offset_of!(Params, out_inverse)),
        ("out_zero", offset_of!(Params, out_zero)),
        ("pad0", offset_of!(Params, pad)),
        ("pad1", offset_of!(Params, pad) + 4),
    ];
    (size_of::<Params>(), fields)
}
