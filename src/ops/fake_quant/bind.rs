//! Binds the buffers of fake quantization.

use super::kernel::{Params, ROW_SUMS, TILES, UNITS, Work};
use super::{BoundFakeQuant, BoundFakeQuantBackward, FakeQuantPlan};
use crate::format::{Granularity, ScaleType};
use crate::gpu::{BufferFill, Size};
use crate::ops::buffers::Resource;
use crate::ops::recording::{Count, Draft, Head};
use crate::ops::rows::{Rows, RowsSpec, Span, Spans, check_rows};
use crate::ops::{BindError, Role, SubBuffer};

/// The largest number of workgroups for a span of rows with one scale. Each makes a partial sum.
const WORKERS: u32 = 1024;

/// The buffers of a forward pass. Y must be a buffer of its own, since wgpu lets no dispatch read
/// and write the same one. f32 X whose columns and stride are multiples of 4 starts at a multiple
/// of 16 bytes, everything else at a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantArgs<'a> {
    /// X, `[max_m, k]`.
    pub input: SubBuffer<'a>,
    /// Scales, f32, [`FakeQuantSpec::scales`](super::FakeQuantSpec::scales) of them. They are read
    /// if the spec has given scales and written otherwise.
    pub scales: SubBuffer<'a>,
    /// Zero points, f32, one for each scale, if the format is asymmetric.
    pub zeros: Option<SubBuffer<'a>>,
    /// Y, `[max_m, k]`. With f16 and odd k, the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// The buffers of a backward pass. The gradient of Y is aligned as X is: [`FakeQuantArgs`].
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantBackwardArgs<'a> {
    /// X, `[max_m, k]`, as the forward pass had it.
    pub input: SubBuffer<'a>,
    /// The scales that the forward pass read or wrote.
    pub scales: SubBuffer<'a>,
    /// Zero points, if the format is asymmetric.
    pub zeros: Option<SubBuffer<'a>>,
    /// The gradient of Y, `[max_m, k]`, of the type and stride of Y.
    pub output_gradient: SubBuffer<'a>,
    /// The gradient of X, of the type and stride of X. It is written.
    pub input_gradient: SubBuffer<'a>,
    /// The gradients of scales, f32, if the spec has given scales. They are written.
    pub scale_gradients: Option<SubBuffer<'a>>,
    /// The gradients of zero points, f32, if the spec has given scales and the format is
    /// asymmetric. They are written.
    pub zero_gradients: Option<SubBuffer<'a>>,
}

impl FakeQuantPlan {
    /// Checks the buffers of a forward pass and makes bind groups, one small uniform buffer and
    /// two buffers of 32 bytes. Data that exceed a binding are split between rows.
    ///
    /// # Errors
    /// Returns [`BindError`]; [`BindError::Part`] if there are zero points and the format has none,
    /// or the other way round; [`BindError::Aliased`] if a buffer that is written is also another.
    pub async fn bind(&self, args: FakeQuantArgs<'_>) -> Result<BoundFakeQuant, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let dynamic = !spec.given;
        let tensor = spec.format.granularity() == Granularity::Tensor;
        let input = Rows::read(spec.x_rows(), args.input);
        let output = Rows::write(spec.y_rows(), args.output);
        let scales = self.scales(Role::Scales, args.scales, dynamic);
        let zeros = self.zeros(Role::Zeros, args.zeros, dynamic)?;
        let mut all = vec![input, output, scales];
        all.extend(zeros);
        let spans = self.spans(&all)?;
        let work = spec.work(dynamic && !tensor);
        let ranges = self.scratch(0).await?;
        let spare = self.scratch(0).await?;

        let mut draft = self.draft(&spans)?;
        // The last slot covers all rows, for the kernel that runs once.
        let every = Span::all(spec.max_m);
        for &span in spans.iter().chain([&every]) {
            let [x, y, s] = [input, output, scales].map(|rows| rows.window(caps, &span));
            draft.slot(Params {
                x_at: x.at(spec.input.bytes()),
                x_stride: spec.x_stride,
                y_at: y.at(spec.output.bytes()),
                y_stride: spec.y_stride,
                scale_at: s.at(4),
                zero_at: zeros.map_or(0, |rows| rows.window(caps, &span).at(4)),
                ..self.params(work, span)
            });
        }
        // No kernel uses absent zero points, so another buffer can be bound in their place.
        let schemes = |span, written: bool| {
            let none = if written { (&spare).into() } else { scales.resource(caps, span) };
            [
                (5, scales.resource(caps, span)),
                (6, zeros.map_or(none, |rows| rows.resource(caps, span))),
            ]
        };
        let sizes = [(TILES, Size::Fixed(work.tiles.into()))];
        if let [first, second, _] = &self.forward[..] {
            for (slot, &span) in spans.iter().enumerate() {
                let bound = [(3, input.resource(caps, span)), (4, (&ranges).into())];
                draft.step(first, Head::Counted(slot), bound, span, &sizes);
            }
            let bound = [(4, (&ranges).into())].into_iter().chain(schemes(every, true));
            draft.step(second, Head::Counted(spans.len()), bound, every, &[]);
        }
        if let Some(last) = self.forward.last() {
            for (slot, &span) in spans.iter().enumerate() {
                let bound =
                    [(3, input.resource(caps, span)), (7, output.resource(caps, span))].into_iter();
                let bound = bound.chain(schemes(span, dynamic && !tensor));
                draft.step(last, Head::Counted(slot), bound, span, &sizes);
            }
        }
        draft.bind(self.clone()).await
    }

    /// Checks the buffers of a backward pass and makes bind groups, one small uniform buffer, and
    /// three buffers for partial sums. Two of them have 4 bytes for every 2048 columns if a row is
    /// longer than 8192 columns and shares a scale; otherwise they have some KiB. Data that exceed
    /// a binding are split between rows.
    ///
    /// # Errors
    /// Returns the errors of [`bind`](Self::bind); [`BindError::Part`] also if there are gradients
    /// that the spec does not have, or the other way round.
    pub async fn bind_backward(
        &self,
        args: FakeQuantBackwardArgs<'_>,
    ) -> Result<BoundFakeQuantBackward, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let input = Rows::read(spec.x_rows(), args.input);
        let dx = RowsSpec { role: Role::Output, ..spec.x_rows() };
        let dx = Rows::write(dx, args.input_gradient);
        let dy = RowsSpec { role: Role::OutputGradient, ..spec.y_rows() };
        let dy = Rows::read(dy, args.output_gradient);
        let scales = self.scales(Role::Scales, args.scales, false);
        let zeros = self.zeros(Role::Zeros, args.zeros, false)?;
        if args.scale_gradients.is_some() != spec.given {
            return Err(BindError::Part { role: Role::ScaleGradients, planned: spec.given });
        }
        let ds = args.scale_gradients.map(|at| self.scales(Role::ScaleGradients, at, true));
        let dz = match (spec.given, args.zero_gradients) {
            (true, at) => self.zeros(Role::ZeroGradients, at, true)?,
            (false, None) => None,
            (false, Some(_)) => {
                return Err(BindError::Part { role: Role::ZeroGradients, planned: false });
            }
        };
        let mut all = vec![input, dx, dy, scales];
        all.extend(zeros.into_iter().chain(ds).chain(dz));
        let spans = self.spans(&all)?;

        // Whether gradients of scales take a second kernel, and whether that runs only once.
        let split = spec.given && spec.is_split();
        let tensor = spec.given && spec.format.granularity() == Granularity::Tensor;
        let work = spec.work(spec.given && !spec.is_split());
        let workers = |span: Span| {
            if tensor {
                (u64::from(span.m_cap) * u64::from(work.tiles)).min(WORKERS.into()) as u32
            } else {
                // One unit a workgroup.
                u32::MAX / 2
            }
        };
        let partials: u64 = if tensor {
            spans.iter().map(|&span| u64::from(workers(span))).sum()
        } else if split {
            // The sums of one span are finished before the next one starts.
            let rows = spans.iter().map(|span| u64::from(span.m_cap)).max();
            rows.unwrap_or(0) * u64::from(work.tiles)
        } else {
            0
        };
        if 4 * partials > caps.max_binding {
            let (role, need, limit) = (Role::Scratch, 4 * partials, caps.max_binding);
            return Err(BindError::RowTooLarge { role, need, limit });
        }
        let scale_partials = self.scratch(4 * partials).await?;
        let outside_partials = self.scratch(4 * partials).await?;
        let spare = self.scratch(0).await?;

        let mut draft = self.draft(&spans)?;
        let every = Span::all(spec.max_m);
        let mut partial_at = 0;
        for (slot, &span) in spans.iter().chain([&every]).enumerate() {
            let [x, y, d, s] = [input, dx, dy, scales].map(|rows| rows.window(caps, &span));
            let at = |rows: Option<Rows<'_>>| rows.map_or(0, |rows| rows.window(caps, &span).at(4));
            // The last slot covers all rows, for the kernel that runs once.
            let last = slot == spans.len() && spec.format.granularity() == Granularity::Tensor;
            draft.slot(Params {
                x_at: x.at(spec.input.bytes()),
                x_stride: spec.x_stride,
                y_at: y.at(spec.input.bytes()),
                y_stride: spec.x_stride,
                dy_at: d.at(spec.output.bytes()),
                dy_stride: spec.y_stride,
                scale_at: s.at(4),
                zero_at: at(zeros),
                ds_at: at(ds),
                dz_at: at(dz),
                workers: if last { partials as u32 } else { workers(span) },
                partial_at: if last { 0 } else { partial_at },
                ..self.params(work, span)
            });
            if tensor {
                partial_at += workers(span);
            }
        }
        let schemes = |span| {
            let scales = scales.resource(caps, span);
            let zeros = zeros.map_or(scales.clone(), |rows| rows.resource(caps, span));
            [(5, scales), (6, zeros)]
        };
        // Without gradients of scales, two buffers that are not one.
        let gradients = |span| {
            let ds = ds.map_or((&scale_partials).into(), |rows| rows.resource(caps, span));
            [(8, ds), (9, dz.map_or((&spare).into(), |rows| rows.resource(caps, span)))]
        };
        let partial_sums = |first| {
            [(first, Resource::from(&scale_partials)), (first + 1, (&outside_partials).into())]
        };
        let sums =
            |span: Span| partial_sums(3).into_iter().chain(schemes(span)).chain(gradients(span));
        let sizes = |span: Span| {
            let tiles = work.tiles.into();
            let (units, row_sums) = if tensor {
                (Size::Fixed(workers(span).into()), Size::Fixed(1))
            } else {
                (Size::PerRow(tiles), Size::PerRow(1))
            };
            [(TILES, Size::Fixed(tiles)), (UNITS, units), (ROW_SUMS, row_sums)]
        };
        let Some(first) = self.backward.first() else {
            return draft.bind(self.clone()).await;
        };
        for (slot, &span) in spans.iter().enumerate() {
            let bound = [
                (3, input.resource(caps, span)),
                (4, dy.resource(caps, span)),
                (7, dx.resource(caps, span)),
            ];
            let written = if split { partial_sums(8) } else { gradients(span) };
            let bound = bound.into_iter().chain(schemes(span)).chain(written);
            draft.step(first, Head::Counted(slot), bound, span, &sizes(span));
            if let (true, false, Some(second)) = (split, tensor, self.backward.get(1)) {
                draft.step(second, Head::Counted(slot), sums(span), span, &sizes(span));
            }
        }
        if let (true, Some(second)) = (tensor, self.backward.get(1)) {
            let head = Head::Counted(spans.len());
            draft.step(second, head, sums(every), every, &sizes(every));
        }
        draft.bind(self.clone()).await
    }

    /// A draft with a slot for each span, and one for all rows.
    fn draft(&self, spans: &[Span]) -> Result<Draft<'_, Params>, BindError> {
        let count = Count::UpTo(self.spec.max_m);
        Draft::new(&self.kernels, "lowbit fake quantization", count, spans.len() as u64 + 1)
    }

    /// Scales, or something of which there are as many.
    fn scales<'a>(&self, role: Role, at: SubBuffer<'a>, written: bool) -> Rows<'a> {
        let spec = &self.spec;
        let single = spec.format.granularity() == Granularity::Tensor;
        // At most k of them.
        let rows = RowsSpec::words(role, spec.scales(1) as u32, spec.row_scales());
        Rows { spec: RowsSpec { single, ..rows }, at, align: 4, written }
    }

    fn zeros<'a>(
        &self,
        role: Role,
        at: Option<SubBuffer<'a>>,
        written: bool,
    ) -> Result<Option<Rows<'a>>, BindError> {
        let planned = !self.spec.format.is_symmetric();
        if at.is_some() != planned {
            return Err(BindError::Part { role, planned });
        }
        Ok(at.map(|at| self.scales(role, at, written)))
    }

    async fn scratch(&self, bytes: u64) -> Result<wgpu::Buffer, BindError> {
        let usage = wgpu::BufferUsages::STORAGE;
        Ok(self.kernels.buffer("lowbit fake scratch", usage, BufferFill::Zeros(bytes)).await?)
    }

    fn params(&self, work: Work, span: Span) -> Params {
        let spec = &self.spec;
        let (qmin, qmax) = spec.codes();
        let symmetric = spec.format.is_symmetric();
        let steps = if symmetric { qmax } else { qmax - qmin } as f32;
        Params {
            k: spec.k,
            group_size: spec.group_size(),
            groups: spec.k.div_ceil(spec.group_size()),
            scale_stride: spec.row_scales(),
            m0: span.m0,
            m_cap: span.m_cap,
            tiles: work.tiles,
            tile: work.tile,
            team: work.team,
            asymmetric: u32::from(!symmetric),
            f16_scales: u32::from(spec.format.scale_type() == ScaleType::F16),
            qmin: qmin as f32,
            qmax: qmax as f32,
            steps,
            gain: if spec.gradient_scale { steps } else { 0.0 },
            ..Params::default()
        }
    }

    /// Checks all buffers and splits the rows so that they fit bindings.
    fn spans(&self, all: &[Rows<'_>]) -> Result<Vec<Span>, BindError> {
        let (max_m, k) = (self.spec.max_m, self.spec.k);
        check_rows(all, max_m)?;
        if max_m == 0 || k == 0 {
            return Ok(Vec::new());
        }
        let specs = all.iter().map(|rows| rows.spec);
        Ok(Spans::new(self.kernels.caps(), max_m, specs)?.iter().collect())
    }
}
