//! Kernels for quantized X: which fragments of `shaders/integer/` they choose.

use super::choice::{KernelChoice, YStore};
use super::schedule::Schedule;
use super::{Activations, MatmulSpec};
use crate::format::{CodeType, Offset};
use crate::gpu::{Caps, Const};

/// The number of slices of K in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Groups {
    /// A row is one group.
    One,
    /// Each slice is a group.
    Each,
    /// Groups of several slices.
    Several,
    /// Groups of 16 columns, of W only: slices are blocks of 32, and each half has a scale.
    Halves,
}

/// What distinguishes kernels of integer products, in addition to what distinguishes all kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integer {
    /// The groups of W.
    pub w_groups: Groups,
    /// The groups of X.
    pub x_groups: Groups,
    /// Whether X has zero points.
    pub x_zeros: bool,
    /// Whether sums of a row are integers up to its end: K is a single slice, and W has no minima.
    pub whole: bool,
    /// Whether products of four bytes use the built-in operation. Otherwise they are made in f32.
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

    /// Returns what the groups of `side` must be.
    pub(super) fn condition(self, side: &str) -> String {
        match self {
            Self::One => format!("{side} has one group a row"),
            Self::Each => format!("groups of {side} are the slices of K"),
            Self::Several => format!("groups of {side} are whole slices of K, several or one"),
            Self::Halves => format!("groups of {side} are 16 columns, half a slice of K"),
        }
    }
}

impl Integer {
    /// Returns the choice for a spec; `None` if X is floats.
    pub(super) fn of(spec: &MatmulSpec, caps: &Caps) -> Option<Self> {
        let Activations::Int8(format) = spec.activations else { return None };
        let blocks = spec.k.div_ceil(32).max(1);
        let slice = spec.slice_blocks();
        let x_group = spec.x_layout().map_or(blocks, |layout| layout.group_blocks as u32);
        let halves = spec.has_half_groups();
        let w_groups =
            if halves { Groups::Halves } else { Groups::of(slice, spec.w_group_blocks(), blocks) };
        Some(Self {
            w_groups,
            x_groups: Groups::of(slice, x_group, blocks),
            x_zeros: !format.is_symmetric(),
            whole: spec.slices() <= 1 && !spec.weights.has_minima() && !halves,
            packed_dot: caps.packed_dot,
        })
    }
}

impl KernelChoice {
    /// What only kernels of integer products choose.
    pub(super) fn integer_fragments(
        &self,
        integer: &Integer,
        consts: &mut Vec<(&'static str, Const)>,
        fragments: &mut Vec<&'static str>,
    ) {
        consts.push(("W_ZEROS", Const::Bool(self.offset != Offset::Fixed)));
        consts.push(("X_ZEROS", Const::Bool(integer.x_zeros)));
        consts.push(("W_GROUPS", Const::U32(integer.w_groups as u32)));
        consts.push(("X_GROUPS", Const::U32(integer.x_groups as u32)));
        let element = self.decoder.element;
        let planes = !matches!(element, CodeType::Int8 | CodeType::Int4);
        // Codes of int8 and int4 without zero points are read as signed and have none.
        let fixed = planes && self.offset == Offset::Fixed;
        let zero = if fixed { element.fixed_zero() as u32 } else { 0 };
        self.scale_constants(zero, consts, fragments);
        fragments.push(if self.wide { "access/x_int8_u64" } else { "access/x_int8" });
        if planes {
            consts.push(("PLANE_WORDS", Const::U32(element.plane_bits())));
            fragments.push(match element.low_bits() {
                2 => "decode/planes2",
                _ => "decode/planes4",
            });
        }
        fragments.push(match (element, self.decoder.sparse) {
            _ if planes => "integer/planes",
            (CodeType::Int4, false) => "integer/int4",
            (CodeType::Int4, true) => "integer/int4_24",
            (_, false) => "integer/int8",
            (_, true) => "integer/int8_24",
        });
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
            if self.subgroup > 0 {
                consts.push(("SUBGROUP", Const::U32(self.subgroup)));
            }
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
    }
}
