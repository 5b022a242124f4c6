//! The errors of the ops ([`PlanError`], [`BindError`] and [`RecordError`]) and of weights on a device
//! ([`WeightsError`]).

use super::{Activations, Epilogue, Output, Role};
use crate::compress::calibrate::CalibrateError;
use crate::format::{ActivationError, ActivationFormat, FormatError, WeightFormat};
use crate::gpu::DeviceError;
use std::ops::Range;

/// Why a spec is refused or a plan cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The weight format or the shape of W is invalid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The spec takes a 2:4 mask, but the weight format is dense.
    #[error("{format} is dense and takes no 2:4 mask; ask for 2:4+{format}")]
    NotTwoFour {
        /// The weight format.
        format: WeightFormat,
    },
    /// The op has no kernel for the weight format.
    #[error("{op} does not take {format} weights: {why}")]
    Unsupported {
        /// The op.
        op: &'static str,
        /// The weight format.
        format: WeightFormat,
        /// The reason.
        why: &'static str,
    },
    /// Fake quantization supports dense integer formats only.
    #[error("{format} is not fake-quantized; int16, int8 and int4 without 2:4 are")]
    FakeQuantFormat {
        /// The format.
        format: WeightFormat,
    },
    /// A dimension exceeds what kernels can index.
    #[error("{name} = {value} is outside 0…{limit}")]
    TooLarge {
        /// The name of the dimension, for example `max_m`, `n`, `k` or `batch`.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The largest allowed value.
        limit: u32,
    },
    /// A stride is shorter than the data it spans, so rows would overlap.
    #[error("a stride of {stride} elements of {role} is shorter than the {need} it spans")]
    Stride {
        /// The buffer.
        role: Role,
        /// The stride, in elements.
        stride: u32,
        /// Elements needed.
        need: u64,
    },
    /// Rows of f16 must start at even elements, quantized rows at multiples of four words.
    #[error("a stride of {stride} of {role} is not a multiple of {multiple}; pad the rows")]
    OddStride {
        /// The buffer.
        role: Role,
        /// The stride, in elements or words.
        stride: u32,
        /// What the stride must be a multiple of.
        multiple: u32,
    },
    /// A pinned schedule does not multiply activations of this type.
    #[error("schedule {schedule} does not multiply {activations} activations")]
    WrongSchedule {
        /// The schedule.
        schedule: String,
        /// The type of X.
        activations: Activations,
    },
    /// The output type requires quantized activations, but X holds floats.
    #[error("output {output} requires quantized activations; ask for f32 or f16")]
    IntegerOutput {
        /// The requested output.
        output: Output,
    },
    /// Only matmuls that write floats have an epilogue.
    #[error(
        "the epilogue `{}` goes with an output of f32 or f16, not with {output}", .epilogue.name()
    )]
    EpilogueOutput {
        /// The epilogue.
        epilogue: Epilogue,
        /// The requested output.
        output: Output,
    },
    /// A pinned schedule does not store gated results as f16.
    #[error(
        "schedule {schedule} does not store gated results as f16; ask for f32 or another schedule"
    )]
    EpilogueSchedule {
        /// The schedule.
        schedule: String,
    },
    /// Gates and what they are multiplied with are pairs of rows of W.
    #[error("the epilogue `gated` takes rows of W in pairs, but W has {n} rows")]
    OddGates {
        /// Rows of W.
        n: u32,
    },
    /// There are no kernels for experts that do this.
    #[error("a matmul of experts does not take {what}")]
    Experts {
        /// What it does not take.
        what: String,
    },
    /// A pinned schedule exceeds a limit of the device.
    #[error("schedule {schedule} does not apply: {what}: {need} asked for, {have} at most")]
    NotApplicable {
        /// The schedule.
        schedule: String,
        /// The limit that was exceeded.
        what: &'static str,
        /// How much the schedule needs.
        need: u32,
        /// How much the device has.
        have: u32,
    },
    /// The activation format is invalid.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// One static scale and zero point cannot serve a format with many of them.
    #[error("one scale and zero point are given for {format} activations; int8-tensor takes them")]
    StaticScaleNeeded {
        /// The activation format.
        format: ActivationFormat,
    },
    /// A dimension is not a multiple of what kernels take at a time.
    #[error("{name} = {value} is not a multiple of {multiple}")]
    NotMultiple {
        /// The name of the dimension.
        name: &'static str,
        /// Its value.
        value: u32,
        /// What it must be a multiple of.
        multiple: u32,
    },
    /// A number of a spec is not what it must be.
    #[error("{name} = {value} must be {need}")]
    Number {
        /// The name of the number.
        name: &'static str,
        /// Its value.
        value: f32,
        /// What it must be.
        need: &'static str,
    },
    /// The op does not write this type of output.
    #[error("{op} does not write {output}: {why}")]
    UnsupportedOutput {
        /// The op.
        op: &'static str,
        /// The output asked for.
        output: Output,
        /// The reason, and what to ask for instead.
        why: &'static str,
    },
    /// The second half of rows of f16 would begin within a word.
    #[error(
        "halves of {n} f16 columns: the second would begin within a word; interleave the columns or use f32"
    )]
    OddHalves {
        /// Columns of a half.
        n: u32,
    },
    /// Heads do not share heads of the cache evenly.
    #[error("{heads} heads cannot share {kv_heads} heads of keys and values evenly")]
    Heads {
        /// Heads of queries.
        heads: u32,
        /// Heads of keys and values.
        kv_heads: u32,
    },
    /// The size of heads is none that attention has kernels for.
    #[error("heads of {head_dim} columns are not supported; multiples of 4 up to 256 are")]
    HeadDim {
        /// Columns of a head.
        head_dim: u32,
    },
    /// The histogram of an observation is invalid.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The device failed or refused an operation.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl PlanError {
    /// Returns the device's error, if the device caused this one.
    pub fn device(&self) -> Option<&DeviceError> {
        match self {
            Self::Device(error) => Some(error),
            _ => None,
        }
    }

    /// Checks `(name, value, limit)` of some dimensions.
    pub(crate) fn check_dimensions(
        dimensions: &[(&'static str, u32, u32)],
    ) -> Result<(), PlanError> {
        match dimensions.iter().find(|(_, value, limit)| value > limit) {
            Some(&(name, value, limit)) => Err(Self::TooLarge { name, value, limit }),
            None => Ok(()),
        }
    }

    /// Checks a derived size against what kernels index, 2³¹ − 1.
    pub(crate) fn check_index(name: &'static str, value: u64) -> Result<(), PlanError> {
        let shown = u32::try_from(value).unwrap_or(u32::MAX);
        Self::check_dimensions(&[(name, shown, i32::MAX as u32)])
    }
}

/// Why a plan cannot be bound to these buffers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The buffer ends before the data does.
    #[error(
        "the {role} buffer is too small: {need} bytes from its start are needed, it has {have}"
    )]
    TooSmall {
        /// The buffer.
        role: Role,
        /// Bytes needed, including the offset.
        need: u64,
        /// Bytes the buffer has.
        have: u64,
    },
    /// The offset is not a multiple of what the kernel loads at a time.
    #[error("the {role} offset {offset} is not a multiple of {align} bytes")]
    Misaligned {
        /// The buffer.
        role: Role,
        /// The offset, in bytes.
        offset: u64,
        /// The required alignment, in bytes.
        align: u64,
    },
    /// The buffer lacks `STORAGE` usage.
    #[error("the {role} buffer lacks BufferUsages::STORAGE")]
    Usage {
        /// The buffer.
        role: Role,
    },
    /// A buffer that is written is also another argument. wgpu allows no buffer to be read and
    /// written in one dispatch, not even in parts that do not overlap.
    #[error("the output and the {role} are one buffer; a dispatch cannot both read and write it")]
    Aliased {
        /// The other argument.
        role: Role,
    },
    /// The plan has a bias and the arguments do not, or the other way round.
    #[error("the plan was made {} a bias, the arguments come {} one", if *.planned {"with"} else {"without"}, if *.planned {"without"} else {"with"})]
    Bias {
        /// Whether the plan has a bias.
        planned: bool,
    },
    /// The plan takes a 2:4 mask and the arguments have none, or the other way round.
    #[error("the plan {} a given 2:4 mask", if *.planned {"needs"} else {"does not take"})]
    Mask {
        /// Whether the plan takes a mask.
        planned: bool,
    },
    /// The plan gathers rows and the arguments have no indices, or the other way round.
    #[error("the plan {}", if *.planned {"gathers rows and needs their indices"} else {"takes all rows and no indices"})]
    Indices {
        /// Whether the plan gathers.
        planned: bool,
    },
    /// The format has a part that the arguments lack, or the other way round.
    #[error("the format has {} {role}, the arguments come {}", if *.planned {"its"} else {"no"}, if *.planned {"without"} else {"with some"})]
    Part {
        /// The part.
        role: Role,
        /// Whether the format has it.
        planned: bool,
    },
    /// The plan takes a scale and zero point and the arguments have none, or the other way round.
    #[error("the plan {}", if *.planned { "needs a scale and a zero point" } else { "takes its scales from X and accepts no given ones" })]
    StaticScaleNeeded {
        /// Whether the plan takes them.
        planned: bool,
    },
    /// The plan takes an argument that is missing, or the other way round.
    #[error("the plan was made {} {role}, the arguments come {}", if *.planned {"with"} else {"without"}, if *.planned {"without"} else {"with some"})]
    Argument {
        /// The argument.
        role: Role,
        /// Whether the plan takes it.
        planned: bool,
    },
    /// A quantized output has no scale, or another output has one.
    #[error("{}", if *.planned { "a quantized output needs its scale: bind with `bind_scaled`" } else { "only a quantized output takes a scale: bind with `bind`" })]
    OutputScale {
        /// Whether the output is quantized.
        planned: bool,
    },
    /// Two blocks of W would share a word of quantized Y.
    #[error(
        "a quantized output needs blocks of W that end at a multiple of 4 rows, or at the last row; one ends at {end}"
    )]
    RowBlock {
        /// The row after the block.
        end: usize,
    },
    /// A lane's four rows of W would be in two blocks.
    #[error(
        "the weights of experts are in several blocks of rows, so that an expert must have, and blocks must end at, a multiple of 4 rows; there is one of {end}"
    )]
    ExpertBlock {
        /// The rows of an expert, or the row after the block.
        end: usize,
    },
    /// Data that an op binds as a whole exceed a binding.
    #[error(
        "{role} take {need} bytes and are bound as a whole, but a binding holds {limit}; use fewer rows"
    )]
    TooLarge {
        /// The buffer.
        role: Role,
        /// Bytes needed.
        need: u64,
        /// The device's limit.
        limit: u64,
    },
    /// A static scale or zero point is invalid.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// The rows of the sources do not add up to the matrix.
    #[error("{have} rows of uncompressed weights were given, the plan needs {need}")]
    Rows {
        /// Rows of W.
        need: usize,
        /// Rows given.
        have: usize,
    },
    /// The plan reads codes from a buffer and the weights have a texture, or the other way round.
    /// `MatmulSpec::of` and `DequantizeSpec::of` make specs that fit the weights.
    #[error("the plan reads codes from {}, the weights have them in {}; make its spec `of` these weights, or call DeviceWeights::with_textures", codes_in(*.need), codes_in(*.have))]
    Textures {
        /// Texels in a row that the plan expects; 0 for buffers.
        need: u32,
        /// Texels in a row of the weights' textures; 0 for buffers.
        have: u32,
    },
    /// Kernels write codes to buffers only, but these weights have theirs in textures.
    #[error(
        "weights are written to buffers, but these have their codes in textures; \
         quantize them first and call DeviceWeights::with_textures afterwards"
    )]
    TexturesWritten,
    /// The columns of the weights are permuted, but the weights do not have the order of columns.
    #[error(
        "the columns of these weights are permuted, and their order is missing; \
         call DeviceWeights::with_column_order"
    )]
    NoColumnOrder,
    /// The weights have another format or shape than the plan.
    #[error("the plan is for {need} weights, these are {have}")]
    WrongWeights {
        /// Format and shape of the plan.
        need: String,
        /// Format and shape of the weights.
        have: String,
    },
    /// A single row exceeds a binding, so splitting by rows does not help.
    #[error("one row of {role} takes {need} bytes, a binding holds {limit}")]
    RowTooLarge {
        /// The buffer.
        role: Role,
        /// Bytes of a row.
        need: u64,
        /// The device's limit.
        limit: u64,
    },
    /// Data that one dispatch needs as a whole exceed a binding.
    #[error("the {role} takes {need} bytes, a binding holds {limit}")]
    BindingTooLarge {
        /// The buffer.
        role: Role,
        /// Its bytes.
        need: u64,
        /// The device's limit.
        limit: u64,
    },
    /// A block of rows of weights exceeds a binding.
    #[error(
        "a block of rows of weights takes {need} bytes, a binding holds {limit}; see DeviceWeights::split"
    )]
    BlockTooLarge {
        /// Bytes of the block's codes or side data.
        need: u64,
        /// The device's limit.
        limit: u64,
    },
    /// Bindings are so small that splitting gives too many dispatches.
    #[error("{dispatches} dispatches are needed, one recording holds {limit}")]
    TooManyDispatches {
        /// Dispatches needed.
        dispatches: u64,
        /// The largest number of dispatches.
        limit: u64,
    },
    /// The grid exceeds what three dimensions hold.
    #[error("{groups} workgroups exceed what a dispatch of {limit} a dimension holds")]
    GridTooLarge {
        /// Workgroups needed.
        groups: u64,
        /// The device's limit in each dimension.
        limit: u32,
    },
    /// The sizes overflow.
    #[error("the {role} strides and offsets overflow")]
    Overflow {
        /// The buffer.
        role: Role,
    },
    /// One matrix of several cannot be bound.
    #[error("matrix `{name}`: {error}")]
    Matrix {
        /// The name of the matrix.
        name: String,
        /// The reason.
        #[source]
        error: Box<BindError>,
    },
    /// The device failed or refused an operation.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl BindError {
    /// Returns the device's error, if the device caused this one.
    pub fn device(&self) -> Option<&DeviceError> {
        match self {
            Self::Device(error) => Some(error),
            Self::Matrix { error, .. } => error.device(),
            _ => None,
        }
    }
}

/// Why weights cannot be placed on a device.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The format or shape is invalid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Rows that must stay together exceed a binding, so splitting between rows does not help.
    #[error("{rows} rows of weights take {need} bytes, a binding holds {limit}")]
    RowTooLarge {
        /// Rows that must stay together.
        rows: usize,
        /// Their bytes.
        need: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The matrix has more rows or columns than a shader can index with u32.
    #[error("{n}×{k} weights exceed the 2³¹ − 1 rows or columns that kernels index")]
    TooLarge {
        /// Rows.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// There would be too many blocks to list.
    #[error("the weights would be split into {blocks} blocks of rows, more than {limit}")]
    TooManyBlocks {
        /// Blocks needed.
        blocks: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The blocks do not cover the rows in order, or split a pair of rows.
    #[error(
        "row block {block} covers rows {have:?}; it must start at {start} and end at an even row or the last"
    )]
    Blocks {
        /// Which block.
        block: usize,
        /// Its rows.
        have: Range<usize>,
        /// Where it must start.
        start: usize,
    },
    /// A buffer of a block is too small.
    #[error("the {part} buffer of row block {block} has {have} bytes, {need} are needed")]
    TooSmall {
        /// Which block.
        block: usize,
        /// `codes` or `side`.
        part: &'static str,
        /// Bytes needed.
        need: u64,
        /// Bytes it has.
        have: u64,
    },
    /// The codes do not fit a texture of the device, or kernels cannot read this format from one.
    #[error("{codes} bytes of {format} codes cannot go into a texture: {}", if *.limit == 0 { "kernels read none of this format from one".to_string() } else { format!("{limit} bytes fit") })]
    Texture {
        /// The format.
        format: WeightFormat,
        /// Bytes of codes in a block of rows.
        codes: u64,
        /// Bytes that a texture holds; 0 if kernels do not read such codes from textures.
        limit: u64,
    },
    /// The codes cannot be copied.
    #[error("the codes of row block {block} are not in a buffer with BufferUsages::COPY_SRC")]
    NoCopy {
        /// Which block.
        block: usize,
    },
    /// The caller gave a texture. [`DeviceWeights::with_textures`](super::DeviceWeights::with_textures) makes those.
    #[error(
        "row block {block} has its codes in a texture of the caller's; give a buffer, and call with_textures"
    )]
    OwnTexture {
        /// Which block.
        block: usize,
    },
    /// The device failed or refused an operation.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl WeightsError {
    /// Returns the device's error, if the device caused this one.
    pub fn device(&self) -> Option<&DeviceError> {
        match self {
            Self::Device(error) => Some(error),
            _ => None,
        }
    }
}

/// Why nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The number of rows exceeds the number that the plan was made for.
    #[error("m = {m} exceeds the {max_m} rows that the plan was made for")]
    MTooLarge {
        /// Rows asked for.
        m: u32,
        /// Rows planned.
        max_m: u32,
    },
    /// A part of something was asked for that can only be recorded as a whole.
    #[error("{have} rows were asked for, but all {need} are recorded at once")]
    NotWhole {
        /// Rows of the matrix, or matrices that were bound together.
        need: u32,
        /// The number asked for.
        have: u32,
    },
}

fn codes_in(texture_width: u32) -> String {
    match texture_width {
        0 => "buffers".into(),
        width => format!("textures {width} texels wide"),
    }
}
