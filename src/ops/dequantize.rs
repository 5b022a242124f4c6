//! Rows of compressed weights as f32 or f16: all of them, or those that a list of indices
//! names (embedding tables).
//!
//! `ŵ = (c − z) · s`, one multiplication, which a GPU may round either way; floats are
//! exact; pruned weights are +0. f16 output rounds that to nearest even.

use super::buffers::{Window, check, window_capacity};
use super::matmul::{RecordError, texture_width};
use super::quantize_weights::{SIDE, constants, kernel_name};
use super::registry::Kernel;
use super::slots::{Slots, check_grid, part};
use super::weights::MIN_WEIGHT_BYTES;
use super::{BindError, DeviceWeights, FloatType, PlanError, Role, RowBlock, SubBuffer};
use crate::format::WeightFormat;
use crate::gpu::{
    Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT,
    Pipeline, Stored, Variable, fragment, uniform,
};
use std::sync::Arc;

/// What is to be dequantized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DequantizeSpec {
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
    /// The type of the output.
    pub output: FloatType,
    /// Elements from one output row to the next; even for f16.
    pub stride: u32,
    /// Rows to gather at most; `None` for all rows of W in order.
    pub gather: Option<u32>,
    /// Whether codes are read out of textures: see
    /// [`DeviceWeights::with_textures`].
    pub code_textures: bool,
}

impl DequantizeSpec {
    /// All rows, as packed f32.
    pub fn new(n: u32, k: u32, weights: WeightFormat) -> Self {
        let (output, stride) = (FloatType::F32, k);
        Self { n, k, weights, output, stride, gather: None, code_textures: false }
    }

    /// Up to `rows` rows that an index list names, as packed f32.
    pub fn gather(rows: u32, n: u32, k: u32, weights: WeightFormat) -> Self {
        Self { gather: Some(rows), ..Self::new(n, k, weights) }
    }

    /// All rows of these weights, out of their textures where they have them.
    pub fn of(weights: &DeviceWeights) -> Self {
        // Weights on a device are below 2³¹ each way.
        let (n, k) = (weights.n() as u32, weights.k() as u32);
        let code_textures = weights.has_textures();
        Self { code_textures, ..Self::new(n, k, weights.format()) }
    }

    /// The same for up to `rows` rows that an index list names.
    pub fn with_gather(mut self, rows: u32) -> Self {
        self.gather = Some(rows);
        self
    }

    /// The same for weights whose codes are in textures.
    pub fn with_code_textures(mut self) -> Self {
        self.code_textures = true;
        self
    }

    /// The same with another type of output; sets a packed stride, even for f16.
    pub fn with_output(mut self, output: FloatType) -> Self {
        self.output = output;
        self.stride = match output {
            FloatType::F32 => self.k,
            FloatType::F16 => self.k.saturating_add(self.k % 2),
        };
        self
    }

    /// The same with another stride, in elements.
    pub fn with_stride(mut self, stride: u32) -> Self {
        self.stride = stride;
        self
    }

    /// Output rows at most.
    pub fn rows(&self) -> u32 {
        self.gather.unwrap_or(self.n)
    }

    /// Bytes of output from its start that `rows` rows write.
    pub fn output_bytes(&self, rows: u32) -> u64 {
        if rows == 0 || self.k == 0 {
            return 0;
        }
        let elements = u64::from(rows - 1) * u64::from(self.stride) + u64::from(self.k);
        // One invocation owns both halves of the last word.
        let bytes = elements.saturating_mul(self.output.bytes());
        bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX)
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`PlanError`]: a bad format, a dimension too large, a stride too short or, for f16,
    /// odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.n as usize, self.k as usize)?;
        let limits = [
            ("n", self.n, i32::MAX as u32),
            ("k", self.k, i32::MAX as u32),
            ("rows", self.gather.unwrap_or(0), MAX_COUNT),
        ];
        for (name, value, limit) in limits {
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit });
            }
        }
        let (role, stride) = (Role::Output, self.stride);
        if self.rows() > 1 && stride < self.k {
            return Err(PlanError::Stride { role, stride, need: self.k.into() });
        }
        if self.rows() > 1 && self.output == FloatType::F16 && stride % 2 == 1 {
            return Err(PlanError::OddStride { role, stride, multiple: 2 });
        }
        Ok(())
    }

    /// Texels in a row of the textures that codes are read from; 0 for buffers.
    fn texture_width(&self, caps: &Caps) -> u32 {
        // Where there are no rows there are no textures.
        match self.code_textures && self.n > 0 {
            true => texture_width(&self.weights, self.k, caps),
            false => 0,
        }
    }

    /// The kernel on a device.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let mut consts = constants(
            &self.weights,
            &["ELEMENT_BITS", "IS_FLOAT", "ASYMMETRIC", "SPARSE", "F16_SCALES", "CODE_ZERO"],
        );
        consts.push(("INDEXED", Const::Bool(self.gather.is_some())));
        consts.push(("OUTPUT_F16", Const::Bool(self.output == FloatType::F16)));
        consts.push(("PANEL", Const::U32(caps.row_order.panel())));
        let mut name = kernel_name("dequantize", &consts);
        consts.push(("M_TABLE", Const::U32(M_TABLE)));
        let width = self.texture_width(caps);
        let words = if width > 0 { "access/words_texture" } else { "access/words_u32" };
        if width > 0 {
            name.push_str(".texture");
            consts.push(("TEXTURE_WIDTH", Const::U32(width)));
        }
        let codes = if width > 0 { Access::Texture } else { Access::Read };
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: name,
            consts,
            fragments: [words, "quantize/dequantize"].map(fragment).to_vec(),
            bindings: vec![
                Binding::params("params", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "indices", "numbers of rows to gather, u32", Access::Read),
                Binding::new(4, "codes", BindingRole::Codes, codes),
                Binding::data(5, "side", SIDE, Access::Read),
                Binding::data(
                    6,
                    "output",
                    "dequantized rows, from word output_at on; f16 in pairs",
                    Access::Write,
                ),
            ],
            grid: Grid::new(&[(&[OUT_ROWS, OUT_WORDS], WORKGROUP)]),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: Some(Stored::new(&self.weights, caps.row_order.panel())),
        }
    }

    /// Words of one output row that are written.
    fn row_words(&self) -> u64 {
        (u64::from(self.k) * self.output.bytes()).div_ceil(4)
    }
}

/// Invocations of a workgroup, a word of the output each.
const WORKGROUP: u32 = 64;

const OUT_ROWS: Variable = Variable {
    name: "out_rows",
    meaning: "rows that are written: the parameter `out_rows`, at most the count of a gather",
};

const OUT_WORDS: Variable = Variable {
    name: "out_words",
    meaning: "words of a row that is written: k, or ⌈k/2⌉ of f16",
};

/// Every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for format in WeightFormat::all([32, 6]) {
        for spec in [DequantizeSpec::new(2, 2, format), DequantizeSpec::gather(2, 2, 2, format)] {
            for output in [FloatType::F32, FloatType::F16] {
                let spec = spec.clone().with_output(output);
                kernels.push(spec.shader(caps).into());
                if caps.texture_extent > 0 {
                    kernels.push(spec.with_code_textures().shader(caps).into());
                }
            }
        }
    }
    kernels
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "DequantizeParams" in "quantize/dequantize" {
        rows: u32,
        first_row: u32,
        n: u32,
        k: u32,
        group_size: u32,
        row0: u32,
        blocks: u32,
        side_words: u32,
        scale_at: u32,
        zero_at: u32,
        index_at: u32,
        out_rows: u32,
        first_out: u32,
        output_at: u32,
        output_stride: u32,
        pad: u32,
    }
}

/// The compiled kernel for one [`DequantizeSpec`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DequantizePlan {
    kernels: Kernels,
    spec: DequantizeSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one dequantization.
#[derive(Clone, Copy, Debug)]
pub struct DequantizeArgs<'a> {
    /// W.
    pub weights: &'a DeviceWeights,
    /// Row numbers, a u32 each, where the spec gathers. A row N or more gives NaN.
    pub indices: Option<SubBuffer<'a>>,
    /// The output. With f16 and odd K the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// A plan with its buffers.
#[derive(Clone, Debug)]
pub struct BoundDequantize {
    plan: DequantizePlan,
    segments: Vec<Segment>,
}

/// Some output rows from a block of rows of W.
#[derive(Clone, Debug)]
struct Segment {
    group: wgpu::BindGroup,
    first_out: u32,
    out_rows: u32,
}

impl DequantizePlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &DequantizeSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// What the plan is for.
    pub fn spec(&self) -> &DequantizeSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Output that
    /// exceeds a binding is split between rows.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(&self, args: DequantizeArgs<'_>) -> Result<BoundDequantize, BindError> {
        self.check_args(&args)?;
        let spec = &self.spec;
        let caps = self.kernels.caps();
        let layout = args.weights.layout();
        let segments = self.segments(args.weights)?;
        let mut params = Vec::with_capacity(segments.len());
        let mut all = Vec::with_capacity(segments.len());
        for &(block, out, out_rows) in &segments {
            let start = u64::from(out) * u64::from(spec.stride) * spec.output.bytes();
            let output = Window::new(
                caps,
                args.output.buffer,
                args.output.offset + start,
                spec.output_bytes(out_rows),
            );
            let indices = args
                .indices
                .map(|i| Window::new(caps, i.buffer, i.offset, 4 * u64::from(spec.rows())));
            let block = block.map(|block| &args.weights.blocks()[block]);
            let rows = block.map_or(0..0, |block| block.rows.clone());
            // Where all rows are wanted, the segment begins at its own first row.
            let skip = if spec.gather.is_some() { 0 } else { out as usize - rows.start };
            let groups = (u64::from(out_rows) * spec.row_words()).div_ceil(64);
            check_grid(caps, groups)?;
            params.push(Params {
                rows: rows.len() as u32,
                first_row: rows.start as u32,
                n: spec.n,
                k: spec.k,
                group_size: layout.geometry.group_size.min(layout.geometry.k.max(1)) as u32,
                row0: skip as u32,
                blocks: layout.blocks as u32,
                side_words: layout.side_words as u32,
                scale_at: layout.scale_at as u32,
                zero_at: layout.zero_at as u32,
                index_at: indices.as_ref().map_or(0, |i| (i.skip / 4) as u32)
                    + if spec.gather.is_some() { out } else { 0 },
                out_rows,
                first_out: out,
                output_at: (output.skip / 4) as u32,
                output_stride: (u64::from(spec.stride) * spec.output.bytes() / 4) as u32,
                pad: 0,
            });
            all.push((block, output, indices, out, out_rows));
        }
        let slots = Slots::new(&self.kernels, "lowbit dequantize", &params).await?;
        let segments = self.kernels.guarded("the bind groups of a dequantization", || {
            let mut segments = Vec::with_capacity(all.len());
            for (index, (block, output, indices, first_out, out_rows)) in all.iter().enumerate() {
                let weights = block.map(|block| {
                    let (codes, side) = layout.bytes(block.rows.len());
                    (block.codes.binding(codes), part(&block.side, 0, side.max(MIN_WEIGHT_BYTES)))
                });
                // What is not there nothing reads; any input will do.
                let (codes, side, list) = match (&weights, indices) {
                    (Some((codes, side)), Some(list)) => {
                        (codes.resource(), side.clone(), list.binding())
                    }
                    (Some((codes, side)), None) => (codes.resource(), side.clone(), side.clone()),
                    (None, Some(list)) => (list.binding(), list.binding(), list.binding()),
                    // Without an index list there are rows only where there is a block.
                    (None, None) => continue,
                };
                let bound = [(3, list), (4, codes), (5, side), (6, output.binding())];
                let group = slots.group_of_m(&self.kernels, &self.pipeline, index, bound);
                segments.push(Segment { group, first_out: *first_out, out_rows: *out_rows });
            }
            segments
        });
        Ok(BoundDequantize { plan: self.clone(), segments: segments.await? })
    }

    /// Block of weights, first output row, output rows.
    fn segments(&self, weights: &DeviceWeights) -> Result<Vec<Span>, BindError> {
        let spec = &self.spec;
        if spec.k == 0 || spec.rows() == 0 {
            return Ok(Vec::new());
        }
        let capacity = window_capacity(self.kernels.caps()).min(1 << 32);
        let need = 4 * spec.row_words();
        let Some(rest) = capacity.checked_sub(need) else {
            return Err(BindError::RowTooLarge { role: Role::Output, need, limit: capacity });
        };
        let fit = rest / (u64::from(spec.stride) * spec.output.bytes()).max(1) + 1;
        let fit = fit.min(u64::from(spec.rows())) as u32;
        let cut = |start: u32, end: u32| {
            (start..end).step_by(fit as usize).map(move |out| (out, fit.min(end - out)))
        };
        if spec.gather.is_none() {
            let blocks = weights.blocks().iter().enumerate();
            return Ok(blocks
                .flat_map(|(block, b)| {
                    let rows = cut(b.rows.start as u32, b.rows.end as u32);
                    rows.map(move |(out, rows)| (Some(block), out, rows))
                })
                .collect());
        }
        // With no rows in W every index gives NaN, and something has to write it.
        let blocks = match weights.blocks().len() {
            0 => vec![None],
            count => (0..count).map(Some).collect(),
        };
        Ok(cut(0, spec.rows())
            .flat_map(|(out, rows)| blocks.iter().map(move |&block| (block, out, rows)))
            .collect())
    }

    fn check_args(&self, args: &DequantizeArgs<'_>) -> Result<(), BindError> {
        let spec = &self.spec;
        let weights = args.weights;
        weights.check(spec.weights, (spec.n, spec.k), self.kernels.caps().row_order)?;
        weights.check_textures(spec.texture_width(self.kernels.caps()))?;
        if args.indices.is_some() != spec.gather.is_some() {
            return Err(BindError::Indices { planned: spec.gather.is_some() });
        }
        check(Role::Output, args.output, spec.output_bytes(spec.rows()), 4)?;
        if let Some(indices) = args.indices {
            check(Role::Indices, indices, 4 * u64::from(spec.rows()), 4)?;
            let (need, limit) = (4 * u64::from(spec.rows()), window_capacity(self.kernels.caps()));
            if need > limit {
                return Err(BindError::RowTooLarge { role: Role::Indices, need, limit });
            }
            if indices.buffer == args.output.buffer {
                return Err(BindError::Aliased { role: Role::Indices });
            }
        }
        weights.check_buffers(Role::Weights, self.kernels.caps())?;
        let mut buffers = weights.blocks().iter().flat_map(RowBlock::buffers);
        match buffers.any(|buffer| buffer == args.output.buffer) {
            true => Err(BindError::Aliased { role: Role::Weights }),
            false => Ok(()),
        }
    }
}

type Span = (Option<usize>, u32, u32);

impl BoundDequantize {
    /// The plan it was bound from.
    pub fn plan(&self) -> &DequantizePlan {
        &self.plan
    }

    /// How many dispatches one recording makes at most.
    pub fn dispatches(&self) -> usize {
        self.segments.len()
    }

    /// Records all that was planned. Sets the pass's pipeline and bind group 0. Allocates
    /// nothing, waits for nothing.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_rows(pass, self.plan.spec.rows());
    }

    /// Records a gather of the first `rows` indices only.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`] for more rows than the plan gathers (a plan of all rows
    /// gathers none); then nothing is recorded.
    pub fn record_first(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        rows: u32,
    ) -> Result<(), RecordError> {
        let max_m = self.plan.spec.gather.unwrap_or(0);
        if rows > max_m {
            return Err(RecordError::MTooLarge { m: rows, max_m });
        }
        self.record_rows(pass, rows);
        Ok(())
    }

    fn record_rows(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        let DequantizePlan { kernels, spec, pipeline } = &self.plan;
        pass.set_pipeline(&pipeline.pipeline);
        // Only a gather reads its count; the number of all rows may exceed the table.
        let digits = kernels.m_offsets(spec.gather.map_or(0, |_| rows));
        for segment in self.segments.iter().filter(|segment| segment.first_out < rows) {
            let count = (rows - segment.first_out).min(segment.out_rows);
            let groups = (u64::from(count) * spec.row_words()).div_ceil(64);
            // `bind` has checked the largest grid, and smaller ones fold as well.
            let [x, y, z] = kernels.caps().fold(groups).unwrap_or_default();
            pass.set_bind_group(0, &segment.group, &digits);
            pass.dispatch_workgroups(x, y, z);
        }
    }
}
