//! Plans of fake quantization.

use super::FakeQuantSpec;
use crate::gpu::{Kernels, Pipeline};
use crate::ops::PlanError;
use crate::ops::recording::{Bound, pipelines};
use std::sync::Arc;

/// The compiled kernels for one [`FakeQuantSpec`], forward and backward. A plan is cheap to clone.
///
/// A training step fake-quantizes W `[1536, 384]` with a learned scale for each row, and computes
/// the gradients of W and of the scales from the gradient of Y:
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (w, scales, y): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// #     (dy, dw, ds): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = FakeQuantSpec::new(1536, 384, "int8-channel".parse()?)
///     .with_given_scales()
///     .with_gradient_scale();
/// let plan = FakeQuantPlan::new(kernels, &spec).await?;
/// let (input, scales, output) = (w.into(), scales.into(), y.into());
/// let forward = plan.bind(FakeQuantArgs { input, scales, zeros: None, output }).await?;
/// let backward = plan.bind_backward(FakeQuantBackwardArgs {
///     input,
///     scales,
///     zeros: None, // the format is symmetric
///     output_gradient: dy.into(),
///     input_gradient: dw.into(),
///     scale_gradients: Some(ds.into()),
///     zero_gradients: None,
/// });
/// let backward = backward.await?;
///
/// forward.record(pass, 1536)?;
/// // The rest of the network computes dy from y.
/// backward.record(pass, 1536)?;
/// # Ok(())
/// # }
/// ```
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
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &FakeQuantSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let mut shaders = spec.forward_shaders(kernels.caps());
        let forwards = shaders.len();
        shaders.extend(spec.backward_shaders(kernels.caps()));
        let mut forward = pipelines(kernels, &shaders).await?;
        let backward = forward.split_off(forwards);
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), forward, backward })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &FakeQuantSpec {
        &self.spec
    }
}
