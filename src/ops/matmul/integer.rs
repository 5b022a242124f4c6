//! Kernels for quantized X: which fragments of `shaders/integer/` they are made of.

use super::choice::{KernelChoice, YStore};
use super::schedule::Schedule;
use super::{Activations, MatmulSpec, Output};
use crate::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, BLOCK_K, CodeType, Granularity,
    ScaleType, WeightFormat,
};
use crate::gpu::{Caps, Const};
use crate::ops::FloatType;
use std::num::NonZeroU32;

/// How many slices of K a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Groups {
    /// One group a row.
    One,
    /// Each slice is a group.
    Each,
    /// Groups of several slices.
    Several,
}

/// What a kernel of integer products is made of, beside what all kernels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integer {
    /// The groups of W.
    pub w_groups: Groups,
    /// The groups of X.
    pub x_groups: Groups,
    /// Whether X has zero points.
    pub x_zeros: bool,
    /// Whether K is a single slice.
    pub whole: bool,
    /// Whether products of four bytes are made by the device's own operation, or else in f32.
    pub packed_dot: bool,
}

impl Groups {
    fn of(slice: u32, group: u32, blocks: u32) -> Self {
        match group {
            group if group >= blocks => Self::One,
            group if group == slice => Self::Each,
            _ => Self::Several,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::One => "row",
            Self::Each => "group",
            Self::Several => "groups",
        }
    }
}

impl Integer {
    /// For a spec; `None` where X is floats.
    pub(super) fn of(spec: &MatmulSpec, caps: &Caps) -> Option<Self> {
        let Activations::Int8(format) = spec.activations else { return None };
        let blocks = spec.k.div_ceil(32).max(1);
        let slice = spec.slice_blocks();
        let x_group = spec.x_layout().map_or(blocks, |layout| layout.group_blocks as u32);
        Some(Self {
            w_groups: Groups::of(slice, spec.w_group_blocks(), blocks),
            x_groups: Groups::of(slice, x_group, blocks),
            x_zeros: !format.is_symmetric(),
            whole: spec.slices() <= 1,
            packed_dot: caps.packed_dot,
        })
    }
}

impl KernelChoice {
    /// Fragments and constants that only kernels of integer products have.
    pub(super) fn integer_fragments(
        &self,
        integer: &Integer,
    ) -> (Vec<(&'static str, Const)>, Vec<&'static str>) {
        let (mut consts, mut fragments) = (Vec::new(), Vec::new());
        let element = self.decoder.element;
        consts.push(("W_ZEROS", Const::Bool(self.asymmetric)));
        consts.push(("X_ZEROS", Const::Bool(integer.x_zeros)));
        consts.push(("W_GROUPS", Const::U32(integer.w_groups as u32)));
        consts.push(("X_GROUPS", Const::U32(integer.x_groups as u32)));
        // Where zero points are not stored, codes are read as signed: there is none.
        consts.push(("F16_SCALES", Const::Bool(self.scale_type == ScaleType::F16)));
        consts.push(("ASYMMETRIC", Const::Bool(self.asymmetric)));
        consts.push(("SIGNED_ZERO", Const::Bool(element == CodeType::Int8)));
        consts.push(("ZERO", Const::U32(0)));
        fragments.push("scale/side");
        fragments.push(if self.wide { "access/x_int8_u64" } else { "access/x_int8" });
        fragments.push("integer/x_side");
        fragments.push("integer/slices");
        fragments.push(match element {
            CodeType::Int4 => "integer/nibbles",
            _ => "integer/bytes",
        });
        fragments.push(match (element, self.decoder.sparse) {
            (CodeType::Int4, false) => "integer/int4",
            (CodeType::Int4, true) => "integer/int4_24",
            (_, false) => "integer/int8",
            (_, true) => "integer/int8_24",
        });
        if self.decoder.sparse {
            fragments.push("integer/two_four");
        }
        fragments.push(match integer.packed_dot {
            true => "integer/dot_packed",
            false => "integer/dot_float",
        });
        match self.y {
            YStore::Float(_) => fragments.extend(["integer/scaled", "integer/finish"]),
            YStore::Int8 { zeros } => {
                consts.push(("Y_ZEROS", Const::Bool(zeros)));
                fragments.extend(["integer/scaled", "integer/finish_int8"]);
            }
            YStore::Accumulators => fragments.push("integer/counted"),
        }
        if let Schedule::IntRows { .. } = self.schedule {
            fragments.push(match self.subgroup {
                0 => "integer/part_direct",
                _ => "integer/part_shared",
            });
        }
        if let Schedule::IntGemv { .. } = self.schedule {
            fragments.push(match integer.whole {
                true => "integer/sums_whole",
                false => "integer/sums_each",
            });
        }
        (consts, fragments)
    }
}

/// Specs of K columns that between them have every fragment of integer products with every decoder
/// and every way that groups meet; outputs, functions and bias in turn. For tests and
/// `lowbit-isa`.
#[doc(hidden)]
pub fn integer_specs(k: u32) -> Vec<MatmulSpec> {
    let size = |blocks: u32| NonZeroU32::MIN.saturating_add(blocks * BLOCK_K as u32 - 1);
    let group = |blocks| Granularity::Group(size(blocks));
    let token = ActivationFormat::int8(ActivationGranularity::Token);
    let grouped = ActivationFormat::int8(ActivationGranularity::Group(size(2)));
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    let outputs = [
        Output::Float(FloatType::F32),
        Output::Float(FloatType::F16),
        Output::Int8(tensor),
        Output::Int8(tensor.asymmetric()),
        Output::Accumulators,
    ];
    let functions = ActivationFunction::ALL;
    let mut specs = Vec::new();
    for element in [WeightFormat::int8, WeightFormat::int4] {
        for granularity in [Granularity::Channel, group(1), group(2), group(3)] {
            for index in 0..8 {
                let format = element(granularity);
                let format = if index & 1 == 0 { format } else { format.two_four() };
                let format = if index & 2 == 0 { format } else { format.asymmetric() };
                let scales = if index & 4 == 0 { ScaleType::F32 } else { ScaleType::F16 };
                for x in [token, token.asymmetric(), grouped, grouped.asymmetric()] {
                    let turn = specs.len() + specs.len() / outputs.len();
                    let mut spec = MatmulSpec::new(8, 8, k, format.with_scales(scales))
                        .with_activations(Activations::Int8(x))
                        .with_output(outputs[turn % outputs.len()])
                        .with_function(functions[turn / 2 % functions.len()]);
                    spec.bias = turn.is_multiple_of(3);
                    specs.push(spec);
                }
            }
        }
    }
    specs
}
