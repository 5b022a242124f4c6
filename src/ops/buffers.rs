//! What ops check of the caller's buffers.

use crate::format::ActivationError;
use crate::gpu::{Caps, DeviceError};

/// The type of activations and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FloatType {
    /// Four bytes an element.
    F32,
    /// Two bytes an element, pairs in a `u32`: offsets and strides are even.
    F16,
}

impl FloatType {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// `f32` or `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

fn codes_in(texture_width: u32) -> String {
    match texture_width {
        0 => "buffers".into(),
        width => format!("textures {width} texels wide"),
    }
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// X.
    Activations,
    /// W: codes or side data.
    Weights,
    /// The bias of Y.
    Bias,
    /// Y.
    Output,
    /// Row indices to gather.
    Indices,
    /// Ranges while weights are made.
    Scratch,
    /// Where kernels report bad input.
    Status,
    /// Given 2:4 metadata.
    Mask,
    /// Canonical scales.
    Scales,
    /// Canonical zero points.
    Zeros,
    /// The gradient of Y.
    OutputGradient,
    /// Where gradients of scales go.
    ScaleGradients,
    /// Where gradients of zero points go.
    ZeroGradients,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Activations => "activations",
            Self::Weights => "weights",
            Self::Bias => "bias",
            Self::Output => "output",
            Self::Indices => "indices",
            Self::Scratch => "scratch",
            Self::Status => "status",
            Self::Mask => "mask",
            Self::Scales => "scales",
            Self::Zeros => "zero points",
            Self::OutputGradient => "gradient of the output",
            Self::ScaleGradients => "gradients of scales",
            Self::ZeroGradients => "gradients of zero points",
        })
    }
}

/// A part of the caller's buffer: from `offset` bytes on.
#[derive(Clone, Copy, Debug)]
pub struct SubBuffer<'a> {
    /// The buffer; it needs `STORAGE` usage.
    pub buffer: &'a wgpu::Buffer,
    /// Where the data starts, in bytes.
    pub offset: u64,
}

impl<'a> From<&'a wgpu::Buffer> for SubBuffer<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, offset: 0 }
    }
}

/// Why buffers cannot be bound.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The buffer ends before the data does.
    #[error(
        "the {role} buffer is too small: {need} bytes from its start are needed, it has {have}"
    )]
    TooSmall {
        /// Which buffer.
        role: Role,
        /// Bytes needed, the offset counted in.
        need: u64,
        /// Bytes it has.
        have: u64,
    },
    /// An offset is no multiple of what the kernel loads at a time.
    #[error("the {role} offset {offset} is no multiple of {align} bytes")]
    Misaligned {
        /// Which buffer.
        role: Role,
        /// The offset, in bytes.
        offset: u64,
        /// Needed alignment, in bytes.
        align: u64,
    },
    /// A buffer lacks `STORAGE` usage.
    #[error("the {role} buffer lacks BufferUsages::STORAGE")]
    Usage {
        /// Which buffer.
        role: Role,
    },
    /// The output is also an input: wgpu allows no buffer to be both in one dispatch, not
    /// even in parts that do not overlap.
    #[error("the output and the {role} are one buffer; a dispatch cannot both read and write it")]
    Aliased {
        /// Which input.
        role: Role,
    },
    /// A bias where the plan has none, or none where it has one.
    #[error("the plan was made {} a bias, the arguments come {} one", if *.planned {"with"} else {"without"}, if *.planned {"without"} else {"with"})]
    Bias {
        /// Whether the plan has one.
        planned: bool,
    },
    /// A 2:4 mask where the plan makes one, or none where it wants one.
    #[error("the plan {} a given 2:4 mask", if *.planned {"wants"} else {"does not take"})]
    Mask {
        /// Whether the plan wants one.
        planned: bool,
    },
    /// Row indices where the plan takes all rows, or none where it gathers.
    #[error("the plan {}", if *.planned {"gathers rows and needs their indices"} else {"takes all rows, and no indices"})]
    Indices {
        /// Whether the plan gathers.
        planned: bool,
    },
    /// A part of the canonical layout that the format has not, or one missing that it has.
    #[error("the format has {} {role}, the arguments come {}", if *.planned {"its"} else {"no"}, if *.planned {"without"} else {"with some"})]
    Part {
        /// Which part.
        role: Role,
        /// Whether the format has it.
        planned: bool,
    },
    /// A scale and zero point where the plan takes them from X, or none where it wants them.
    #[error("the plan {}", if *.planned { "wants a scale and a zero point" } else { "takes its scales from X, and none that are given" })]
    StaticScaleNeeded {
        /// Whether the plan wants them.
        planned: bool,
    },
    /// A scale of Y where none is wanted, or none where one is.
    #[error("{}", if *.planned { "a quantized output needs its scale: bind with `bind_scaled`" } else { "only a quantized output takes a scale: bind with `bind`" })]
    OutputScale {
        /// Whether the plan wants one.
        planned: bool,
    },
    /// Blocks of W that would share a word of quantized Y.
    #[error(
        "a quantized output needs blocks of W that end at a multiple of 4 rows, or at the last; one ends at {end}"
    )]
    RowBlock {
        /// Where the block ends.
        end: usize,
    },
    /// A scale or zero point that cannot be.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// Uncompressed rows that do not add up to the matrix.
    #[error("{have} rows of uncompressed weights given where the plan needs {need}")]
    Rows {
        /// Rows of W.
        need: usize,
        /// Rows given.
        have: usize,
    },
    /// Codes that are not where the plan reads them: MatmulSpec::of and DequantizeSpec::of go
    /// by the weights.
    #[error("the plan reads codes from {}, the weights have them in {}; make its spec `of` these weights, or call DeviceWeights::with_textures", codes_in(*.need), codes_in(*.have))]
    Textures {
        /// Texels in a row, as planned; 0 for buffers.
        need: u32,
        /// Texels in a row of the weights' textures; 0 for buffers.
        have: u32,
    },
    /// Kernels that make weights write buffers.
    #[error(
        "weights are made in buffers, these have their codes in textures; make them first, and call DeviceWeights::with_textures then"
    )]
    TexturesWritten,
    /// The weights are of another format or shape than the plan.
    #[error("the plan is for {need} weights, these are {have}")]
    WrongWeights {
        /// Format and shape of the plan.
        need: String,
        /// Format and shape of the weights.
        have: String,
    },
    /// One row does not fit a binding, so that splitting by rows does not help.
    #[error("one row of {role} takes {need} bytes, a binding holds {limit}")]
    RowTooLarge {
        /// Which buffer.
        role: Role,
        /// Bytes of a row.
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
    /// Bindings so small that splitting gives too many dispatches.
    #[error("{dispatches} dispatches are needed, one recording holds {limit}")]
    TooManyDispatches {
        /// Dispatches needed.
        dispatches: u64,
        /// The most that there may be.
        limit: u64,
    },
    /// A grid that even three dimensions do not hold.
    #[error("{groups} workgroups exceed what a dispatch of {limit} a dimension holds")]
    GridTooLarge {
        /// Workgroups needed.
        groups: u64,
        /// The device's limit a dimension.
        limit: u32,
    },
    /// Sizes that overflow.
    #[error("the {role} strides and offsets overflow")]
    Overflow {
        /// Which buffer.
        role: Role,
    },
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A binding that covers some bytes of a buffer: aligned down as the device needs, with
/// what is left over as a parameter of the shader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub size: u64,
    /// Bytes between the binding's start and the data's.
    pub skip: u64,
}

impl<'a> Window<'a> {
    /// Covers `len` bytes (rounded up to whole words) from `start`.
    pub fn new(caps: &Caps, buffer: &'a wgpu::Buffer, start: u64, len: u64) -> Self {
        let skip = start % u64::from(caps.storage_align.max(1));
        let offset = start - skip;
        // 16 bytes hold any element a shader declares; every buffer of ours has as many,
        // and a caller's smaller one is refused by `check`.
        // A buffer's size need not be a multiple of 4, a binding's must be.
        let rest = (buffer.size() - offset) & !3;
        let size = (skip + len).next_multiple_of(4).max(16).min(rest);
        Self { buffer, offset, size, skip }
    }

    pub fn binding(&self) -> wgpu::BindingResource<'a> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.buffer,
            offset: self.offset,
            size: wgpu::BufferSize::new(self.size),
        })
    }
}

/// The most bytes of data that a window surely holds: a binding, less what alignment and
/// rounding may add.
pub(crate) fn window_capacity(caps: &Caps) -> u64 {
    caps.max_binding.saturating_sub(u64::from(caps.storage_align) + 16)
}

/// Checks usage, alignment and size of a buffer that must hold `bytes` from its offset.
pub(crate) fn check(
    role: Role,
    at: SubBuffer<'_>,
    bytes: u64,
    align: u64,
) -> Result<(), BindError> {
    if !at.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        return Err(BindError::Usage { role });
    }
    if !at.offset.is_multiple_of(align) {
        return Err(BindError::Misaligned { role, offset: at.offset, align });
    }
    let have = at.buffer.size();
    let whole =
        |bytes: u64| bytes.checked_next_multiple_of(4).and_then(|b| at.offset.checked_add(b));
    // A binding may not be empty, so that even no data needs a word, and vec4 needs four.
    let need = whole(bytes.max(align.max(4))).ok_or(BindError::Overflow { role })?;
    if have < need { Err(BindError::TooSmall { role, need, have }) } else { Ok(()) }
}
