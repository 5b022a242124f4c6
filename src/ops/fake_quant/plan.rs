//! Plans of fake quantization.

use super::FakeQuantSpec;
use crate::gpu::{Kernels, Pipeline};
use crate::ops::PlanError;
use crate::ops::recording::{Bound, pipelines};
use std::sync::Arc;

/// The compiled kernels for one [`FakeQuantSpec`], forward and backward. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeQuantPlan {
    pub(super) kernels: Kernels,
    pub(super) spec: FakeQuantSpec,
    pub(super) forward: Vec<Arc<Pipeline>>,
    pub(super) backward: Vec<Arc<Pipeline>>,
}

/// A forward pass with its buffers.
pub type BoundFakeQuant = Bound<FakeQuantPlan>;

/// A backward pass with its buffers. The scale of no rows has a gradient of 0.
pub type BoundFakeQuantBackward = Bound<FakeQuantPlan>;

impl FakeQuantPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &FakeQuantSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let mut shaders = spec.forward_shaders(kernels.caps());
        let forwards = shaders.len();
        shaders.extend(spec.backward_shaders(kernels.caps()));
        let mut forward = pipelines(kernels, &shaders).await?;
        let backward = forward.split_off(forwards);
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), forward, backward })
    }

    /// The spec that the plan was made for.
    pub fn spec(&self) -> &FakeQuantSpec {
        &self.spec
    }
}
