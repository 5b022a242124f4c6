//! The plan of a normalization, its buffers, and how they are bound.

use super::NormSpec;
use super::kernel::Params;
use crate::format::StaticScale;
use crate::gpu::{Kernels, Pipeline, Size, Variable};
use crate::ops::buffers::{Resource, Window, check, check_aliases, window_capacity};
use crate::ops::output::check_scale;
use crate::ops::recording::{Bound, Count, Draft, Head};
use crate::ops::rows::{Rows, Spans, check_rows};
use crate::ops::{BindError, NormKind, Output, PlanError, Role, SubBuffer};
use std::sync::Arc;

/// The compiled kernel for one [`NormSpec`]. A plan is cheap to clone.
///
/// The norm before a layer whose input is quantized adds the result of the layer before it to the
/// residual and writes codes, in one dispatch:
///
/// ```no_run
/// # use lowbit::format::ActivationFormat;
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{FloatType, NormArgs, NormKind, NormPlan, NormResidual, NormSpec, Output};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (x, before, after): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// #     (weight, codes): (&wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let format: ActivationFormat = "int8-token".parse()?;
/// let spec = NormSpec::new(512, 2048, NormKind::Rms, 1e-5)
///     .with_residual(FloatType::F32)
///     .with_output(Output::Int8(format));
/// let plan = NormPlan::new(kernels, &spec).await?;
/// let residual = NormResidual { input: before.into(), sum: after.into() };
/// let bound = plan
///     .bind(NormArgs {
///         activations: x.into(),
///         residual: Some(residual),
///         weight: Some(weight.into()),
///         bias: None,
///         scale: None,
///         output: codes.into(),
///     })
///     .await?;
/// bound.record(pass, 8)?; // eight rows
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NormPlan {
    kernels: Kernels,
    spec: NormSpec,
    pipeline: Arc<Pipeline>,
}

/// The residual of a normalization.
#[derive(Clone, Copy, Debug)]
pub struct NormResidual<'a> {
    /// The rows that are added to X.
    pub input: SubBuffer<'a>,
    /// Where the sum is written. With f16 and odd k, the upper half of a row's last word is preserved.
    pub sum: SubBuffer<'a>,
}

/// The buffers of one normalization.
#[derive(Clone, Copy, Debug)]
pub struct NormArgs<'a> {
    /// X. f32 rows whose length and strides are multiples of 4 start at a multiple of 16 bytes,
    /// others at a multiple of 4.
    pub activations: SubBuffer<'a>,
    /// The residual, if the spec has one.
    pub residual: Option<NormResidual<'a>>,
    /// The weight, `[k]` f32, unless the spec has none.
    pub weight: Option<SubBuffer<'a>>,
    /// The bias, `[k]` f32, if the spec has one.
    pub bias: Option<SubBuffer<'a>>,
    /// The scale and zero point of an `int8-tensor` output. A row that has no result then becomes
    /// arbitrary codes.
    pub scale: Option<StaticScale>,
    /// The output, in words. If it holds codes, it starts at a multiple of 16 bytes. A row with a NaN or
    /// an infinity, or one whose squares overflow, becomes NaN; in a row of codes, its scale does.
    /// With f16 and odd k, the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// A normalization with its buffers.
pub type BoundNorm = Bound<NormPlan>;

impl NormPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &NormSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &NormSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: NormArgs<'_>) -> Result<BoundNorm, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        check_arguments(spec, &args)?;
        let align = if spec.quads() { 16 } else { 4 };
        let x = Rows { align, ..Rows::read(spec.x_rows(), args.activations) };
        let codes = matches!(spec.output, Output::Int8(_));
        let align = if codes { 16 } else { 4 };
        let y = Rows { align, ..Rows::write(spec.y_rows(), args.output) };
        let input = spec.residual_rows().zip(args.residual);
        let input = input.map(|(rows, at)| Rows { align: 4, ..Rows::read(rows, at.input) });
        let sum = spec.sum_rows().zip(args.residual);
        let sum = sum.map(|(rows, at)| Rows::write(rows, at.sum));
        let all: Vec<_> = [Some(x), input, sum, Some(y)].into_iter().flatten().collect();
        check_rows(&all, spec.max_m)?;
        let (need, limit) = (4 * u64::from(spec.k), window_capacity(caps));
        let vectors = [(Role::Weights, args.weight), (Role::Bias, args.bias)];
        let written: Vec<_> =
            all.iter().filter(|rows| rows.written).map(|rows| rows.at.buffer).collect();
        for (role, at) in vectors.iter().filter_map(|&(role, at)| Some((role, at?))) {
            check(role, at, need, 4)?;
            if need > limit {
                return Err(BindError::RowTooLarge { role, need, limit });
            }
            check_aliases([(role, at.buffer)], &written)?;
        }
        let [weight, bias] =
            vectors.map(|(_, at)| at.map(|at| Window::new(caps, at.buffer, at.offset, need)));
        let spans = if spec.k == 0 || spec.max_m == 0 || spec.batch == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, all.iter().map(|rows| rows.spec))?
        };
        let layout = spec.y_layout();
        let fixed = Params {
            k: spec.k,
            x_stride: spec.x_stride,
            x_batch: spec.x_batch_stride,
            r_stride: spec.residual_stride,
            r_batch: spec.residual_batch_stride,
            total_stride: spec.sum_stride,
            total_batch: spec.sum_batch_stride,
            y_stride: spec.y_stride,
            y_batch: spec.y_batch_stride,
            weight_at: weight.map_or(0, |at| at.at(4)),
            bias_at: bias.map_or(0, |at| at.at(4)),
            weighted: spec.weight.into(),
            biased: spec.bias.into(),
            centered: (spec.kind == NormKind::Layer).into(),
            inverse_k: (1.0 / f64::from(spec.k.max(1))) as f32,
            epsilon: spec.epsilon,
            offset: spec.weight_offset,
            blocks: layout.map_or(0, |layout| layout.blocks as u32),
            group_blocks: layout.map_or(0, |layout| layout.group_blocks as u32),
            groups: layout.map_or(0, |layout| layout.groups as u32),
            scale_at: layout.map_or(0, |layout| layout.scale_at as u32),
            zero_at: layout.map_or(0, |layout| layout.zero_at as u32),
            sum_at: layout.map_or(0, |layout| layout.sum_at as u32),
            given_scale: args.scale.map_or(1.0, |scale| scale.scale),
            given_zero: args.scale.map_or(0, |scale| scale.zero_point),
            ..Params::default()
        };
        let unit = |rows: &Rows<'_>| rows.spec.unit;
        let (label, count) = ("lowbit norm", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        for span in spans.iter() {
            let window = |rows: &Rows<'_>| rows.window(caps, &span).at(unit(rows));
            let slot = draft.slot(Params {
                batch: span.batch,
                m0: span.m0,
                m_cap: span.m_cap,
                x_at: window(&x),
                r_at: input.as_ref().map_or(0, window),
                total_at: sum.as_ref().map_or(0, window),
                y_at: window(&y),
                ..fixed
            });
            // The kernel does not use what it loads of a weight or bias that is not there.
            let unused = x.window(caps, &span);
            let (weight, bias) = (weight.unwrap_or(unused), bias.unwrap_or(unused));
            let mut bound: Vec<(u32, Resource<'_>)> = vec![(3, x.resource(caps, span))];
            bound.extend(input.map(|rows| (4, rows.resource(caps, span))));
            bound.extend(sum.map(|rows| (5, rows.resource(caps, span))));
            bound.extend([(6, weight.into()), (7, bias.into()), (8, y.resource(caps, span))]);
            let batch = (Variable::BATCH, Size::Fixed(span.batch.into()));
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[batch]);
        }
        draft.bind(self.clone()).await
    }
}

/// Refuses arguments that the spec does not have, and the lack of those that it has.
fn check_arguments(spec: &NormSpec, args: &NormArgs<'_>) -> Result<(), BindError> {
    for (role, planned, have) in [
        (Role::Residual, spec.residual.is_some(), args.residual.is_some()),
        (Role::Weights, spec.weight, args.weight.is_some()),
        (Role::Bias, spec.bias, args.bias.is_some()),
    ] {
        if planned != have {
            return Err(BindError::Argument { role, planned });
        }
    }
    check_scale(spec.output, args.scale)
}
