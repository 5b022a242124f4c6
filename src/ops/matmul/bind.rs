use super::spec::extent;
use super::{MatmulPlan, MatmulSpec, Output, Params};
use crate::format::StaticScale;
use crate::ops::buffers::{Window, check, window_capacity};
use crate::ops::slots::{Slots, check_grid, part};
use crate::ops::weights::{CodesBinding, MIN_WEIGHT_BYTES};
use crate::ops::{BindError, DeviceWeights, Role, RowBlock, SubBuffer};

/// The buffers of one matmul.
#[derive(Clone, Copy, Debug)]
pub struct MatmulArgs<'a> {
    /// X.
    pub activations: SubBuffer<'a>,
    /// W.
    pub weights: &'a DeviceWeights,
    /// The bias, `[N]` f32, where the spec has one.
    pub bias: Option<SubBuffer<'a>>,
    /// Y.
    pub output: SubBuffer<'a>,
}

/// A plan with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundMatmul {
    plan: MatmulPlan,
    segments: Vec<Segment>,
}

/// Dispatches that share bindings: a block of rows of W with some rows of X.
#[derive(Clone, Debug)]
struct Segment {
    group: wgpu::BindGroup,
    rows: u32,
    m0: u32,
    m_cap: u32,
    batch0: u32,
    batch: u32,
}

/// Rows of X and Y whose data fit their bindings.
struct Span {
    m0: u32,
    m_cap: u32,
    batch0: u32,
    batch: u32,
}

/// Dispatches of one recording at most: their parameters fill WebGPU's largest buffer.
const MAX_DISPATCHES: u64 = 1 << 20;

/// Why nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// More rows than the plan was made for.
    #[error("m = {m} exceeds the {max_m} rows that the plan was made for")]
    MTooLarge {
        /// Rows asked for.
        m: u32,
        /// Rows planned.
        max_m: u32,
    },
}

impl MatmulPlan {
    /// Checks the buffers and makes the bind groups and one small uniform buffer. Data that
    /// exceed a binding are split into several dispatches.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(&self, args: MatmulArgs<'_>) -> Result<BoundMatmul, BindError> {
        self.bind_with(args, None).await
    }

    /// The same for an [`Output::Int8`], which is stored by a scale known before.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind_scaled(
        &self,
        args: MatmulArgs<'_>,
        scale: StaticScale,
    ) -> Result<BoundMatmul, BindError> {
        self.bind_with(args, Some(scale)).await
    }

    async fn bind_with(
        &self,
        args: MatmulArgs<'_>,
        scale: Option<StaticScale>,
    ) -> Result<BoundMatmul, BindError> {
        let spec = &self.spec;
        self.check_args(&args)?;
        self.check_scale(scale)?;
        let mut segments = Vec::new();
        if spec.max_m == 0 || spec.n == 0 || spec.batch == 0 {
            return Ok(BoundMatmul { plan: self.clone(), segments });
        }
        let blocks = args.weights.blocks();
        let caps = self.kernels.caps();
        let spans = self.spans(blocks.len(), Slots::stride::<Params>(caps))?;
        let mut all_params = Vec::with_capacity(spans.len() * blocks.len());
        let windows: Vec<_> = spans.iter().map(|span| self.windows(&args, span)).collect();
        let bias = args
            .bias
            .map(|bias| Window::new(caps, bias.buffer, bias.offset, u64::from(spec.n) * 4));
        for (span, (x, y)) in spans.iter().zip(&windows) {
            for block in blocks {
                let params = self.params(args.weights, block, span, (x, y, bias.as_ref()), scale);
                all_params.push(params);
                let by_rows = u64::from(span.m_cap) * u64::from(span.batch);
                let all = self
                    .row_ranges
                    .iter()
                    .map(|range| range.choice.groups(span.m_cap, params.rows, span.batch));
                let sums = self.sums.is_some().then_some(by_rows);
                for groups in all.chain(sums) {
                    check_grid(caps, groups)?;
                }
            }
        }
        let slots = Slots::new(&self.kernels, "lowbit matmul", &all_params).await?;
        let layout = args.weights.layout();
        segments = self
            .kernels
            .guarded("a matmul's bind groups", || {
                let mut segments = Vec::with_capacity(spans.len() * blocks.len());
                for (span, (x, y)) in spans.iter().zip(&windows) {
                    for block in blocks {
                        let windows = (x, y, bias.as_ref());
                        let (codes, side) = layout.bytes(block.rows.len());
                        let weights = (&block.codes.binding(codes), &block.side, side);
                        segments.push(Segment {
                            group: self.bind_group((&slots, segments.len()), weights, windows),
                            rows: block.rows.len() as u32,
                            m0: span.m0,
                            m_cap: span.m_cap,
                            batch0: span.batch0,
                            batch: span.batch,
                        });
                    }
                }
                segments
            })
            .await?;
        Ok(BoundMatmul { plan: self.clone(), segments })
    }

    fn check_args(&self, args: &MatmulArgs<'_>) -> Result<(), BindError> {
        let spec = &self.spec;
        let weights = args.weights;
        weights.check(spec.weights, (spec.n, spec.k), self.kernels.caps().row_order)?;
        // It follows from the spec and the device, so every regime's is the same.
        weights.check_textures(self.row_ranges[0].choice.texture_width)?;
        // A lane packs four columns of Y into a word.
        let mut ends = weights.blocks().iter().map(|block| block.rows.end);
        let odd = ends.find(|&end| end != weights.n() && !end.is_multiple_of(4));
        if let (Output::Int8(_), Some(end)) = (spec.output, odd) {
            return Err(BindError::RowBlock { end });
        }
        if spec.bias != args.bias.is_some() {
            return Err(BindError::Bias { planned: spec.bias });
        }
        let align = self.row_ranges.iter().map(|r| r.choice.x_align()).max().unwrap_or(4);
        check(Role::Activations, args.activations, spec.x_bytes(spec.max_m), align)?;
        let y_align = if matches!(spec.output, Output::Int8(_)) { 16 } else { 4 };
        check(Role::Output, args.output, spec.y_bytes(spec.max_m), y_align)?;
        if let Some(bias) = args.bias {
            check(Role::Bias, bias, u64::from(spec.n) * 4, 4)?;
        }
        weights.check_buffers(Role::Weights, self.kernels.caps())?;
        let output = args.output.buffer;
        let weight_buffers = weights.blocks().iter().flat_map(RowBlock::buffers);
        let inputs = weight_buffers.map(|b| (Role::Weights, b));
        let inputs = inputs.chain([(Role::Activations, args.activations.buffer)]);
        let mut inputs = inputs.chain(args.bias.map(|b| (Role::Bias, b.buffer)));
        match inputs.find(|(_, buffer)| *buffer == output) {
            Some((role, _)) => Err(BindError::Aliased { role }),
            None => Ok(()),
        }
    }

    fn check_scale(&self, scale: Option<StaticScale>) -> Result<(), BindError> {
        let (format, scale) = match (self.spec.output, scale) {
            (Output::Int8(format), Some(scale)) => (format, scale),
            (Output::Int8(_), None) => return Err(BindError::OutputScale { planned: true }),
            (_, Some(_)) => return Err(BindError::OutputScale { planned: false }),
            (_, None) => return Ok(()),
        };
        scale.check(format)?;
        Ok(())
    }

    /// As few spans as bindings allow: of whole batches, or of rows of one batch.
    fn spans(&self, blocks: usize, slot: usize) -> Result<Vec<Span>, BindError> {
        let spec = &self.spec;
        let caps = self.kernels.caps();
        let capacity = window_capacity(caps);
        if u64::from(spec.n) * 4 > capacity && spec.bias {
            let need = u64::from(spec.n) * 4;
            return Err(BindError::RowTooLarge { role: Role::Bias, need, limit: capacity });
        }
        let MatmulSpec { x_stride, x_batch_stride, y_stride, y_batch_stride, .. } = *spec;
        let sides = [
            (Role::Activations, spec.x_row(), x_stride, x_batch_stride, spec.activations.unit()),
            (Role::Output, spec.y_row(), y_stride, y_batch_stride, spec.output.unit()),
        ];
        let fit =
            |rest: u64, stride: u32, bytes: u64| rest / (u64::from(stride) * bytes).max(1) + 1;
        let (mut rows, mut batches) = (u64::from(spec.max_m), u64::from(spec.batch));
        for (role, columns, row, batch, bytes) in sides {
            let need = u64::from(columns) * bytes;
            let Some(rest) = capacity.checked_sub(need) else {
                return Err(BindError::RowTooLarge { role, need, limit: capacity });
            };
            rows = rows.min(fit(rest, row, bytes));
            let whole = extent(1, spec.max_m, 0, row, columns) * bytes;
            batches = batches.min(capacity.checked_sub(whole).map_or(1, |r| fit(r, batch, bytes)));
        }
        let (rows, batches) = (rows as u32, batches as u32);
        let spans = u64::from(spec.max_m.div_ceil(rows)) * u64::from(spec.batch.div_ceil(batches));
        let dispatches = spans.saturating_mul(blocks as u64);
        let limit = (caps.max_buffer / slot as u64).min(MAX_DISPATCHES);
        if dispatches > limit {
            return Err(BindError::TooManyDispatches { dispatches, limit });
        }
        let starts = || (0..spec.max_m).step_by(rows as usize);
        Ok((0..spec.batch)
            .step_by(batches as usize)
            .flat_map(|batch0| starts().map(move |m0| (batch0, m0)))
            .map(|(batch0, m0)| {
                let (m_cap, batch) = (rows.min(spec.max_m - m0), batches.min(spec.batch - batch0));
                Span { m0, m_cap, batch0, batch }
            })
            .collect())
    }

    fn windows<'a>(&self, args: &MatmulArgs<'a>, span: &Span) -> (Window<'a>, Window<'a>) {
        let spec = &self.spec;
        let caps = self.kernels.caps();
        let window =
            |at: SubBuffer<'a>, batch_stride: u32, stride: u32, columns: u32, bytes: u64| {
                // Rows of no columns need no buffer, wherever they would start.
                let first = match columns {
                    0 => 0,
                    _ => {
                        u64::from(span.batch0) * u64::from(batch_stride)
                            + u64::from(span.m0) * u64::from(stride)
                    }
                };
                let len = extent(span.batch, span.m_cap, batch_stride, stride, columns) * bytes;
                Window::new(caps, at.buffer, at.offset + first * bytes, len)
            };
        let MatmulSpec { x_batch_stride, x_stride, y_batch_stride, y_stride, .. } = *spec;
        (
            window(
                args.activations,
                x_batch_stride,
                x_stride,
                spec.x_row(),
                spec.activations.unit(),
            ),
            window(args.output, y_batch_stride, y_stride, spec.y_row(), spec.output.unit()),
        )
    }

    fn params(
        &self,
        weights: &DeviceWeights,
        block: &RowBlock,
        span: &Span,
        (x, y, bias): (&Window<'_>, &Window<'_>, Option<&Window<'_>>),
        scale: Option<StaticScale>,
    ) -> Params {
        let spec = &self.spec;
        let layout = weights.layout();
        let slice = spec.slice_blocks();
        let (x_group, x_scale_at, x_zero_at, x_sum_at) = match spec.x_layout() {
            Some(x) => (x.group_blocks, x.scale_at, x.zero_at, x.sum_at),
            None => (0, 0, 0, 0),
        };
        // A row of X is below 2³¹ words.
        let [x_group, x_scale_at, x_zero_at, x_sum_at] =
            [x_group, x_scale_at, x_zero_at, x_sum_at].map(|at| at as u32);
        Params {
            n0: block.rows.start as u32,
            rows: block.rows.len() as u32,
            k: spec.k,
            blocks: layout.blocks as u32,
            group_size: layout.geometry.group_size as u32,
            groups: layout.geometry.groups as u32,
            side_stride: layout.side_words as u32,
            scale_at: layout.scale_at as u32,
            zero_at: layout.zero_at as u32,
            x_offset: (x.skip / spec.activations.unit()) as u32,
            x_stride: spec.x_stride,
            x_batch: spec.x_batch_stride,
            y_offset: (y.skip / spec.output.unit()) as u32,
            y_stride: spec.y_stride,
            y_batch: spec.y_batch_stride,
            batch: span.batch,
            m0: span.m0,
            m_cap: span.m_cap,
            bias_offset: bias.map_or(0, |b| (b.skip / 4) as u32),
            y_slice: spec.n,
            slice,
            w_slices: spec.w_group_blocks() / slice,
            x_slices: x_group / slice,
            x_scale_at,
            x_zero_at,
            x_sum_at,
            out_scale: scale.map_or(1.0, |scale| scale.scale),
            out_inverse: scale.map_or(1.0, |scale| 1.0 / scale.scale),
            out_zero: scale.map_or(0, |scale| scale.zero_point),
            pad: [0; 2],
        }
    }

    fn bind_group(
        &self,
        (slots, slot): (&Slots, usize),
        (codes, side, side_bytes): (&CodesBinding<'_>, &wgpu::Buffer, u64),
        (x, y, bias): (&Window<'_>, &Window<'_>, Option<&Window<'_>>),
    ) -> wgpu::BindGroup {
        let bias = bias.filter(|_| spec_adds_bias(&self.spec)).map(|bias| (6, bias.binding()));
        let bound = [
            (3, x.binding()),
            (4, codes.resource()),
            (5, part(side, 0, side_bytes.max(MIN_WEIGHT_BYTES))),
            (7, y.binding()),
        ];
        let bound = bound.into_iter().chain(bias);
        slots.group_of_m(&self.kernels, &self.row_ranges[0].pipeline, slot, bound)
    }
}

/// Exact sums take none.
fn spec_adds_bias(spec: &MatmulSpec) -> bool {
    spec.output != Output::Accumulators
}

impl BoundMatmul {
    /// The plan it was bound from.
    pub fn plan(&self) -> &MatmulPlan {
        &self.plan
    }

    /// How many dispatches one recording makes at the plan's largest m.
    pub fn dispatches(&self) -> usize {
        self.segments.len()
    }

    /// Records `Y = X · Wᵀ (+ bias)` for the first `m` rows of each X. Sets the pass's
    /// pipeline and bind group 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        let max_m = self.plan.spec.max_m;
        if m > max_m {
            return Err(RecordError::MTooLarge { m, max_m });
        }
        let range = self.plan.row_range(m);
        let kernels = &self.plan.kernels;
        pass.set_pipeline(&range.pipeline.pipeline);
        for segment in self.segments.iter().filter(|segment| segment.m0 < m) {
            let rows_of_x = (m - segment.m0).min(segment.m_cap);
            let groups = range.choice.groups(rows_of_x, segment.rows, segment.batch);
            // `bind` has checked the largest grid, and smaller ones fold as well.
            let [x, y, z] = kernels.caps().fold(groups).unwrap_or_default();
            pass.set_bind_group(0, &segment.group, &kernels.m_offsets(m));
            pass.dispatch_workgroups(x, y, z);
        }
        if let Some(sums) = &self.plan.sums {
            pass.set_pipeline(&sums.pipeline);
            // Once for all blocks of rows of W: those of a span stand together.
            let mut done = None;
            for segment in self.segments.iter().filter(|segment| segment.m0 < m) {
                let span = Some((segment.m0, segment.batch0));
                if std::mem::replace(&mut done, span) == span {
                    continue;
                }
                let rows = (m - segment.m0).min(segment.m_cap);
                let groups = u64::from(rows) * u64::from(segment.batch);
                let [x, y, z] = kernels.caps().fold(groups).unwrap_or_default();
                pass.set_bind_group(0, &segment.group, &kernels.m_offsets(m));
                pass.dispatch_workgroups(x, y, z);
            }
        }
        Ok(())
    }
}
