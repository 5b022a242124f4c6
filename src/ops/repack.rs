//! Converts compressed weights from the canonical layout, which files hold, to the one that
//! kernels read. The result equals [`DeviceLayout::pack`](crate::format::DeviceLayout::pack) bit
//! for bit, but is made on the device.
//!
//! It takes the formats whose files hold the canonical parts as they are: whole codes, one level of
//! scales, integer zero points ([`FormatUse::Repack`]). The others are packed on the host by
//! [`DeviceWeights::upload`]: their files arrange codes and scales differently, so that the host
//! touches every word anyway, and their parts would need up to three more bindings.
//! [`Host::repack`](crate::host::Host::repack) takes either way.

use super::buffers::{Resource, Window, check, check_aliases, window_capacity};
use super::quantize_weights::{SIDE, constants, kernel_name};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::Span;
use super::{BindError, DeviceWeights, FormatUse, PlanError, Role, RowBlock, SubBuffer};
use crate::format::{
    CodeKind, CodeType, DeviceLayout, Granularity, Offset, RowOrder, ScaleType, WeightFormat,
};
use crate::gpu::{
    Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Kernels, Pipeline, Size, Stored,
    Variable, fragment, uniform,
};
use std::ops::Range;
use std::sync::Arc;

/// The shape and format of the weights to repack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RepackSpec {
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
}

impl RepackSpec {
    /// Creates a spec of an `[n, k]` matrix.
    pub fn new(n: u32, k: u32, weights: WeightFormat) -> Self {
        Self { n, k, weights }
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if the format is invalid or unsupported, or a dimension is too large.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.n as usize, self.k as usize)?;
        FormatUse::Repack.check(&self.weights)?;
        let limit = i32::MAX as u32;
        PlanError::check_dimensions(&[("n", self.n, limit), ("k", self.k, limit)])
    }

    /// Returns the kernel for weights whose rows lie in this order.
    pub fn shader(&self, order: RowOrder) -> KernelDesc {
        let mut consts = constants(
            &self.weights,
            &["ELEMENT_BITS", "ZERO_BITS", "SPARSE", "SCALE_BITS", "PER_TENSOR", "CODE_ZERO"],
        );
        consts.push(("PANEL", Const::U32(order.panel())));
        let mut id = kernel_name("repack", &consts);
        // They differ from integers in the code of zero.
        if let CodeKind::Table(_) = self.weights.code_type().kind() {
            id.push_str(".table");
        }
        KernelDesc {
            id,
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
                    "scales: f32, or f16 in pairs, or bytes, as the format has them",
                    Access::Read,
                ),
                Binding::data(4, "zeros", "zero points, a byte or 4 bits each", Access::Read),
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

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let taken =
        |format: &WeightFormat| format.check().is_ok() && FormatUse::Repack.check(format).is_ok();
    let mut formats = WeightFormat::all([32, 6]);
    let block = Granularity::group(32).unwrap_or(Granularity::Channel);
    for code_type in CodeType::ALL {
        for granularity in [block, Granularity::Channel, Granularity::Tensor] {
            for offset in [Offset::Fixed, Offset::ZeroPoint, Offset::ZeroPoint4] {
                for scale_type in [ScaleType::F32, ScaleType::F16, ScaleType::E8m0] {
                    let format = WeightFormat::new(code_type, granularity);
                    formats.push(format.with_offset(offset).with_scales(scale_type));
                }
            }
        }
    }
    let specs = formats.into_iter().filter(taken).map(|w| RepackSpec::new(2, 2, w));
    specs.map(|spec| spec.shader(caps.row_order)).collect()
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

/// The compiled kernel for one [`RepackSpec`]. A plan is cheap to clone.
///
/// The parts of the canonical layout go to the device as a file holds them:
///
/// ```no_run
/// # use lowbit::format::{PackedWeights, Scales};
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{DeviceWeights, RepackArgs, RepackPlan, RepackSpec};
/// # use lowbit::wgpu::{self, util::DeviceExt};
/// # async fn example(
/// #     kernels: &Kernels,
/// #     packed: &PackedWeights,
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<DeviceWeights, Box<dyn std::error::Error>> {
/// let part = |contents: &[u8]| {
///     let (label, usage) = (Some("part of W"), wgpu::BufferUsages::STORAGE);
///     let part = wgpu::util::BufferInitDescriptor { label, contents, usage };
///     kernels.device().create_buffer_init(&part)
/// };
/// // W [n, k] has the format int8-channel: codes, and one f32 scale for each row.
/// let (format, n, k) = (packed.format(), packed.n(), packed.k());
/// let codes = part(bytemuck::cast_slice(packed.codes()));
/// let Scales::F32(scales) = packed.scales() else { return Err("f16 scales".into()) };
/// let scales = part(bytemuck::cast_slice(scales));
///
/// let plan = RepackPlan::new(kernels, &RepackSpec::new(n as u32, k as u32, format)).await?;
/// let weights = DeviceWeights::allocate(kernels, format, n, k).await?;
/// let (scales, output) = (Some((&scales).into()), &weights);
/// let args = RepackArgs { codes: (&codes).into(), metadata: None, scales, zeros: None, output };
/// plan.bind(args).await?.record(pass, n as u32)?;
/// # Ok(weights)
/// # }
/// ```
///
/// Weights that the host packs need no plan: [`DeviceWeights::upload`] copies them.
#[derive(Clone, Debug)]
pub struct RepackPlan {
    kernels: Kernels,
    spec: RepackSpec,
    pipeline: Arc<Pipeline>,
}

/// The parts of the canonical layout ([`Geometry`](crate::format::Geometry)), each as
/// [`PackedWeights`](crate::format::PackedWeights) holds it, and the output. The contents of a
/// part are not checked, so check files first.
#[derive(Clone, Copy, Debug)]
pub struct RepackArgs<'a> {
    /// `[N, code_words]` words.
    pub codes: SubBuffer<'a>,
    /// `[N, meta_words]` words, for 2:4 formats only.
    pub metadata: Option<SubBuffer<'a>>,
    /// `[N, groups]` f32, f16 or bytes (or one, per tensor), for formats with scales only.
    pub scales: Option<SubBuffer<'a>>,
    /// `[N, groups]` bytes (or one), or 4 bits each in `[N, ⌈groups/2⌉]` bytes, for formats with zero
    /// points only.
    pub zeros: Option<SubBuffer<'a>>,
    /// Weights of the spec's format and shape. Their codes and side data are overwritten; the order of
    /// columns, if they are permuted, is [`DeviceWeights::with_column_order`]'s.
    pub output: &'a DeviceWeights,
}

/// A repacking with its buffers. It records all N rows.
pub type BoundRepack = Bound<RepackPlan>;

/// A part of the canonical layout. Rows need not be whole words, so this is no `RowsSpec`.
struct Part<'a> {
    at: SubBuffer<'a>,
    role: Role,
    /// Bytes of an element.
    bytes: u64,
    /// Elements of a row; 0 if all rows share one.
    per_row: u64,
}

impl<'a> Part<'a> {
    /// Returns the number of bytes of this many rows.
    fn len(&self, rows: u64) -> u64 {
        self.bytes * (self.per_row * rows).max(1)
    }

    /// Returns the binding for some rows, and the number in it of their first element.
    fn window(&self, caps: &Caps, rows: &Range<usize>) -> (Window<'a>, u32) {
        let start = self.bytes * self.per_row * rows.start as u64;
        // Whole words, of which the first may hold elements of earlier rows.
        let early = start % 4;
        let len = early + self.len(rows.len() as u64);
        let from = self.at.offset + start - early;
        let window = Window::new(caps, self.at.buffer, from, len);
        let first = (window.skip + early) / self.bytes;
        (window, first as u32)
    }
}

impl RepackPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &RepackSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps().row_order)).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &RepackSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Parts that exceed
    /// a binding are taken in chunks of rows.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: RepackArgs<'_>) -> Result<BoundRepack, BindError> {
        let parts = self.parts(&args)?;
        let (caps, layout) = (self.kernels.caps(), args.output.layout());
        let chunks = self.chunks(&args, &parts)?;
        let count = Count::Whole(self.spec.n);
        let mut draft = Draft::new(&self.kernels, "lowbit repack", count, chunks.len() as u64)?;
        for (block, rows) in chunks {
            let windows =
                parts.each_ref().map(|part| part.as_ref().map(|part| part.window(caps, &rows)));
            let first = windows.map(|window| window.map_or(0, |(_, first)| first));
            let [Some((codes, _)), ..] = windows else { continue };
            let slot = draft.slot(Params {
                rows: rows.len() as u32,
                row0: (rows.start - block.rows.start) as u32,
                canonical_words: layout.geometry.code_words as u32,
                code_at: first[0],
                meta_at: first[1],
                scale_base: first[2],
                zero_base: first[3],
                ..Params::of(layout)
            });
            // No kernel reads an absent part, so any input can be bound in its place.
            let [codes, metadata, scales, zeros] =
                windows.map(|window| Resource::from(window.map_or(codes, |(window, _)| window)));
            let [to_codes, to_side] = block.resources(layout);
            let bound =
                [(1, codes), (2, metadata), (3, scales), (4, zeros), (5, to_codes), (6, to_side)];
            let row = (layout.code_words + layout.side_words) as u64;
            let sizes =
                [(Variable::ROWS, Size::Fixed(rows.len() as u64)), (ROW_WORDS, Size::Fixed(row))];
            let span = Span::all(rows.len() as u32);
            draft.step(&self.pipeline, Head::Params(slot), bound, span, &sizes);
        }
        draft.bind(self.clone()).await
    }

    /// Codes, metadata, scales and zero points, each checked.
    fn parts<'a>(&self, args: &RepackArgs<'a>) -> Result<[Option<Part<'a>>; 4], BindError> {
        let (spec, output, caps) = (&self.spec, args.output, self.kernels.caps());
        output.check(spec.weights, (spec.n, spec.k), caps.row_order)?;
        output.check_written(caps)?;
        let written: Vec<_> = output.blocks().iter().flat_map(RowBlock::buffers).collect();
        let geometry = &output.layout().geometry;
        let format = &spec.weights;
        let scale_bytes = u64::from(format.scale_type().bits() / 8);
        let groups = match format.granularity() {
            Granularity::Tensor => 0,
            _ => geometry.groups as u64,
        };
        let part = |role, at: Option<SubBuffer<'a>>, wanted: bool, bytes: u64, per_row: u64| {
            if at.is_some() != wanted {
                return Err(BindError::Part { role, planned: wanted });
            }
            let Some(at) = at else { return Ok(None) };
            let part = Part { at, role, bytes, per_row };
            check(role, at, part.len(spec.n.into()), 4)?;
            check_aliases([(role, at.buffer)], &written)?;
            Ok(Some(part))
        };
        let zeros = if format.offset() == Offset::ZeroPoint4 { groups.div_ceil(2) } else { groups };
        let scaled = format.code_type().has_scales();
        Ok([
            part(Role::Weights, Some(args.codes), true, 4, geometry.code_words as u64)?,
            part(Role::Mask, args.metadata, format.is_sparse(), 4, geometry.meta_words as u64)?,
            part(Role::Scales, args.scales, scaled, scale_bytes, groups)?,
            part(Role::Zeros, args.zeros, format.has_zeros(), 1, zeros)?,
        ])
    }

    /// Chunks of rows, each of one block of the output and as large as every binding allows.
    fn chunks<'a>(
        &self,
        args: &RepackArgs<'a>,
        parts: &[Option<Part<'_>>; 4],
    ) -> Result<Vec<(&'a RowBlock, Range<usize>)>, BindError> {
        if self.spec.k == 0 {
            return Ok(Vec::new());
        }
        // Kernels count elements with u32, the smallest of which are bytes.
        let limit = window_capacity(self.kernels.caps()).min(1 << 31);
        let mut fit = u64::MAX;
        for part in parts.iter().flatten() {
            let (role, need) = (part.role, part.len(1) + 4);
            if need > limit {
                return Err(BindError::RowTooLarge { role, need, limit });
            }
            fit = fit.min((limit - 4) / (part.bytes * part.per_row).max(1));
        }
        let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
        let mut chunks = Vec::new();
        for block in args.output.blocks() {
            let end = block.rows.end;
            let starts = block.rows.clone().step_by(fit);
            chunks.extend(starts.map(|start| (block, start..end.min(start.saturating_add(fit)))));
        }
        Ok(chunks)
    }
}

impl Params {
    /// Creates parameters with the fields that the layout determines.
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
