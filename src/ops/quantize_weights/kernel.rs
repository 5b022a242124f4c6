use crate::format::{CodeType, DeviceLayout, Granularity, RowOrder, ScaleType, WeightFormat};
use crate::gpu::{AdapterClass, Binding, Caps, Const, Shader, fragment};

/// How the kernels that take W by blocks of 32 columns load it. The others load words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WeightsAccess {
    /// A word at a time: any offset, stride and K.
    Words,
    /// 16 bytes: offset, stride and K are multiples of 4 words.
    Quads,
    /// 32 bytes as 64-bit integers: multiples of 8, on a software adapter that has them.
    Wide,
}

impl WeightsAccess {
    /// Every access.
    pub const ALL: [Self; 3] = [Self::Words, Self::Quads, Self::Wide];

    /// The widest for words that all are multiples of the same as `k | stride | offset`.
    pub(super) fn widest(caps: &Caps, words: u32) -> Self {
        match words.trailing_zeros() {
            3.. if caps.int64 && caps.class == AdapterClass::Cpu => Self::Wide,
            2.. => Self::Quads,
            _ => Self::Words,
        }
    }

    /// The fragments that load W, and that store codes of a block of `words`.
    fn fragments(self, words: u32) -> [&'static str; 2] {
        match (self, words) {
            (Self::Words, 2) => ["access/weights_u32", "access/made_u32x2"],
            (Self::Words, _) => ["access/weights_u32", "access/made_u32x4"],
            (Self::Quads, 2) => ["access/weights_u32x4", "access/made_u32x2"],
            (Self::Quads, _) => ["access/weights_u32x4", "access/made_u32x4"],
            (Self::Wide, 2) => ["access/weights_u64", "access/made_u64"],
            (Self::Wide, _) => ["access/weights_u64", "access/made_u64x2"],
        }
    }

    /// What it adds to a kernel id.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Words => ".words",
            Self::Quads => "",
            Self::Wide => ".u64",
        }
    }
}

/// One kernel of the making of weights; its file under `shaders/` has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightsKernel {
    /// Clears ranges and status.
    Reset,
    /// 2:4 metadata by magnitude.
    Prune,
    /// 2:4 metadata from a given mask.
    Place,
    /// The range of each group; for every format the check that weights are finite.
    Ranges,
    /// Scales and zero points.
    Scales,
    /// Codes.
    Codes,
    /// `Ranges` by blocks, for groups that are whole blocks or whole rows.
    BlockRanges,
    /// The same after pruning by magnitude: `Prune` and `Ranges` in one.
    BlockPrune,
    /// `Codes` by blocks; for floats `Ranges` and `Codes` in one.
    BlockCodes,
    /// The same after pruning by magnitude, for floats: the whole making in one.
    Compact,
}

impl WeightsKernel {
    /// Every kernel.
    pub const ALL: [Self; 10] = [
        Self::Reset,
        Self::Prune,
        Self::Place,
        Self::Ranges,
        Self::Scales,
        Self::Codes,
        Self::BlockRanges,
        Self::BlockPrune,
        Self::BlockCodes,
        Self::Compact,
    ];

    /// The file's name, and how the kernel id begins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Prune => "prune",
            Self::Place => "place",
            Self::Ranges => "ranges",
            Self::Scales => "scales",
            Self::Codes => "codes",
            Self::BlockRanges => "block_ranges",
            Self::BlockPrune => "block_prune",
            Self::BlockCodes => "block_codes",
            Self::Compact => "compact",
        }
    }

    /// Whether it takes W by blocks, and [`WeightsAccess`] matters.
    pub const fn by_blocks(self) -> bool {
        matches!(self, Self::BlockRanges | Self::BlockPrune | Self::BlockCodes | Self::Compact)
    }

    /// The shader for a format. Formats that differ in nothing the kernel looks at share it.
    pub fn shader(self, format: &WeightFormat, order: RowOrder, access: WeightsAccess) -> Shader {
        let block_words = format.code_type().bits() / if format.is_sparse() { 2 } else { 1 };
        let [load, store] = access.fragments(block_words);
        let (fragments, wanted): (&[&str], &[&str]) = match self {
            Self::Reset => (&["quantize/make", "quantize/reset"], &[]),
            Self::Prune => (
                &[
                    "quantize/make",
                    "access/weights_u32",
                    "lib/panel",
                    "lib/softfloat",
                    "sparse/prune",
                ],
                &[],
            ),
            Self::Place => (&["quantize/make", "lib/panel", "sparse/place"], &[]),
            Self::Ranges => (
                &[
                    "quantize/make",
                    "access/weights_u32",
                    "lib/panel",
                    "lib/softfloat",
                    "sparse/metadata",
                    "quantize/ranges",
                ],
                &["IS_FLOAT", "SPARSE", "PER_TENSOR"],
            ),
            Self::Scales => (
                &["quantize/make", "lib/panel", "lib/softfloat", "lib/half", "quantize/scales"],
                &[
                    "ASYMMETRIC",
                    "F16_SCALES",
                    "PER_TENSOR",
                    "CODE_LOW",
                    "CODE_HIGH",
                    "SCALE_DIVISOR",
                ],
            ),
            Self::Codes => (
                &[
                    "quantize/make",
                    "access/weights_u32",
                    "lib/panel",
                    "lib/panel_codes",
                    "lib/softfloat",
                    "lib/half",
                    "quantize/record",
                    "sparse/metadata",
                    "quantize/codes",
                ],
                &[
                    "ELEMENT_BITS",
                    "IS_FLOAT",
                    "ASYMMETRIC",
                    "SPARSE",
                    "F16_SCALES",
                    "CODE_LOW",
                    "CODE_HIGH",
                    "CODE_ZERO",
                ],
            ),
            Self::BlockRanges | Self::BlockPrune => (
                &[
                    "quantize/make",
                    load,
                    "lib/panel",
                    "lib/softfloat",
                    "sparse/rank",
                    "quantize/block",
                    "quantize/block_ranges",
                ],
                &["SPARSE", "PER_TENSOR"],
            ),
            Self::BlockCodes | Self::Compact => (
                &[
                    "quantize/make",
                    load,
                    store,
                    "lib/panel",
                    "lib/panel_codes",
                    "lib/softfloat",
                    "lib/reciprocal",
                    "lib/half",
                    "quantize/record",
                    "sparse/rank",
                    "quantize/block",
                    "quantize/block_codes",
                ],
                &[
                    "ELEMENT_BITS",
                    "IS_FLOAT",
                    "ASYMMETRIC",
                    "SPARSE",
                    "F16_SCALES",
                    "CODE_LOW",
                    "CODE_HIGH",
                    "CODE_ZERO",
                ],
            ),
        };
        let mut consts = constants(format, wanted);
        if self != Self::Reset {
            consts.push(("PANEL", Const::U32(order.panel())));
        }
        let mut name = kernel_name(self.name(), &consts);
        if self.by_blocks() {
            let rank = matches!(self, Self::BlockPrune | Self::Compact);
            consts.push(("RANK", Const::Bool(rank)));
            consts.push(("QUADS", Const::Bool(access != WeightsAccess::Words)));
            name.push_str(access.suffix());
        }
        Shader {
            name,
            consts,
            fragments: fragments.iter().map(|name| fragment(name)).collect(),
            bindings: vec![
                Binding::Uniform(size_of::<Params>() as u32),
                Binding::Read,
                Binding::Read,
                Binding::Write,
                Binding::Write,
                Binding::Write,
                Binding::Write,
            ],
        }
    }

    /// Workgroups for one chunk of rows.
    pub(super) fn groups(self, params: &Params) -> u64 {
        let rows = u64::from(params.rows);
        let invocations = match self {
            Self::Reset => u64::from(params.extreme_words.max(super::STATUS_WORDS as u32)),
            Self::Scales => rows * u64::from(params.side_words - params.scale_at),
            Self::Codes => rows * u64::from(params.code_words),
            _ => rows * u64::from(params.blocks),
        };
        invocations.div_ceil(64)
    }
}

/// The kernel id: the kernel, and what distinguishes it.
pub(crate) fn kernel_name(kernel: &str, consts: &[(&'static str, Const)]) -> String {
    let mut name = kernel.to_string();
    for &(constant, value) in consts {
        let part = match (constant, value) {
            ("ELEMENT_BITS", Const::U32(bits)) => format!("b{bits}"),
            ("CODE_HIGH", Const::I32(high)) => format!("to{high}"),
            ("IS_FLOAT", Const::Bool(true)) => "float".into(),
            ("ASYMMETRIC", Const::Bool(true)) => "asym".into(),
            ("SPARSE", Const::Bool(true)) => "24".into(),
            ("F16_SCALES", Const::Bool(true)) => "f16s".into(),
            ("PER_TENSOR", Const::Bool(true)) => "tensor".into(),
            ("INDEXED", Const::Bool(true)) => "gather".into(),
            ("OUTPUT_F16", Const::Bool(true)) => "yf16".into(),
            ("PANEL", Const::U32(2..)) => "panels".into(),
            _ => continue,
        };
        name.push('.');
        name.push_str(&part);
    }
    name
}

/// Constants that fragments of `shaders/quantize` require of a format, those of `wanted`.
pub(crate) fn constants(
    format: &WeightFormat,
    wanted: &[&'static str],
) -> Vec<(&'static str, Const)> {
    let (low, high) = format.code_range().unwrap_or((0, 0));
    // From the code of zero up; an asymmetric one counts from the lowest.
    let steps = high - if format.is_symmetric() { format.symmetric_zero() } else { low };
    let is_float = matches!(format.code_type(), CodeType::F32 | CodeType::F16);
    let value = |name: &str| match name {
        "ELEMENT_BITS" => Const::U32(format.code_type().bits()),
        "IS_FLOAT" => Const::Bool(is_float),
        "ASYMMETRIC" => Const::Bool(!format.is_symmetric()),
        "SPARSE" => Const::Bool(format.is_sparse()),
        "F16_SCALES" => Const::Bool(format.scale_type() == ScaleType::F16),
        "PER_TENSOR" => Const::Bool(format.granularity() == Granularity::Tensor),
        "CODE_LOW" => Const::I32(low),
        "CODE_HIGH" => Const::I32(high),
        "CODE_ZERO" => Const::I32(format.symmetric_zero()),
        _ => Const::U32((steps.max(1) as f32).to_bits()),
    };
    wanted.iter().map(|&name| (name, value(name))).collect()
}

/// Mirror of `WeightsParams` in `shaders/quantize/make.wgsl`; a test compares the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub rows: u32,
    pub k: u32,
    pub blocks: u32,
    pub group_size: u32,
    pub groups: u32,
    pub weight_at: u32,
    pub weight_stride: u32,
    pub given_at: u32,
    pub row0: u32,
    pub code_words: u32,
    pub side_words: u32,
    pub scale_at: u32,
    pub zero_at: u32,
    pub status_at: u32,
    pub extreme_words: u32,
    pub pad: u32,
}

impl Params {
    /// What the layout decides; offsets, stride, rows and ranges are the chunk's.
    pub fn of(layout: &DeviceLayout) -> Self {
        let geometry = &layout.geometry;
        Self {
            k: geometry.k as u32,
            blocks: layout.blocks as u32,
            // One group either way, and no sum of group ends overflows.
            group_size: geometry.group_size.min(geometry.k.max(1)) as u32,
            groups: geometry.groups as u32,
            code_words: layout.code_words as u32,
            side_words: layout.side_words as u32,
            scale_at: layout.scale_at as u32,
            zero_at: layout.zero_at as u32,
            ..Self::default()
        }
    }
}

/// Names and offsets of the parameters, for the test against naga's reflection.
#[doc(hidden)]
pub fn params_layout() -> (usize, Vec<(&'static str, usize)>) {
    use std::mem::offset_of;
    let fields = vec![
        ("rows", offset_of!(Params, rows)),
        ("k", offset_of!(Params, k)),
        ("blocks", offset_of!(Params, blocks)),
        ("group_size", offset_of!(Params, group_size)),
        ("groups", offset_of!(Params, groups)),
        ("weight_at", offset_of!(Params, weight_at)),
        ("weight_stride", offset_of!(Params, weight_stride)),
        ("given_at", offset_of!(Params, given_at)),
        ("row0", offset_of!(Params, row0)),
        ("code_words", offset_of!(Params, code_words)),
        ("side_words", offset_of!(Params, side_words)),
        ("scale_at", offset_of!(Params, scale_at)),
        ("zero_at", offset_of!(Params, zero_at)),
        ("status_at", offset_of!(Params, status_at)),
        ("extreme_words", offset_of!(Params, extreme_words)),
        ("pad", offset_of!(Params, pad)),
    ];
    (size_of::<Params>(), fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Grid;

    #[test]
    fn the_grid_is_as_the_rule_says() {
        let params = Params {
            rows: 37,
            blocks: 3,
            code_words: 11,
            side_words: 9,
            scale_at: 2,
            extreme_words: 200,
            ..Params::default()
        };
        for kernel in WeightsKernel::ALL {
            let shader = kernel.shader(&WeightFormat::f16(), RowOrder::Rows, WeightsAccess::Words);
            let number = |name: &str| match name {
                "rows" => 37,
                "blocks" => 3,
                "code_words" => 11,
                "scale_words" => 7,
                "clear_words" => 200,
                _ => panic!("{name}"),
            };
            let rule = Grid::of(&shader).unwrap();
            assert_eq!(rule.groups(number), kernel.groups(&params), "{}", shader.name);
        }
    }
}
