//! The first place where two compressed weights differ.

use lowbit::compress::CompressError;
use lowbit::format::{CodeType, Geometry, PackedWeights};

/// The first difference between a weight that the GPU compressed and the CPU's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// The CPU refuses to compress the weight.
    #[error("refused by the CPU: {0}")]
    Refused(CompressError),
    /// Shapes or formats differ.
    #[error("{gpu:?} is not {cpu:?}")]
    Geometry {
        /// The GPU's layout.
        gpu: Box<Geometry>,
        /// The CPU's layout.
        cpu: Box<Geometry>,
    },
    /// A scale has other bits.
    #[error("scale of row {row}, group {group}: {gpu:e}, CPU {cpu:e}")]
    Scale {
        /// The row.
        row: usize,
        /// The group in the row.
        group: usize,
        /// The GPU's scale.
        gpu: f32,
        /// The CPU's scale.
        cpu: f32,
    },
    /// A zero point differs.
    #[error("zero point of row {row}, group {group}: {gpu}, CPU {cpu}")]
    Zero {
        /// The row.
        row: usize,
        /// The group in the row.
        group: usize,
        /// The GPU's zero point.
        gpu: i32,
        /// The CPU's zero point.
        cpu: i32,
    },
    /// Pruning kept another column.
    #[error("kept column {at} of row {row}: {gpu}, CPU {cpu}")]
    Column {
        /// The row.
        row: usize,
        /// The place among the kept weights of the row.
        at: usize,
        /// The column that the GPU kept.
        gpu: usize,
        /// The column that the CPU kept.
        cpu: usize,
    },
    /// A code of an integer or f16 weight differs.
    #[error("row {row}, column {column}: code {gpu}, CPU {cpu}")]
    Code {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// The GPU's code.
        gpu: i32,
        /// The CPU's code.
        cpu: i32,
    },
    /// An f32 weight has other bits.
    #[error("row {row}, column {column}: {gpu:#010x}, CPU {cpu:#010x}")]
    Bits {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// The GPU's bits.
        gpu: i32,
        /// The CPU's bits.
        cpu: i32,
    },
    /// Only words that pad a row differ.
    #[error("the padding of a row")]
    Padding,
}

impl Difference {
    /// Returns where the GPU's weight first differs from the CPU's, or `None` if they are equal.
    pub fn first(gpu: &PackedWeights, cpu: &PackedWeights) -> Option<Self> {
        if gpu == cpu {
            return None;
        }
        let geometry = *cpu.geometry();
        if geometry != *gpu.geometry() {
            let (gpu, cpu) = (Box::new(*gpu.geometry()), Box::new(geometry));
            return Some(Self::Geometry { gpu, cpu });
        }
        for row in 0..geometry.n {
            for group in 0..geometry.groups {
                let (a, b) = (gpu.scale(row, group), cpu.scale(row, group));
                if a.to_bits() != b.to_bits() {
                    return Some(Self::Scale { row, group, gpu: a, cpu: b });
                }
                let (a, b) = (gpu.zero(row, group), cpu.zero(row, group));
                if a != b {
                    return Some(Self::Zero { row, group, gpu: a, cpu: b });
                }
            }
            for at in 0..geometry.stored {
                let (a, b) = (gpu.column(row, at), cpu.column(row, at));
                if a != b {
                    return Some(Self::Column { row, at, gpu: a, cpu: b });
                }
                let (column, gpu, cpu) = (a, gpu.code(row, at), cpu.code(row, at));
                if gpu != cpu && geometry.format.code_type() == CodeType::F32 {
                    return Some(Self::Bits { row, column, gpu, cpu });
                }
                if gpu != cpu {
                    return Some(Self::Code { row, column, gpu, cpu });
                }
            }
        }
        Some(Self::Padding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit::format::{Granularity, Scales, WeightFormat};

    fn weights(codes: [u32; 4], scale: f32, zero: u8) -> PackedWeights {
        let format = WeightFormat::int8(Granularity::Channel).asymmetric();
        let scales = Scales::F32(vec![1.0, scale]);
        PackedWeights::from_parts(format, 2, 5, codes.into(), vec![], scales, vec![0, zero])
            .unwrap()
    }

    #[test]
    fn the_first_difference_is_named() {
        let cpu = weights([1, 2, 3, 4], 2.0, 7);
        let differs = |gpu| Difference::first(&gpu, &cpu).unwrap().to_string();
        assert_eq!(Difference::first(&cpu, &cpu), None);
        let scale = differs(weights([1, 2, 3, 4], 4.0, 7));
        assert_eq!(scale, "scale of row 1, group 0: 4e0, CPU 2e0");
        let zero = differs(weights([1, 2, 3, 4], 2.0, 8));
        assert_eq!(zero, "zero point of row 1, group 0: 8, CPU 7");
        let code = differs(weights([1, 2, 0xff03, 4], 2.0, 7));
        assert_eq!(code, "row 1, column 1: code -1, CPU 0");
    }
}
