//! Blocks of weights: codes and scales as the file has them, in the canonical layout.
//!
//! A row of a tensor is blocks of 32 or 256 weights. Inside a block, codes are not in the order of their
//! columns: two weights of a byte are 16 or 32 columns apart, and the high bits of five and six bits are
//! apart from the low ones. Codes become a string of bits here; scales keep their type and their bits.
//!
//! | types | scale | added |
//! |---|---|---|
//! | Q4_0, Q5_0, Q8_0, IQ4_NL | f16 | – |
//! | Q4_1, Q5_1 | f16 | f16 minimum |
//! | Q2_K | 4 bits a 16, times f16 | minus 4 bits a 16, times f16 |
//! | Q3_K | 6 bits a 16, less 32, times f16 | – |
//! | Q4_K, Q5_K | 6 bits a 32, times f16 | minus 6 bits a 32, times f16 |
//! | Q6_K | i8 a 16, times f16 | – |
//! | IQ4_XS | 6 bits a 32, less 32, times f16 | – |
//! | MXFP4 | a power of two | – |
//!
//! The file subtracts a minimum of two levels, and lowbit adds one, so the f16 changes its sign.

use super::{GgmlType, GgufTensor};
use crate::checkpoint::{IoError, matrix_shape};
use half::f16;
use lowbit::format::{
    FormatError, Geometry, Granularity, Offset, PackedWeights, Parts, ScaleType, Scales,
    WeightFormat,
};

/// The most weights of a block.
const MOST: usize = 256;
/// The most groups of a block.
const MOST_GROUPS: usize = 16;

/// One block, with codes in the order of columns.
struct Block {
    codes: [u8; MOST],
    /// The scale, or its upper level.
    d: f16,
    /// The minimum, or its upper level.
    m: f16,
    /// The lower level of scales, or the one byte of a scale.
    scales: [i8; MOST_GROUPS],
    /// The lower level of minima.
    minima: [i8; MOST_GROUPS],
}

type Unpack = fn(&[u8], &mut Block);

/// How blocks of each type are unpacked, by the number of the type.
const UNPACK: [(u32, Unpack); 13] = [
    (2, q4_0),
    (3, q4_1),
    (6, q5_0),
    (7, q5_1),
    (8, q8_0),
    (10, q2_k),
    (11, q3_k),
    (12, q4_k),
    (13, q5_k),
    (14, q6_k),
    // The same bytes as Q4_0: only the numbers of the codes differ.
    (20, q4_0),
    (23, iq4_xs),
    (39, mxfp4),
];

fn unpacker(kind: GgmlType) -> Option<Unpack> {
    UNPACK.iter().find(|(number, _)| *number == kind.number()).map(|(_, unpack)| *unpack)
}

/// Returns the format that a type of blocks is read as, or `None` if there is none.
pub(super) fn format(kind: GgmlType) -> Option<WeightFormat> {
    unpacker(kind)?;
    let name = kind.name()?.to_ascii_lowercase();
    WeightFormat::named().find(|(named, _)| *named == name).map(|(_, format)| format)
}

/// Reads a tensor of blocks.
///
/// # Errors
/// Returns [`IoError::NotAMatrix`] if the tensor has one axis, and [`IoError::Format`] if lowbit has no
/// format for its type, or if a scale or minimum is not finite.
pub(super) fn read(tensor: &GgufTensor<'_>) -> Result<PackedWeights, IoError> {
    let name = || tensor.name.to_owned();
    let not_a_matrix = || IoError::NotAMatrix { name: name(), shape: tensor.shape.to_vec() };
    let (n, k) = matrix_shape(tensor.shape).ok_or_else(not_a_matrix)?;
    let refused = |source| IoError::Format { name: name(), source };
    let unknown = || refused(FormatError::Unknown(tensor.kind.to_string()));
    let format = format(tensor.kind).ok_or_else(unknown)?;
    let unpack = unpacker(tensor.kind).ok_or_else(unknown)?;
    let (columns, block_bytes) = tensor.kind.block().ok_or_else(unknown)?;
    let geometry = format.geometry(n, k).map_err(refused)?;
    let parts = parts(&geometry, columns, tensor.bytes.chunks_exact(block_bytes), unpack);
    PackedWeights::new(format, n, k, parts).map_err(refused)
}

/// Unpacks blocks of `columns` weights, of which every row has a whole number.
fn parts<'a>(
    geometry: &Geometry,
    columns: usize,
    blocks: impl Iterator<Item = &'a [u8]>,
    unpack: Unpack,
) -> Parts {
    let format = geometry.format;
    let bits = format.code_type().bits();
    let group = match format.granularity() {
        Granularity::Group(size) => size.get() as usize,
        _ => columns,
    };
    let groups = columns / group;
    let mut words = Words::with_capacity(geometry.n * geometry.code_words);
    let mut scales = Growing::new(format.scale_type(), geometry.scales, geometry.upper());
    let mut minima = Growing::new(format.scale_type(), geometry.minima, geometry.upper());
    let mut block = Block {
        codes: [0; MOST],
        d: f16::ZERO,
        m: f16::ZERO,
        scales: [0; MOST_GROUPS],
        minima: [0; MOST_GROUPS],
    };
    for bytes in blocks {
        unpack(bytes, &mut block);
        // Rows are whole blocks of 32 codes, so that each row ends with a whole word.
        words.extend(&block.codes[..columns], bits);
        scales.push(block.d, &block.scales[..groups]);
        minima.push(block.m, &block.minima[..groups]);
    }
    let minima =
        if format.offset() == Offset::Minimum { minima.finish() } else { Scales::default() };
    Parts { codes: words.words, scales: scales.finish(), minima, ..Parts::default() }
}

/// Codes as a string of bits.
struct Words {
    words: Vec<u32>,
}

impl Words {
    fn with_capacity(count: usize) -> Self {
        Self { words: Vec::with_capacity(count) }
    }

    /// Adds codes of `bits` bits, a multiple of 32 of them.
    fn extend(&mut self, codes: &[u8], bits: u32) {
        let (mut word, mut filled) = (0u64, 0);
        for &code in codes {
            word |= u64::from(code) << filled;
            filled += bits;
            if filled >= 32 {
                self.words.push(word as u32);
                word >>= 32;
                filled -= 32;
            }
        }
    }
}

/// Scales or minima that are added block by block.
struct Growing {
    kind: ScaleType,
    /// Of one level, or the upper of two.
    floats: Vec<f16>,
    /// The lower level, or a byte each.
    bytes: Vec<i8>,
}

impl Growing {
    fn new(kind: ScaleType, scales: usize, supers: usize) -> Self {
        let (floats, bytes) = match kind {
            ScaleType::F16 => (scales, 0),
            ScaleType::Int8Super if scales > 0 => (supers, scales),
            ScaleType::E8m0 => (0, scales),
            _ => (0, 0),
        };
        Self { kind, floats: Vec::with_capacity(floats), bytes: Vec::with_capacity(bytes) }
    }

    fn push(&mut self, float: f16, bytes: &[i8]) {
        if self.kind != ScaleType::E8m0 {
            self.floats.push(float);
        }
        if self.kind != ScaleType::F16 {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn finish(self) -> Scales {
        match self.kind {
            ScaleType::F16 => Scales::F16(self.floats),
            ScaleType::E8m0 => {
                Scales::E8m0(self.bytes.into_iter().map(|byte| byte as u8).collect())
            }
            _ => Scales::Int8Super { groups: self.bytes, supers: self.floats },
        }
    }
}

fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Unpacks bytes of two codes: the low halves are the first columns, the high halves the others.
fn halves(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 0xf, byte >> 4);
    }
}

/// f16 | 16 bytes.
fn q4_0(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    halves(&bytes[2..18], &mut block.codes[..32]);
}

/// f16 | f16 | 16 bytes.
fn q4_1(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), half(bytes, 2));
    halves(&bytes[4..20], &mut block.codes[..32]);
}

/// Adds the fifth bits, one for each column, the first in the lowest bit.
fn fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    for (at, code) in codes.iter_mut().enumerate() {
        *code |= (bytes[at / 8] >> (at % 8) & 1) << 4;
    }
}

/// f16 | 4 bytes of fifth bits | 16 bytes.
fn q5_0(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    halves(&bytes[6..22], &mut block.codes[..32]);
    fifth_bits(&bytes[2..6], &mut block.codes[..32]);
}

/// f16 | f16 | 4 bytes of fifth bits | 16 bytes.
fn q5_1(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), half(bytes, 2));
    halves(&bytes[8..24], &mut block.codes[..32]);
    fifth_bits(&bytes[4..8], &mut block.codes[..32]);
}

/// f16 | 32 bytes.
fn q8_0(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    block.codes[..32].copy_from_slice(&bytes[2..34]);
}

/// Unpacks 64 bytes of four codes. Each 32 bytes are 128 columns, of which the lowest bits are the
/// first 32.
fn quarters(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (shift, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (2 * shift) & 3;
            }
        }
    }
}

/// 16 bytes of scales and minima | 64 bytes | f16 | f16.
fn q2_k(bytes: &[u8], block: &mut Block) {
    for (group, byte) in bytes[..16].iter().enumerate() {
        (block.scales[group], block.minima[group]) = ((byte & 0xf) as i8, (byte >> 4) as i8);
    }
    quarters(&bytes[16..80], &mut block.codes);
    (block.d, block.m) = (half(bytes, 80), -half(bytes, 82));
}

/// 32 bytes of third bits | 64 bytes | 12 bytes of scales | f16.
fn q3_k(bytes: &[u8], block: &mut Block) {
    quarters(&bytes[32..96], &mut block.codes);
    for (bit, codes) in block.codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(&bytes[..32]) {
            *code |= (byte >> bit & 1) << 2;
        }
    }
    let packed = &bytes[96..108];
    for (group, scale) in block.scales.iter_mut().enumerate() {
        let low = packed[group % 8] >> (4 * (group / 8)) & 0xf;
        let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        *scale = (low | high << 4) as i8 - 32;
    }
    block.d = half(bytes, 108);
}

/// Unpacks eight scales and eight minima of six bits from 12 bytes.
fn six_bits(packed: &[u8], block: &mut Block) {
    for group in 0..4 {
        block.scales[group] = (packed[group] & 63) as i8;
        block.minima[group] = (packed[group + 4] & 63) as i8;
        let last = packed[group + 8];
        block.scales[group + 4] = (last & 0xf | packed[group] >> 6 << 4) as i8;
        block.minima[group + 4] = (last >> 4 | packed[group + 4] >> 6 << 4) as i8;
    }
}

/// Unpacks 128 bytes of two codes: each 32 bytes are 64 columns.
fn chunks_of_64(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        halves(bytes, codes);
    }
}

/// f16 | f16 | 12 bytes of scales and minima | 128 bytes.
fn q4_k(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), -half(bytes, 2));
    six_bits(&bytes[4..16], block);
    chunks_of_64(&bytes[16..144], &mut block.codes);
}

/// f16 | f16 | 12 bytes of scales and minima | 32 bytes of fifth bits | 128 bytes.
fn q5_k(bytes: &[u8], block: &mut Block) {
    (block.d, block.m) = (half(bytes, 0), -half(bytes, 2));
    six_bits(&bytes[4..16], block);
    chunks_of_64(&bytes[48..176], &mut block.codes);
    for (bit, codes) in block.codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(&bytes[16..48]) {
            *code |= (byte >> bit & 1) << 4;
        }
    }
}

/// 128 bytes of low bits | 64 bytes of high bits | 16 scales | f16.
fn q6_k(bytes: &[u8], block: &mut Block) {
    let (low, high) = (bytes[..128].chunks_exact(64), bytes[128..192].chunks_exact(32));
    for ((low, high), codes) in low.zip(high).zip(block.codes.chunks_exact_mut(128)) {
        halves(low, codes);
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(high) {
                *code |= (byte >> (2 * quarter) & 3) << 4;
            }
        }
    }
    for (scale, byte) in block.scales.iter_mut().zip(&bytes[192..208]) {
        *scale = *byte as i8;
    }
    block.d = half(bytes, 208);
}

/// f16 | 2 bytes of high bits of scales | 4 bytes of low bits | 128 bytes.
fn iq4_xs(bytes: &[u8], block: &mut Block) {
    block.d = half(bytes, 0);
    let high = u16::from_le_bytes([bytes[2], bytes[3]]);
    for group in 0..8 {
        let low = bytes[4 + group / 2] >> (4 * (group % 2)) & 0xf;
        let scale = low | ((high >> (2 * group) & 3) as u8) << 4;
        block.scales[group] = scale as i8 - 32;
    }
    for (bytes, codes) in bytes[8..136].chunks_exact(16).zip(block.codes.chunks_exact_mut(32)) {
        halves(bytes, codes);
    }
}

/// A byte of the scale | 16 bytes.
fn mxfp4(bytes: &[u8], block: &mut Block) {
    block.scales[0] = bytes[0] as i8;
    halves(&bytes[1..17], &mut block.codes[..32]);
}
