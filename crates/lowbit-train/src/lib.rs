//! Training for small numbers, on [burn](https://burn.dev): quantization-aware training, pruning while
//! training, lottery tickets and compressed gradients.
#![warn(missing_docs)]

pub mod data;
pub mod fake;
pub mod gradients;
pub mod model;
pub mod prune;
pub mod random;
pub mod recipe;
pub mod report;
pub mod task;
pub mod train;

/// Returns `x`, or 0 if it is subnormal, as GPUs may flush such numbers.
#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}
