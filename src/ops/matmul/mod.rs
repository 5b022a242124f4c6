//! `Y = f(X · Wᵀ (+ bias))` with compressed `W`.
//!
//! X is `[batch, m, K]`, W `[N, K]` shared by the batch, Y `[batch, m, N]`; f is an
//! [`ActivationFunction`](crate::format::ActivationFunction), usually the identity. An
//! [`Epilogue`] may add that to Y, or multiply pairs of its columns. Where X is
//! floats, sums are f32. Where X is [quantized](crate::ops::quantize_activations), products and their sums
//! are integers, and exact, over every *slice* of K in which scales do not change; slices are
//! scaled and added in f32. The error bounds are those of [`reference`](crate::reference).

mod bind;
mod choice;
mod experts;
mod integer;
mod kernels;
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
pub(crate) use choice::function_fragment;
#[doc(hidden)]
pub use choice::{Decoder, Scaling, XLoad, YStore};
pub use choice::{KernelChoice, select};
pub use experts::Experts;
#[doc(hidden)]
pub use integer::{Groups, Integer};
pub(crate) use kernels::{kernels, sums_kernels};
pub use name::UnknownKernel;
#[doc(hidden)]
pub use name::first_part;
pub(crate) use plan::row_ranges;
pub use plan::{MatmulPlan, RowRange, Select};
pub use schedule::{Schedule, UnknownSchedule};
pub use spec::MatmulSpec;
pub use step::Step;
pub use tuning::{Measured, Problem, Tuning, TuningKey, applies, candidates};
#[cfg(feature = "serde")]
pub use tuning_file::BadTuning;

use super::{Activations, Epilogue, Output, PlanError};
use crate::gpu::uniform;

uniform! {
    /// The parameters of one dispatch.
    pub(crate) struct Params for "Params" in "lib/matmul" {
        n0: u32,
        rows: u32,
        k: u32,
        blocks: u32,
        group_size: u32,
        groups: u32,
        side_stride: u32,
        scale_at: u32,
        zero_at: u32,
        upper_at: u32,
        table_at: u32,
        x_offset: u32,
        x_stride: u32,
        x_batch: u32,
        y_offset: u32,
        y_stride: u32,
        y_batch: u32,
        batch: u32,
        m0: u32,
        m_cap: u32,
        bias_offset: u32,
        y_slice: u32,
        slice: u32,
        w_slices: u32,
        x_slices: u32,
        x_scale_at: u32,
        x_zero_at: u32,
        x_sum_at: u32,
        out_scale: f32,
        out_inverse: f32,
        out_zero: i32,
        list_at: u32,
        experts: u32,
        own_rows: u32,
    }
}
