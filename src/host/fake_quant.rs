use super::{Host, HostError, to_u32};
use crate::format::WeightFormat;
use crate::ops::{FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec};

/// Fake-quantized values, and what they were quantized by.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantized {
    /// Y, `[m, k]`.
    pub y: Vec<f32>,
    /// Scales, `[m, ⌈k/g⌉]`, or one.
    pub scales: Vec<f32>,
    /// As many zero points where the format is asymmetric, else none.
    pub zeros: Vec<f32>,
}

/// Gradients of a fake quantization.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantGradients {
    /// Of X, `[m, k]`.
    pub x: Vec<f32>,
    /// Of the scales, as many as there are.
    pub scales: Vec<f32>,
    /// Of the zero points where the format is asymmetric, else none.
    pub zeros: Vec<f32>,
}

impl Host {
    /// `y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s` of `x`, `[m, k]` row-major, by ranges of its
    /// own: see [`ops::fake_quant`](crate::ops::fake_quant).
    ///
    /// # Errors
    /// [`HostError`]: wrong lengths, a format of floats or 2:4, or what the device refuses.
    pub async fn fake_quantize_async(
        &self,
        x: &[f32],
        m: usize,
        k: usize,
        format: &WeightFormat,
    ) -> Result<FakeQuantized, HostError> {
        self.fake_forward(x, &FakeQuantSpec::new(to_u32("m", m)?, to_u32("k", k)?, *format), None)
            .await
    }

    /// The same by scales and zero points that are given: `[m, ⌈k/g⌉]` or one of each, and no zero
    /// points where the format is symmetric.
    ///
    /// # Errors
    /// As [`fake_quantize`](Self::fake_quantize).
    pub async fn fake_quantize_with_async(
        &self,
        x: &[f32],
        m: usize,
        k: usize,
        format: &WeightFormat,
        (scales, zeros): (&[f32], &[f32]),
    ) -> Result<Vec<f32>, HostError> {
        let spec = FakeQuantSpec::new(to_u32("m", m)?, to_u32("k", k)?, *format);
        Ok(self.fake_forward(x, &spec.with_given_scales(), Some((scales, zeros))).await?.y)
    }

    /// The gradients of [`fake_quantize_with`](Self::fake_quantize_with): straight-through, LSQ and
    /// LSQ+, from that of Y, `[m, k]`. With `gradient_scale` those of scales and zero points are
    /// multiplied by LSQ's 1/√(N·Q).
    ///
    /// # Errors
    /// As [`fake_quantize`](Self::fake_quantize).
    pub async fn fake_quantize_backward_async(
        &self,
        (x, dy): (&[f32], &[f32]),
        m: usize,
        k: usize,
        format: &WeightFormat,
        (scales, zeros): (&[f32], &[f32]),
        gradient_scale: bool,
    ) -> Result<FakeQuantGradients, HostError> {
        let spec = FakeQuantSpec::new(to_u32("m", m)?, to_u32("k", k)?, *format);
        let spec = FakeQuantSpec { gradient_scale, ..spec.with_given_scales() };
        let groups = check_lengths(&spec, x, Some((scales, zeros)))?;
        check_length("the gradient of Y", x.len(), dy.len())?;
        let plan = self.run(FakeQuantPlan::new(&self.kernels, &spec)).await?;
        let floats = async |values: &[f32]| self.storage_async(bytemuck::cast_slice(values)).await;
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

/// How many scales there are.
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
