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
//! | NVFP4 | e4m3 a 16, times an f32 in another tensor | – |
//!
//! The file subtracts a minimum of two levels, and lowbit adds one, so the f16 changes its sign.

mod pack;
mod unpack;

use super::{GgmlType, GgufTensor};
use crate::checkpoint::{IoError, matrix_shape};
use half::f16;
use lowbit::format::{
    FormatError, Geometry, Granularity, Offset, PackedWeights, Parts, ScaleType, Scales,
    WeightFormat,
};
use rayon::iter::{ParallelBridge, ParallelIterator};

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

impl Block {
    fn new() -> Self {
        let (scales, minima) = ([0; MOST_GROUPS], [0; MOST_GROUPS]);
        Self { codes: [0; MOST], d: f16::ZERO, m: f16::ZERO, scales, minima }
    }
}

/// How the blocks of a type are read and written.
struct Row {
    /// The number of the type.
    number: u32,
    unpack: Unpack,
    /// `None` for types that are only read.
    pack: Option<Pack>,
    /// Where the floats of a block are. Without any, it starts with scales of one byte each.
    floats: &'static [usize],
    /// The lowest and the highest lower level of a scale that the bits of the file can hold.
    scales: (i8, i8),
    /// The lowest and the highest lower level of a minimum.
    minima: (i8, i8),
}

type Unpack = fn(&[u8], &mut Block);
type Pack = fn(&Block, &mut [u8]);

const fn row(number: u32, (unpack, pack): (Unpack, Pack), floats: &'static [usize]) -> Row {
    let (scales, minima) = ((i8::MIN, i8::MAX), (i8::MIN, i8::MAX));
    Row { number, unpack, pack: Some(pack), floats, scales, minima }
}

impl Row {
    const fn limits(mut self, scales: (i8, i8), minima: (i8, i8)) -> Self {
        (self.scales, self.minima) = (scales, minima);
        self
    }
}

/// Every type of blocks that lowbit has a format for.
const ROWS: [Row; 14] = [
    row(2, (unpack::q4_0, pack::q4_0), &[0]),
    row(3, (unpack::q4_1, pack::q4_1), &[0, 2]),
    row(6, (unpack::q5_0, pack::q5_0), &[0]),
    row(7, (unpack::q5_1, pack::q5_1), &[0, 2]),
    row(8, (unpack::q8_0, pack::q8_0), &[0]),
    row(10, (unpack::q2_k, pack::q2_k), &[80, 82]).limits((0, 15), (0, 15)),
    row(11, (unpack::q3_k, pack::q3_k), &[108]).limits((-32, 31), (0, 0)),
    row(12, (unpack::q4_k, pack::q4_k), &[0, 2]).limits((0, 63), (0, 63)),
    row(13, (unpack::q5_k, pack::q5_k), &[0, 2]).limits((0, 63), (0, 63)),
    row(14, (unpack::q6_k, pack::q6_k), &[208]),
    // The bytes are those of Q4_0; only the numbers of the codes differ.
    row(20, (unpack::q4_0, pack::q4_0), &[0]),
    row(23, (unpack::iq4_xs, pack::iq4_xs), &[0]).limits((-32, 31), (0, 0)),
    row(39, (unpack::mxfp4, pack::mxfp4), &[]),
    Row {
        number: 40,
        unpack: unpack::nvfp4,
        pack: None,
        floats: &[],
        scales: (0, i8::MAX),
        minima: (0, 0),
    },
];

fn row_of(kind: GgmlType) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.number == kind.number())
}

/// Returns the format that a type of blocks is read as, or `None` if there is none.
pub(super) fn format(kind: GgmlType) -> Option<WeightFormat> {
    row_of(kind)?;
    let name = kind.name()?.to_ascii_lowercase();
    WeightFormat::named().find(|(named, _)| *named == name).map(|(_, format)| format)
}

/// Returns the type of blocks that a format is written as, or `None` if there is none.
pub(super) fn kind(format: WeightFormat) -> Option<GgmlType> {
    let row = row_of_format(format)?;
    row.pack.map(|_| GgmlType::new(row.number))
}

/// Returns whether blocks of a format are read, but not written.
pub(super) fn is_only_read(format: WeightFormat) -> bool {
    row_of_format(format).is_some_and(|row| row.pack.is_none())
}

fn row_of_format(format: WeightFormat) -> Option<&'static Row> {
    ROWS.iter().find(|row| self::format(GgmlType::new(row.number)) == Some(format))
}

/// Reads a tensor of blocks. `upper` is the upper level of its scales, where that is a tensor of its own.
///
/// # Errors
/// Returns [`IoError::NotAMatrix`] if the tensor has one axis, and [`IoError::Format`] if lowbit has no
/// format for its type, or if a scale or minimum is not finite.
pub(super) fn read(tensor: &GgufTensor<'_>, upper: f32) -> Result<PackedWeights, IoError> {
    let name = || tensor.name.to_owned();
    let not_a_matrix = || IoError::NotAMatrix { name: name(), shape: tensor.shape.to_vec() };
    let (n, k) = matrix_shape(tensor.shape).ok_or_else(not_a_matrix)?;
    let refused = |source| IoError::Format { name: name(), source };
    let unknown = || refused(FormatError::Unknown(tensor.kind.to_string()));
    let format = format(tensor.kind).ok_or_else(unknown)?;
    let unpack = row_of(tensor.kind).ok_or_else(unknown)?.unpack;
    let (columns, block_bytes) = tensor.kind.block().ok_or_else(unknown)?;
    let geometry = format.geometry(n, k).map_err(refused)?;
    let mut parts = parts(&geometry, columns, (tensor.bytes, block_bytes), unpack);
    if let Scales::E4m3Tensor { tensor, .. } = &mut parts.scales {
        *tensor = upper;
    }
    PackedWeights::new(format, n, k, parts).map_err(refused)
}

/// Checks that the scales and minima of a tensor are finite, without unpacking its codes.
///
/// # Errors
/// Returns the error of [`read`].
pub(super) fn check(tensor: &GgufTensor<'_>, upper: f32) -> Result<(), IoError> {
    /// The byte of a power of two that stands for NaN.
    const E8M0_NAN: u8 = 0xff;
    let finite = |block: &[u8], floats: &[usize]| match floats {
        // Unsigned scales have 7 bits, as ASCII has.
        [] if tensor.kind == GgmlType::NVFP4 => upper.is_finite() && block[..4].is_ascii(),
        [] => block.first() != Some(&E8M0_NAN),
        floats => floats.iter().all(|&at| unpack::half(block, at).is_finite()),
    };
    if let (Some(row), Some((_, bytes))) = (row_of(tensor.kind), tensor.kind.block())
        && tensor.bytes.chunks_exact(bytes).all(|block| finite(block, row.floats))
    {
        return Ok(());
    }
    // The reader says which of them it is.
    read(tensor, upper).map(drop)
}

/// Bytes of blocks that a thread unpacks at a time.
const PIECE: usize = 1 << 18;

/// Unpacks blocks of `columns` weights, of which every row has a whole number, on all processors.
fn parts(
    geometry: &Geometry,
    columns: usize,
    (bytes, block_bytes): (&[u8], usize),
    unpack: Unpack,
) -> Parts {
    let format = geometry.format;
    let bits = format.code_type().bits();
    let group = match format.granularity() {
        Granularity::Group(size) => size.get() as usize,
        _ => columns,
    };
    let groups = columns / group;
    // Blocks of a multiple of 32 codes end with a whole word.
    let (count, words) = (bytes.len() / block_bytes, columns * bits as usize / 32);
    let mut codes = vec![0; count * words];
    let has_minima = format.offset() == Offset::Minimum;
    let mut scales = Levels::new(format.scale_type(), count, groups);
    let mut minima = Levels::new(format.scale_type(), if has_minima { count } else { 0 }, groups);
    let blocks = (PIECE / block_bytes).max(1);
    bytes
        .chunks(blocks * block_bytes)
        .zip(codes.chunks_mut(blocks * words))
        .zip(scales.pieces(blocks, groups))
        .zip(minima.pieces(blocks, groups))
        .par_bridge()
        .for_each(|(((bytes, codes), mut scales), mut minima)| {
            let mut block = Block::new();
            for (at, bytes) in bytes.chunks_exact(block_bytes).enumerate() {
                unpack(bytes, &mut block);
                join(&block.codes[..columns], bits, &mut codes[at * words..][..words]);
                scales.set(at, block.d, &block.scales[..groups]);
                minima.set(at, block.m, &block.minima[..groups]);
            }
        });
    let minima = if has_minima { minima.finish() } else { Scales::default() };
    Parts { codes, scales: scales.finish(), minima, ..Parts::default() }
}

/// Joins codes of `bits` bits, a multiple of 32 of them, to words.
fn join(codes: &[u8], bits: u32, words: &mut [u32]) {
    if bits == 8 {
        let bytes = codes.as_chunks().0.iter();
        words.iter_mut().zip(bytes).for_each(|(word, &bytes)| *word = u32::from_le_bytes(bytes));
        return;
    }
    let mut words = words.iter_mut();
    let (mut word, mut filled) = (0u64, 0);
    for &code in codes {
        word |= u64::from(code) << filled;
        filled += bits;
        if filled >= 32 {
            if let Some(to) = words.next() {
                *to = word as u32;
            }
            word >>= 32;
            filled -= 32;
        }
    }
}

/// The scales or minima of blocks.
struct Levels {
    kind: ScaleType,
    /// The only level, or the upper of two: one for each block.
    floats: Vec<f16>,
    /// The lower level, or a byte each: one for each group.
    bytes: Vec<i8>,
}

/// The levels of some of the blocks.
struct Piece<'a> {
    floats: &'a mut [f16],
    bytes: &'a mut [i8],
}

impl Levels {
    fn new(kind: ScaleType, blocks: usize, groups: usize) -> Self {
        let (floats, bytes) = match kind {
            ScaleType::F16 => (blocks, 0),
            ScaleType::E8m0 | ScaleType::E4m3Tensor => (0, blocks * groups),
            _ => (blocks, blocks * groups),
        };
        Self { kind, floats: vec![f16::ZERO; floats], bytes: vec![0; bytes] }
    }

    /// Divides the levels into those of `blocks` blocks each, without end: what is not there is empty.
    fn pieces(&mut self, blocks: usize, groups: usize) -> impl Iterator<Item = Piece<'_>> + Send {
        let (mut floats, mut bytes) = (&mut self.floats[..], &mut self.bytes[..]);
        std::iter::repeat_with(move || Piece {
            floats: take(&mut floats, blocks),
            bytes: take(&mut bytes, blocks * groups),
        })
    }

    fn finish(self) -> Scales {
        let unsigned = |bytes: Vec<i8>| bytes.into_iter().map(|byte| byte as u8).collect();
        match self.kind {
            ScaleType::F16 => Scales::F16(self.floats),
            ScaleType::E8m0 => Scales::E8m0(unsigned(self.bytes)),
            ScaleType::E4m3Tensor => {
                Scales::E4m3Tensor { groups: unsigned(self.bytes), tensor: 1.0 }
            }
            _ => Scales::Int8Super { groups: self.bytes, supers: self.floats },
        }
    }
}

impl Piece<'_> {
    /// Stores the levels of a block.
    fn set(&mut self, at: usize, float: f16, bytes: &[i8]) {
        if let Some(to) = self.floats.get_mut(at) {
            *to = float;
        }
        if let Some(to) = self.bytes.get_mut(at * bytes.len()..(at + 1) * bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

/// Takes at most `count` elements from the start of a slice.
fn take<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let all = std::mem::take(rest);
    let (head, tail) = all.split_at_mut(count.min(all.len()));
    *rest = tail;
    head
}

/// The reason why a weight cannot be written as blocks.
pub(super) enum Refusal {
    /// Rows are not whole blocks of this many weights.
    Ragged(usize),
    /// The lower level of a scale or a minimum does not fit into the bits of the file.
    Range { value: i8, low: i8, high: i8 },
}

/// Writes a weight as blocks of `kind`, which is the type of its format, row by row.
///
/// # Errors
/// Returns the error of `write`, or `Ok` with a [`Refusal`] if the type cannot hold the weight.
pub(super) fn write<E>(
    weights: &PackedWeights,
    kind: GgmlType,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Option<Refusal>, E> {
    let (Some(row), Some((columns, block_bytes))) = (row_of(kind), kind.block()) else {
        return Ok(None);
    };
    let Some(pack) = row.pack else { return Ok(None) };
    let (format, geometry) = (weights.format(), weights.geometry());
    if geometry.k % columns != 0 {
        return Ok(Some(Refusal::Ragged(columns)));
    }
    let bits = format.code_type().bits() as usize;
    let group = match format.granularity() {
        Granularity::Group(size) => size.get() as usize,
        _ => columns,
    };
    let (groups, block_words) = (columns / group, columns * bits / 32);
    let (mut block, mut bytes) = (Block::new(), vec![0; block_bytes]);
    for (at, words) in weights.codes().chunks_exact(block_words).enumerate() {
        split(words, bits as u32, &mut block.codes[..columns]);
        level(weights.scales(), at, groups, &mut block.d, &mut block.scales);
        level(weights.minima(), at, groups, &mut block.m, &mut block.minima);
        for (values, (low, high)) in [(&block.scales, row.scales), (&block.minima, row.minima)] {
            if let Some(&value) = values[..groups].iter().find(|v| !(low..=high).contains(*v)) {
                return Ok(Some(Refusal::Range { value, low, high }));
            }
        }
        pack(&block, &mut bytes);
        write(&bytes)?;
    }
    Ok(None)
}

/// Splits words into codes of `bits` bits.
fn split(words: &[u32], bits: u32, codes: &mut [u8]) {
    let mut words = words.iter();
    let (mut word, mut filled) = (0u64, 0);
    for code in codes {
        if filled < bits {
            word |= u64::from(words.next().copied().unwrap_or(0)) << filled;
            filled += 32;
        }
        *code = (word & ((1 << bits) - 1)) as u8;
        word >>= bits;
        filled -= bits;
    }
}

/// Copies the scales or minima of block `at`: its float, and a byte for each of its groups.
fn level(
    scales: &Scales,
    at: usize,
    groups: usize,
    float: &mut f16,
    bytes: &mut [i8; MOST_GROUPS],
) {
    match scales {
        Scales::F16(scales) => *float = scales.get(at).copied().unwrap_or_default(),
        Scales::E8m0(scales) => bytes[0] = scales.get(at).copied().unwrap_or_default() as i8,
        Scales::Int8Super { groups: lower, supers } => {
            *float = supers.get(at).copied().unwrap_or_default();
            let lower = lower.chunks_exact(groups).nth(at).unwrap_or_default();
            bytes.iter_mut().zip(lower).for_each(|(byte, value)| *byte = *value);
        }
        // No format of blocks has scales of another type.
        _ => {}
    }
}
