//! A quantized weight, found but with its codes unread, and where its codes are.

use super::HfError;
use super::tensors::Context;
use half::bf16;
use lowbit::format::{CodeType, FormatError, Geometry, PackedWeights, Parts, Scales, WeightFormat};
use safetensors::Dtype;

/// A quantized weight of a checkpoint: everything but its codes is read and checked.
#[derive(Debug)]
pub(super) struct Layer<'a> {
    /// The name of its parameter.
    pub name: String,
    /// Its shape. The matrix is `[shape[0], product of the rest]`.
    pub shape: Vec<usize>,
    pub geometry: Geometry,
    /// Its parts; there are no codes.
    pub parts: Parts,
    pub codes: Codes<'a>,
    /// The tensors that it consists of.
    pub used: Vec<String>,
    /// How it is stored, by the words of its method.
    pub stored: String,
    /// What the user should know.
    pub warning: Option<String>,
}

/// Where the codes of a weight `[N, K]` are, in memory that holds all of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Codes<'a> {
    /// Words `[N, words]` of the canonical layout.
    Words(&'a [u8]),
    /// Words of the canonical layout, transposed: `[words, N]`.
    WordColumns(&'a [u8]),
    /// Codes of AWQ, 4 bits: words `[K, N/8]`, each with eight columns of N in an order of its own.
    Awq(&'a [u8]),
    /// Floats of this type that are not 0, row after row, and a mask `[N, ⌈K/8⌉]` of where they are, one bit
    /// for each column, the lowest bit first.
    Masked { values: &'a [u8], dtype: Dtype, mask: &'a [u8] },
    /// Codes that are read one by one.
    Single(Single<'a>),
}

/// Codes that are found by row and position.
#[derive(Clone, Copy, Debug)]
pub(super) enum Single<'a> {
    /// Words `[N, words]` with as many whole codes in each as fit, the rest of its bits unused.
    WholeInWords(&'a [u8]),
    /// One byte for each code, `[N, K]`.
    Bytes(&'a [u8]),
    /// 4 bits for each code, row after row; rows do not start at whole bytes.
    Nibbles { bytes: &'a [u8], high_first: bool },
    /// Codes of HQQ: rows of `group` codes, `[N·K/group, group]`, of which the first `rows` are in the
    /// highest bits of the stored `[rows, group]`, the next in the bits below, and so on. A stored
    /// number has `size` bytes, and as many codes as `slots`.
    Slots { bytes: &'a [u8], group: usize, rows: usize, slots: u32, size: usize },
    /// Floats of this type, or bytes, which are the kept weights `[N, K/2]` of a 2:4 format.
    Kept(&'a [u8], Dtype),
}

/// Within a word of AWQ, the place of each of eight columns.
pub(super) const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Single<'_> {
    /// Returns the code at position `at` of a row. Every position exists: whoever made `self` checked
    /// the sizes.
    fn code(&self, g: &Geometry, row: usize, at: usize) -> u32 {
        let bits = g.format.code_type().bits();
        match *self {
            Self::WholeInWords(bytes) => {
                let whole = (32 / bits) as usize;
                let words = g.k.div_ceil(whole);
                let word = word_at(bytes, row * words + at / whole);
                word >> (at % whole * bits as usize) & mask(bits)
            }
            Self::Bytes(bytes) => u32::from(bytes[row * g.stored + at]),
            Self::Nibbles { bytes, high_first } => {
                let index = row * g.k + at;
                let high = (index % 2 == 1) != high_first;
                u32::from(bytes[index / 2]) >> (if high { 4 } else { 0 }) & 0xf
            }
            Self::Slots { bytes, group, rows, slots, size } => {
                let index = row * g.k + at;
                let (line, column) = (index / group, index % group);
                let stored = (line % rows * group + column) * size;
                let number = bytes[stored..][..size].iter().rev();
                let number = number.fold(0u32, |number, &byte| number << 8 | u32::from(byte));
                // 8-bit numbers of one code may have fewer bits.
                let width = if size == 4 { 3 } else { 8 / slots };
                let slot = (line / rows) as u32;
                number >> (width * (slots - 1 - slot)) & mask(width)
            }
            Self::Kept(bytes, dtype) => number(bytes, dtype, row * g.stored + at),
        }
    }
}

/// Returns the code of a float of this type, or of a byte. bf16 becomes f32.
fn number(bytes: &[u8], dtype: Dtype, index: usize) -> u32 {
    match dtype {
        Dtype::F32 => word_at(bytes, index),
        Dtype::F16 => field(bytes, index * 16, 16),
        Dtype::BF16 => bf16::from_bits(field(bytes, index * 16, 16) as u16).to_f32().to_bits(),
        _ => u32::from(bytes[index]),
    }
}

fn mask(bits: u32) -> u32 {
    u32::MAX >> (32 - bits)
}

/// Returns a 32-bit word.
pub(super) fn word_at(bytes: &[u8], index: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[4 * index..][..4]);
    u32::from_le_bytes(word)
}

/// Returns `count` bits (at most 32) of a string of bits, from bit `at` on; the lowest bit of each byte
/// comes first.
pub(super) fn field(bytes: &[u8], at: usize, count: u32) -> u32 {
    let last = (at + count as usize).div_ceil(8).min(bytes.len());
    let string = bytes[at / 8..last].iter().rev();
    let string = string.fold(0u64, |string, &byte| string << 8 | u64::from(byte));
    (string >> (at % 8)) as u32 & mask(count)
}

/// Returns `count` bits (at most 32) of the words of a row, from bit `at` on.
pub(super) fn field_of_words(words: &[u32], at: usize, count: u32) -> u32 {
    let (word, shift) = (at / 32, (at % 32) as u32);
    let high = if shift + count > 32 { words[word + 1] } else { 0 };
    ((u64::from(high) << 32 | u64::from(words[word])) >> shift) as u32 & mask(count)
}

impl<'a> Layer<'a> {
    /// Makes a layer and checks everything but its codes. `flipped` codes of 8 bits are 0…255 and
    /// become signed codes by subtracting 128.
    ///
    /// # Errors
    /// Returns [`HfError::Format`] if there is no such format, and [`HfError::NotFinite`] if a scale or
    /// a zero point is infinite or NaN.
    pub fn new(
        context: &Context<'a>,
        format: WeightFormat,
        shape: Vec<usize>,
        parts: Parts,
        codes: Codes<'a>,
        stored: impl Into<String>,
    ) -> Result<Self, HfError> {
        let name = context.weight();
        let refuse = |source| HfError::Format { weight: name.clone(), source };
        let (n, k) = matrix(&shape)?;
        let geometry = format.geometry(n, k).map_err(refuse)?;
        let pairs = [("scales", &parts.scales), ("zero points", &parts.minima)];
        for (part, scales) in pairs {
            let lower = (0..scales.len()).map(|index| (part, index, scales.get(index)));
            let upper = (0..scales.upper_len()).map(|at| ("upper scales", at, scales.upper(at)));
            if let Some((part, index, value)) = lower.chain(upper).find(|(.., v)| !v.is_finite()) {
                return Err(HfError::NotFinite { weight: name, part, index, value });
            }
        }
        let entries = parts.codebook.iter().copied().enumerate();
        if let Some((index, value)) = entries.into_iter().find(|(_, value)| !value.is_finite()) {
            return Err(HfError::NotFinite { weight: name, part: "codebook", index, value });
        }
        Ok(Self {
            name,
            shape,
            geometry,
            parts,
            codes,
            used: context.used(),
            stored: stored.into(),
            warning: None,
        })
    }

    /// Reads the codes.
    ///
    /// # Errors
    /// Returns [`FormatError`] if the values are not valid.
    pub fn pack(self) -> Result<PackedWeights, FormatError> {
        let g = self.geometry;
        let mut parts = self.parts;
        parts.codes = codes(&g, &self.codes, &parts.order);
        PackedWeights::new(g.format, g.n, g.k, parts)
    }
}

/// Returns the codes of a matrix in the canonical layout.
fn codes(g: &Geometry, from: &Codes<'_>, order: &[u32]) -> Vec<u32> {
    // 8-bit integers that are packed in words are unsigned.
    let signed = matches!(from, Codes::Single(Single::Kept(..) | Single::Bytes(_)));
    let flip = match g.format.code_type() {
        CodeType::Int8 if !signed => 0x80,
        _ => 0,
    };
    let mut words = vec![0u32; g.n * g.code_words];
    let bits = g.format.code_type().bits();
    let rows = if g.k == 0 { 0 } else { g.n };
    match from {
        Codes::Words(bytes) => {
            words.iter_mut().enumerate().for_each(|(at, word)| *word = word_at(bytes, at));
        }
        // What lies together is read together: rows are the inner loop.
        Codes::WordColumns(bytes) => {
            for (at, row) in (0..g.code_words).flat_map(|at| (0..rows).map(move |row| (at, row))) {
                words[row * g.code_words + at] = word_at(bytes, at * g.n + row);
            }
        }
        Codes::Awq(bytes) => {
            for at in 0..g.k {
                for eight in 0..rows / 8 {
                    let codes = word_at(bytes, at * (g.n / 8) + eight);
                    for (row, place) in AWQ_PLACES.iter().enumerate() {
                        let code = codes >> (4 * place) & 0xf;
                        words[(8 * eight + row) * g.code_words + at / 8] |= code << (4 * (at % 8));
                    }
                }
            }
        }
        Codes::Masked { values, dtype, mask } => {
            let mut next = 0;
            for row in 0..rows {
                let to = &mut words[row * g.code_words..][..g.code_words];
                let bytes = &mask[row * g.k.div_ceil(8)..][..g.k.div_ceil(8)];
                for at in (0..g.k).filter(|at| bytes[at / 8] >> (at % 8) & 1 == 1) {
                    put(to, at * bits as usize, bits, number(values, *dtype, next));
                    next += 1;
                }
            }
        }
        Codes::Single(from) => {
            for row in 0..rows {
                let to = &mut words[row * g.code_words..][..g.code_words];
                for at in 0..g.stored {
                    put(to, at * bits as usize, bits, from.code(g, row, at));
                }
            }
        }
    }
    words.iter_mut().for_each(|word| *word ^= flip * 0x0101_0101);
    for row in 0..if order.is_empty() { 0 } else { rows } {
        let to = &mut words[row * g.code_words..][..g.code_words];
        let columns = to.to_vec();
        to.fill(0);
        for (at, &column) in order.iter().enumerate() {
            let code = field_of_words(&columns, column as usize * bits as usize, bits);
            put(to, at * bits as usize, bits, code);
        }
    }
    words
}

/// Writes the low `count` bits of `value`, at most 32, into a string of bits that is 0 there.
pub(super) fn put(words: &mut [u32], at: usize, count: u32, value: u32) {
    let (word, shift) = (at / 32, (at % 32) as u32);
    let value = value & mask(count);
    words[word] |= value << shift;
    if shift + count > 32 {
        words[word + 1] |= value >> (32 - shift);
    }
}

/// Returns N and K of a shape of two or more dimensions.
fn matrix(shape: &[usize]) -> Result<(usize, usize), HfError> {
    crate::checkpoint::matrix_shape(shape).ok_or_else(|| {
        let what =
            format!("its shape is {shape:?}, and only matrices with n and k below 2^31 are read");
        HfError::unsupported(what, "leave this tensor out when the model is quantized")
    })
}

/// Returns scales with an entry for each of `count` indices.
pub(super) fn pick(scales: &Scales, count: usize, at: impl Fn(usize) -> usize) -> Scales {
    match scales {
        Scales::F32(from) => Scales::F32((0..count).map(|i| from[at(i)]).collect()),
        Scales::F16(from) => Scales::F16((0..count).map(|i| from[at(i)]).collect()),
        Scales::E8m0(from) => Scales::E8m0((0..count).map(|i| from[at(i)]).collect()),
        // Scales of two levels are stored as they are.
        other => other.clone(),
    }
}
