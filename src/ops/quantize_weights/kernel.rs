use crate::format::{CodeType, DeviceLayout, Granularity, RowOrder, ScaleType, WeightFormat};
use crate::gpu::{
    Access, AdapterClass, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Size, Stored,
    Variable, fragment, uniform,
};

/// How the kernels that take W by blocks of 32 columns load it. The other kernels load words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WeightsAccess {
    /// One word at a time. Any offset, stride and K are allowed.
    Words,
    /// 16 bytes at a time. Offset, stride and K must be multiples of 4 words.
    Quads,
    /// 32 bytes at a time as 64-bit integers, on software adapters that have them. Offset, stride and
    /// K must be multiples of 8 words.
    Wide,
}

impl WeightsAccess {
    /// Every access.
    pub const ALL: [Self; 3] = [Self::Words, Self::Quads, Self::Wide];

    /// Returns the widest access if K, stride and offset are all multiples of what `words`, their
    /// bitwise or, is a multiple of.
    pub(super) fn widest(caps: &Caps, words: u32) -> Self {
        match words.trailing_zeros() {
            3.. if Self::is_wide(caps) => Self::Wide,
            2.. => Self::Quads,
            _ => Self::Words,
        }
    }

    /// Returns whether the device takes [`Wide`](Self::Wide).
    fn is_wide(caps: &Caps) -> bool {
        caps.int64 && caps.class == AdapterClass::Cpu
    }

    /// Returns the fragments that load W, and that store codes of a block of `words`.
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

    /// Returns the part that it adds to a kernel id.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Words => ".words",
            Self::Quads => "",
            Self::Wide => ".u64",
        }
    }
}

/// One of the kernels that make weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightsKernel {
    /// Clears ranges and status.
    Reset,
    /// Makes 2:4 metadata by magnitude.
    Prune,
    /// Copies 2:4 metadata from a given mask.
    Place,
    /// Finds the range of each group and checks that weights are finite, for every format.
    Ranges,
    /// Computes scales and zero points.
    Scales,
    /// Makes codes.
    Codes,
    /// Does what `Ranges` does by blocks, for groups that are whole blocks or whole rows.
    BlockRanges,
    /// Does what `Prune` and `Ranges` do, by blocks.
    BlockPrune,
    /// Does what `Codes` does by blocks; for floats it does what `Ranges` does too.
    BlockCodes,
    /// Does everything for floats that are pruned by magnitude.
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

    /// Returns the first part of the kernel id.
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

    /// Returns whether it takes W by blocks, so that [`WeightsAccess`] matters.
    pub const fn by_blocks(self) -> bool {
        matches!(self, Self::BlockRanges | Self::BlockPrune | Self::BlockCodes | Self::Compact)
    }

    /// Returns the kernel for a format. Formats share a kernel if they differ in nothing that it
    /// looks at.
    pub fn shader(
        self,
        format: &WeightFormat,
        order: RowOrder,
        access: WeightsAccess,
    ) -> KernelDesc {
        let block_words = format.code_type().bits() / if format.is_sparse() { 2 } else { 1 };
        let [load, store] = access.fragments(block_words);
        let (fragments, wanted): (&[&str], &[&str]) = match self {
            Self::Reset => (&["quantize/reset"], &[]),
            Self::Prune => (&["sparse/prune"], &[]),
            Self::Place => (&["sparse/place"], &[]),
            Self::Ranges => (&["quantize/ranges"], &["IS_FLOAT", "SPARSE", "PER_TENSOR"]),
            Self::Scales => (
                &["quantize/scales"],
                &[
                    "ASYMMETRIC",
                    "F16_SCALES",
                    "PER_TENSOR",
                    "CODE_LOW",
                    "CODE_HIGH",
                    "SCALE_DIVISOR",
                    "SCALE_MOST",
                ],
            ),
            Self::Codes => (&["quantize/codes"], &CODE_CONSTANTS),
            Self::BlockRanges | Self::BlockPrune => {
                (&[load, "quantize/block_ranges"], &["SPARSE", "PER_TENSOR"])
            }
            Self::BlockCodes | Self::Compact => {
                (&[load, store, "quantize/block_codes"], &CODE_CONSTANTS)
            }
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
        let makes_codes = matches!(self, Self::Codes | Self::BlockCodes | Self::Compact);
        KernelDesc {
            id: name,
            consts,
            fragments: fragments.iter().map(|name| fragment(name)).collect(),
            bindings: BINDINGS.to_vec(),
            grid: self.grid(),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: makes_codes.then(|| Stored::new(format, order.panel())),
        }
    }

    fn grid(self) -> Grid {
        let invocations: &[Variable] = match self {
            Self::Reset => &[CLEAR_WORDS],
            Self::Scales => &[Variable::ROWS, SCALE_WORDS],
            Self::Codes => &[Variable::ROWS, CODE_WORDS],
            _ => &[Variable::ROWS, Variable::BLOCKS],
        };
        Grid::new(&[(invocations, WORKGROUP)])
    }
}

/// Invocations of a workgroup.
const WORKGROUP: u32 = 64;

const CODE_WORDS: Variable = Variable {
    name: "code_words",
    meaning: "the parameter `code_words`: words of codes of a row of W",
};
const SCALE_WORDS: Variable = Variable {
    name: "scale_words",
    meaning: "words of scales and zero points of a row: side_words − scale_at",
};
const CLEAR_WORDS: Variable =
    Variable { name: "clear_words", meaning: "max(the parameter `extreme_words`, 4)" };

/// The constants of a format that the kernels which make codes need.
const CODE_CONSTANTS: [&str; 8] = [
    "ELEMENT_BITS",
    "IS_FLOAT",
    "ASYMMETRIC",
    "SPARSE",
    "F16_SCALES",
    "CODE_LOW",
    "CODE_HIGH",
    "CODE_ZERO",
];

/// What the binding of side data holds.
pub(crate) const SIDE: &str = "records of side data of W: 2:4 metadata, scales, zero points";

/// The kernels share their bindings, whichever of them each uses.
const BINDINGS: [Binding; 7] = [
    Binding::params("params", Params::LAYOUT),
    Binding::data(1, "weights", "W, f32, row-major from word weight_at on", Access::Read),
    Binding::data(
        2,
        "given",
        "the given 2:4 mask: a word of metadata a row and block",
        Access::Read,
    ),
    Binding::data(
        3,
        "extremes",
        "two words a group: the bits of the greatest x and of the greatest −x, at least 0",
        Access::Write,
    ),
    Binding::new(4, "codes", BindingRole::Codes, Access::Write),
    Binding::data(5, "side", SIDE, Access::Write),
    Binding::data(6, "status", "the first offending index of each kind of fault", Access::Write),
];

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = Vec::new();
    for format in WeightFormat::all([32, 6]) {
        for access in WeightsAccess::ALL {
            if access == WeightsAccess::Wide && !WeightsAccess::is_wide(caps) {
                continue;
            }
            let shader = |kernel: WeightsKernel| kernel.shader(&format, caps.row_order, access);
            kernels.extend(WeightsKernel::ALL.map(shader));
        }
    }
    kernels
}

/// Returns the kernel id: the name of the kernel, and the constants that distinguish it.
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

/// Returns the constants named in `wanted` that a format gives to the fragments of
/// `shaders/quantize`.
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
        "SCALE_MOST" => Const::U32(most_scale(steps.max(1) as f32).to_bits()),
        _ => Const::U32((steps.max(1) as f32).to_bits()),
    };
    wanted.iter().map(|&name| (name, value(name))).collect()
}

/// Returns the largest scale that a range of finite weights gets, so that no weight becomes infinite:
/// `steps` times it is finite. It is `f32::MAX / steps`, or the number below where that was rounded up.
fn most_scale(steps: f32) -> f32 {
    let most = f32::MAX / steps;
    if (most * steps).is_finite() { most } else { most.next_down() }
}

uniform! {
    /// The parameters of one dispatch.
    pub(super) struct Params for "MakeParams" in "quantize/make" {
        rows: u32,
        k: u32,
        blocks: u32,
        group_size: u32,
        groups: u32,
        weight_at: u32,
        weight_stride: u32,
        given_at: u32,
        row0: u32,
        code_words: u32,
        side_words: u32,
        scale_at: u32,
        zero_at: u32,
        status_at: u32,
        extreme_words: u32,
        pad: u32,
    }
}

impl Params {
    /// Returns the parameters that the layout decides. Offsets, stride, rows and ranges depend on
    /// the chunk.
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

    /// The variables of grids, for one chunk of rows.
    pub fn sizes(&self) -> [(Variable, Size); 5] {
        [
            (Variable::ROWS, self.rows),
            (Variable::BLOCKS, self.blocks),
            (CODE_WORDS, self.code_words),
            (SCALE_WORDS, self.side_words.saturating_sub(self.scale_at)),
            (CLEAR_WORDS, self.extreme_words.max(super::STATUS_WORDS as u32)),
        ]
        .map(|(variable, number)| (variable, Size::Fixed(number.into())))
    }
}
