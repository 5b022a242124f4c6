//! Scaled dot-product attention of rows of queries over a cache of keys and values.
//!
//! `y = softmax(f(q·K)) · V`, where f multiplies by a scale, then applies a soft cap, then adds a bias,
//! if the spec has them. Which slots of the cache a row sees is data: the `rows` buffer has
//! `(position, slot, first, end)` for each row, u32, and the row sees the slots `first` to `end − 1`. So
//! causal attention, sliding windows, sentences side by side and rewinding need no kernels of their own.
//! A row that sees nothing is a row of zeros. Slots past the end of the cache are not seen, whatever
//! `end` is, and what unseen slots hold does not matter, even if it is NaN.
//!
//! One to eight rows (decoding) split what a row sees into parts, which workgroups handle side by side,
//! and a second dispatch combines them. More rows (a prompt) take tiles of queries, each of which reads
//! the keys and values that it sees once. An inverse Hadamard transform of the results, if the spec has
//! one, is part of the second dispatch.

mod bind;
mod kernel;
mod spec;

pub use bind::{AttentionArgs, BoundAttention};
pub use spec::AttentionSpec;

pub(crate) use kernel::kernels;

use super::PlanError;
use super::recording::pipelines;
use crate::format::CacheLayout;
use crate::gpu::{Kernels, Pipeline};
use std::sync::Arc;

/// The compiled kernels for one [`AttentionSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct AttentionPlan {
    kernels: Kernels,
    spec: AttentionSpec,
    layout: CacheLayout,
    /// For one to eight rows.
    decode: Arc<Pipeline>,
    /// Combines parts and takes the inverse Hadamard transform, if there is either.
    combine: Option<Arc<Pipeline>>,
    /// For more rows.
    prefill: Option<Arc<Pipeline>>,
}

impl AttentionPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &AttentionSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let shaders = spec.shaders(kernels.caps());
        let mut all = vec![shaders.decode];
        let (splits, prefills) = (shaders.combine.is_some(), shaders.prefill.is_some());
        all.extend(shaders.combine);
        all.extend(shaders.prefill);
        let mut compiled = pipelines(kernels, &all).await?.into_iter();
        let decode = match compiled.next() {
            Some(decode) => decode,
            None => kernels.pipeline(&all[0]).await?,
        };
        let combine = if splits { compiled.next() } else { None };
        let prefill = if prefills { compiled.next() } else { None };
        let (kernels, layout) = (kernels.clone(), spec.layout()?);
        Ok(Self { kernels, spec: spec.clone(), layout, decode, combine, prefill })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// Returns the layout of the cache of keys, and of that of values.
    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// Returns the number of bytes of scratch that binding needs: 0 if one part of the cache is enough.
    pub fn scratch_bytes(&self) -> u64 {
        self.spec.scratch_bytes()
    }
}
