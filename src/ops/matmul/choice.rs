use super::integer::Groups;
use super::schedule::{Schedule, gemv_lanes};
use super::{Activations, Epilogue, Integer, MatmulSpec, Output, Params};
use crate::format::{
    ActivationFunction, BLOCK_K, CodeKind, CodeType, Granularity, Offset, RowOrder, ScaleType,
    WeightFormat,
};
use crate::gpu::{
    Access, AdapterClass, Binding, BindingRole, Caps, Const, Grid, KernelDesc, M_TABLE, Stored,
    Variable, fragment,
};
use crate::ops::quantize_activations::X;
use crate::ops::quantize_weights::SIDE;
use crate::ops::weights::{table_constants, texture_width};
use crate::ops::{FloatType, FormatUse};

/// How codes become numbers; see `shaders/decode/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decoder {
    /// The type of a stored weight.
    pub element: CodeType,
    /// Whether it is 2:4 sparse.
    pub sparse: bool,
}

impl Decoder {
    /// Returns the decoder of a format.
    pub fn of(format: &WeightFormat) -> Self {
        Self { element: format.code_type(), sparse: format.is_sparse() }
    }

    /// Returns the number of bytes of codes in a block of 32 columns.
    pub fn block_bytes(&self) -> u32 {
        let columns = if self.sparse { BLOCK_K / 2 } else { BLOCK_K } as u32;
        columns * self.element.low_bits() / 8
    }

    /// Returns whether two blocks may be loaded at once: 2:4 sparse ones that have only 8 bytes of
    /// codes.
    pub(super) fn pairs(&self) -> bool {
        self.sparse && self.block_bytes() == 8
    }
}

/// How scales are applied; see `shaders/scale/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// There are no scales, because weights are floats.
    None,
    /// Each row has one scale.
    Row,
    /// Each block of 32 columns has one scale. Integer products also allow two, one for each half.
    Aligned,
    /// Weights are scaled as they are decoded, block by block, because half a block has a scale, or
    /// because they have minima. The number of groups in a block is 2, 1, or 0 if a group is some
    /// other multiple of half a block, or the whole row.
    Block(u32),
    /// A scale is looked up for every column, and weights are decoded four at a time.
    General,
}

/// How X is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XLoad {
    /// f32, one element at a time.
    F32,
    /// f32, 16 bytes at a time.
    F32x4,
    /// f16 in pairs.
    F16,
    /// Rows of 8-bit codes.
    Int8,
}

/// How Y is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum YStore {
    /// Y is stored as floats of this type.
    Float(FloatType),
    /// Y is stored as 8-bit codes, with or without a zero point.
    Int8 {
        /// Whether the zero point may be other than 0.
        zeros: bool,
    },
    /// The exact sums are added to the contents of Y.
    Accumulators,
}

/// The choice of a matmul kernel as plain data. It determines the [`KernelDesc`]: fragments,
/// constants, grid and workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelChoice {
    /// The K loop.
    #[doc(hidden)]
    pub schedule: Schedule,
    /// How codes become numbers.
    #[doc(hidden)]
    pub decoder: Decoder,
    /// How scales are applied.
    #[doc(hidden)]
    pub scaling: Scaling,
    /// Whether zero points or minima are stored, and how.
    #[doc(hidden)]
    pub offset: Offset,
    /// How scales are stored.
    #[doc(hidden)]
    pub scale_type: ScaleType,
    /// How X is loaded.
    #[doc(hidden)]
    pub x: XLoad,
    /// How Y is stored.
    #[doc(hidden)]
    pub y: YStore,
    /// The function that is applied to sums after the bias.
    #[doc(hidden)]
    pub function: ActivationFunction,
    /// What becomes of the function's results.
    #[doc(hidden)]
    pub epilogue: Epilogue,
    /// Whether a list names the expert of each row of Y.
    #[doc(hidden)]
    pub experts: bool,
    /// What integer products need; `None` unless X is quantized.
    #[doc(hidden)]
    pub integer: Option<Integer>,
    /// Whether a bias is added.
    #[doc(hidden)]
    pub bias: bool,
    /// How rows of W lie in memory.
    #[doc(hidden)]
    pub order: RowOrder,
    /// Lanes of every subgroup if lanes share loads of X; else 0.
    #[doc(hidden)]
    pub subgroup: u32,
    /// Whether f16 values are converted with the built-in operation.
    #[doc(hidden)]
    pub native_f16_unpack: bool,
    /// Whether W, and X if possible, are loaded as 64-bit words.
    #[doc(hidden)]
    pub wide: bool,
    /// Whether loads of X must check for the end of K, in kernels that could do without.
    #[doc(hidden)]
    pub ragged: bool,
    /// Whether a lane takes two blocks of 32 columns at a time with one load of codes.
    #[doc(hidden)]
    pub pair: bool,
    /// Whether the sums of a workgroup go through subgroups, of any size.
    #[doc(hidden)]
    pub subgroup_sum: bool,
    /// Texels in a row of the texture that codes are read from; 0 if they are in a buffer.
    #[doc(hidden)]
    pub texture_width: u32,
}

/// Returns the schedule for `m` rows: a pure function of the spec and the facts about the device.
///
/// On CPU-type adapters lanes own rows of W. On GPUs lanes split K for few rows of X, and tiles share
/// loads for many rows. Quantized X has schedules of its own, by the same rules; whether kernels
/// multiply packed bytes or multiply in f32 depends on [`Caps::packed_dot`].
pub fn select(spec: &MatmulSpec, caps: &Caps, m: u32) -> Schedule {
    // More lanes share a row if there are too few rows to occupy a GPU.
    let (fewest, most) = gemv_lanes(spec.k);
    let lanes = if spec.n < SPLIT_K_BELOW { most } else { fewest };
    // Bytes of a block that are loaded word by word.
    let bytes = match spec.code_textures && texture_width(&spec.weights, spec.k, caps) > 0 {
        true => 0,
        false => Decoder::of(&spec.weights).block_bytes(),
    };
    if let Some(experts) = spec.experts {
        return experts.select(caps, m, bytes, lanes);
    }
    let integer = spec.activations.int8().is_some();
    let wanted = match (caps.class, m) {
        (AdapterClass::Cpu, 0..=1) if integer => Schedule::IntRows { m_tile: 1 },
        (AdapterClass::Cpu, _) if integer => Schedule::IntRows { m_tile: 4 },
        (AdapterClass::Gpu, 0..=1) if integer => Schedule::IntGemv { lanes, m_tile: 1 },
        (AdapterClass::Gpu, 2..=8) if integer => Schedule::IntGemv { lanes, m_tile: 4 },
        (AdapterClass::Gpu, 9..=64) if integer => Schedule::IntTiled { m_tile: 32 },
        (AdapterClass::Gpu, _) if integer => Schedule::IntTiled { m_tile: 64 },
        // More columns share more loads of X, but long codes of many rows spill.
        (AdapterClass::Cpu, 0..=1) if bytes <= 16 => Schedule::Rows { m_tile: 1, n_tile: 4 },
        (AdapterClass::Cpu, 0..=1) => Schedule::Rows { m_tile: 1, n_tile: 2 },
        // Wide codes take longer to load than to multiply, so more rows share a load.
        (AdapterClass::Cpu, 5..=64) if bytes >= 64 => Schedule::Rows { m_tile: 8, n_tile: 2 },
        (AdapterClass::Cpu, 65..) if bytes >= 64 => Schedule::Rows { m_tile: 16, n_tile: 2 },
        (AdapterClass::Cpu, _) => Schedule::Rows { m_tile: 4, n_tile: 2 },
        (AdapterClass::Gpu, 0..=1) => Schedule::Gemv { lanes, m_tile: 1 },
        (AdapterClass::Gpu, 2..=8) => Schedule::Gemv { lanes, m_tile: 4 },
        (AdapterClass::Gpu, 9..=64) => Schedule::Tiled { m_tile: 32 },
        (AdapterClass::Gpu, _) => Schedule::Tiled { m_tile: 64 },
    };
    // The smallest schedule runs on every device. The larger tile takes all of WebGPU's workgroup
    // memory, and wgpu's downlevel limits are 32 bytes below that.
    let smallest = match integer {
        false => Schedule::Rows { m_tile: 1, n_tile: 2 },
        true => Schedule::IntRows { m_tile: 1 },
    };
    let smaller = match wanted {
        Schedule::Tiled { .. } => Schedule::Tiled { m_tile: 32 },
        Schedule::IntTiled { .. } => Schedule::IntTiled { m_tile: 32 },
        _ => smallest,
    };
    let fits = |schedule: &Schedule| schedule.check(caps).is_ok();
    [wanted, smaller].into_iter().find(fits).unwrap_or(smallest)
}

/// Rows of W below which more lanes share a row. With fewer rows there would be at most 512 teams of
/// 32 lanes that make four columns each, which is too few for the 192 SIMDs of a large GPU.
const SPLIT_K_BELOW: u32 = 2048;

impl KernelChoice {
    /// Returns the kernel of a schedule for a spec.
    pub fn new(spec: &MatmulSpec, schedule: Schedule, caps: &Caps) -> Self {
        let scaling = match (scaling(&spec.weights, spec.k, spec.format_use()), schedule) {
            // Only these schedules have kernels for one scale a row.
            (Scaling::Row, Schedule::Rows { .. } | Schedule::IntRows { .. }) => Scaling::Row,
            (Scaling::Row, _) => Scaling::Aligned,
            (scaling, _) => scaling,
        };
        let decoder = Decoder::of(&spec.weights);
        let by_rows = matches!(schedule, Schedule::Rows { .. } | Schedule::IntRows { .. });
        let wide = by_rows && caps.int64;
        let gemv = matches!(schedule, Schedule::Gemv { .. });
        let vec4 = |v: u32| v.is_multiple_of(4);
        let aligned = vec4(spec.k) && vec4(spec.x_stride) && vec4(spec.x_batch_stride);
        let x = match spec.activations {
            Activations::Int8(_) => XLoad::Int8,
            Activations::Float(FloatType::F16) => XLoad::F16,
            Activations::Float(_) if aligned && !spec.any_x_offset => XLoad::F32x4,
            Activations::Float(_) => XLoad::F32,
        };
        let y = match spec.output {
            Output::Float(float) => YStore::Float(float),
            Output::Int8(format) => YStore::Int8 { zeros: !format.is_symmetric() },
            Output::Accumulators => YStore::Accumulators,
        };
        Self {
            schedule,
            decoder,
            scaling,
            offset: spec.weights.offset(),
            scale_type: spec.weights.scale_type(),
            x,
            y,
            bias: spec.bias,
            function: spec.function,
            epilogue: spec.epilogue,
            experts: spec.experts.is_some(),
            integer: Integer::of(spec, caps),
            order: caps.row_order,
            // Only if lanes want the same X and a step has quads to share.
            subgroup: match caps.subgroup {
                4 | 8 | 16 | 32 | 64 if by_rows && scaling != Scaling::General => caps.subgroup,
                _ => 0,
            },
            native_f16_unpack: caps.exact_f16_unpack
                && (x == XLoad::F16 || spec.weights.code_type() == CodeType::F16),
            wide,
            ragged: match x {
                XLoad::F32 | XLoad::Int8 => false,
                XLoad::F32x4 => !wide && !spec.k.is_multiple_of(BLOCK_K as u32),
                XLoad::F16 => !spec.k.is_multiple_of(BLOCK_K as u32),
            },
            // In rows of whole pairs, each pair is 16 aligned bytes.
            pair: gemv
                && decoder.pairs()
                && scaling != Scaling::General
                && caps.row_order == RowOrder::Rows
                && spec.k.div_ceil(BLOCK_K as u32).is_multiple_of(2),
            subgroup_sum: match schedule {
                Schedule::Gemv { lanes, .. } | Schedule::IntGemv { lanes, .. } => {
                    caps.subgroups && lanes == schedule.workgroup()
                }
                _ => false,
            },
            texture_width: match spec.code_textures {
                true => texture_width(&spec.weights, spec.k, caps),
                false => 0,
            },
        }
    }

    /// Columns of the parts of K that a kernel of integer products scales separately: those of a
    /// slice, 32 if lanes split slices, or 16 if those are the groups of W.
    pub fn part_columns(&self, spec: &MatmulSpec) -> u32 {
        let block = BLOCK_K as u32;
        match (self.schedule, self.integer) {
            (_, Some(Integer { w_groups: Groups::Halves, .. })) => block / 2,
            (Schedule::IntGemv { .. }, Some(Integer { whole: false, .. })) => block,
            _ => block * spec.slice_blocks(),
        }
    }

    /// Returns the alignment that the offset of X must have, in bytes.
    pub fn x_align(&self) -> u64 {
        if matches!(self.x, XLoad::F32x4 | XLoad::Int8) { 16 } else { 4 }
    }

    /// Returns the number of workgroups for `m` rows of X, `rows` rows of W and a batch.
    pub fn groups(&self, m: u32, rows: u32, batch: u32) -> u64 {
        self.grid().groups(|variable| match variable {
            Variable::M => m.into(),
            Variable::ROWS | EXPERT_ROWS => rows.into(),
            // The only one that is left.
            _ => batch.into(),
        })
    }

    /// Returns the number of workgroups as a formula.
    pub fn grid(&self) -> Grid {
        let (tile_m, tile_n) = self.schedule.tile();
        let rows = if self.experts { EXPERT_ROWS } else { Variable::ROWS };
        Grid::new(&[(&[Variable::M], tile_m), (&[rows], tile_n), (&[Variable::BATCH], 1)])
    }

    /// Returns the kernel: the fragments that it chooses, constants, bindings and grid.
    pub fn shader(&self) -> KernelDesc {
        let mut consts =
            vec![("M_TABLE", Const::U32(M_TABLE)), ("PANEL", Const::U32(self.order.panel()))];
        let mut fragments = self.schedule_fragments(&mut consts);
        let general = self.scaling == Scaling::General;
        if let Some(integer) = &self.integer {
            self.integer_fragments(integer, &mut consts, &mut fragments);
        } else {
            self.float_fragments(&mut consts, &mut fragments);
        }
        let wide_side = self.wide && self.order == RowOrder::Panels && !general;
        fragments.push(if wide_side { "access/side_u64" } else { "access/side_u32" });
        fragments.extend(self.epilogue_fragments());
        match self.schedule {
            Schedule::Coop { .. } => {}
            _ if self.experts => fragments.push("lib/tile_experts"),
            _ => fragments.push("lib/tile"),
        }
        if self.y != YStore::Accumulators {
            fragments.push(function_fragment(self.function));
            fragments.push(if self.bias { "lib/bias" } else { "lib/no_bias" });
        }
        if !general || !self.by_columns() {
            fragments.push(self.codes_fragment());
            if self.texture_width > 0 {
                consts.push(("TEXTURE_WIDTH", Const::U32(self.texture_width)));
            }
        }
        KernelDesc {
            id: self.name(),
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings: self.bindings(),
            grid: self.grid(),
            workgroup_size: self.schedule.workgroup(),
            workgroup_memory: self.schedule.workgroup_memory(),
            conditions: self.conditions(),
            weights: Some(self.stored()),
        }
    }

    /// How sums with their bias become Y, if it holds floats.
    fn epilogue_fragments(&self) -> Vec<&'static str> {
        let YStore::Float(float) = self.y else { return Vec::new() };
        let [store, old, one] = match float {
            FloatType::F32 => ["access/y_f32", "access/y_old_f32", "access/y_one_f32"],
            FloatType::F16 => ["access/y_f16", "access/y_old_f16", "access/y_one_f16"],
        };
        match self.epilogue {
            Epilogue::None => vec!["epilogue/store", store],
            Epilogue::Accumulate => vec!["epilogue/accumulate", store, old],
            Epilogue::Gated => vec!["epilogue/gated", one],
        }
    }

    /// Returns the K loop, and what only some loops require.
    fn schedule_fragments(&self, consts: &mut Vec<(&'static str, Const)>) -> Vec<&'static str> {
        let workgroup = ("WORKGROUP", Const::U32(self.schedule.workgroup()));
        let (reduce, entry) = (
            if self.subgroup_sum { "lib/reduce_subgroup" } else { "lib/reduce_tree" },
            if self.subgroup > 0 { "lib/entry_subgroup" } else { "lib/entry_plain" },
        );
        match self.schedule {
            Schedule::Gemv { lanes, m_tile } => {
                let trip = if self.pair { 2 } else { 1 };
                consts.extend([workgroup, ("LANES", Const::U32(lanes))]);
                consts.extend([("M_TILE", Const::U32(m_tile)), ("TRIP", Const::U32(trip))]);
                vec!["schedule/gemv", reduce]
            }
            Schedule::Rows { m_tile: 1, n_tile } => {
                consts.extend([workgroup, ("COLUMNS", Const::U32(n_tile))]);
                let sums = if self.pairs_blocks() { "lib/sums_pairs" } else { "lib/sums_steps" };
                vec!["schedule/rows_m1", sums, entry]
            }
            Schedule::Rows { m_tile, .. } => {
                consts.extend([workgroup, ("M_TILE", Const::U32(m_tile))]);
                vec!["schedule/rows", entry]
            }
            Schedule::Tiled { m_tile } => {
                consts.push(("TILE_M", Const::U32(m_tile)));
                vec!["schedule/tiled"]
            }
            Schedule::IntRows { m_tile } => {
                consts.extend([workgroup, ("M_TILE", Const::U32(m_tile))]);
                vec!["schedule/int_rows", entry]
            }
            Schedule::IntGemv { lanes, m_tile } => {
                consts.extend([workgroup, ("LANES", Const::U32(lanes))]);
                consts.push(("M_TILE", Const::U32(m_tile)));
                vec!["schedule/int_gemv", reduce]
            }
            Schedule::IntTiled { m_tile } => {
                consts.push(("TILE_M", Const::U32(m_tile)));
                vec!["schedule/int_tiled"]
            }
            Schedule::Coop { size: 16 } => vec!["schedule/coop", "lib/matrix16"],
            Schedule::Coop { .. } => vec!["schedule/coop", "lib/matrix8"],
        }
    }

    /// How X is loaded and how W is decoded and scaled, in kernels that multiply floats.
    fn float_fragments(
        &self,
        consts: &mut Vec<(&'static str, Const)>,
        fragments: &mut Vec<&'static str>,
    ) {
        let general = self.scaling == Scaling::General;
        if self.x == XLoad::F16 || self.x == XLoad::F32x4 && !self.wide {
            consts.push(("RAGGED", Const::Bool(self.ragged)));
        }
        fragments.extend(match self.x {
            XLoad::F32x4 if self.wide => Some("access/x_f32x4_u64"),
            XLoad::F32x4 => Some("access/x_f32x4"),
            XLoad::F16 => Some("access/x_f16"),
            XLoad::F32 => Some("access/x_f32"),
            XLoad::Int8 => None,
        });
        fragments.push(match self.native_f16_unpack {
            true => "lib/half_pair_native",
            false => "lib/half_pair",
        });
        fragments.push(if general { "lib/quad" } else { "lib/quads" });
        let element = self.decoder.element;
        if general && self.by_columns() {
            consts.push(("BITS", Const::U32(element.bits())));
            fragments.push(match self.decoder.sparse {
                true => "decode/general_24",
                false => "decode/general",
            });
        } else {
            self.decoder_fragments(consts, fragments);
        }
        if general && !self.by_columns() {
            fragments.push("decode/general_block");
        }
        if self.scaling != Scaling::None {
            let minima = matches!(self.offset, Offset::Minimum | Offset::FloatZeroPoint);
            let zero = if minima { 0 } else { element.fixed_zero() };
            self.scale_constants(zero as u32, consts, fragments);
        }
        if let Scaling::Block(groups) = self.scaling {
            consts.push(("BLOCK_GROUPS", Const::U32(groups)));
        }
        fragments.push(match self.scaling {
            Scaling::None => "scale/none",
            Scaling::Row | Scaling::Aligned => "scale/aligned",
            Scaling::Block(_) => "scale/block",
            Scaling::General => "scale/general",
        });
        if let Schedule::Rows { .. } = self.schedule {
            let shared = self.subgroup > 0;
            if shared {
                consts.push(("SUBGROUP", Const::U32(self.subgroup)));
            }
            if !self.pairs_blocks() {
                consts.push(("GROUPED", Const::Bool(self.scaling == Scaling::Aligned)));
            }
            fragments.push(if shared { "lib/part_shared" } else { "lib/part_direct" });
        }
    }

    /// The constants of `scale/side`. `zero` is the zero point of symmetric codes.
    pub(super) fn scale_constants(
        &self,
        zero: u32,
        consts: &mut Vec<(&'static str, Const)>,
        fragments: &mut Vec<&'static str>,
    ) {
        consts.push(("SCALES", Const::U32(self.scale_type as u32)));
        consts.push((
            "MINIMA",
            Const::U32(match self.offset {
                Offset::Minimum => 1,
                Offset::FloatZeroPoint => 2,
                _ => 0,
            }),
        ));
        consts.push((
            "ZERO_BITS",
            Const::U32(match self.offset {
                Offset::ZeroPoint => 8,
                Offset::ZeroPoint4 => 4,
                _ => 0,
            }),
        ));
        consts.push(("SIGNED_ZERO", Const::Bool(self.decoder.element.is_signed())));
        consts.push(("ZERO", Const::U32(zero)));
        fragments.push(match self.scale_type {
            ScaleType::F32 | ScaleType::F16 => "scale/field_float",
            _ => "scale/field_byte",
        });
    }

    /// Returns whether one row of X takes two blocks of W at a time, so that they share the words of their
    /// scales: where scales have two levels, and groups are blocks or their halves.
    fn pairs_blocks(&self) -> bool {
        matches!(self.schedule, Schedule::Rows { m_tile: 1, .. })
            && matches!(self.scaling, Scaling::Block(1 | 2))
            && self.scale_type.is_two_level()
    }

    /// Returns whether kernels with a scale for every column read codes word by word. They load
    /// whole blocks otherwise.
    pub(super) fn by_columns(&self) -> bool {
        matches!(self.decoder.element, CodeType::Int16 | CodeType::Int8 | CodeType::Int4)
    }

    /// Adds how blocks of codes become floats.
    fn decoder_fragments(
        &self,
        consts: &mut Vec<(&'static str, Const)>,
        fragments: &mut Vec<&'static str>,
    ) {
        let element = self.decoder.element;
        if self.decoder.sparse {
            fragments.push(match element {
                CodeType::F32 => "decode/f32_24",
                CodeType::F16 => "decode/f16_24",
                CodeType::Int16 => "decode/int16_24",
                CodeType::Int8 => "decode/int8_24",
                _ if self.pair => "decode/int4_24_pair",
                _ => "decode/int4_24",
            });
            return;
        }
        if matches!(self.scaling, Scaling::None | Scaling::Row | Scaling::Aligned) {
            fragments.push("decode/dense");
        }
        let rows = matches!(self.schedule, Schedule::Rows { .. });
        let planes = Const::U32(element.plane_bits());
        // Lanes that share loads of X can share a table as well: two entries each where there are 8.
        let shuffled = self.subgroup == 8;
        let (own, more) = match element {
            CodeType::F32 => ("decode/f32", None),
            CodeType::F16 => ("decode/f16", None),
            CodeType::Int16 => ("decode/int16", None),
            CodeType::Int8 if rows => ("decode/int8", None),
            CodeType::Int8 => ("decode/int8_offset", None),
            CodeType::Int4 => ("decode/int4", None),
            CodeType::Int6 | CodeType::Int5 => ("decode/planes4", Some(("PLANE_WORDS", planes))),
            CodeType::Int3 | CodeType::Int2 => ("decode/planes2", Some(("PLANE_WORDS", planes))),
            CodeType::E4m3 => ("decode/fp8", Some(("MANTISSA", Const::U32(3)))),
            CodeType::E5m2 => ("decode/fp8", Some(("MANTISSA", Const::U32(2)))),
            // Arithmetic makes these numbers faster than selects.
            CodeType::E2m1 => ("table/e2m1", None),
            CodeType::Iq4Nl if !shuffled => ("table/iq4nl", None),
            CodeType::Codebook => ("table/own", None),
            CodeType::Nf4 | CodeType::Af4 | CodeType::Fp4 | CodeType::Iq4Nl => {
                let (table, mirrored) = table_constants(element);
                consts.extend(table);
                let table = if shuffled { "table/shuffled" } else { "table/constants" };
                (table, Some(("MIRRORED", Const::Bool(mirrored))))
            }
        };
        if matches!(element.kind(), CodeKind::Table(_)) {
            fragments.push("decode/table");
        }
        fragments.push(own);
        consts.extend(more);
    }

    /// Returns how blocks of codes are loaded.
    fn codes_fragment(&self) -> &'static str {
        let bytes = if self.pair { 16 } else { self.decoder.block_bytes().min(32) };
        match (bytes, self.texture_width > 0, self.wide) {
            (8, _, true) => "access/codes8_u64",
            (8, _, false) => "access/codes8_u32",
            (16, true, _) => "access/codes16_texture",
            (16, false, true) => "access/codes16_u64",
            (16, false, false) => "access/codes16_u32",
            (_, true, _) => "access/codes32_texture",
            (_, false, true) => "access/codes32_u64",
            (_, false, false) => "access/codes32_u32",
        }
    }

    fn bindings(&self) -> Vec<Binding> {
        let x = match self.integer {
            Some(_) => "X, quantized: rows of codes, scales, zero points and sums of blocks",
            None => X,
        };
        let codes = if self.texture_width > 0 { Access::Texture } else { Access::Read };
        let y = "Y, row-major from element y_offset on; f16 in pairs, codes in fours";
        let [low, high] = Binding::COUNTS;
        let mut bindings = vec![
            Binding::params("p", Params::LAYOUT),
            low,
            high,
            Binding::data(3, "x", x, Access::Read),
            Binding::new(4, "codes", BindingRole::Codes, codes),
            Binding::data(5, "side", SIDE, Access::Read),
        ];
        if self.bias && self.y != YStore::Accumulators {
            let bias = "the bias, f32, a value a row of W";
            bindings.push(Binding::data(6, "bias", bias, Access::Read));
        }
        bindings.push(Binding::data(Y_BINDING, "y", y, Access::Write));
        if self.experts {
            let list = "a row of X and an expert for each row of Y, u32";
            bindings.push(Binding::data(LIST_BINDING, "list", list, Access::Read));
        }
        bindings
    }

    /// Returns what K and the groups must be for this kernel.
    fn conditions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |on: bool, text: String| all.extend(on.then_some(text));
        let minds_end = self.x == XLoad::F16 || self.x == XLoad::F32x4 && !self.wide;
        add(minds_end && !self.ragged, "k is a multiple of 32".into());
        if let Some(integer) = &self.integer {
            for (side, groups) in [("W", integer.w_groups), ("X", integer.x_groups)] {
                add(true, groups.condition(side));
            }
            add(!integer.x_zeros, "zero points of X are 0".into());
            let zeros = self.y == YStore::Int8 { zeros: false };
            add(zeros, "the zero point of Y is 0".into());
        } else if matches!(self.scaling, Scaling::Row | Scaling::Aligned) {
            let one =
                self.scaling == Scaling::Row && matches!(self.schedule, Schedule::Rows { .. });
            add(one, "W has one group a row".into());
            add(!one, "groups of W are multiples of 32 columns, or one a row".into());
        }
        all
    }

    /// Returns how the codes that it reads are stored.
    fn stored(&self) -> Stored {
        Stored::of(
            &[self.decoder.element],
            self.decoder.sparse,
            self.order.panel(),
            self.scale_type,
            self.offset,
        )
    }
}

/// The number of the binding of Y.
pub(super) const Y_BINDING: u32 = 7;

/// The number of the binding of the list of rows and experts.
pub(super) const LIST_BINDING: u32 = 8;

/// Rows of W of one expert.
pub(super) const EXPERT_ROWS: Variable =
    Variable { name: "expert_rows", meaning: "rows of W of one expert: the parameter `y_slice`" };

pub(crate) fn function_fragment(function: ActivationFunction) -> &'static str {
    match function {
        ActivationFunction::Identity => "function/identity",
        ActivationFunction::Relu => "function/relu",
        ActivationFunction::Gelu => "function/gelu",
        ActivationFunction::GeluTanh => "function/gelu_tanh",
        ActivationFunction::Silu => "function/silu",
    }
}

/// Returns how a matmul applies scales of a format to K columns. Blocks have one scale each if groups
/// are whole blocks. Integer products add minima to sums, slice by slice, and not to weights.
pub(super) fn scaling(format: &WeightFormat, k: u32, format_use: FormatUse) -> Scaling {
    if !format.code_type().has_scales() {
        return Scaling::None;
    }
    let block = BLOCK_K as u32;
    let group = match format.granularity() {
        Granularity::Group(g) if g.get() < k => g.get(),
        _ => 0,
    };
    let plain = !format.has_minima() || format_use == FormatUse::IntegerMatmul;
    // 2:4 decoders and those of 16 bits put a block together from parts with one scale.
    let halves = !format.is_sparse() && format.code_type().bits() <= 8;
    // Integer products scale sums: those of each group, or of each half of a block.
    let summed = |group: u32| {
        group.is_multiple_of(block) || format_use == FormatUse::IntegerMatmul && group == block / 2
    };
    match group {
        0 if plain => Scaling::Row,
        0 => Scaling::Block(0),
        group if summed(group) && plain => Scaling::Aligned,
        group if group == block => Scaling::Block(1),
        group if group == block / 2 && halves => Scaling::Block(2),
        group if group.is_multiple_of(block / 2) && halves => Scaling::Block(0),
        _ => Scaling::General,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits of a browser and of a large device, each as both classes.
    #[test]
    fn row_ranges_have_kernels_of_their_own() {
        let mut large = wgpu::Limits::defaults();
        large.max_compute_invocations_per_workgroup = 1024;
        large.max_compute_workgroup_storage_size = 48 << 10;
        for limits in [wgpu::Limits::defaults(), large] {
            for class in [AdapterClass::Cpu, AdapterClass::Gpu] {
                let caps = Caps::from_limits(class, &limits);
                for format in [WeightFormat::f32(), WeightFormat::int8(Granularity::Channel)] {
                    let spec = MatmulSpec::new(128, 4096, 4096, format);
                    let [one, few, many] = [1, 7, 128].map(|m| select(&spec, &caps, m));
                    for schedule in [one, few, many] {
                        let choice = KernelChoice::new(&spec, schedule, &caps);
                        let (tile_m, tile_n) = schedule.tile();
                        let groups = 7u32.div_ceil(tile_m) * 100u32.div_ceil(tile_n) * 3;
                        assert_eq!(choice.groups(7, 100, 3), u64::from(groups));
                        assert!(schedule.check(&caps).is_ok());
                        assert!(Schedule::all(spec.k).contains(&schedule));
                    }
                    assert!(one != few);
                    assert!(class == AdapterClass::Cpu || few != many && one != many);
                }
            }
        }
    }

    #[test]
    fn nonsense_does_not_panic() {
        let spec = MatmulSpec::new(8, 8, 8, WeightFormat::f32());
        let caps = Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults());
        for tile in [0, u32::MAX] {
            for schedule in [
                Schedule::Gemv { lanes: tile, m_tile: tile },
                Schedule::Rows { m_tile: tile, n_tile: tile },
                Schedule::Tiled { m_tile: tile },
                Schedule::Coop { size: tile },
            ] {
                assert!(schedule.check(&caps).is_err());
                assert!(KernelChoice::new(&spec, schedule, &caps).groups(8, 8, 1) > 0);
            }
        }
    }
}
