//! Kernel ids: how a choice is written, and read again.

use super::choice::{Decoder, KernelChoice, Scaling, XLoad, YStore};
use super::schedule::Schedule;
use super::{Activations, MatmulSpec, Output};
use crate::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, BLOCK_K, CodeType, Granularity,
    RowOrder, ScaleType, WeightFormat,
};
use crate::gpu::{AdapterClass, Caps, MAX_TEXTURE_WIDTH};
use crate::ops::FloatType;
use std::num::NonZeroU32;

impl KernelChoice {
    /// The kernel id: schedule, decoder, scaling, then what else distinguishes it. Read again by
    /// [`FromStr`](std::str::FromStr).
    pub fn name(&self) -> String {
        let mut name = format!("{}.{}", self.schedule, self.decoder.name());
        let mut add = |on: bool, part: &str| {
            if on {
                name.push('.');
                name.push_str(part);
            }
        };
        add(self.scaling == Scaling::General, "general");
        add(self.scaling == Scaling::Row, "row");
        add(self.asymmetric, "asym");
        add(self.decoder.element.is_integer() && self.scale_type == ScaleType::F16, "f16s");
        add(self.x == XLoad::F16, "xf16");
        add(self.x == XLoad::F32, "x1");
        if let Some(integer) = &self.integer {
            add(true, if integer.x_zeros { "xint8asym" } else { "xint8" });
            add(true, &format!("w{}", integer.w_groups.name()));
            add(true, &format!("x{}", integer.x_groups.name()));
            add(!integer.whole, "slices");
            add(!integer.packed_dot, "fdot");
        }
        add(self.y == YStore::Float(FloatType::F16), "yf16");
        add(self.y == YStore::Int8 { zeros: false }, "yint8");
        add(self.y == YStore::Int8 { zeros: true }, "yint8asym");
        add(self.y == YStore::Accumulators, "sums");
        add(self.bias, "bias");
        add(self.function != ActivationFunction::Identity, self.function.name());
        add(self.order == RowOrder::Panels, "panels");
        add(self.subgroup > 0, &format!("sub{}", self.subgroup));
        add(self.wide, "u64");
        add(self.native_f16_unpack, "half");
        add(self.ragged, "tail");
        add(self.pair, "pair");
        add(self.subgroup_sum, "sum");
        add(self.texture_width == MAX_TEXTURE_WIDTH, "texture");
        let narrow = (1..MAX_TEXTURE_WIDTH).contains(&self.texture_width);
        add(narrow, &format!("texture{}", self.texture_width));
        name
    }
}

impl Decoder {
    /// The element, and `_24` where it is 2:4 sparse.
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

/// Reads what [`KernelChoice::name`] writes. Only kernels that some [`MatmulSpec`] composes to on
/// some device have a name: parts that do not go together are no kernel's.
impl std::str::FromStr for KernelChoice {
    type Err = UnknownKernel;

    fn from_str(text: &str) -> Result<Self, UnknownKernel> {
        read(text).ok_or_else(|| UnknownKernel(text.into()))
    }
}

/// An id tells all but K, the sizes of groups, and where X may start. Kernels do not depend on
/// these, only on whether they are whole blocks, quads, slices and the like: of the few values
/// below one of each kind is there.
fn read(text: &str) -> Option<KernelChoice> {
    let mut parts = text.split('.');
    let schedule: Schedule = parts.next()?.parse().ok()?;
    let decoder = Decoder::find(parts.next()?)?;
    let parts: Vec<&str> = parts.collect();
    let caps = device(schedule, &parts)?;
    schedule.check(&caps).ok()?;
    specs(decoder, &parts).into_iter().find_map(|spec| {
        let integer = spec.activations.int8().is_some();
        if schedule.is_integer() != integer || spec.check().is_err() {
            return None;
        }
        let choice = KernelChoice::new(&spec, schedule, &caps);
        (choice.name() == text).then_some(choice)
    })
}

/// A device whose kernels have such parts: one that refuses no schedule for its size.
fn device(schedule: Schedule, parts: &[&str]) -> Option<Caps> {
    let has = |part| parts.contains(&part);
    let lanes = parts.iter().find_map(|part| part.strip_prefix("sub"));
    let subgroup = lanes.map_or(Some(0), |lanes| lanes.parse().ok())?;
    let texture_extent = texture(parts).map_or(Some(0), |width| match width {
        "" => Some(MAX_TEXTURE_WIDTH),
        width => width.parse().ok(),
    })?;
    Some(Caps {
        max_workgroup_memory: u32::MAX,
        max_invocations: u32::MAX,
        subgroup,
        subgroups: has("sum") || subgroup > 0,
        matrix: if let Schedule::Coop { size } = schedule { size } else { 0 },
        int64: has("u64"),
        exact_f16_unpack: has("half"),
        packed_dot: !has("fdot"),
        row_order: if has("panels") { RowOrder::Panels } else { RowOrder::Rows },
        texture_extent,
        ..Caps::from_limits(AdapterClass::Cpu, &wgpu::Limits::defaults())
    })
}

/// The width that follows `texture`, empty where it is the usual one.
fn texture<'a>(parts: &[&'a str]) -> Option<&'a str> {
    parts.iter().find_map(|part| part.strip_prefix("texture"))
}

const COLUMNS: [u32; 6] = [
    // Two and three whole blocks, and two and three ragged ones: `tail`, `pair`.
    64, 96, 36, 68,
    // Six blocks, for groups of one to three that are slices, or several, of each other.
    192,
    // More blocks than a slice has: `slices` without groups, or with groups of several.
    40_000,
];

/// Blocks in groups of W and of X. 1100 are less than the most in K, and more than a slice has.
const GROUP_BLOCKS: [u32; 4] = [1, 2, 3, 1100];

fn specs(decoder: Decoder, parts: &[&str]) -> Vec<MatmulSpec> {
    let has = |part| parts.contains(&part);
    let columns = |blocks: u32| NonZeroU32::MIN.saturating_add(blocks * BLOCK_K as u32 - 1);
    let mut granularities = vec![Granularity::Channel];
    granularities.extend(GROUP_BLOCKS.map(|blocks| Granularity::Group(columns(blocks))));
    // Groups of six columns: no blocks.
    granularities.push(Granularity::Group(NonZeroU32::MIN.saturating_add(5)));
    let x_format = |granularity| {
        let format = ActivationFormat::int8(granularity);
        if has("xint8asym") { format.asymmetric() } else { format }
    };
    let activations: Vec<Activations> = if has("xint8") || has("xint8asym") {
        let groups = GROUP_BLOCKS.map(|blocks| ActivationGranularity::Group(columns(blocks)));
        let all = std::iter::once(ActivationGranularity::Token).chain(groups);
        all.map(|granularity| Activations::Int8(x_format(granularity))).collect()
    } else {
        vec![if has("xf16") { FloatType::F16 } else { FloatType::F32 }.into()]
    };
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    let outputs = [
        ("yf16", FloatType::F16.into()),
        ("yint8", Output::Int8(tensor)),
        ("yint8asym", Output::Int8(tensor.asymmetric())),
        ("sums", Output::Accumulators),
    ];
    let output = outputs.into_iter().find(|(part, _)| has(part));
    let output = output.map_or(FloatType::F32.into(), |(_, output)| output);
    let function = ActivationFunction::ALL.into_iter().find(|function| has(function.name()));
    let mut specs = Vec::new();
    for granularity in granularities {
        let mut format = match decoder.element {
            CodeType::F32 => WeightFormat::f32(),
            CodeType::F16 => WeightFormat::f16(),
            CodeType::Int16 => WeightFormat::int16(granularity),
            CodeType::Int8 => WeightFormat::int8(granularity),
            CodeType::Int4 => WeightFormat::int4(granularity),
        };
        format = if has("asym") { format.asymmetric() } else { format };
        format = if has("f16s") { format.with_scales(ScaleType::F16) } else { format };
        format = if decoder.sparse { format.two_four() } else { format };
        for (&activations, k) in activations.iter().flat_map(|x| COLUMNS.map(|k| (x, k))) {
            let mut spec = MatmulSpec::new(8, 8, k, format)
                .with_activations(activations)
                .with_output(output)
                .with_function(function.unwrap_or_default());
            spec.bias = has("bias");
            spec.any_x_offset = has("x1");
            spec.code_textures = texture(parts).is_some();
            specs.push(spec);
        }
    }
    specs
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
            "coop_8.int4",
            "rows_m1_n4.int8.row.panels.texture512",
        ] {
            assert_eq!(good.parse::<KernelChoice>().map(|choice| choice.name()), Ok(good.into()));
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
            "tiled_32x64.int8.sub8",
            "tiled_32x64.int8.yint8",
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
