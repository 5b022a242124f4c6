//! Making compressed weights on the GPU: prune, quantize, pack, bit for bit as the host
//! side does it.
//!
//! Five kernels, in this order: `reset`, `prune` or `place` (2:4 only), `ranges`,
//! `scales` (integers only), `codes`. They share one bind group a chunk of rows.

use crate::format::{DeviceLayout, Element, Granularity, ScaleType, WeightFormat};
use std::fmt::Write;

/// One kernel of the making of weights; its file is `shaders/*/<name>.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MakeKernel {
    /// Clears ranges and status.
    Reset,
    /// 2:4 metadata by magnitude.
    Prune,
    /// 2:4 metadata from a given mask.
    Place,
    /// The range of each group; refuses what is not finite.
    Ranges,
    /// Scales and zero points.
    Scales,
    /// Codes.
    Codes,
}

const MAKE: &str = include_str!("../../shaders/quantize/make.wgsl");
const RECORD: &str = include_str!("../../shaders/quantize/record.wgsl");
const SOFTFLOAT: &str = include_str!("../../shaders/lib/softfloat.wgsl");
const HALF: &str = include_str!("../../shaders/lib/half.wgsl");

impl MakeKernel {
    /// Every kernel.
    pub const ALL: [Self; 6] =
        [Self::Reset, Self::Prune, Self::Place, Self::Ranges, Self::Scales, Self::Codes];

    /// The file's name and the debug label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Prune => "prune",
            Self::Place => "place",
            Self::Ranges => "ranges",
            Self::Scales => "scales",
            Self::Codes => "codes",
        }
    }

    const fn body(self) -> &'static str {
        match self {
            Self::Reset => include_str!("../../shaders/quantize/reset.wgsl"),
            Self::Prune => include_str!("../../shaders/sparse/prune.wgsl"),
            Self::Place => include_str!("../../shaders/sparse/place.wgsl"),
            Self::Ranges => include_str!("../../shaders/quantize/ranges.wgsl"),
            Self::Scales => include_str!("../../shaders/quantize/scales.wgsl"),
            Self::Codes => include_str!("../../shaders/quantize/codes.wgsl"),
        }
    }

    /// The whole shader for a format.
    pub fn source(self, format: &WeightFormat) -> String {
        [&constants(format), MAKE, RECORD, SOFTFLOAT, HALF, self.body()].concat()
    }

    /// Invocations that a chunk takes; 64 make a workgroup.
    pub fn invocations(self, params: &MakeParams) -> u64 {
        let rows = u64::from(params.rows);
        match self {
            Self::Reset => u64::from(params.extreme_words.max(4)),
            Self::Prune | Self::Place | Self::Ranges => rows * u64::from(params.blocks),
            Self::Scales => rows * u64::from(params.side_words - params.scale_at),
            Self::Codes => rows * u64::from(params.code_words),
        }
    }
}

/// The constants that the fragments of `shaders/quantize` require of a format.
pub fn constants(format: &WeightFormat) -> String {
    let (low, high) = format.code_range().unwrap_or((0, 0));
    let divisor: f32 = match (format.element(), format.is_symmetric()) {
        (Element::F32 | Element::F16, _) => 1.0,
        (Element::Int16, _) => 32767.0,
        (Element::Int8, true) => 127.0,
        (Element::Int8, false) => 255.0,
        (Element::Int4, true) => 7.0,
        (Element::Int4, false) => 15.0,
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "const ELEMENT_BITS: u32 = {}u;\n\
         const IS_FLOAT: bool = {};\n\
         const ASYMMETRIC: bool = {};\n\
         const SPARSE: bool = {};\n\
         const F16_SCALES: bool = {};\n\
         const PER_TENSOR: bool = {};\n\
         const CODE_LOW: i32 = {low};\n\
         const CODE_HIGH: i32 = {high};\n\
         const CODE_ZERO: i32 = {};\n\
         const SCALE_DIVISOR: u32 = {:#010x}u; // {divisor}\n",
        format.element().bits(),
        !format.element().is_integer(),
        !format.is_symmetric(),
        format.is_sparse(),
        format.scale_type() == ScaleType::F16,
        format.granularity() == Granularity::Tensor,
        format.symmetric_zero(),
        divisor.to_bits(),
    );
    text
}

/// `MakeParams` of `shaders/quantize/make.wgsl`; every field in `u32` words or counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[allow(missing_docs, reason = "documented in the shader")]
pub struct MakeParams {
    pub rows: u32,
    pub k: u32,
    pub blocks: u32,
    pub group_size: u32,
    pub groups: u32,
    pub weight_at: u32,
    pub weight_stride: u32,
    pub given_at: u32,
    pub code_at: u32,
    pub code_words: u32,
    pub side_at: u32,
    pub side_words: u32,
    pub scale_at: u32,
    pub zero_at: u32,
    pub status_at: u32,
    pub extreme_words: u32,
}

impl MakeParams {
    /// The parameters of a chunk of `rows` rows that begins where its bindings begin.
    pub fn new(layout: &DeviceLayout, rows: u32) -> Self {
        let geometry = &layout.geometry;
        let k = geometry.k as u32;
        let tensor = geometry.format.granularity() == Granularity::Tensor;
        let pairs = match geometry.scales {
            0 => 0,
            _ if tensor => 1,
            _ => rows * geometry.groups as u32,
        };
        Self {
            rows,
            k,
            blocks: layout.blocks as u32,
            group_size: geometry.group_size.min(geometry.k.max(1)) as u32,
            groups: geometry.groups as u32,
            weight_stride: k,
            code_words: layout.code_words as u32,
            side_words: layout.side_words as u32,
            scale_at: layout.scale_at as u32,
            zero_at: layout.zero_at as u32,
            extreme_words: 2 * pairs,
            ..Self::default()
        }
    }
}
