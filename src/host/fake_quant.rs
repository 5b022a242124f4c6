use super::{Host, HostError, to_u32, with_blocking};
use crate::format::WeightFormat;
use crate::ops::{FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec};

/// Fake-quantized values with the scales and zero points that were used.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FakeQuantized {
    /// The values Y, `[m, k]`.
    pub y: Vec<f32>,
    /// The scales, `[m, ⌈k/g⌉]`, or a single one per tensor.
    pub scales: Vec<f32>,
    /// As many zero points as scales, or none if the format is symmetric.
    pub zeros: Vec<f32>,
}

/// The gradients of a fake quantization.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FakeQuantGradients {
    /// The gradient of X, `[m, k]`.
    pub x: Vec<f32>,
    /// The gradients of the scales, as many as there are scales.
    pub scales: Vec<f32>,
    /// The gradients of the zero points, or none if the format is symmetric.
    pub zeros: Vec<f32>,
}

impl Host {
    with_blocking!(
        fake_quantize,
        /// Computes `y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s` for `x`, `[m, k]` row-major.
        /// The scales and zero points come from the ranges of `x` itself; see
        /// [`ops::fake_quant`](crate::ops::fake_quant).
        ///
        /// # Errors
        /// Returns an error if `x` has the wrong length, if `format` is a float or 2:4 format, or
        /// if the device refuses a request.
        pub async fn fake_quantize_async(
            &self,
            x: &[f32],
            m: usize,
            k: usize,
            format: &WeightFormat,
        ) -> Result<FakeQuantized, HostError> {
            self.fake_forward(
                x,
                &FakeQuantSpec::new(to_u32("m", m)?, to_u32("k", k)?, *format),
                None,
            )
            .await
        }
    );

    with_blocking!(
        fake_quantize_with,
        /// Fake-quantizes `x`, `[m, k]` row-major, with the given `(scales, zeros)`: `[m, ⌈k/g⌉]`
        /// of each, or a single one per tensor. A symmetric format has no zero points.
        ///
        /// # Errors
        /// Returns the errors of [`fake_quantize_async`](Self::fake_quantize_async), and an error
        /// if there are too few or too many scales or zero points.
        pub async fn fake_quantize_with_async(
            &self,
            x: &[f32],
            m: usize,
            k: usize,
            format: &WeightFormat,
            given: (&[f32], &[f32]),
        ) -> Result<Vec<f32>, HostError> {
            let spec = FakeQuantSpec::new(to_u32("m", m)?, to_u32("k", k)?, *format);
            Ok(self.fake_forward(x, &spec.with_given_scales(), Some(given)).await?.y)
        }
    );

    with_blocking!(
        fake_quantize_backward,
        /// Computes the gradients of [`fake_quantize_with_async`](Self::fake_quantize_with_async)
        /// with the same `(scales, zeros)`. `values` are X and the gradient of Y, `[m, k]` each.
        /// The gradient of X is the straight-through estimate; those of scales and zero points
        /// follow LSQ and LSQ+. With `gradient_scale` the latter are multiplied by LSQ's 1/√(N·Q).
        ///
        /// # Errors
        /// Returns the errors of [`fake_quantize_with_async`](Self::fake_quantize_with_async).
        pub async fn fake_quantize_backward_async(
            &self,
            values: (&[f32], &[f32]),
            m: usize,
            k: usize,
            format: &WeightFormat,
            given: (&[f32], &[f32]),
            gradient_scale: bool,
        ) -> Result<FakeQuantGradients, HostError> {
            let ((x, dy), (scales, zeros)) = (values, given);
            let spec = FakeQuantSpec::new(to_u32("m", m)?, to_u32("k", k)?, *format);
            let spec = FakeQuantSpec { gradient_scale, ..spec.with_given_scales() };
            let groups = check_lengths(&spec, x, Some((scales, zeros)))?;
            check_length("the gradient of Y", x.len(), dy.len())?;
            let plan = self.run(FakeQuantPlan::new(&self.kernels, &spec)).await?;
            let floats =
                async |values: &[f32]| self.storage_async(bytemuck::cast_slice(values)).await;
            let (x, dy) = (floats(x).await?, floats(dy).await?);
            let (scales, zeros) = (floats(scales).await?, floats(zeros).await?);
            let dx = self.zeros_async(spec.x_bytes(spec.max_m)).await?;
            let ds = self.zeros_async(4 * groups as u64).await?;
            let dz = self.zeros_async(4 * groups as u64).await?;
            let asymmetric = !format.is_symmetric();
            let bound = self
                .run(plan.bind_backward(FakeQuantBackwardArgs {
                    input: (&x).into(),
                    scales: (&scales).into(),
                    zeros: asymmetric.then(|| (&zeros).into()),
                    output_gradient: (&dy).into(),
                    input_gradient: (&dx).into(),
                    scale_gradients: Some((&ds).into()),
                    zero_gradients: asymmetric.then(|| (&dz).into()),
                }))
                .await?;
            let mut recorded = Ok(());
            self.submit_async(|pass| recorded = bound.record(pass, spec.max_m)).await?;
            recorded?;
            Ok(FakeQuantGradients {
                x: self.floats(&dx, m * k).await?,
                scales: self.floats(&ds, groups).await?,
                zeros: self.floats(&dz, if asymmetric { groups } else { 0 }).await?,
            })
        }
    );

    async fn fake_forward(
        &self,
        x: &[f32],
        spec: &FakeQuantSpec,
        given: Option<(&[f32], &[f32])>,
    ) -> Result<FakeQuantized, HostError> {
        let groups = check_lengths(spec, x, given)?;
        let plan = self.run(FakeQuantPlan::new(&self.kernels, spec)).await?;
        let asymmetric = !spec.format.is_symmetric();
        let side = async |values: Option<&[f32]>| match values {
            Some(values) => self.storage_async(bytemuck::cast_slice(values)).await,
            None => self.zeros_async(4 * groups as u64).await,
        };
        let input = self.storage_async(bytemuck::cast_slice(x)).await?;
        let scales = side(given.map(|given| given.0)).await?;
        let zeros = side(given.map(|given| given.1)).await?;
        let y = self.zeros_async(spec.y_bytes(spec.max_m)).await?;
        let bound = self
            .run(plan.bind(FakeQuantArgs {
                input: (&input).into(),
                scales: (&scales).into(),
                zeros: asymmetric.then(|| (&zeros).into()),
                output: (&y).into(),
            }))
            .await?;
        let mut recorded = Ok(());
        self.submit_async(|pass| recorded = bound.record(pass, spec.max_m)).await?;
        recorded?;
        Ok(FakeQuantized {
            y: self.floats(&y, x.len()).await?,
            scales: self.floats(&scales, groups).await?,
            zeros: self.floats(&zeros, if asymmetric { groups } else { 0 }).await?,
        })
    }

    async fn floats(&self, buffer: &wgpu::Buffer, count: usize) -> Result<Vec<f32>, HostError> {
        Ok(self.read_async(buffer, 0, count).await?.into_iter().map(f32::from_bits).collect())
    }
}

/// Checks the lengths of all slices, and returns the number of scales.
fn check_lengths(
    spec: &FakeQuantSpec,
    x: &[f32],
    given: Option<(&[f32], &[f32])>,
) -> Result<usize, HostError> {
    spec.check()?;
    check_length("X", (spec.max_m as usize).saturating_mul(spec.k as usize), x.len())?;
    let groups = spec.scales(spec.max_m) as usize;
    if let Some((scales, zeros)) = given {
        check_length("scales", groups, scales.len())?;
        let zero_points = if spec.format.is_symmetric() { 0 } else { groups };
        check_length("zero points", zero_points, zeros.len())?;
    }
    Ok(groups)
}

fn check_length(what: &'static str, need: usize, have: usize) -> Result<(), HostError> {
    if need == have { Ok(()) } else { Err(HostError::WrongLength { what, need, have }) }
}
