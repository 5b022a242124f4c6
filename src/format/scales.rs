use super::code::{e8m0_to_f32, fp8_to_f32};
use super::{Geometry, ScaleType};
use half::f16;

/// The scales (or minima) of a packed matrix, as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// f32 scales.
    F32(Vec<f32>),
    /// f16 scales. They are widened to f32, which is exact, where they are used.
    F16(Vec<f16>),
    /// Powers of two, 2^(byte − 127).
    E8m0(Vec<u8>),
    /// Two levels: scale g of a row is `groups[g] · supers[⌊g·group_size / 256⌋]`.
    Int8Super {
        /// `[n, groups]`.
        groups: Vec<i8>,
        /// `[n, ⌈K/256⌉]`.
        supers: Vec<f16>,
    },
    /// Two levels: an e4m3 float per group, times one f32.
    E4m3Tensor {
        /// The bits of e4m3 floats, `[n, groups]`.
        groups: Vec<u8>,
        /// The factor of all of them.
        tensor: f32,
    },
}

impl Default for Scales {
    fn default() -> Self {
        Self::F32(Vec::new())
    }
}

impl Scales {
    /// Creates scales of one level, which are rounded if they are f16; every other type of scale is
    /// taken for f32.
    pub(crate) fn one_level(values: impl Iterator<Item = f32>, scale_type: ScaleType) -> Self {
        match scale_type {
            ScaleType::F16 => Self::F16(values.map(f16::from_f32).collect()),
            _ => Self::F32(values.collect()),
        }
    }

    /// Returns the number of scales: of the lower level, if there are two.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(scales) => scales.len(),
            Self::F16(scales) => scales.len(),
            Self::E8m0(scales) => scales.len(),
            Self::Int8Super { groups, .. } => groups.len(),
            Self::E4m3Tensor { groups, .. } => groups.len(),
        }
    }

    /// Returns the number of entries of the upper level, or 0 if there is none.
    pub fn upper_len(&self) -> usize {
        match self {
            Self::Int8Super { supers, .. } => supers.len(),
            Self::E4m3Tensor { groups, .. } => usize::from(!groups.is_empty()),
            _ => 0,
        }
    }

    /// Returns whether there are no scales.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the type that the scales are stored as.
    pub fn scale_type(&self) -> ScaleType {
        match self {
            Self::F32(_) => ScaleType::F32,
            Self::F16(_) => ScaleType::F16,
            Self::E8m0(_) => ScaleType::E8m0,
            Self::Int8Super { .. } => ScaleType::Int8Super,
            Self::E4m3Tensor { .. } => ScaleType::E4m3Tensor,
        }
    }

    /// Returns scale `index`, widened to f32; of two levels, the lower one alone. Panics if there
    /// is no such scale.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(scales) => scales[index],
            Self::F16(scales) => scales[index].to_f32(),
            Self::E8m0(scales) => e8m0_to_f32(scales[index]),
            Self::Int8Super { groups, .. } => f32::from(groups[index]),
            Self::E4m3Tensor { groups, .. } => fp8_to_f32(groups[index], 3),
        }
    }

    /// Returns entry `index` of the upper level, or 1 if there is none. Panics if there is no such
    /// entry.
    pub fn upper(&self, index: usize) -> f32 {
        match self {
            Self::Int8Super { supers, .. } => supers[index].to_f32(),
            Self::E4m3Tensor { tensor, .. } => *tensor,
            _ => 1.0,
        }
    }

    /// Returns the bits of scale `index` (of two levels, those of the lower one) in the low bits of
    /// a word. Panics if there is no such scale.
    pub(super) fn bits(&self, index: usize) -> u32 {
        match self {
            Self::F32(scales) => scales[index].to_bits(),
            Self::F16(scales) => scales[index].to_bits().into(),
            Self::E8m0(scales) => scales[index].into(),
            Self::Int8Super { groups, .. } => u32::from(groups[index] as u8),
            Self::E4m3Tensor { groups, .. } => groups[index].into(),
        }
    }

    /// Returns the scale of group `group` of row `row`: the product of both levels, rounded to f32,
    /// or 1 if there are no scales.
    pub(super) fn of_group(&self, geometry: &Geometry, row: usize, group: usize) -> f32 {
        if self.is_empty() {
            return 1.0;
        }
        let lower = self.get(geometry.scale_index(row, group));
        if self.scale_type().is_two_level() {
            lower * self.upper(geometry.super_index(row, group))
        } else {
            lower
        }
    }

    /// Returns the index of the first scale that is not finite, in either level.
    pub(super) fn first_bad(&self) -> Option<(usize, f32)> {
        let lower = match self {
            Self::F32(scales) => scales.iter().position(|scale| !scale.is_finite()),
            Self::F16(scales) => scales.iter().position(|scale| !scale.is_finite()),
            // Integers are finite.
            Self::Int8Super { .. } => None,
            _ => (0..self.len()).position(|at| !self.get(at).is_finite()),
        };
        let upper = || (0..self.upper_len()).map(|at| (at, self.upper(at)));
        lower.map(|at| (at, self.get(at))).or_else(|| upper().find(|(_, value)| !value.is_finite()))
    }
}
