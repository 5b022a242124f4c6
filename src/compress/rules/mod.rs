//! The rules by which weights become codes: which formats have one, and what all of them share.
//!
//! A rule of round to nearest finds the scale of a group from its range, and then the code of each
//! weight from the scale: a [`Grid`]. The rules of ggml ([`ggml`]) make whole blocks at a time.

mod codebook;
pub(super) mod ggml;
mod k_quants;
mod minimum;
mod scheme;
mod small_float;

pub use scheme::{Rule, Scheme};

use super::CompressError;
use super::range::{Affine, CodeGrid, Range};
use crate::format::{CodeType, Granularity, Offset, ScaleType, Scales, WeightFormat};
use codebook::Codebook;
use minimum::MinimumGrid;
use small_float::SmallFloat;

/// What a group stores, and what its codes depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Group {
    /// The scale that codes are multiplied by.
    pub scale: f32,
    /// The lower level of the scale, or the scale itself if there is one level.
    pub lower: f32,
    pub zero: i32,
    pub minimum: f32,
}

impl Group {
    /// The group of a scale of one level.
    fn of(scale: f32) -> Self {
        Self { scale, lower: scale, zero: 0, minimum: 0.0 }
    }
}

/// How the scale of a group follows from its range, and the code of a weight from the scale.
#[derive(Clone, Copy, Debug)]
pub(super) enum Grid {
    /// Integers with a zero point.
    Integer(CodeGrid),
    /// Integers with a minimum.
    Minimum(MinimumGrid),
    /// Codes that are floats or entries of a table.
    Numbers(NumberGrid),
}

impl Grid {
    /// Returns the grid of a format, or `None` if its codes are the weights themselves.
    ///
    /// # Errors
    /// Returns [`CompressError::NoRule`] if there is no rule for the codes, scales or offsets of the
    /// format.
    pub fn of(format: &WeightFormat) -> Result<Option<Self>, CompressError> {
        let refuse = |why| Err(CompressError::NoRule { format: *format, why });
        if format.is_permuted() {
            return refuse("the order of columns comes from second-order methods");
        }
        let (code_type, scale_type) = (format.code_type(), format.scale_type());
        if scale_type == ScaleType::Int8Super {
            return refuse("only ggml's rules make such scales: q4_k, q5_k and q6_k");
        }
        let one_level = matches!(scale_type, ScaleType::F32 | ScaleType::F16);
        if code_type.is_integer() {
            let microscaling = scale_type == ScaleType::E8m0;
            return match format.offset() {
                _ if !one_level && !microscaling => refuse("integers have no rule for such scales"),
                Offset::FloatZeroPoint => {
                    refuse("zero points that are floats come from methods that fit them (HQQ)")
                }
                Offset::Minimum => Ok(MinimumGrid::of(format).map(Self::Minimum)),
                _ => Ok(CodeGrid::of(format).map(Self::Integer)),
            };
        }
        let numbers = match code_type {
            CodeType::F32 | CodeType::F16 => return Ok(None),
            CodeType::Codebook => return refuse("its table comes from the method that made it"),
            CodeType::Iq4Nl => return refuse("only ggml's rule makes such codes: iq4_nl"),
            CodeType::E2m1 => Numbers::Float(SmallFloat::E2M1),
            CodeType::E4m3 => Numbers::Float(SmallFloat::E4M3),
            CodeType::E5m2 => Numbers::Float(SmallFloat::E5M2),
            other => match Codebook::of(other) {
                Some(table) => Numbers::Table(table),
                None => return refuse("its codes have no rule"),
            },
        };
        let known = one_level
            || match numbers {
                Numbers::Float(_) if scale_type == ScaleType::E8m0 => true,
                _ => scale_type == ScaleType::E4m3Tensor && code_type == CodeType::E2m1,
            };
        if !known {
            return refuse("its codes have no rule for such scales");
        }
        Ok(Some(Self::Numbers(NumberGrid { numbers, scale_type, tensor: 1.0 })))
    }

    /// Returns the range that includes no weight yet. Where zero is a code of every group, it
    /// includes 0.
    pub fn empty_range(&self) -> Range {
        match self {
            Self::Minimum(_) => Range { lo: f32::NEG_INFINITY, hi: f32::NEG_INFINITY },
            _ => Range::default(),
        }
    }

    /// Returns whether the scales of groups depend on the range of the whole matrix.
    pub fn needs_whole(&self) -> bool {
        matches!(self, Self::Numbers(grid) if grid.scale_type == ScaleType::E4m3Tensor)
    }

    /// Returns this grid with the upper level of scales that a matrix of this range has.
    pub fn with_whole(self, whole: Range) -> Self {
        match self {
            Self::Numbers(grid) => Self::Numbers(grid.with_whole(whole)),
            other => other,
        }
    }

    /// Returns what a group stores, or `None` if the type of scales cannot represent its scale.
    pub fn group(&self, range: Range) -> Option<Group> {
        match self {
            Self::Integer(grid) => {
                grid.affine(range).map(|Affine { scale, zero }| Group { zero, ..Group::of(scale) })
            }
            Self::Minimum(grid) => grid.group(range),
            Self::Numbers(grid) => grid.group(range),
        }
    }

    /// Returns the code of a weight. Bits above the width of the code type are unspecified.
    pub fn code(&self, group: Group, x: f32) -> u32 {
        match self {
            Self::Integer(grid) => {
                grid.code(Affine { scale: group.scale, zero: group.zero }, x) as u32
            }
            Self::Minimum(grid) => grid.code(group, x) as u32,
            Self::Numbers(grid) => grid.numbers.code(x, group.scale),
        }
    }

    /// Returns the scales of all groups as they are stored.
    pub fn scales(&self, groups: &[Group], scale_type: ScaleType) -> Scales {
        let lower = groups.iter().map(|group| group.lower);
        match (scale_type, self) {
            (ScaleType::E8m0, _) => Scales::E8m0(lower.map(small_float::e8m0).collect()),
            (ScaleType::E4m3Tensor, Self::Numbers(grid)) => {
                let byte = |lower| SmallFloat::E4M3.code(lower) as u8;
                Scales::E4m3Tensor { groups: lower.map(byte).collect(), tensor: grid.tensor }
            }
            _ => Scales::one_level(lower, scale_type),
        }
    }
}

/// What the numbers of codes are, before they are scaled.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    Float(SmallFloat),
    Table(Codebook),
}

impl Numbers {
    /// The greatest number.
    fn most(&self) -> f32 {
        match self {
            Self::Float(float) => float.most(),
            // Tables of this kind are normalized.
            Self::Table(_) => 1.0,
        }
    }

    fn code(&self, x: f32, scale: f32) -> u32 {
        match self {
            Self::Float(float) => float.code(super::flushed(x) / scale),
            Self::Table(table) => table.code(super::flushed(x), scale),
        }
    }
}

/// Codes that are floats or entries of a table, symmetric around 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct NumberGrid {
    numbers: Numbers,
    scale_type: ScaleType,
    /// The upper level of scales of two levels, otherwise 1.
    tensor: f32,
}

/// The greatest e4m3 scale.
const MOST_E4M3: f32 = 448.0;

impl NumberGrid {
    fn with_whole(self, whole: Range) -> Self {
        let most = whole.lo.max(whole.hi);
        let tensor = if whole.is_dead() { 1.0 } else { most / (MOST_E4M3 * self.numbers.most()) };
        Self { tensor, ..self }
    }

    fn group(&self, range: Range) -> Option<Group> {
        if range.is_dead() {
            return Some(Group { scale: self.tensor, ..Group::of(1.0) });
        }
        let (extent, most) = (range.lo.max(range.hi), self.numbers.most());
        let lower = match (self.scale_type, &self.numbers) {
            (ScaleType::E8m0, Numbers::Float(float)) => float.shared_scale(extent),
            (ScaleType::E4m3Tensor, _) => {
                // The least scale keeps what it can of a group that is tiny beside the others.
                let code = SmallFloat::E4M3.code(extent / most / self.tensor).max(1);
                SmallFloat::E4M3.value(code)
            }
            _ => super::range::finite_quotient(extent, most),
        };
        let lower = super::range::stored(lower, self.scale_type)?;
        let scale = lower * self.tensor;
        let normal = scale.is_normal() && self.tensor.is_normal();
        normal.then_some(Group { scale, ..Group::of(lower) })
    }
}

/// Returns the row and the group that scale `index` of a matrix belongs to.
pub(super) fn place(granularity: Granularity, groups: usize, index: usize) -> (usize, usize) {
    match granularity {
        Granularity::Tensor => (0, 0),
        _ => (index / groups.max(1), index % groups.max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{dequantize, quantize, relative_error};
    use crate::format::{PackedWeights, sample_formats};
    use half::f16;

    fn made(name: &str, w: &[f32]) -> Result<PackedWeights, CompressError> {
        quantize(w, 1, w.len(), &name.parse().unwrap())
    }

    fn codes(packed: &PackedWeights) -> Vec<i32> {
        (0..packed.k()).map(|at| packed.code(0, at)).collect()
    }

    #[test]
    fn powers_of_two_by_hand() {
        // 7.9 has the power of two 4, so that the scale is 1 and 7.9 becomes 6.
        let packed = made("mxfp4", &[7.9, -1.25, 0.25, 5.0]).unwrap();
        assert_eq!(*packed.scales(), Scales::E8m0(vec![127]));
        assert_eq!(codes(&packed), [7, 10, 0, 6]);
        assert_eq!(dequantize(&packed), [6.0, -1.0, 0.0, 4.0]);
        let packed = made("e4m3-g2-e8m0s", &[500.0, 1.0, 0.0, -0.0]).unwrap();
        assert_eq!(*packed.scales(), Scales::E8m0(vec![127, 127]));
        assert_eq!(dequantize(&packed), [448.0, 1.0, 0.0, 0.0]);
        let least = 4.0 * f32::MIN_POSITIVE;
        assert_eq!(*made("mxfp4", &[least]).unwrap().scales(), Scales::E8m0(vec![1]));
        let refused = made("mxfp4", &[least.next_down()]);
        assert!(matches!(refused, Err(CompressError::ScaleRange { .. })));
    }

    /// The codes of MXINT8 are what OCP's document calls multiples of 1/64, so that the scale here is 1/64 of
    /// its own.
    #[test]
    fn integers_with_powers_of_two_by_hand() {
        let packed = made("int8-g4-e8m0s", &[1.99, -1.0, 0.5, 1.5 / 64.0]).unwrap();
        assert_eq!(*packed.scales(), Scales::E8m0(vec![127 - 6]));
        // 127.36 and 1.5 steps: the first is nearest to 127, and the tie goes to the even code.
        assert_eq!(codes(&packed), [127, -64, 32, 2]);
        // What lies above the greatest number becomes that.
        let packed = made("int8-g4-e8m0s", &[-1.999, 2.0f32.next_down(), 0.0, 0.0]).unwrap();
        assert_eq!(codes(&packed), [-127, 127, 0, 0]);
        // −8 is a code of int4 too, but no number that mirrors another.
        let packed = made("int4-g4-e8m0s", &[7.9, -7.9, 1.0, 0.0]).unwrap();
        assert_eq!(*packed.scales(), Scales::E8m0(vec![127]));
        assert_eq!(dequantize(&packed), [7.0, -7.0, 1.0, 0.0]);
        let packed = made("int8-g2-e8m0s", &[0.0, 0.0, f32::MAX, 0.0]).unwrap();
        assert_eq!(*packed.scales(), Scales::E8m0(vec![127, 127 + 121]));
        let least = 64.0 * f32::MIN_POSITIVE;
        assert_eq!(*made("int8-g2-e8m0s", &[least]).unwrap().scales(), Scales::E8m0(vec![1]));
        let refused = made("int8-g2-e8m0s", &[least.next_down()]);
        assert!(matches!(refused, Err(CompressError::ScaleRange { .. })));
    }

    #[test]
    fn nvfp4_by_hand() {
        // The tensor's scale is 1. The groups' are 448, 1 and the least there is.
        let mut w = [0.0; 48];
        (w[0], w[16], w[17], w[32]) = (2688.0, -6.0, 1.0, 0.005);
        let packed = made("nvfp4", &w).unwrap();
        assert_eq!(
            *packed.scales(),
            Scales::E4m3Tensor { groups: vec![0x7e, 0x38, 1], tensor: 1.0 }
        );
        let mut restored = w;
        restored[32] = 3.0 / 512.0;
        assert_eq!(dequantize(&packed), restored);
        // A dead group, and a dead matrix.
        w[32] = 0.0;
        let scales = Scales::E4m3Tensor { groups: vec![0x7e, 0x38, 0x38], tensor: 1.0 };
        assert_eq!(*made("nvfp4", &w).unwrap().scales(), scales);
        assert_eq!(dequantize(&made("nvfp4", &[0.0; 20]).unwrap()), [0.0; 20]);
        let refused = made("nvfp4", &[1e-36, 0.0]);
        assert!(matches!(refused, Err(CompressError::ScaleRange { .. })));
    }

    #[test]
    fn eight_bit_floats_by_hand() {
        let packed = made("e4m3-tensor", &[448.0, -1.0625, 20.5, 0.001]).unwrap();
        assert_eq!(*packed.scales(), Scales::F32(vec![1.0]));
        assert_eq!(codes(&packed), [0x7e, 0xb8, 0x5a, 0x01]);
        let packed = made("e5m2-g2-f16s", &[57344.0, 1.0, 0.0, 0.0]).unwrap();
        assert_eq!(codes(&packed), [0x7b, 0x3c, 0, 0]);
        assert_eq!(*packed.scales(), Scales::F16(vec![f16::ONE, f16::ONE]));
    }

    /// Every format has a rule or is refused by name, and no finite weight becomes infinite.
    #[test]
    fn every_format() {
        let max = f32::MAX;
        let patterns: [fn(usize) -> f32; 5] = [
            |i| (i as f32 * 0.7).sin() * 30.0,
            |i| if i % 3 == 0 { -f32::MAX } else { 0.0 },
            |i| if i % 2 == 0 { f32::MAX.next_down() } else { f32::MAX / 3.0 },
            |i| if i < 40 { 0.0 } else { 1e-39 },
            |i| (i as f32 * 0.7).sin() * 1e-34,
        ];
        let (mut made, mut refused) = (0, 0);
        for format in sample_formats() {
            for (at, pattern) in patterns.iter().enumerate() {
                let w: Vec<f32> = (0..2 * 80).map(pattern).collect();
                match quantize(&w, 2, 80, &format) {
                    Ok(packed) => {
                        made += 1;
                        let restored = dequantize(&packed);
                        assert!(restored.iter().all(|w| w.abs() <= max), "{format} {at}");
                        let error = relative_error(&w, &restored);
                        let bits = format.code_type().bits();
                        let most = if format.is_sparse() || bits == 2 { 0.9 } else { 0.4 };
                        assert!(at != 0 || error < most, "{format}: {error}");
                    }
                    Err(CompressError::NoRule { .. }) => {
                        refused += 1;
                        let known = format.is_permuted()
                            || format.offset() == Offset::FloatZeroPoint
                            || format.scale_type() == ScaleType::Int8Super
                            || matches!(format.code_type(), CodeType::Codebook | CodeType::Iq4Nl)
                            || format.code_type().table().is_some()
                                && format.scale_type() == ScaleType::E8m0
                            || format.scale_type() == ScaleType::E4m3Tensor
                                && format.code_type() != CodeType::E2m1;
                        assert!(known, "{format}");
                    }
                    Err(CompressError::ScaleRange { .. } | CompressError::F16Overflow { .. }) => {
                        assert_ne!(at, 0, "{format}");
                    }
                    Err(other) => panic!("{format}: {other}"),
                }
            }
        }
        assert!(made > 500 && refused > 500, "{made} {refused}");
    }
}
