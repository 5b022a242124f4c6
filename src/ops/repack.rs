//! Compressed weights from the canonical layout, which files hold, to the one kernels read: the
//! device's own way to do what [`DeviceLayout::pack`](crate::format::DeviceLayout::pack) does,
//! bit for bit.

use super::buffers::{Window, check, window_capacity};
use super::quantize_weights::{SIDE, constants, kernel_name};
use super::registry::Kernel;
use super::slots::{Slots, check_grid, part};
use super::weights::MIN_WEIGHT_BYTES;
use super::{BindError, DeviceWeights, PlanError, Role, RowBlock, SubBuffer};
use crate::format::{DeviceLayout, Granularity, RowOrder, ScaleType, WeightFormat};
use crate::gpu::{
    Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Kernels, Pipeline, Stored,
    Variable, fragment, uniform,
};
use std::ops::Range;
use std::sync::Arc;

/// What is to be repacked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepackSpec {
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
}

impl RepackSpec {
    /// All of an `[n, k]` matrix.
    pub fn new(n: u32, k: u32, weights: WeightFormat) -> Self {
        Self { n, k, weights }
    }

    /// The kernel for weights whose rows lie in this order.
    pub fn shader(&self, order: RowOrder) -> KernelDesc {
        let mut consts = constants(
            &self.weights,
            &["ELEMENT_BITS", "ASYMMETRIC", "SPARSE", "F16_SCALES", "PER_TENSOR", "CODE_ZERO"],
        );
        consts.push(("PANEL", Const::U32(order.panel())));
        KernelDesc {
            id: kernel_name("repack", &consts),
            consts,
            fragments: vec![fragment("quantize/repack")],
            bindings: vec![
                Binding::params("params", Params::LAYOUT),
                Binding::data(
                    1,
                    "canonical_codes",
                    "codes of W, in the canonical layout",
                    Access::Read,
                ),
                Binding::data(
                    2,
                    "metadata",
                    "2:4 metadata of W, in the canonical layout",
                    Access::Read,
                ),
                Binding::data(
                    3,
                    "scales",
                    "scales: f32, or f16 in pairs if the weights have f16 scales",
                    Access::Read,
                ),
                Binding::data(4, "zeros", "zero points, a byte each", Access::Read),
                Binding::new(5, "codes", BindingRole::Codes, Access::Write),
                Binding::data(6, "side", SIDE, Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::ROWS, ROW_WORDS], WORKGROUP)]),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: Some(Stored::moved(&self.weights, order.panel())),
        }
    }
}

/// Invocations of a workgroup, a word of the device layout each.
const WORKGROUP: u32 = 64;

const ROW_WORDS: Variable = Variable {
    name: "row_words",
    meaning: "words of a row in the device layout: code_words + side_words",
};

/// Every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<Kernel> {
    let specs = WeightFormat::all([32, 6]).into_iter().map(|w| RepackSpec::new(2, 2, w));
    specs.map(|spec| spec.shader(caps.row_order).into()).collect()
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "RepackParams" in "quantize/repack" {
        rows: u32,
        row0: u32,
        blocks: u32,
        groups: u32,
        code_words: u32,
        side_words: u32,
        scale_at: u32,
        zero_at: u32,
        canonical_words: u32,
        code_at: u32,
        meta_at: u32,
        scale_base: u32,
        zero_base: u32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernel for one [`RepackSpec`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RepackPlan {
    kernels: Kernels,
    spec: RepackSpec,
    pipeline: Arc<Pipeline>,
}

/// The parts of the canonical layout ([`Geometry`](crate::format::Geometry)), each as
/// [`PackedWeights`](crate::format::PackedWeights) holds it, and where they go. What a part
/// holds is not looked at: check files before.
#[derive(Clone, Copy, Debug)]
pub struct RepackArgs<'a> {
    /// `[N, code_words]` words.
    pub codes: SubBuffer<'a>,
    /// `[N, meta_words]` words, exactly for 2:4 formats.
    pub metadata: Option<SubBuffer<'a>>,
    /// `[N, groups]` f32 or f16 (or one, per tensor), exactly for integer formats.
    pub scales: Option<SubBuffer<'a>>,
    /// `[N, groups]` bytes (or one), exactly for asymmetric formats.
    pub zeros: Option<SubBuffer<'a>>,
    /// Weights of the spec's format and shape, to be written over.
    pub output: &'a DeviceWeights,
}

/// A plan with its buffers.
#[derive(Clone, Debug)]
pub struct BoundRepack {
    plan: RepackPlan,
    chunks: Vec<Chunk>,
}

/// Rows that fit all bindings.
#[derive(Clone, Debug)]
struct Chunk {
    group: wgpu::BindGroup,
    groups: u64,
}

/// One canonical part: where it is, and how a row's share of it is counted.
struct Part<'a> {
    at: SubBuffer<'a>,
    /// Bytes of an element, and elements a row; 0 where all rows share one.
    bytes: u64,
    per_row: u64,
}

impl<'a> Part<'a> {
    /// Bytes of so many rows.
    fn len(&self, rows: u64) -> u64 {
        self.bytes * (self.per_row * rows).max(1)
    }

    /// The binding for some rows, and the number in it of their first element.
    fn window(&self, kernels: &Kernels, rows: &Range<usize>) -> (Window<'a>, u32) {
        let start = self.bytes * self.per_row * rows.start as u64;
        // Whole words, of which the first may hold elements of earlier rows.
        let early = start % 4;
        let len = early + self.len(rows.len() as u64);
        let from = self.at.offset + start - early;
        let window = Window::new(kernels.caps(), self.at.buffer, from, len);
        let first = (window.skip + early) / self.bytes;
        (window, first as u32)
    }
}

impl RepackPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &RepackSpec) -> Result<Self, PlanError> {
        spec.weights.geometry(spec.n as usize, spec.k as usize)?;
        for (name, value) in [("n", spec.n), ("k", spec.k)] {
            let limit = i32::MAX as u32;
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit });
            }
        }
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps().row_order)).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// What the plan is for.
    pub fn spec(&self) -> &RepackSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Parts that exceed
    /// a binding are taken in chunks of rows.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(&self, args: RepackArgs<'_>) -> Result<BoundRepack, BindError> {
        let parts = self.parts(&args)?;
        let caps = self.kernels.caps();
        let layout = args.output.layout();
        let chunks = self.chunks(&args, &parts)?;
        let mut params = Vec::with_capacity(chunks.len());
        let mut all = Vec::with_capacity(chunks.len());
        for (block, rows) in chunks {
            let row0 = rows.start - args.output.blocks()[block].rows.start;
            let windows = parts
                .each_ref()
                .map(|part| part.as_ref().map(|part| part.window(&self.kernels, &rows)));
            let first = |part: usize| windows[part].as_ref().map_or(0, |(_, first)| *first);
            params.push(Params {
                rows: rows.len() as u32,
                row0: row0 as u32,
                canonical_words: layout.geometry.code_words as u32,
                code_at: first(0),
                meta_at: first(1),
                scale_base: first(2),
                zero_base: first(3),
                ..Params::of(layout)
            });
            let row = (layout.code_words + layout.side_words) as u64;
            let groups = (rows.len() as u64 * row).div_ceil(64);
            check_grid(caps, groups)?;
            all.push((block, windows, groups));
        }
        let slots = Slots::new(&self.kernels, "lowbit repack", &params).await?;
        let chunks = self.kernels.guarded("the bind groups of a repacking", || {
            let mut chunks = Vec::with_capacity(all.len());
            for (index, (block, windows, groups)) in all.into_iter().enumerate() {
                let block = &args.output.blocks()[block];
                let [codes, metadata, scales, zeros] = windows;
                let Some((codes, _)) = codes else { continue };
                // What is not there nothing reads; any input will do.
                let [metadata, scales, zeros] = [metadata, scales, zeros]
                    .map(|window| window.map_or(codes, |(window, _)| window).binding());
                let (code_bytes, side_bytes) = layout.bytes(block.rows.len());
                let written = block.codes.binding(code_bytes);
                let bound = [
                    (1, codes.binding()),
                    (2, metadata),
                    (3, scales),
                    (4, zeros),
                    (5, written.resource()),
                    (6, part(&block.side, 0, side_bytes.max(MIN_WEIGHT_BYTES))),
                ];
                let group = slots.group(&self.kernels, &self.pipeline, index, bound);
                chunks.push(Chunk { group, groups });
            }
            chunks
        });
        Ok(BoundRepack { plan: self.clone(), chunks: chunks.await? })
    }

    /// Codes, metadata, scales and zero points, each checked.
    fn parts<'a>(&self, args: &RepackArgs<'a>) -> Result<[Option<Part<'a>>; 4], BindError> {
        let spec = &self.spec;
        let output = args.output;
        output.check(spec.weights, (spec.n, spec.k), self.kernels.caps().row_order)?;
        let geometry = &output.layout().geometry;
        let format = &spec.weights;
        let scale_bytes = if format.scale_type() == ScaleType::F16 { 2 } else { 4 };
        let groups = match format.granularity() {
            Granularity::Tensor => 0,
            _ => geometry.groups as u64,
        };
        let part = |role, at: Option<SubBuffer<'a>>, wanted: bool, bytes: u64, per_row: u64| {
            if at.is_some() != wanted {
                return Err(BindError::Part { role, planned: wanted });
            }
            let Some(at) = at else { return Ok(None) };
            let part = Part { at, bytes, per_row };
            check(role, at, part.len(spec.n.into()), 4)?;
            let written = output.blocks().iter().flat_map(RowBlock::buffers);
            match written.into_iter().any(|buffer| buffer == at.buffer) {
                true => Err(BindError::Aliased { role }),
                false => Ok(Some(part)),
            }
        };
        output.check_written(self.kernels.caps())?;
        let integers = format.code_type().is_integer();
        Ok([
            part(Role::Weights, Some(args.codes), true, 4, geometry.code_words as u64)?,
            part(Role::Mask, args.metadata, format.is_sparse(), 4, geometry.meta_words as u64)?,
            part(Role::Scales, args.scales, integers, scale_bytes, groups)?,
            part(Role::Zeros, args.zeros, !format.is_symmetric(), 1, groups)?,
        ])
    }

    /// Rows of one block of the output each, as many as every binding holds.
    fn chunks(
        &self,
        args: &RepackArgs<'_>,
        parts: &[Option<Part<'_>>; 4],
    ) -> Result<Vec<(usize, Range<usize>)>, BindError> {
        if self.spec.k == 0 {
            return Ok(Vec::new());
        }
        // Kernels count elements with u32, the smallest of which are bytes.
        let capacity = window_capacity(self.kernels.caps()).min(1 << 31);
        let mut fit = u64::MAX;
        for (part, role) in parts.iter().zip([Role::Weights, Role::Mask, Role::Scales, Role::Zeros])
        {
            let Some(part) = part else { continue };
            let need = part.len(1) + 4;
            if need > capacity {
                return Err(BindError::RowTooLarge { role, need, limit: capacity });
            }
            fit = fit.min((capacity - 4) / (part.bytes * part.per_row).max(1));
        }
        let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
        let blocks = args.output.blocks().iter().enumerate();
        Ok(blocks
            .flat_map(|(block, b)| {
                let end = b.rows.end;
                let starts = b.rows.clone().step_by(fit);
                starts.map(move |start| (block, start..end.min(start.saturating_add(fit))))
            })
            .collect())
    }
}

impl Params {
    /// What the layout decides.
    fn of(layout: &DeviceLayout) -> Self {
        Self {
            blocks: layout.blocks as u32,
            groups: layout.geometry.groups as u32,
            code_words: layout.code_words as u32,
            side_words: layout.side_words as u32,
            scale_at: layout.scale_at as u32,
            zero_at: layout.zero_at as u32,
            ..Self::default()
        }
    }
}

impl BoundRepack {
    /// The plan it was bound from.
    pub fn plan(&self) -> &RepackPlan {
        &self.plan
    }

    /// How many chunks of rows W is taken in.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Records the kernel. Sets the pass's pipeline and bind group 0. Allocates nothing, waits
    /// for nothing.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let RepackPlan { kernels, pipeline, .. } = &self.plan;
        pass.set_pipeline(&pipeline.pipeline);
        for chunk in &self.chunks {
            // `bind` has checked that the grid folds.
            let [x, y, z] = kernels.caps().fold(chunk.groups).unwrap_or_default();
            pass.set_bind_group(0, &chunk.group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }
}
