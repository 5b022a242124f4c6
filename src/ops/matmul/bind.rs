use super::choice::{EXPERT_ROWS, LIST_BINDING};
use super::{MatmulPlan, MatmulSpec, Params};
use crate::format::StaticScale;
use crate::gpu::{BufferFill, Size, Variable};
use crate::ops::buffers::{Window, check, check_aliases, window_capacity};
use crate::ops::recording::{ALL_COUNTS, Bound, Count, Draft, Head};
use crate::ops::rows::{Rows, Span, Spans, check_rows};
use crate::ops::{
    BindError, BoundPermuteColumns, DeviceWeights, Output, PermuteColumnsArgs, Role, RowBlock,
    SubBuffer,
};

/// The buffers of one matmul.
#[derive(Clone, Copy, Debug)]
pub struct MatmulArgs<'a> {
    /// X.
    pub activations: SubBuffer<'a>,
    /// W.
    pub weights: &'a DeviceWeights,
    /// The bias, `[N]` f32, if the spec has one.
    pub bias: Option<SubBuffer<'a>>,
    /// Y.
    pub output: SubBuffer<'a>,
}

/// A matmul with its buffers.
pub type BoundMatmul = Bound<MatmulPlan>;

impl MatmulPlan {
    /// Checks the buffers and makes bind groups and one small uniform buffer. Data that exceed a
    /// binding are split into several dispatches. If the columns of W are permuted, it also allocates
    /// [`MatmulSpec::scratch_bytes`](super::MatmulSpec::scratch_bytes) bytes for X.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: MatmulArgs<'_>) -> Result<BoundMatmul, BindError> {
        self.bind_with(args, None, None).await
    }

    /// Binds a matmul whose output is [`Output::Int8`], with the scale and zero point of Y.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind_scaled(
        &self,
        args: MatmulArgs<'_>,
        scale: StaticScale,
    ) -> Result<BoundMatmul, BindError> {
        self.bind_with(args, Some(scale), None).await
    }

    /// Binds a matmul of a mixture of [`Experts`](super::Experts), with its list: a row of X and an expert
    /// for each row of Y, `[max_m, 2]` u32. The list is read on the device when it runs, and recorded with
    /// the number of its rows.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind_experts(
        &self,
        args: MatmulArgs<'_>,
        list: SubBuffer<'_>,
    ) -> Result<BoundMatmul, BindError> {
        self.bind_with(args, None, Some(list)).await
    }

    async fn bind_with(
        &self,
        args: MatmulArgs<'_>,
        scale: Option<StaticScale>,
        list: Option<SubBuffer<'_>>,
    ) -> Result<BoundMatmul, BindError> {
        let (kernels, caps) = (&self.kernels, self.kernels.caps());
        let [x, y] = self.check_args(&args)?;
        self.check_scale(scale)?;
        let list = self.check_list(&args, list)?;
        let permuted = self.permuted(&args).await?;
        let spec = &self.spec.after_permutation();
        let x = match &permuted {
            Some((scratch, _)) => Rows::read(spec.x_rows(), scratch.into()),
            None => x,
        };
        let (blocks, layout) = (args.weights.blocks(), args.weights.layout());
        let spans = if spec.max_m == 0 || spec.n == 0 || spec.batch == 0 {
            Spans::none()
        } else if spec.experts.is_some() {
            Spans::whole(spec.max_m)
        } else {
            Spans::new(caps, spec.max_m, [x.spec, y.spec])?
        };
        let slots = spans.count().saturating_mul(blocks.len() as u64);
        let mut draft = Draft::new(kernels, "lowbit matmul", Count::UpTo(spec.max_m), slots)?;
        let bias = args
            .bias
            .map(|bias| Window::new(caps, bias.buffer, bias.offset, u64::from(spec.n) * 4));
        // Exact sums take no bias.
        let adds_bias = spec.output != Output::Accumulators;
        let segments: Vec<_> =
            spans.iter().flat_map(|span| blocks.iter().map(move |block| (span, block))).collect();
        for (span, block) in &segments {
            let x = match spec.experts {
                Some(_) => x.window(caps, &Span::all(spec.max_x_rows())),
                None => x.window(caps, span),
            };
            let y = y.window(caps, span);
            let slot =
                draft.slot(params(spec, &args, block, span, [Some(x), Some(y), bias, list], scale));
            let [codes, side] = block.resources(layout);
            let bound = [(3, x.into()), (4, codes), (5, side), (7, y.into())];
            let bias = bias.filter(|_| adds_bias).map(|bias| (6, bias.into()));
            // All kernels of a plan have the same bindings.
            let pipeline = &self.row_ranges[0].pipeline;
            let list = list.map(|list| (LIST_BINDING, list.into()));
            draft.group(pipeline, Head::Counted(slot), bound.into_iter().chain(bias).chain(list));
        }
        let batch = |span: &Span| (Variable::BATCH, Size::Fixed(span.batch.into()));
        let mut from = 0;
        for range in self.row_ranges.iter() {
            draft.stage(&range.pipeline, from..=range.up_to);
            from = range.up_to.saturating_add(1);
            for (group, (span, block)) in segments.iter().enumerate() {
                let rows = (Variable::ROWS, Size::Fixed(block.rows.len() as u64));
                let of_expert = (EXPERT_ROWS, Size::Fixed(spec.n.into()));
                draft.dispatch(group, *span, &[rows, of_expert, batch(span)]);
            }
        }
        if let Some(sums) = &self.sums {
            draft.stage(sums, ALL_COUNTS);
            // Once for all blocks of rows of W, whose bind groups stand together.
            for (group, (span, _)) in segments.iter().enumerate().step_by(blocks.len().max(1)) {
                draft.dispatch(group, *span, &[batch(span)]);
            }
        }
        let bound = draft.bind(self.clone()).await?;
        Ok(match permuted {
            Some((_, permutation)) => bound.after(permutation),
            None => bound,
        })
    }

    /// Allocates the scratch for X with permuted columns and binds the permutation, if the columns of W
    /// are permuted.
    async fn permuted(
        &self,
        args: &MatmulArgs<'_>,
    ) -> Result<Option<(wgpu::Buffer, BoundPermuteColumns)>, BindError> {
        let Some(plan) = &self.permutation else { return Ok(None) };
        let order = args.weights.column_order().ok_or(BindError::NoColumnOrder)?.into();
        let (storage, bytes) = (wgpu::BufferUsages::STORAGE, self.spec.scratch_bytes());
        let scratch = BufferFill::Zeros(bytes);
        let scratch = self.kernels.buffer("lowbit permuted activations", storage, scratch).await?;
        let (activations, output) = (args.activations, (&scratch).into());
        let bound = plan.bind(PermuteColumnsArgs { activations, order, output }).await?;
        Ok(Some((scratch, bound)))
    }

    /// Checks all buffers; the result is X and Y.
    fn check_args<'a>(&self, args: &MatmulArgs<'a>) -> Result<[Rows<'a>; 2], BindError> {
        let (spec, caps, weights) = (&self.spec, self.kernels.caps(), args.weights);
        weights.check(spec.weights, (spec.w_rows(), spec.k), caps.row_order)?;
        // It follows from the spec and the device, so it is the same for every range of rows.
        weights.check_textures(self.row_ranges[0].choice.texture_width)?;
        let int8 = matches!(spec.output, Output::Int8(_));
        // A lane packs four columns of Y into a word.
        let ends = weights.blocks().iter().map(|block| block.rows.end);
        let ends = ends.filter(|&end| end != weights.n());
        let odd = ends.clone().find(|end| !end.is_multiple_of(4));
        if let (true, Some(end)) = (int8, odd) {
            return Err(BindError::RowBlock { end });
        }
        let odd = ends.chain(spec.experts.map(|_| spec.n as usize)).find(|end| end % 4 != 0);
        if let (Some(_), Some(end), 2..) = (spec.experts, odd, weights.blocks().len()) {
            return Err(BindError::ExpertBlock { end });
        }
        if spec.bias != args.bias.is_some() {
            return Err(BindError::Bias { planned: spec.bias });
        }
        let align = match self.permutation {
            None => self.row_ranges.iter().map(|r| r.choice.x_align()).max().unwrap_or(4),
            // The permutation loads single words.
            Some(_) => 4,
        };
        let x = Rows { align, ..Rows::read(spec.x_rows(), args.activations) };
        let align = if int8 { 16 } else { 4 };
        let y = Rows { align, ..Rows::write(spec.y_rows(), args.output) };
        match spec.experts {
            Some(_) => {
                check_rows(&[x], spec.max_x_rows())?;
                check_rows(&[y], spec.max_m)?;
                check_aliases([(Role::Activations, x.at.buffer)], &[y.at.buffer])?;
            }
            None => check_rows(&[x, y], spec.max_m)?,
        }
        if let Some(bias) = args.bias {
            let (need, limit) = (u64::from(spec.n) * 4, window_capacity(caps));
            check(Role::Bias, bias, need, 4)?;
            if need > limit && spec.max_m > 0 && spec.batch > 0 {
                return Err(BindError::RowTooLarge { role: Role::Bias, need, limit });
            }
        }
        weights.check_buffers(Role::Weights, caps)?;
        let inputs = weights.blocks().iter().flat_map(RowBlock::buffers);
        let inputs = inputs.map(|buffer| (Role::Weights, buffer));
        let inputs = inputs.chain(args.bias.map(|bias| (Role::Bias, bias.buffer)));
        let order = weights.column_order().map(|buffer| (Role::ColumnOrder, buffer));
        let inputs = inputs.chain(order);
        check_aliases(inputs, &[args.output.buffer])?;
        Ok([x, y])
    }

    /// Checks the list of a mixture of experts, and that it, X and Y each fit a binding.
    fn check_list<'a>(
        &self,
        args: &MatmulArgs<'a>,
        list: Option<SubBuffer<'a>>,
    ) -> Result<Option<Window<'a>>, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let list = match (list, spec.experts) {
            (Some(list), Some(_)) => list,
            (None, None) => return Ok(None),
            _ => return Err(BindError::Indices { planned: spec.experts.is_some() }),
        };
        let need = 8 * u64::from(spec.max_m);
        check(Role::Indices, list, need, 8)?;
        check_aliases([(Role::Indices, list.buffer)], &[args.output.buffer])?;
        let limit = window_capacity(caps);
        let all = [
            (Role::Indices, need),
            (Role::Activations, spec.x_bytes(0)),
            (Role::Output, spec.y_bytes(spec.max_m)),
        ];
        match all.into_iter().find(|(_, need)| *need > limit) {
            Some((role, need)) => Err(BindError::TooLarge { role, need, limit }),
            None => Ok(Some(Window::new(caps, list.buffer, list.offset, need))),
        }
    }

    fn check_scale(&self, scale: Option<StaticScale>) -> Result<(), BindError> {
        match (self.spec.output, scale) {
            (Output::Int8(format), Some(scale)) => Ok(scale.check(format)?),
            (Output::Int8(_), None) => Err(BindError::OutputScale { planned: true }),
            (_, Some(_)) => Err(BindError::OutputScale { planned: false }),
            (_, None) => Ok(()),
        }
    }
}

/// Returns the parameters of one segment, for kernels of this spec.
fn params(
    spec: &MatmulSpec,
    args: &MatmulArgs<'_>,
    block: &RowBlock,
    span: &Span,
    windows: [Option<Window<'_>>; 4],
    scale: Option<StaticScale>,
) -> Params {
    let layout = args.weights.layout();
    let slice = spec.slice_blocks();
    let (x_group, x_scale_at, x_zero_at, x_sum_at) = match spec.x_layout() {
        Some(x) => (x.group_blocks, x.scale_at, x.zero_at, x.sum_at),
        None => (0, 0, 0, 0),
    };
    // A row of X is below 2³¹ words.
    let [x_group, x_scale_at, x_zero_at, x_sum_at] =
        [x_group, x_scale_at, x_zero_at, x_sum_at].map(|at| at as u32);
    let units = [spec.activations.unit(), spec.output.unit(), 4, 8];
    let [x_offset, y_offset, bias_offset, list_at] =
        [0, 1, 2, 3].map(|i| windows[i].map_or(0, |window| window.at(units[i])));
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
        upper_at: layout.upper_at as u32,
        table_at: layout.table_at as u32,
        x_offset,
        x_stride: spec.x_stride,
        x_batch: spec.x_batch_stride,
        y_offset,
        y_stride: spec.y_stride,
        y_batch: spec.y_batch_stride,
        batch: span.batch,
        m0: span.m0,
        m_cap: span.m_cap,
        bias_offset,
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
        list_at,
        experts: spec.experts.map_or(0, |experts| experts.count),
        own_rows: spec.own_rows.into(),
    }
}
