use super::ReferenceError;
use super::binary16::f16_to_f64;
use crate::format::{CodeType, Granularity, PackedWeights, Scales};

/// One weight that a row keeps. In a dense row these are all columns, in a 2:4 row those that the
/// metadata names, if they are less than K.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// The column, which is less than K.
    pub column: usize,
    /// The code as it is stored, sign-extended if it is signed, or the bits of a float.
    pub code: i32,
    /// The zero point of its group, or 0 for floats.
    pub zero: i32,
    /// The scale of its group, widened exactly, or 1 for floats.
    pub scale: f64,
    /// The value of the weight: `(code − zero) · scale`, which is exact in f64 (at most 17 + 24
    /// bits), or the float.
    pub value: f64,
    /// The magnitude that rounding is relative to if the zero point is folded: `(|code| + |zero|) ·
    /// scale`, or |value| for floats.
    pub folded: f64,
}

/// Decodes one row from the raw words of the parts into `out`, in ascending order of columns.
/// Positions that 2:4 metadata places past K are omitted.
///
/// # Errors
/// Returns [`ReferenceError::OutOfRange`] if `row` is not less than N.
pub fn decode_row(
    weights: &PackedWeights,
    row: usize,
    out: &mut Vec<Weight>,
) -> Result<(), ReferenceError> {
    let geometry = weights.geometry();
    if row >= geometry.n {
        return Err(ReferenceError::OutOfRange { role: "row", index: row, limit: geometry.n });
    }
    out.clear();
    let format = geometry.format;
    let (code_type, sparse) = (format.code_type(), format.is_sparse());
    let words = &weights.codes()[row * geometry.code_words..][..geometry.code_words];
    let metadata = &weights.metadata()[row * geometry.meta_words..][..geometry.meta_words];
    let stored = if sparse { geometry.k.div_ceil(4) * 2 } else { geometry.k };
    let mut group = Group { index: usize::MAX, zero: 0, scale: 1.0 };
    for at in 0..stored {
        let column = if sparse {
            let quad = at / 2;
            let nibble = (metadata[quad / 8] >> (4 * (quad % 8))) & 15;
            let inside = if at % 2 == 0 { nibble & 3 } else { nibble >> 2 };
            4 * quad + inside as usize
        } else {
            at
        };
        if column >= geometry.k {
            continue;
        }
        let code = raw_code(code_type, words, at);
        let weight = match code_type {
            CodeType::F32 => float(column, code, f64::from(f32::from_bits(code as u32))),
            CodeType::F16 => float(column, code, f16_to_f64(code as u16)),
            CodeType::Int16 | CodeType::Int8 | CodeType::Int4 => {
                let index = column / geometry.group_size;
                if group.index != index {
                    group = Group::read(weights, row, index);
                }
                let Group { zero, scale, .. } = group;
                Weight {
                    column,
                    code,
                    zero,
                    scale,
                    value: f64::from(code - zero) * scale,
                    folded: f64::from(code.abs() + zero.abs()) * scale,
                }
            }
        };
        out.push(weight);
    }
    Ok(())
}

fn float(column: usize, code: i32, value: f64) -> Weight {
    Weight { column, code, zero: 0, scale: 1.0, value, folded: value.abs() }
}

/// Returns code `at` of a row's words, lowest bits first.
fn raw_code(code_type: CodeType, words: &[u32], at: usize) -> i32 {
    match code_type {
        CodeType::F32 => words[at] as i32,
        CodeType::F16 => i32::from(half_word(words[at / 2], at % 2)),
        CodeType::Int16 => i32::from(half_word(words[at / 2], at % 2) as i16),
        CodeType::Int8 => i32::from(words[at / 4].to_le_bytes()[at % 4] as i8),
        CodeType::Int4 => {
            let byte = words[at / 8].to_le_bytes()[at % 8 / 2];
            i32::from(byte >> (at % 2 * 4) & 15)
        }
    }
}

/// Returns the low 16 bits of a word (`which = 0`) or the high ones.
fn half_word(word: u32, which: usize) -> u16 {
    let [a, b, c, d] = word.to_le_bytes();
    u16::from_le_bytes(if which == 0 { [a, b] } else { [c, d] })
}

/// The scale and zero point that the weights of one group share.
struct Group {
    index: usize,
    zero: i32,
    scale: f64,
}

impl Group {
    fn read(weights: &PackedWeights, row: usize, index: usize) -> Self {
        let geometry = weights.geometry();
        let at = match geometry.format.granularity() {
            Granularity::Tensor => 0,
            Granularity::Channel => row,
            Granularity::Group(g) => row * geometry.k.div_ceil(g.get() as usize) + index,
        };
        let scale = match weights.scales() {
            Scales::F32(scales) => f64::from(scales[at]),
            Scales::F16(scales) => f16_to_f64(scales[at].to_bits()),
        };
        // Stored zero points are bytes that hold codes, so those of int8 are signed.
        let zero = match (geometry.format.code_type(), weights.zeros().get(at)) {
            (CodeType::Int4, None) => 8,
            (_, None) => 0,
            (CodeType::Int8, Some(&byte)) => i32::from(byte as i8),
            (_, Some(&byte)) => i32::from(byte),
        };
        Self { index, zero, scale }
    }
}
