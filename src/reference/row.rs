use super::ReferenceError;
use super::binary16::f16_to_f64;
use crate::format::{CodeType, Granularity, Offset, PackedWeights, Scales};

/// One weight that a row keeps. In a dense row these are all columns, in a 2:4 row those that the
/// metadata names, if they are less than K.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// The column of W, which is less than K.
    pub column: usize,
    /// The code as it is stored, sign-extended if it is signed, or the bits of a float or an index.
    pub code: i32,
    /// The integer zero point of its group, or 0 for codes that have none.
    pub zero: i32,
    /// The number v(c) that the code is: exact, and `code − zero` for integers.
    pub number: f64,
    /// The scale of its group: the exact value of one level, or the exact product of two; 1 for
    /// floats.
    pub scale: f64,
    /// The exact minimum of its group, which is added, or −z·s if the zero point z is a float; 0
    /// without either.
    pub minimum: f64,
    /// The value of the weight: `number · scale + minimum`, or the float. The product is exact in
    /// f64 (at most 24 + 29 bits), and so is the sum up to one rounding of 2⁻⁵³.
    pub value: f64,
    /// The magnitude that rounding is relative to if offsets are applied apart from the code:
    /// `(|code| + |zero|) · |scale| + |minimum|` for integers, or |value| for all others.
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
    let table = table_of(weights);
    let stored = if sparse { geometry.k.div_ceil(4) * 2 } else { geometry.k };
    let mut group = Group { index: usize::MAX, zero: 0, scale: 1.0, minimum: 0.0 };
    for at in 0..stored {
        let place = if sparse {
            let quad = at / 2;
            let nibble = (metadata[quad / 8] >> (4 * (quad % 8))) & 15;
            let inside = if at % 2 == 0 { nibble & 3 } else { nibble >> 2 };
            4 * quad + inside as usize
        } else {
            at
        };
        if place >= geometry.k {
            continue;
        }
        let column = if format.is_permuted() { weights.order()[place] as usize } else { place };
        let code = raw_code(code_type, words, at);
        if let CodeType::F32 | CodeType::F16 = code_type {
            let value = match code_type {
                CodeType::F32 => f64::from(f32::from_bits(code as u32)),
                _ => f16_to_f64(code as u16),
            };
            let (number, folded) = (value, value.abs());
            let (zero, scale, minimum) = (0, 1.0, 0.0);
            out.push(Weight { column, code, zero, number, scale, minimum, value, folded });
            continue;
        }
        let index = place / geometry.group_size;
        if group.index != index {
            group = Group::read(weights, row, index);
        }
        let Group { zero, scale, minimum, .. } = group;
        let number = match (&table, code_type) {
            (Some(table), _) => table[code as usize],
            (None, CodeType::E4m3) => small_float(code as u8, 3),
            (None, CodeType::E5m2) => small_float(code as u8, 2),
            (None, _) => f64::from(code - zero),
        };
        let product = number * scale;
        let apart = match code_type.is_integer() {
            true => f64::from(code.abs() + zero.abs()) * scale.abs(),
            false => product.abs(),
        };
        let (value, folded) = (product + minimum, apart + minimum.abs());
        out.push(Weight { column, code, zero, number, scale, minimum, value, folded });
    }
    if format.is_permuted() {
        out.sort_by_key(|weight| weight.column);
    }
    Ok(())
}

/// Returns the 16 numbers of a codebook, from the definitions of the tables and not from the crate's
/// constants.
fn table_of(weights: &PackedWeights) -> Option<[f64; 16]> {
    let signed = |half: [f64; 8]| {
        let mut all = [0.0; 16];
        for (i, value) in half.into_iter().enumerate() {
            (all[i], all[i + 8]) = (value, -value);
        }
        all
    };
    // The nearest f32, which is what its authors store.
    let single = |value: f64| f64::from(value as f32);
    match weights.format().code_type() {
        CodeType::E2m1 => Some(signed([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])),
        CodeType::Fp4 => Some(signed(
            [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0].map(|twelfths| single(twelfths / 12.0)),
        )),
        CodeType::Iq4Nl => Some([
            -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0,
            69.0, 89.0, 113.0,
        ]),
        // The numbers that the authors of QLoRA print, to more digits than f32 has.
        CodeType::Nf4 => Some(
            [
                -1.0,
                -0.6961928009986877,
                -0.5250730514526367,
                -0.39491748809814453,
                -0.28444138169288635,
                -0.18477343022823334,
                -0.09105003625154495,
                0.0,
                0.07958029955625534,
                0.16093020141124725,
                0.24611230194568634,
                0.33791524171829224,
                0.44070982933044434,
                0.5626170039176941,
                0.7229568362236023,
                1.0,
            ]
            .map(single),
        ),
        CodeType::Af4 => Some(
            [
                1.0,
                0.72424863,
                0.55496234,
                0.42563882,
                0.31675666,
                0.21961274,
                0.12934483,
                0.04273164,
                0.0,
                -0.04934812,
                -0.14982478,
                -0.25607552,
                -0.3736951,
                -0.51243739,
                -0.69441008,
                -1.0,
            ]
            .map(single),
        ),
        CodeType::Codebook => {
            let own = &weights.parts().codebook;
            Some(std::array::from_fn(|i| f64::from(own[i])))
        }
        _ => None,
    }
}

/// Returns the number of an 8-bit float with `mantissa` bits of mantissa, by the definition of the
/// format: sign, exponent with the bias 2^(e−1) − 1, fraction.
fn small_float(code: u8, mantissa: i32) -> f64 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent_bits = 7 - mantissa;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = i32::from(code & 0x7f) >> mantissa;
    let fraction = f64::from(code & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    // e4m3 has one NaN, all ones, and no infinity; e5m2 has those of IEEE.
    if mantissa == 3 && code & 0x7f == 0x7f || mantissa == 2 && exponent == 31 && fraction != 0.0 {
        return f64::NAN;
    }
    if mantissa == 2 && exponent == 31 {
        return sign * f64::INFINITY;
    }
    if exponent == 0 {
        sign * fraction * 2f64.powi(1 - bias)
    } else {
        sign * (1.0 + fraction) * 2f64.powi(exponent - bias)
    }
}

/// Returns code `at` of a row's words, lowest bits first: byte by byte, so that codes of 3, 5 and 6
/// bits, which cross words, need no case of their own.
fn raw_code(code_type: CodeType, words: &[u32], at: usize) -> i32 {
    let byte = |i: usize| words.get(i / 4).map_or(0, |word| word.to_le_bytes()[i % 4]);
    let half = |i: usize| u16::from_le_bytes([byte(2 * i), byte(2 * i + 1)]);
    let bits = match code_type {
        CodeType::F32 => return words[at] as i32,
        CodeType::F16 => return i32::from(half(at)),
        CodeType::Int16 => return i32::from(half(at) as i16),
        CodeType::Int8 => return i32::from(byte(at) as i8),
        CodeType::E4m3 | CodeType::E5m2 => return i32::from(byte(at)),
        CodeType::Int6 => 6,
        CodeType::Int5 => 5,
        CodeType::Int3 => 3,
        CodeType::Int2 => 2,
        CodeType::Int4
        | CodeType::Nf4
        | CodeType::Af4
        | CodeType::Fp4
        | CodeType::E2m1
        | CodeType::Iq4Nl
        | CodeType::Codebook => 4,
    };
    let (first, shift) = (at * bits / 8, at * bits % 8);
    let pair = i32::from(byte(first)) | i32::from(byte(first + 1)) << 8;
    pair >> shift & ((1 << bits) - 1)
}

/// The scale, zero point and minimum that the weights of one group share.
struct Group {
    index: usize,
    zero: i32,
    scale: f64,
    minimum: f64,
}

impl Group {
    fn read(weights: &PackedWeights, row: usize, index: usize) -> Self {
        let geometry = weights.geometry();
        let format = geometry.format;
        let (size, groups) = match format.granularity() {
            Granularity::Tensor | Granularity::Channel => (0, 1),
            Granularity::Group(g) => (g.get() as usize, geometry.k.div_ceil(g.get() as usize)),
        };
        let at = match format.granularity() {
            Granularity::Tensor => 0,
            _ => row * groups + index,
        };
        let block = row * geometry.k.div_ceil(256) + index * size / 256;
        let of = |scales: &Scales| match scales {
            Scales::F32(scales) => f64::from(scales[at]),
            Scales::F16(scales) => f16_to_f64(scales[at].to_bits()),
            Scales::E8m0(scales) => 2f64.powi(i32::from(scales[at]) - 127),
            Scales::Int8Super { groups, supers } => {
                f64::from(groups[at]) * f16_to_f64(supers[block].to_bits())
            }
            Scales::E4m3Tensor { groups, tensor } => {
                small_float(groups[at], 3) * f64::from(*tensor)
            }
        };
        let scale = of(weights.scales());
        let minimum = match format.offset() {
            Offset::Minimum => of(weights.minima()),
            Offset::FloatZeroPoint => -of(weights.minima()) * scale,
            _ => 0.0,
        };
        // Stored zero points are bytes or halves of bytes that hold codes, so those of int8 are
        // signed.
        let zero = match (format.offset(), format.code_type()) {
            (Offset::ZeroPoint, CodeType::Int8) => i32::from(weights.zeros()[at] as i8),
            (Offset::ZeroPoint, _) => i32::from(weights.zeros()[at]),
            (Offset::ZeroPoint4, _) => {
                let first = at - index;
                let bytes = first / groups * groups.div_ceil(2);
                i32::from(weights.zeros()[bytes + index / 2] >> (index % 2 * 4) & 15)
            }
            (Offset::Minimum | Offset::FloatZeroPoint, _) => 0,
            (Offset::Fixed, CodeType::Int6) => 32,
            (Offset::Fixed, CodeType::Int5) => 16,
            (Offset::Fixed, CodeType::Int4) => 8,
            (Offset::Fixed, CodeType::Int3) => 4,
            (Offset::Fixed, CodeType::Int2) => 2,
            (Offset::Fixed, _) => 0,
        };
        Self { index, zero, scale, minimum }
    }
}
