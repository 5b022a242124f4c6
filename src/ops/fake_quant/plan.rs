//! Plans of fake quantization, and what records them.

use super::kernel::Params;
use super::{FakeQuantError, FakeQuantSpec};
use crate::gpu::{Kernels, Pipeline};
use crate::ops::matmul::RecordError;
use crate::ops::slots::{Slots, check_grid, pipelines};
use crate::ops::{BindError, PlanError};
use std::sync::Arc;

/// The compiled kernels for one [`FakeQuantSpec`], forward and backward. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeQuantPlan {
    pub(super) kernels: Kernels,
    pub(super) spec: FakeQuantSpec,
    pub(super) forward: Vec<Arc<Pipeline>>,
    pub(super) backward: Vec<Arc<Pipeline>>,
}

/// A forward pass with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundFakeQuant {
    pub(super) plan: FakeQuantPlan,
    pub(super) steps: Vec<Step>,
}

/// A backward pass with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundFakeQuantBackward {
    pub(super) plan: FakeQuantPlan,
    pub(super) steps: Vec<Step>,
}

/// A dispatch.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    grid: Workgroups,
}

/// Workgroups of a dispatch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workgroups {
    /// So many, whatever m is.
    Fixed(u32),
    /// So many for each row of a span.
    Rows { m0: u32, m_cap: u32, each: u32 },
}

impl Workgroups {
    fn groups(self, m: u32) -> u64 {
        match self {
            Self::Fixed(groups) => groups.into(),
            Self::Rows { m0, m_cap, each } => {
                u64::from(m.saturating_sub(m0).min(m_cap)) * u64::from(each)
            }
        }
    }
}

/// A dispatch before there are bind groups: what is bound from 3 on.
pub(super) struct Draft<'a> {
    pub pipeline: usize,
    pub slot: usize,
    pub bound: Vec<(u32, wgpu::BindingResource<'a>)>,
    pub grid: Workgroups,
}

impl FakeQuantPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// [`FakeQuantError`].
    pub async fn new(kernels: &Kernels, spec: &FakeQuantSpec) -> Result<Self, FakeQuantError> {
        spec.check()?;
        let caps = kernels.caps();
        let mut shaders = spec.forward_shaders(caps);
        let forwards = shaders.len();
        shaders.extend(spec.backward_shaders(caps));
        let mut forward = pipelines(kernels, &shaders).await.map_err(PlanError::from)?;
        let backward = forward.split_off(forwards);
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), forward, backward })
    }

    /// What the plan is for.
    pub fn spec(&self) -> &FakeQuantSpec {
        &self.spec
    }

    pub(super) async fn steps(
        &self,
        pipelines: &[Arc<Pipeline>],
        params: &[Params],
        drafts: Vec<Draft<'_>>,
    ) -> Result<Vec<Step>, BindError> {
        for draft in &drafts {
            check_grid(self.kernels.caps(), draft.grid.groups(self.spec.max_m))?;
        }
        let slots = Slots::new(&self.kernels, "lowbit fake quantization", params).await?;
        let make = || {
            let mut steps = Vec::with_capacity(drafts.len());
            for draft in drafts {
                let pipeline = pipelines[draft.pipeline].clone();
                let group = slots.group_of_m(&self.kernels, &pipeline, draft.slot, draft.bound);
                steps.push(Step { pipeline, group, grid: draft.grid });
            }
            steps
        };
        Ok(self.kernels.guarded("bind groups of fake quantization", make).await?)
    }

    fn record(
        &self,
        steps: &[Step],
        pass: &mut wgpu::ComputePass<'_>,
        m: u32,
    ) -> Result<(), RecordError> {
        if m > self.spec.max_m {
            return Err(RecordError::MTooLarge { m, max_m: self.spec.max_m });
        }
        for step in steps {
            // `bind` has checked the largest grid, and smaller ones fold as well.
            let [x, y, z] = self.kernels.caps().fold(step.grid.groups(m)).unwrap_or_default();
            if x > 0 {
                pass.set_pipeline(&step.pipeline.pipeline);
                pass.set_bind_group(0, &step.group, &self.kernels.m_offsets(m));
                pass.dispatch_workgroups(x, y, z);
            }
        }
        Ok(())
    }
}

impl BoundFakeQuant {
    /// The plan it was bound from.
    pub fn plan(&self) -> &FakeQuantPlan {
        &self.plan
    }

    /// Records the fake quantization of the first `m` rows. Sets the pass's pipeline and bind group
    /// 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        self.plan.record(&self.steps, pass, m)
    }
}

impl BoundFakeQuantBackward {
    /// The plan it was bound from.
    pub fn plan(&self) -> &FakeQuantPlan {
        &self.plan
    }

    /// Records the gradients of the first `m` rows; the scale of no rows has a gradient of 0. Sets
    /// the pass's pipeline and bind group 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        self.plan.record(&self.steps, pass, m)
    }
}
