//! The types of tensors in GGUF files.

use crate::checkpoint::Dtype;
use std::fmt;

/// The type of a tensor, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GgmlType(u32);

/// The number of a type, its name, the elements of a block, and the bytes of a block.
type Row = (u32, &'static str, usize, usize);

/// All types that ggml has or had. Sources: `ggml.h`, `ggml-common.h` and the Python package `gguf`.
const TYPES: [Row; 43] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (4, "Q4_2", 16, 10),
    (5, "Q4_3", 16, 12),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (31, "Q4_0_4_4", 32, 18),
    (32, "Q4_0_4_8", 32, 18),
    (33, "Q4_0_8_8", 32, 18),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (36, "IQ4_NL_4_4", 32, 18),
    (37, "IQ4_NL_4_8", 32, 18),
    (38, "IQ4_NL_8_8", 32, 18),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

impl GgmlType {
    /// Single-precision floats.
    pub const F32: Self = Self(0);
    /// Half-precision floats.
    pub const F16: Self = Self(1);
    /// Brain floats.
    pub const BF16: Self = Self(30);
    /// Floats of four bits with scales of one byte, and one of four bytes in another tensor.
    pub(super) const NVFP4: Self = Self(40);

    /// Returns the type of this number, whether or not it is known.
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns its number.
    pub fn number(self) -> u32 {
        self.0
    }

    fn row(self) -> Option<&'static Row> {
        TYPES.iter().find(|row| row.0 == self.0)
    }

    /// Returns its name, or `None` for a number that is not known.
    pub fn name(self) -> Option<&'static str> {
        Some(self.row()?.1)
    }

    /// Returns the elements of a block and its bytes, or `None` for a number that is not known.
    pub fn block(self) -> Option<(usize, usize)> {
        self.row().map(|row| (row.2, row.3))
    }

    /// Returns the element type if every element is stored by itself.
    pub fn dtype(self) -> Option<Dtype> {
        Some(match self.0 {
            0 => Dtype::F32,
            1 => Dtype::F16,
            24 => Dtype::I8,
            25 => Dtype::I16,
            26 => Dtype::I32,
            27 => Dtype::I64,
            28 => Dtype::F64,
            30 => Dtype::BF16,
            _ => return None,
        })
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "ggml type {}", self.0),
        }
    }
}
