//! Rows of compressed weights back to f32 or f16: all of them, or those of a list of
//! indices (embedding tables).

use super::make::constants;
use crate::format::{DeviceLayout, WeightFormat};

/// What a dequantizing kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DequantizeChoice {
    /// The weights.
    pub format: WeightFormat,
    /// Rows come from an index list.
    pub indexed: bool,
    /// The output is f16, two a word.
    pub f16: bool,
}

impl DequantizeChoice {
    /// The whole shader.
    pub fn source(&self) -> String {
        let constants = constants(&self.format)
            + &format!(
                "const INDEXED: bool = {};\nconst OUTPUT_F16: bool = {};\n",
                self.indexed, self.f16
            );
        [
            &constants,
            include_str!("../../shaders/quantize/record.wgsl"),
            include_str!("../../shaders/lib/half.wgsl"),
            include_str!("../../shaders/quantize/dequantize.wgsl"),
        ]
        .concat()
    }

    /// Words of one output row.
    pub fn row_words(&self, k: u32) -> u32 {
        if self.f16 { k.div_ceil(2) } else { k }
    }
}

/// `DequantizeParams` of `shaders/quantize/dequantize.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[allow(missing_docs, reason = "documented in the shader")]
pub struct DequantizeParams {
    pub rows: u32,
    pub first_row: u32,
    pub n: u32,
    pub k: u32,
    pub group_size: u32,
    pub code_at: u32,
    pub code_words: u32,
    pub side_at: u32,
    pub side_words: u32,
    pub scale_at: u32,
    pub zero_at: u32,
    pub index_at: u32,
    pub out_rows: u32,
    pub output_at: u32,
    pub output_stride: u32,
    pub unused: u32,
}

impl DequantizeParams {
    /// The parameters for all rows of a matrix in one binding each.
    pub fn new(layout: &DeviceLayout, choice: &DequantizeChoice) -> Self {
        let geometry = &layout.geometry;
        let k = geometry.k as u32;
        Self {
            rows: geometry.n as u32,
            n: geometry.n as u32,
            k,
            group_size: geometry.group_size.min(geometry.k.max(1)) as u32,
            code_words: layout.code_words as u32,
            side_words: layout.side_words as u32,
            scale_at: layout.scale_at as u32,
            zero_at: layout.zero_at as u32,
            out_rows: geometry.n as u32,
            output_stride: choice.row_words(k),
            ..Self::default()
        }
    }
}
