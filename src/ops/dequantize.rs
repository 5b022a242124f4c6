//! Dequantizes rows of compressed weights to f32 or f16: all of them, or those that a list of
//! indices names (embedding tables).
//!
//! `ŵ = v(c) · s + m`, where v(c) is exact, a scale s of two levels is their product, and m is added only
//! if the format has minima: one operation each, which a GPU may round either way. Floats are exact;
//! pruned weights are +0. f16 output rounds that to nearest even. Columns come out in the order of W.

use super::buffers::{Resource, Window, check, check_aliases, window_capacity};
use super::quantize_weights::{SIDE, constants};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Span, Spans, check_rows};
use super::weights::{table_constants, texture_width};
use super::{BindError, DeviceWeights, FloatType, FormatUse, PlanError, Role, RowBlock, SubBuffer};
use crate::format::{CodeKind, CodeType, Granularity, Offset, ScaleType, WeightFormat};
use crate::gpu::{
    Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT,
    Pipeline, Size, Stored, Variable, fragment, uniform,
};
use std::sync::Arc;

/// The shape and format of W, and which rows to dequantize.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DequantizeSpec {
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
    /// The type of the output.
    pub output: FloatType,
    /// Elements from one output row to the next. It must be even for f16.
    pub stride: u32,
    /// The largest number of rows to gather; `None` for all rows of W in order.
    pub gather: Option<u32>,
    /// Whether codes are read from textures; see [`DeviceWeights::with_textures`].
    pub code_textures: bool,
}

impl DequantizeSpec {
    /// Creates a spec of all rows, as packed f32.
    pub fn new(n: u32, k: u32, weights: WeightFormat) -> Self {
        let (output, stride) = (FloatType::F32, k);
        Self { n, k, weights, output, stride, gather: None, code_textures: false }
    }

    /// Creates a spec of up to `rows` rows that an index list names, as packed f32.
    pub fn gather(rows: u32, n: u32, k: u32, weights: WeightFormat) -> Self {
        Self { gather: Some(rows), ..Self::new(n, k, weights) }
    }

    /// Creates a spec of all rows of these weights, which reads their textures if they have any.
    pub fn of(weights: &DeviceWeights) -> Self {
        // Weights on a device are below 2³¹ each way.
        let (n, k) = (weights.n() as u32, weights.k() as u32);
        let code_textures = weights.has_textures();
        Self { code_textures, ..Self::new(n, k, weights.format()) }
    }

    /// Gathers up to `rows` rows that an index list names.
    pub fn with_gather(mut self, rows: u32) -> Self {
        self.gather = Some(rows);
        self
    }

    /// Reads codes from textures.
    pub fn with_code_textures(mut self) -> Self {
        self.code_textures = true;
        self
    }

    /// Sets the type of the output, and a packed stride (an even one for f16).
    pub fn with_output(mut self, output: FloatType) -> Self {
        self.output = output;
        self.stride = output.packed(self.k);
        self
    }

    /// Sets the stride, in elements.
    pub fn with_stride(mut self, stride: u32) -> Self {
        self.stride = stride;
        self
    }

    /// Returns the largest number of output rows.
    pub fn rows(&self) -> u32 {
        self.gather.unwrap_or(self.n)
    }

    /// Returns the number of bytes of output from its start that `rows` rows write.
    pub fn output_bytes(&self, rows: u32) -> u64 {
        // One invocation owns both halves of the last word.
        self.output_rows().bytes(rows).checked_next_multiple_of(4).unwrap_or(u64::MAX)
    }

    fn output_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Output, self.k, self.stride, self.output)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if the format is invalid or unsupported, a dimension is too large, or the stride is
    /// too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.n as usize, self.k as usize)?;
        FormatUse::Dequantize.check(&self.weights)?;
        PlanError::check_dimensions(&[
            ("n", self.n, i32::MAX as u32),
            ("k", self.k, i32::MAX as u32),
            ("rows", self.gather.unwrap_or(0), MAX_COUNT),
        ])?;
        self.output_rows().check(self.rows())
    }

    /// Returns the number of texels in a row of the textures that codes are read from; 0 for
    /// buffers.
    fn texture_width(&self, caps: &Caps) -> u32 {
        // Where there are no rows there are no textures.
        match self.code_textures && self.n > 0 {
            true => texture_width(&self.weights, self.k, caps),
            false => 0,
        }
    }

    /// Returns the kernel on a device.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let Values { mut fragments, mut consts } = values(&self.weights);
        consts.push(("INDEXED", Const::Bool(self.gather.is_some())));
        consts.push(("OUTPUT_F16", Const::Bool(self.output == FloatType::F16)));
        consts.push(("PANEL", Const::U32(caps.row_order.panel())));
        consts.push(("M_TABLE", Const::U32(M_TABLE)));
        let width = self.texture_width(caps);
        let words = if width > 0 { "access/words_texture" } else { "access/words_u32" };
        if width > 0 {
            consts.push(("TEXTURE_WIDTH", Const::U32(width)));
        }
        let codes = if width > 0 { Access::Texture } else { Access::Read };
        let [low, high] = Binding::COUNTS;
        let mut bindings = vec![
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
        ];
        if self.weights.is_permuted() {
            let holds = "the column at each place along K, then the place of each column";
            bindings.push(Binding::data(7, "order", holds, Access::Read));
        }
        fragments.extend([words, "quantize/dequantize"]);
        KernelDesc {
            id: self.name(caps, width > 0),
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings,
            grid: Grid::new(&[(&[OUT_ROWS, OUT_WORDS], WORKGROUP)]),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: Some(Stored::new(&self.weights, caps.row_order.panel())),
        }
    }

    /// Returns the kernel id: what the kernel looks at of the format, the output and the device.
    fn name(&self, caps: &Caps, textures: bool) -> String {
        let format = &self.weights;
        let code_type = format.code_type();
        let is_float = !code_type.has_scales();
        let codes = match is_float || code_type.is_integer() {
            true => format!("b{}", code_type.bits()),
            false => code_type.name().to_string(),
        };
        let parts = [
            codes.as_str(),
            if is_float { "float" } else { "" },
            format.offset().part(),
            if format.is_sparse() { "24" } else { "" },
            format.scale_type().suffix(),
            if format.is_permuted() { "perm" } else { "" },
            if self.gather.is_some() { "gather" } else { "" },
            if self.output == FloatType::F16 { "yf16" } else { "" },
            if caps.row_order.panel() > 1 { "panels" } else { "" },
            if textures { "texture" } else { "" },
        ];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.fold("dequantize".to_string(), |name, part| name + "." + part)
    }

    /// Returns the number of words of one output row that are written.
    fn row_words(&self) -> u64 {
        (u64::from(self.k) * self.output.bytes()).div_ceil(4)
    }
}

/// How the values of a format are read: fragments, and the constants that they need.
struct Values {
    fragments: Vec<&'static str>,
    consts: Vec<(&'static str, Const)>,
}

/// Returns how the values of a format are read.
fn values(format: &WeightFormat) -> Values {
    let mut consts = constants(format, &["ELEMENT_BITS", "ZERO_BITS", "CODE_ZERO", "SPARSE"]);
    let order =
        if format.is_permuted() { "dequantize/order_permuted" } else { "dequantize/order_same" };
    let code_type = format.code_type();
    let number = match code_type.kind() {
        CodeKind::Float => {
            return Values { fragments: vec![order, "dequantize/value_float"], consts };
        }
        CodeKind::Integer { .. } => "dequantize/number_integer",
        CodeKind::Table(None) => "dequantize/number_codebook",
        CodeKind::Table(Some(_)) => {
            consts.extend(table_constants(code_type).0);
            "dequantize/number_table"
        }
        CodeKind::Fp8 { mantissa } => {
            consts.push(("MANTISSA", Const::U32(mantissa)));
            "dequantize/number_fp8"
        }
    };
    let codes = match code_type.plane_bits() {
        0 => "dequantize/codes_whole",
        bits => {
            consts.push(("PLANE_BITS", Const::U32(bits)));
            "dequantize/codes_planes"
        }
    };
    let scales = match format.scale_type() {
        ScaleType::F32 | ScaleType::F16 => {
            consts.extend(constants(format, &["SCALE_BITS"]));
            "quantize/scale_float"
        }
        ScaleType::E8m0 => "quantize/scale_e8m0",
        ScaleType::Int8Super => "quantize/scale_int8",
        ScaleType::E4m3Tensor => "quantize/scale_e4m3",
    };
    consts.extend(constants(format, &["MINIMA"]));
    consts.push(("FLOAT_ZERO", Const::Bool(format.offset() == Offset::FloatZeroPoint)));
    Values { fragments: vec![order, codes, number, scales, "dequantize/value_scaled"], consts }
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

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = Vec::new();
    for format in kinds() {
        for spec in [DequantizeSpec::new(2, 2, format), DequantizeSpec::gather(2, 2, 2, format)] {
            for output in [FloatType::F32, FloatType::F16] {
                let spec = spec.clone().with_output(output);
                kernels.push(spec.shader(caps));
                if caps.texture_extent > 0 {
                    kernels.push(spec.with_code_textures().shader(caps));
                }
            }
        }
    }
    kernels
}

/// Returns the formats that differ in what kernels look at: all but the size of groups. Groups of one
/// block go with every type of scale, and with textures.
fn kinds() -> Vec<WeightFormat> {
    let mut formats = WeightFormat::all([32, 6]);
    let block = Granularity::group(32).unwrap_or(Granularity::Channel);
    for code_type in CodeType::ALL {
        for offset in Offset::ALL {
            for scale_type in ScaleType::ALL {
                let format = WeightFormat::new(code_type, block);
                formats.push(format.with_offset(offset).with_scales(scale_type));
            }
        }
    }
    formats.extend(formats.clone().into_iter().map(WeightFormat::permuted));
    formats.retain(|format| format.check().is_ok());
    formats
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
        plane_at: u32,
        scale_at: u32,
        upper_at: u32,
        zero_at: u32,
        table_at: u32,
        index_at: u32,
        out_rows: u32,
        first_out: u32,
        output_at: u32,
        output_stride: u32,
        pad: [u32; 2] = "pad0" "pad1",
    }
}

/// The compiled kernel for one [`DequantizeSpec`]. A plan is cheap to clone.
///
/// An embedding lookup gathers the rows of a compressed table that the tokens name:
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, FloatType};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     table: &DeviceWeights,
/// #     (tokens, embeddings): (&wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// // Up to 512 tokens, whose rows become f16. `tokens` holds a u32 for each.
/// let spec = DequantizeSpec::of(table).with_gather(512).with_output(FloatType::F16);
/// assert!(embeddings.size() >= spec.output_bytes(512));
/// let plan = DequantizePlan::new(kernels, &spec).await?;
/// let (indices, output) = (Some(tokens.into()), embeddings.into());
/// let bound = plan.bind(DequantizeArgs { weights: table, indices, output }).await?;
/// bound.record(pass, 8)?; // the first eight tokens
/// # Ok(())
/// # }
/// ```
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
    /// Row numbers, a u32 each, if the spec gathers. A number of N or more gives NaN.
    pub indices: Option<SubBuffer<'a>>,
    /// The output. With f16 and odd K, the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// A dequantization with its buffers. A gather records up to as many rows as were planned, a plan
/// of all rows exactly N.
pub type BoundDequantize = Bound<DequantizePlan>;

impl DequantizePlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &DequantizeSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &DequantizeSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Output that exceeds
    /// a binding is split between rows.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: DequantizeArgs<'_>) -> Result<BoundDequantize, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let output = self.check_args(&args)?;
        let (weights, layout) = (args.weights, args.weights.layout());
        let weights_order = weights.check_order(caps)?;
        let segments = self.segments(weights)?;
        let (count, gathers) = match spec.gather {
            Some(rows) => (Count::UpTo(rows), true),
            None => (Count::Whole(spec.n), false),
        };
        let slots = segments.len() as u64;
        let mut draft = Draft::new(&self.kernels, "lowbit dequantize", count, slots)?;
        let indices =
            args.indices.map(|i| Window::new(caps, i.buffer, i.offset, 4 * u64::from(spec.rows())));
        for &(block, span) in &segments {
            let output = output.window(caps, &span);
            let rows = block.map_or(0..0, |block| block.rows.clone());
            // No kernel reads an absent buffer, so any input can be bound in its place.
            let list = indices.map(Resource::from);
            let weights = block.map(|block| block.resources(layout));
            let (list, [codes, side]) = match (list, weights) {
                (Some(list), Some(weights)) => (list, weights),
                (None, Some([codes, side])) => (side.clone(), [codes, side]),
                (Some(list), None) => (list.clone(), [list.clone(), list]),
                // Without an index list there are rows only where there is a block.
                (None, None) => continue,
            };
            let slot = draft.slot(Params {
                rows: rows.len() as u32,
                first_row: rows.start as u32,
                n: spec.n,
                k: spec.k,
                group_size: layout.geometry.group_size.min(layout.geometry.k.max(1)) as u32,
                // If all rows are wanted, the segment begins at its own first row.
                row0: if gathers { 0 } else { span.m0 - rows.start as u32 },
                blocks: layout.blocks as u32,
                side_words: layout.side_words as u32,
                plane_at: layout.plane_at as u32,
                scale_at: layout.scale_at as u32,
                upper_at: layout.upper_at as u32,
                zero_at: layout.zero_at as u32,
                table_at: layout.table_at as u32,
                index_at: indices.map_or(0, |list| list.at(4) + span.m0),
                out_rows: span.m_cap,
                first_out: span.m0,
                output_at: output.at(4),
                output_stride: (u64::from(spec.stride) * spec.output.bytes() / 4) as u32,
                pad: [0; 2],
            });
            let mut bound = vec![(3, list), (4, codes), (5, side), (6, output.into())];
            bound.extend(weights_order.clone().map(|order| (7, order)));
            let sizes = [(OUT_ROWS, Size::PerRow(1)), (OUT_WORDS, Size::Fixed(spec.row_words()))];
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &sizes);
        }
        draft.bind(self.clone()).await
    }

    /// Returns the dispatches: a block of weights, and the output rows taken from it. A gather
    /// takes its rows from each block, since only the device knows the indices.
    fn segments<'a>(
        &self,
        weights: &'a DeviceWeights,
    ) -> Result<Vec<(Option<&'a RowBlock>, Span)>, BindError> {
        let (spec, blocks) = (&self.spec, weights.blocks());
        if spec.k == 0 || spec.rows() == 0 {
            return Ok(Vec::new());
        }
        let caps = self.kernels.caps();
        let spans = |rows: u32| Spans::new(caps, rows, [spec.output_rows()]);
        let mut segments = Vec::new();
        if spec.gather.is_none() {
            for block in blocks {
                let start = block.rows.start as u32;
                let spans = spans(block.rows.len() as u32)?.iter();
                segments
                    .extend(spans.map(|span| (Some(block), Span { m0: start + span.m0, ..span })));
            }
            return Ok(segments);
        }
        for span in spans(spec.rows())?.iter() {
            if blocks.is_empty() {
                // With no rows in W every index gives NaN, and something has to write it.
                segments.push((None, span));
            }
            segments.extend(blocks.iter().map(|block| (Some(block), span)));
        }
        Ok(segments)
    }

    /// Checks all buffers; the result is the output.
    fn check_args<'a>(&self, args: &DequantizeArgs<'a>) -> Result<Rows<'a>, BindError> {
        let (spec, caps, weights) = (&self.spec, self.kernels.caps(), args.weights);
        weights.check(spec.weights, (spec.n, spec.k), caps.row_order)?;
        weights.check_textures(spec.texture_width(caps))?;
        if args.indices.is_some() != spec.gather.is_some() {
            return Err(BindError::Indices { planned: spec.gather.is_some() });
        }
        let output = Rows::write(spec.output_rows(), args.output);
        check_rows(&[output], spec.rows())?;
        if let Some(indices) = args.indices {
            let (need, limit) = (4 * u64::from(spec.rows()), window_capacity(caps));
            check(Role::Indices, indices, need, 4)?;
            if need > limit {
                return Err(BindError::RowTooLarge { role: Role::Indices, need, limit });
            }
        }
        weights.check_buffers(Role::Weights, caps)?;
        let indices = args.indices.map(|list| (Role::Indices, list.buffer));
        let order = weights.column_order().map(|buffer| (Role::ColumnOrder, buffer));
        let weights = weights.blocks().iter().flat_map(RowBlock::buffers);
        let weights = weights.map(|buffer| (Role::Weights, buffer));
        let inputs = indices.into_iter().chain(order).chain(weights);
        check_aliases(inputs, &[args.output.buffer])?;
        Ok(output)
    }
}
