//! Plans of fake quantization.

use super::FakeQuantSpec;
use crate::gpu::{Kernels, Pipeline};
use crate::ops::recording::{Recording, pipelines};
use crate::ops::{PlanError, RecordError};
use std::sync::Arc;

/// The compiled kernels for one [`FakeQuantSpec`], forward and backward. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeQuantPlan {
    pub(super) kernels: Kernels,
    pub(super) spec: FakeQuantSpec,
    pub(super) forward: Vec<Arc<Pipeline>>,
    pub(super) backward: Vec<Arc<Pipeline>>,
}

/// A forward pass with its buffers. It can be recorded for any number of rows up to the plan's
/// maximum.
#[derive(Clone, Debug)]
pub struct BoundFakeQuant {
    pub(super) plan: FakeQuantPlan,
    pub(super) recording: Recording,
}

/// A backward pass with its buffers. It can be recorded for any number of rows up to the plan's
/// maximum.
#[derive(Clone, Debug)]
pub struct BoundFakeQuantBackward {
    pub(super) plan: FakeQuantPlan,
    pub(super) recording: Recording,
}

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

impl BoundFakeQuant {
    /// The plan it was bound from.
    pub fn plan(&self) -> &FakeQuantPlan {
        &self.plan
    }

    /// Records the fake quantization of the first `rows` rows. Sets the pass's pipeline and bind
    /// group 0. Neither allocates nor waits.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; nothing is recorded then.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        self.recording.record(pass, rows)
    }
}

impl BoundFakeQuantBackward {
    /// The plan it was bound from.
    pub fn plan(&self) -> &FakeQuantPlan {
        &self.plan
    }

    /// Records the gradients of the first `rows` rows; the scale of no rows has a gradient of 0.
    /// Sets the pass's pipeline and bind group 0. Neither allocates nor waits.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; nothing is recorded then.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        self.recording.record(pass, rows)
    }
}
