//! The buffers of fake quantization, checked and split into what bindings hold.

use super::FakeQuantPlan;
use super::kernel::{Params, Work};
use super::plan::{BoundFakeQuant, BoundFakeQuantBackward, Draft, Workgroups};
use crate::format::{Granularity, ScaleType};
use crate::gpu::{BufferFill, Caps};
use crate::ops::buffers::{Window, check};
use crate::ops::slots::spans;
use crate::ops::{BindError, Role, SubBuffer};

/// Workgroups that share a span of rows with one scale: a partial sum each.
const WORKERS: u32 = 1024;

/// The buffers of a forward pass. Y is a buffer of its own: wgpu lets no dispatch read and write
/// one. X starts at a multiple of 16 bytes where it is f32 and its columns and stride are
/// multiples of 4; everything else, and other X, at one of 4.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantArgs<'a> {
    /// X, `[max_m, k]`.
    pub input: SubBuffer<'a>,
    /// Scales, f32, [`FakeQuantSpec::scales`](super::FakeQuantSpec::scales) of them: read where they are given, else written.
    pub scales: SubBuffer<'a>,
    /// Zero points, f32, as many; there where the format is asymmetric.
    pub zeros: Option<SubBuffer<'a>>,
    /// Y, `[max_m, k]`. With f16 and odd k the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// The buffers of a backward pass. The gradient of Y is aligned as X is: [`FakeQuantArgs`].
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantBackwardArgs<'a> {
    /// X, `[max_m, k]`, as the forward pass had it.
    pub input: SubBuffer<'a>,
    /// Scales, those that the forward pass had or wrote.
    pub scales: SubBuffer<'a>,
    /// Zero points, where the format is asymmetric.
    pub zeros: Option<SubBuffer<'a>>,
    /// The gradient of Y, `[max_m, k]`, of the type and stride of Y.
    pub output_gradient: SubBuffer<'a>,
    /// Where the gradient of X goes, of the type and stride of X.
    pub input_gradient: SubBuffer<'a>,
    /// Where those of scales go, f32; there where scales are given.
    pub scale_gradients: Option<SubBuffer<'a>>,
    /// Where those of zero points go, f32; there where scales are given and the format is
    /// asymmetric.
    pub zero_gradients: Option<SubBuffer<'a>>,
}

/// One of the caller's buffers: `one` bytes of a row, rows `row` bytes apart.
#[derive(Clone, Copy)]
struct Part<'a> {
    role: Role,
    at: SubBuffer<'a>,
    one: u64,
    row: u64,
    align: u64,
    written: bool,
}

impl<'a> Part<'a> {
    fn bytes(&self, m: u32) -> u64 {
        match m {
            0 => 0,
            _ if self.one == 0 => 0,
            _ => u64::from(m - 1).saturating_mul(self.row).saturating_add(self.one),
        }
    }

    fn window(&self, caps: &Caps, (m0, m_cap): (u32, u32)) -> Window<'a> {
        let start = self.at.offset + u64::from(m0) * self.row;
        Window::new(caps, self.at.buffer, start, self.bytes(m_cap))
    }
}

impl FakeQuantPlan {
    /// Checks the buffers of a forward pass and makes bind groups, one small uniform buffer and
    /// two of 32 bytes. Data that exceed a binding are split between rows.
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::Part`] for zero points that the format has not, or none that it
    /// has; [`BindError::Aliased`] where a buffer that is written is also another.
    pub async fn bind(&self, args: FakeQuantArgs<'_>) -> Result<BoundFakeQuant, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let dynamic = !spec.given;
        let input = self.input(args.input);
        let output = Part {
            role: Role::Output,
            at: args.output,
            one: spec.y_bytes(1),
            row: u64::from(spec.y_stride) * spec.output.bytes(),
            align: 4,
            written: true,
        };
        let scales = self.scales(Role::Scales, args.scales, dynamic);
        let zeros = self.zeros(Role::Zeros, args.zeros, dynamic)?;
        let mut parts = vec![input, output, scales];
        parts.extend(zeros);
        let spans = self.spans(&parts)?;

        let tensor = spec.format.granularity() == Granularity::Tensor;
        let work = spec.work(dynamic && !tensor);
        let ranges = self.scratch(0).await?;
        let spare = self.scratch(0).await?;
        let mut slots = Vec::with_capacity(spans.len() + 1);
        let mut drafts = Vec::new();
        // In the last slot all rows, for what runs once.
        let all = (0, spec.max_m);
        for &span in spans.iter().chain([&all]) {
            let [x, y, s] = [input, output, scales].map(|part| part.window(caps, span));
            let z = zeros.map(|part| part.window(caps, span));
            slots.push(Params {
                x_at: (x.skip / spec.input.bytes()) as u32,
                x_stride: spec.x_stride,
                y_at: (y.skip / spec.output.bytes()) as u32,
                y_stride: spec.y_stride,
                scale_at: (s.skip / 4) as u32,
                zero_at: z.map_or(0, |z| (z.skip / 4) as u32),
                ..self.params(work, span)
            });
        }
        let rows = |(m0, m_cap)| Workgroups::Rows { m0, m_cap, each: work.tiles };
        // What is not there nothing reads or writes.
        let schemes = |span, written: bool| {
            let none = match written {
                true => spare.as_entire_binding(),
                false => scales.window(caps, span).binding(),
            };
            let zeros = zeros.map_or(none, |part| part.window(caps, span).binding());
            [(5, scales.window(caps, span).binding()), (6, zeros)]
        };
        let x = |span| (3, input.window(caps, span).binding());
        let y = |span| (7, output.window(caps, span).binding());
        if dynamic && tensor {
            for (slot, &span) in spans.iter().enumerate() {
                let bound = vec![x(span), (4, ranges.as_entire_binding())];
                drafts.push(Draft { pipeline: 0, slot, bound, grid: rows(span) });
            }
            let mut bound = vec![(4, ranges.as_entire_binding())];
            bound.extend(schemes((0, spec.max_m), true));
            drafts.push(Draft {
                pipeline: 1,
                slot: spans.len(),
                bound,
                grid: Workgroups::Fixed(1),
            });
        }
        for (slot, &span) in spans.iter().enumerate() {
            let mut bound = vec![x(span), y(span)];
            bound.extend(schemes(span, dynamic && !tensor));
            let pipeline = self.forward.len() - 1;
            drafts.push(Draft { pipeline, slot, bound, grid: rows(span) });
        }
        let steps = self.steps(&self.forward, &slots, drafts).await?;
        Ok(BoundFakeQuant { plan: self.clone(), steps })
    }

    /// Checks the buffers of a backward pass and makes bind groups, one small uniform buffer, and
    /// three for partial sums: where a row is longer than 8192 columns and shares a scale, 4 bytes
    /// for 2048 of them in two, else some KiB. Data that exceed a binding are split between rows.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); [`BindError::Part`] also for gradients that the spec does not have,
    /// or none that it has.
    pub async fn bind_backward(
        &self,
        args: FakeQuantBackwardArgs<'_>,
    ) -> Result<BoundFakeQuantBackward, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let input = self.input(args.input);
        let dx =
            Part { role: Role::Output, at: args.input_gradient, align: 4, written: true, ..input };
        let dy = Part {
            role: Role::OutputGradient,
            at: args.output_gradient,
            one: spec.y_bytes(1),
            row: u64::from(spec.y_stride) * spec.output.bytes(),
            align: if spec.quads(spec.output, spec.y_stride) { 16 } else { 4 },
            written: false,
        };
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
        let mut parts = vec![input, dx, dy, scales];
        parts.extend(zeros.into_iter().chain(ds).chain(dz));
        let spans = self.spans(&parts)?;

        let tensor = spec.format.granularity() == Granularity::Tensor;
        let split = spec.is_split();
        let work = spec.work(spec.given && !split);
        let workers = |(_, m_cap): (u32, u32)| match spec.given && tensor {
            true => (u64::from(m_cap) * u64::from(work.tiles)).min(WORKERS.into()) as u32,
            // One unit a workgroup.
            false => u32::MAX / 2,
        };
        let partials: u64 = match (spec.given && split, tensor) {
            (false, _) => 0,
            (true, true) => spans.iter().map(|&span| u64::from(workers(span))).sum(),
            // Each span's are done with before the next one's.
            (true, false) => {
                let rows = spans.iter().map(|&(_, m_cap)| u64::from(m_cap)).max();
                rows.unwrap_or(0) * u64::from(work.tiles)
            }
        };
        if 4 * partials > caps.max_binding {
            let (role, need, limit) = (Role::Scratch, 4 * partials, caps.max_binding);
            return Err(BindError::RowTooLarge { role, need, limit });
        }
        let scale_partials = self.scratch(4 * partials).await?;
        let outside_partials = self.scratch(4 * partials).await?;
        let spare = self.scratch(0).await?;

        let mut slots = Vec::with_capacity(spans.len() + 1);
        let mut partial_at = 0;
        let all = (0, spec.max_m);
        for &span in spans.iter().chain([&all]) {
            let [x, y, d, s] = [input, dx, dy, scales].map(|part| part.window(caps, span));
            let at = |part: Option<Part<'_>>| {
                part.map_or(0, |part| (part.window(caps, span).skip / 4) as u32)
            };
            slots.push(Params {
                x_at: (x.skip / spec.input.bytes()) as u32,
                x_stride: spec.x_stride,
                y_at: (y.skip / spec.input.bytes()) as u32,
                y_stride: spec.x_stride,
                dy_at: (d.skip / spec.output.bytes()) as u32,
                dy_stride: spec.y_stride,
                scale_at: (s.skip / 4) as u32,
                zero_at: at(zeros),
                ds_at: at(ds),
                dz_at: at(dz),
                workers: workers(span),
                partial_at,
                ..self.params(work, span)
            });
            if spec.given && tensor {
                partial_at += workers(span);
            }
        }
        if let Some(last) = slots.last_mut()
            && tensor
        {
            (last.partial_at, last.workers) = (0, partials as u32);
        }
        let schemes = |span| {
            let scales = scales.window(caps, span).binding();
            let zeros = zeros.map_or(scales.clone(), |part| part.window(caps, span).binding());
            [(5, scales), (6, zeros)]
        };
        // Without gradients of scales, two buffers that are not one.
        let gradients = |span| {
            let ds =
                ds.map_or(scale_partials.as_entire_binding(), |ds| ds.window(caps, span).binding());
            let dz = dz.map_or(spare.as_entire_binding(), |dz| dz.window(caps, span).binding());
            [(8, ds), (9, dz)]
        };
        let sums = |span, slot, grid| {
            let mut bound = vec![
                (3, scale_partials.as_entire_binding()),
                (4, outside_partials.as_entire_binding()),
            ];
            bound.extend(schemes(span));
            bound.extend(gradients(span));
            Draft { pipeline: 1, slot, bound, grid }
        };
        let mut drafts = Vec::new();
        for (slot, &span) in spans.iter().enumerate() {
            let (m0, m_cap) = span;
            let mut bound = vec![
                (3, input.window(caps, span).binding()),
                (4, dy.window(caps, span).binding()),
                (7, dx.window(caps, span).binding()),
            ];
            bound.extend(schemes(span));
            match spec.given && split {
                true => bound.extend([
                    (8, scale_partials.as_entire_binding()),
                    (9, outside_partials.as_entire_binding()),
                ]),
                false => bound.extend(gradients(span)),
            }
            let grid = match spec.given && tensor {
                true => Workgroups::Fixed(workers(span)),
                false => Workgroups::Rows { m0, m_cap, each: work.tiles },
            };
            drafts.push(Draft { pipeline: 0, slot, bound, grid });
            if spec.given && split && !tensor {
                drafts.push(sums(span, slot, Workgroups::Rows { m0, m_cap, each: 1 }));
            }
        }
        if spec.given && tensor {
            drafts.push(sums(all, spans.len(), Workgroups::Fixed(1)));
        }
        let steps = self.steps(&self.backward, &slots, drafts).await?;
        Ok(BoundFakeQuantBackward { plan: self.clone(), steps })
    }

    fn input<'a>(&self, at: SubBuffer<'a>) -> Part<'a> {
        let spec = &self.spec;
        Part {
            role: Role::Activations,
            at,
            one: spec.x_bytes(1),
            row: u64::from(spec.x_stride) * spec.input.bytes(),
            align: if spec.quads(spec.input, spec.x_stride) { 16 } else { 4 },
            written: false,
        }
    }

    /// Scales, or what there are as many of.
    fn scales<'a>(&self, role: Role, at: SubBuffer<'a>, written: bool) -> Part<'a> {
        let row = 4 * u64::from(self.spec.row_scales());
        Part { role, at, one: 4 * self.spec.scales(1), row, align: 4, written }
    }

    fn zeros<'a>(
        &self,
        role: Role,
        at: Option<SubBuffer<'a>>,
        written: bool,
    ) -> Result<Option<Part<'a>>, BindError> {
        let planned = !self.spec.format.is_symmetric();
        match at {
            _ if at.is_some() != planned => Err(BindError::Part { role, planned }),
            at => Ok(at.map(|at| self.scales(role, at, written))),
        }
    }

    async fn scratch(&self, bytes: u64) -> Result<wgpu::Buffer, BindError> {
        let usage = wgpu::BufferUsages::STORAGE;
        Ok(self.kernels.buffer("lowbit fake scratch", usage, BufferFill::Zeros(bytes)).await?)
    }

    fn params(&self, work: Work, (m0, m_cap): (u32, u32)) -> Params {
        let spec = &self.spec;
        let (qmin, qmax) = spec.codes();
        let symmetric = spec.format.is_symmetric();
        let steps = if symmetric { qmax } else { qmax - qmin } as f32;
        Params {
            k: spec.k,
            group_size: spec.group_size(),
            groups: spec.k.div_ceil(spec.group_size()),
            scale_stride: spec.row_scales(),
            m0,
            m_cap,
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

    /// Checks all buffers; then first row and rows of each dispatch, so that they fit bindings.
    fn spans(&self, parts: &[Part<'_>]) -> Result<Vec<(u32, u32)>, BindError> {
        let max_m = self.spec.max_m;
        for (i, part) in parts.iter().enumerate() {
            // A tensor's scale is there without rows.
            check(part.role, part.at, part.bytes(max_m.max(u32::from(part.row == 0))), part.align)?;
            let shared = parts.iter().enumerate().find(|(j, other)| {
                *j != i && other.at.buffer == part.at.buffer && (part.written || other.written)
            });
            if let Some((_, other)) = shared {
                // That which is not the output.
                let role = if other.role == Role::Output { part.role } else { other.role };
                return Err(BindError::Aliased { role });
            }
        }
        if max_m == 0 || self.spec.k == 0 {
            return Ok(Vec::new());
        }
        spans(self.kernels.caps(), max_m, parts.iter().map(|part| (part.role, part.one, part.row)))
    }
}
