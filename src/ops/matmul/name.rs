//! Kernel ids: how a choice is written, and read again.

use super::Epilogue;
use super::choice::{Decoder, KernelChoice, Scaling, XLoad, YStore, scaling};
use super::integer::{Groups, Integer};
use super::schedule::Schedule;
use crate::format::{
    ActivationFunction, CodeType, Granularity, Offset, RowOrder, ScaleType, WeightFormat,
};
use crate::gpu::{AdapterClass, Caps, MAX_TEXTURE_WIDTH};
use crate::ops::{FloatType, FormatUse};

/// A part of an id, and what it says of a choice. An id has the part if saying so changes nothing.
type Part = (&'static str, fn(&mut KernelChoice));

/// The parts that follow schedule and decoder, in their order.
const PARTS: [Part; 57] = [
    ("general", |c| c.scaling = Scaling::General),
    ("block", |c| c.scaling = Scaling::Block(1)),
    ("halfblock", |c| c.scaling = Scaling::Block(2)),
    ("blocks", |c| c.scaling = Scaling::Block(0)),
    ("row", |c| c.scaling = Scaling::Row),
    ("asym", |c| c.offset = Offset::ZeroPoint),
    ("asym4", |c| c.offset = Offset::ZeroPoint4),
    ("fzero", |c| c.offset = Offset::FloatZeroPoint),
    ("min", |c| c.offset = Offset::Minimum),
    ("f16s", |c| c.scale_type = ScaleType::F16),
    ("e8m0s", |c| c.scale_type = ScaleType::E8m0),
    ("i8s", |c| c.scale_type = ScaleType::Int8Super),
    ("e4m3s", |c| c.scale_type = ScaleType::E4m3Tensor),
    ("xf16", |c| c.x = XLoad::F16),
    ("x1", |c| c.x = XLoad::F32),
    ("xint8", |c| integer(c).x_zeros = false),
    ("xint8asym", |c| integer(c).x_zeros = true),
    ("wrow", |c| integer(c).w_groups = Groups::One),
    ("wgroup", |c| integer(c).w_groups = Groups::Each),
    ("wgroups", |c| integer(c).w_groups = Groups::Several),
    ("whalf", |c| integer(c).w_groups = Groups::Halves),
    ("xrow", |c| integer(c).x_groups = Groups::One),
    ("xgroup", |c| integer(c).x_groups = Groups::Each),
    ("xgroups", |c| integer(c).x_groups = Groups::Several),
    ("slices", |c| integer(c).whole = false),
    ("fdot", |c| integer(c).packed_dot = false),
    ("yf16", |c| c.y = YStore::Float(FloatType::F16)),
    ("yint8", |c| c.y = YStore::Int8 { zeros: false }),
    ("yint8asym", |c| c.y = YStore::Int8 { zeros: true }),
    ("sums", |c| c.y = YStore::Accumulators),
    ("bias", |c| c.bias = true),
    (ActivationFunction::Relu.name(), |c| c.function = ActivationFunction::Relu),
    (ActivationFunction::Gelu.name(), |c| c.function = ActivationFunction::Gelu),
    (ActivationFunction::GeluTanh.name(), |c| c.function = ActivationFunction::GeluTanh),
    (ActivationFunction::Silu.name(), |c| c.function = ActivationFunction::Silu),
    ("accumulate", |c| c.epilogue = Epilogue::Accumulate),
    ("gated", |c| c.epilogue = Epilogue::Gated),
    ("experts", |c| c.experts = true),
    ("panels", |c| c.order = RowOrder::Panels),
    ("sub4", |c| c.subgroup = 4),
    ("sub8", |c| c.subgroup = 8),
    ("sub16", |c| c.subgroup = 16),
    ("sub32", |c| c.subgroup = 32),
    ("sub64", |c| c.subgroup = 64),
    ("u64", |c| c.wide = true),
    ("half", |c| c.native_f16_unpack = true),
    ("tail", |c| c.ragged = true),
    ("pair", |c| c.pair = true),
    ("sum", |c| c.subgroup_sum = true),
    ("texture", |c| c.texture_width = MAX_TEXTURE_WIDTH),
    ("texture1024", |c| c.texture_width = 1024),
    ("texture512", |c| c.texture_width = 512),
    ("texture256", |c| c.texture_width = 256),
    ("texture128", |c| c.texture_width = 128),
    ("texture64", |c| c.texture_width = 64),
    ("texture32", |c| c.texture_width = 32),
    ("texture16", |c| c.texture_width = 16),
];

/// What an id says of integer products where it says nothing.
const INTEGER: Integer = Integer {
    w_groups: Groups::One,
    x_groups: Groups::One,
    x_zeros: false,
    whole: true,
    packed_dot: true,
};

fn integer(choice: &mut KernelChoice) -> &mut Integer {
    choice.integer.get_or_insert(INTEGER)
}

/// Returns the first part of a kernel id: the schedule of a matmul kernel, which is read back, or
/// the name of another kernel without what distinguishes its variants.
#[doc(hidden)]
pub fn first_part(id: &str) -> &str {
    id.split_once('.').map_or(id, |(first, _)| first)
}

impl KernelChoice {
    /// Returns the kernel id: schedule, decoder, then the parts that apply.
    /// [`FromStr`](std::str::FromStr) reads it.
    pub fn name(&self) -> String {
        let mut name = format!("{}.{}", self.schedule, self.decoder.name());
        for (part, set) in PARTS {
            let mut other = *self;
            set(&mut other);
            if other == *self {
                name.push('.');
                name.push_str(part);
            }
        }
        name
    }

    /// Returns the properties of a kernel for GPUs, by which `lowbit-isa` chooses kernels in which
    /// every two properties occur together.
    #[doc(hidden)]
    pub fn properties(&self) -> Vec<String> {
        // A new field must be listed here, among these or among those that are left out.
        let Self {
            schedule,
            decoder,
            scaling,
            offset,
            scale_type,
            x,
            y,
            function,
            epilogue,
            experts,
            integer,
            bias,
            ragged,
            pair,
            subgroup_sum,
            // The GPUs of the registry do not differ in these.
            order: _,
            subgroup: _,
            wide: _,
            texture_width: _,
            // It replaces one conversion, so it need not meet all the others.
            native_f16_unpack: _,
        } = *self;
        // Lanes that share a row change little beside the loop, so they need not meet every loop.
        let (schedule, lanes) = match schedule {
            Schedule::Gemv { lanes, m_tile } => (format!("gemv_m{m_tile}"), lanes),
            Schedule::IntGemv { lanes, m_tile } => (format!("int_gemv_m{m_tile}"), lanes),
            other => (other.to_string(), 0),
        };
        let (groups, products) = match integer {
            Some(Integer { w_groups, x_groups, x_zeros, whole, packed_dot }) => {
                (Some((w_groups, x_groups, whole)), Some((x_zeros, packed_dot)))
            }
            None => (None, None),
        };
        let properties = [
            schedule,
            lanes.to_string(),
            format!("{decoder:?} {scaling:?}"),
            format!("{offset:?}"),
            format!("{scale_type:?}"),
            format!("{x:?}"),
            format!("{y:?} {epilogue:?} {experts}"),
            bias.to_string(),
            format!("{ragged} {pair} {subgroup_sum}"),
            format!("{groups:?}"),
            format!("{products:?}"),
            function.name().to_string(),
        ];
        (0..).zip(properties).map(|(number, value): (u32, _)| format!("{number} {value}")).collect()
    }

    /// Returns the choice of an id that ends after schedule and decoder.
    fn plain(schedule: Schedule, decoder: Decoder) -> Self {
        let integer = schedule.is_integer();
        let scaled = decoder.element.has_scales();
        Self {
            schedule,
            decoder,
            scaling: if scaled { Scaling::Aligned } else { Scaling::None },
            offset: Offset::Fixed,
            scale_type: ScaleType::F32,
            x: if integer { XLoad::Int8 } else { XLoad::F32x4 },
            y: YStore::Float(FloatType::F32),
            function: ActivationFunction::Identity,
            epilogue: Epilogue::None,
            experts: false,
            integer: integer.then_some(INTEGER),
            bias: false,
            order: RowOrder::Rows,
            subgroup: 0,
            native_f16_unpack: false,
            wide: false,
            ragged: false,
            pair: false,
            subgroup_sum: false,
            texture_width: 0,
        }
    }

    /// Returns whether [`KernelChoice::new`] makes this choice for some spec on some device.
    fn exists(&self) -> bool {
        // A new field must be judged here.
        let Self {
            schedule,
            decoder,
            scaling,
            offset,
            scale_type: _,
            x,
            y,
            function: _,
            epilogue,
            experts,
            integer,
            bias,
            order,
            subgroup,
            native_f16_unpack,
            wide,
            ragged,
            pair,
            subgroup_sum,
            texture_width,
        } = *self;
        let integers = schedule.is_integer();
        let by_rows = matches!(schedule, Schedule::Rows { .. } | Schedule::IntRows { .. });
        let general = scaling == Scaling::General;
        let minima = matches!(offset, Offset::Minimum | Offset::FloatZeroPoint);
        let products = match integer {
            None => !integers && x != XLoad::Int8 && matches!(y, YStore::Float(_)),
            Some(integer) => {
                let one = integer.w_groups == Groups::One;
                let row = matches!(schedule, Schedule::IntRows { .. }) && one;
                let halves = integer.w_groups == Groups::Halves;
                // A row whose sums are integers is one slice: one group of either, and no minima.
                integers
                    && x == XLoad::Int8
                    && row == (scaling == Scaling::Row)
                    && (!integer.whole || one && integer.x_groups == Groups::One && !minima)
                    && !(halves && (decoder.sparse || offset != Offset::Fixed))
                    && integer.x_groups != Groups::Halves
            }
        };
        let stored = match y {
            YStore::Float(float) => schedule.stores(epilogue, float),
            _ => true,
        };
        let half = x == XLoad::F16 || decoder.element == CodeType::F16;
        let tail = x == XLoad::F16 || x == XLoad::F32x4 && !wide;
        let sum = match schedule {
            Schedule::Gemv { lanes, .. } | Schedule::IntGemv { lanes, .. } => {
                lanes == schedule.workgroup()
            }
            _ => false,
        };
        let pairs = matches!(schedule, Schedule::Gemv { .. })
            && decoder.pairs()
            && !general
            && order == RowOrder::Rows;
        self.weights_exist()
            && products
            && stored
            && (epilogue == Epilogue::None || matches!(y, YStore::Float(_)))
            && (!experts
                || !bias && matches!(schedule, Schedule::Gemv { .. } | Schedule::Rows { .. }))
            && (subgroup == 0 || by_rows && !general)
            && (!native_f16_unpack || half)
            && (!wide || by_rows)
            && (!ragged || tail)
            && (!subgroup_sum || sum)
            && (!pair || pairs)
            && (texture_width == 0 || decoder.block_bytes() >= 16 && !general)
            && schedule.check(&unlimited(schedule)).is_ok()
    }

    /// Returns whether there is a format that needs this decoder, scaling, offset and type of scales.
    fn weights_exist(&self) -> bool {
        let by_rows = matches!(self.schedule, Schedule::Rows { .. } | Schedule::IntRows { .. });
        let use_ = match self.integer {
            Some(_) => FormatUse::IntegerMatmul,
            None => FormatUse::Matmul,
        };
        // Between them these have every scaling with every type of scales that goes with it.
        let groups = [16, 32, 48, 64, 4, 6].map(|g| Granularity::group(g).ok());
        let granularities = [Some(Granularity::Channel)].into_iter().chain(groups).flatten();
        // In the shorter K, each group is a whole row.
        let mut lengths = granularities.flat_map(|g| [4096, 4].map(|k| (g, k)));
        lengths.any(|(granularity, k)| {
            let format = WeightFormat::new(self.decoder.element, granularity)
                .with_offset(self.offset)
                .with_scales(self.scale_type);
            let format = if self.decoder.sparse { format.two_four() } else { format };
            let wanted = match scaling(&format, k, use_) {
                Scaling::Row if !by_rows => Scaling::Aligned,
                scaling => scaling,
            };
            format.check().is_ok() && use_.check(&format).is_ok() && wanted == self.scaling
        })
    }
}

/// A device that refuses no schedule for its size.
fn unlimited(schedule: Schedule) -> Caps {
    Caps {
        max_workgroup_memory: u32::MAX,
        max_invocations: u32::MAX,
        matrix: if let Schedule::Coop { size } = schedule { size } else { 0 },
        ..Caps::from_limits(AdapterClass::Cpu, &wgpu::Limits::defaults())
    }
}

impl Decoder {
    /// Returns the code type, with `_24` if the format is 2:4 sparse.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.element.name(), if self.sparse { "_24" } else { "" })
    }

    fn find(name: &str) -> Option<Self> {
        let both = |element| [false, true].map(|sparse| Self { element, sparse });
        CodeType::ALL.into_iter().flat_map(both).find(|decoder| decoder.name() == name)
    }
}

/// An id that no matmul kernel has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no matmul kernel has the id `{0}`; ids are like rows_m1_n2.int8 or gemv_m1_l32.int4.bias")]
pub struct UnknownKernel(pub String);

/// Reads what [`KernelChoice::name`] writes. Parts that do not go together, because no
/// [`MatmulSpec`](super::MatmulSpec) composes to them on any device, are refused.
impl std::str::FromStr for KernelChoice {
    type Err = UnknownKernel;

    fn from_str(text: &str) -> Result<Self, UnknownKernel> {
        read(text).ok_or_else(|| UnknownKernel(text.into()))
    }
}

fn read(text: &str) -> Option<KernelChoice> {
    let schedule = first_part(text).parse().ok()?;
    let mut parts = text.split('.').skip(1);
    let mut choice = KernelChoice::plain(schedule, Decoder::find(parts.next()?)?);
    for part in parts {
        let (_, set) = PARTS.iter().find(|(name, _)| *name == part)?;
        set(&mut choice);
    }
    // Any order and repetition was accepted so far.
    (choice.exists() && choice.name() == text).then_some(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_go_together_are_no_kernel() {
        for good in [
            "rows_m1_n2.int8",
            "rows_m16_n2.f32.panels.sub8.u64.texture",
            "gemv_m3_l2.int4_24.pair",
            "gemv_m1_l8.int8.f16s.xf16.yf16.bias.panels.half.tail",
            "int_rows_m1.int8.row.asym.xint8asym.wrow.xgroup.slices.fdot.bias.panels",
            "int_gemv_m1_l32.int4.min.i8s.xint8.wgroup.xrow.slices",
            "int_rows_m4.int5.row.min.xint8asym.wrow.xrow.slices",
            "int_tiled_32x64.int2.asym4.xint8.wrow.xrow",
            "rows_m1_n2.int8.row.i8s",
            "coop_8.int4",
            "rows_m1_n4.int8.row.panels.texture512",
            "tiled_32x64.int8.yf16.bias.silu.gated",
            "rows_m4_n2.int8.row.yf16.silu.gated.experts",
            "int_rows_m4.int8.row.xint8.wrow.xrow.accumulate.panels",
        ] {
            let choice = good.parse::<KernelChoice>().unwrap();
            assert_eq!(
                (choice.name().as_str(), choice.schedule.to_string().as_str()),
                (good, first_part(good))
            );
        }
        for bad in [
            "",
            "rows_m1_n2",
            "rows_m1_n2.int9",
            "rows_m1_n2.int8.",
            "rows_m1_n2.int8.bias.bias",
            "rows_m1_n2.int8.bias.asym",
            "rows_m1_n2.int8.sub7",
            "rows_m1_n2.int8.sub99999999999",
            "rows_m2_n2.int8",
            "rows_m1_n2.f32.asym",
            "rows_m1_n2.f32.general",
            "rows_m1_n2.int8.xint8.wrow.xrow",
            "int_rows_m1.int8",
            "int_rows_m1.int16.xint8.wrow.xrow",
            "int_rows_m4.int5.row.min.xint8asym.wrow.xrow",
            "int_tiled_32x64.nf4.xint8.wrow.xrow",
            "int_tiled_32x64.int4.block.min.xint8.wgroup.xrow.slices",
            "tiled_32x64.int8.sub8",
            "tiled_32x64.int8.yint8",
            "tiled_32x64.int8.gated.silu",
            "tiled_32x64.int8.experts",
            "gemv_m1_l32.int8.bias.experts",
            "int_rows_m1.int8.row.xint8.wrow.xrow.sums.gated",
            "int_rows_m1.int8.row.xint8.wrow.xrow.yint8.accumulate",
            "gemv_m1_l3.int8",
            "gemv_m1_l512.int8",
            "gemv_m1_l32.int8.pair",
            "coop_7.int8",
            "rows_m1_n4.int8.row.panels.texture2048",
            "rows_m1_n4.int8.row.panels.texture500",
        ] {
            assert_eq!(bad.parse::<KernelChoice>(), Err(UnknownKernel(bad.into())));
        }
    }
}
