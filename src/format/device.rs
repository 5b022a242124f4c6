use super::packed::{get_bits, put_bits};
use super::{
    CodeType, FormatError, Geometry, Granularity, META_FILL, Offset, PackedWeights, Parts,
    ScaleType, Scales, WeightFormat,
};
use half::f16;
use std::ops::Range;

/// The number of columns that a kernel decodes at a time. In every 2:4 format, the metadata of one
/// block is exactly one word.
pub const BLOCK_K: usize = 32;

/// The layout that kernels read. It is derived from the canonical layout row by row, so that a
/// matrix can be split between any two rows. The description below is that of a single row;
/// [`RowOrder`] says how the rows are arranged.
///
/// **Codes**: `[n, code_words]`. A row consists of whole blocks of 32 columns and is padded with
/// the code of zero. It holds the low [`CodeType::low_bits`] of each code. A word of 4-bit codes has
/// columns k0…k7: byte `j` holds `k_j` in its low half and `k_{4+j}` in its high half, so that
/// `w & 0x0f0f0f0f` and `(w >> 4) & 0x0f0f0f0f` are each four packed bytes in order. A word of 2-bit
/// codes has columns k0…k15: byte `j` holds `k_j`, `k_{4+j}`, `k_{8+j}` and `k_{12+j}` from its lowest
/// bits on.
///
/// **Side buffer**: `[n, side_words]`. Each row holds, one after the other:
///
/// - its 2:4 metadata: one word per block, with the rest filled with [`META_FILL`];
/// - its planes, the bits of codes above the low ones: two words per block in the order of 2-bit
///   codes for int6, and one word for int3 and int5, whose byte `j` has column `4i + j` in bit `i`;
/// - its scales: 32, 16 or 8 bits per group, the first in the lowest bits. If the format has minima
///   (or zero points that are floats), each scale is followed by the minimum of its group;
/// - the upper level of scales of two levels: an f16 per 256 columns, each followed by that of the
///   minima if there are any, or one f32;
/// - its zero points: 8 or 4 bits per group, the first in the lowest bits;
/// - the codebook, 16 words, if each matrix has its own.
///
/// Unused fields of words are 0. Per-tensor and per-channel formats store one scale per row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLayout {
    /// The canonical layout that this layout is derived from.
    pub geometry: Geometry,
    /// Number of blocks of 32 columns per row: ⌈K/32⌉.
    pub blocks: usize,
    /// Number of words of codes per block.
    pub block_words: usize,
    /// Number of words of codes per row.
    pub code_words: usize,
    /// Number of words of planes per block.
    pub plane_words: usize,
    /// Index of the first word of planes within a row of the side buffer.
    pub plane_at: usize,
    /// Index of the first scale within a row of the side buffer, in words.
    pub scale_at: usize,
    /// Index of the first entry of the upper level of scales within a row of the side buffer, in
    /// words.
    pub upper_at: usize,
    /// Index of the first zero point within a row of the side buffer, in words.
    pub zero_at: usize,
    /// Index of the codebook within a row of the side buffer, in words.
    pub table_at: usize,
    /// Number of words per row of the side buffer. It may be 0.
    pub side_words: usize,
    /// The arrangement of the rows in memory.
    pub order: RowOrder,
}

/// The arrangement of rows in memory. Which one is faster depends on how lanes read the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowOrder {
    /// Rows follow each other: neighboring lanes read neighboring blocks of one row.
    #[default]
    Rows,
    /// Panels of eight rows, which are interleaved: block by block in the codes, and word by word
    /// in the side buffer. Lanes that own neighboring rows read neighboring memory.
    Panels,
}

impl RowOrder {
    /// Returns the number of interleaved rows.
    pub const fn panel(self) -> u32 {
        match self {
            Self::Rows => 1,
            Self::Panels => 8,
        }
    }
}

/// The contents of both buffers for some rows in a [`DeviceLayout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceImage {
    /// The codes, `[rows, code_words]`, in the row order of the layout.
    pub codes: Vec<u32>,
    /// The side buffer, `[rows, side_words]`, in the row order of the layout.
    pub side: Vec<u32>,
}

impl DeviceLayout {
    /// Creates the kernel layout of an `[n, k]` matrix.
    ///
    /// # Errors
    /// Returns the errors of [`WeightFormat::geometry`].
    pub fn new(
        format: WeightFormat,
        n: usize,
        k: usize,
        order: RowOrder,
    ) -> Result<Self, FormatError> {
        let geometry = format.geometry(n, k)?;
        let blocks = k.div_ceil(BLOCK_K);
        let stored = if format.is_sparse() { BLOCK_K / 2 } else { BLOCK_K };
        let code_type = format.code_type();
        let block_words = stored * code_type.low_bits() as usize / 32;
        let plane_words = code_type.plane_bits() as usize;
        let groups = if code_type.has_scales() { geometry.groups } else { 0 };
        let meta = if format.is_sparse() { blocks } else { 0 };
        // A minimum doubles each entry. No product overflows: `geometry` bounds K · 16.
        let entry = format.scale_type().bits() as usize * if format.has_minima() { 2 } else { 1 };
        let scales = (groups * entry).div_ceil(32);
        let upper = match (format.scale_type(), format.has_minima()) {
            (ScaleType::Int8Super, true) => geometry.supers,
            (ScaleType::Int8Super, false) => geometry.supers.div_ceil(2),
            (ScaleType::E4m3Tensor, _) => groups.min(1),
            _ => 0,
        };
        let zeros = match format.offset() {
            Offset::ZeroPoint => groups.div_ceil(4),
            Offset::ZeroPoint4 => groups.div_ceil(8),
            _ => 0,
        };
        let table = if code_type == CodeType::Codebook { groups.min(1) * 16 } else { 0 };
        let scale_at = meta + plane_words * blocks;
        let upper_at = scale_at + scales;
        let zero_at = upper_at + upper;
        let table_at = zero_at + zeros;
        Ok(Self {
            geometry,
            blocks,
            block_words,
            code_words: blocks * block_words,
            plane_words,
            plane_at: meta,
            scale_at,
            upper_at,
            zero_at,
            table_at,
            side_words: table_at + table,
            order,
        })
    }

    /// Returns the number of words of codes and of the side buffer for `rows` rows, rounded up to
    /// whole panels.
    pub fn words(&self, rows: usize) -> (usize, usize) {
        let rows = rows.next_multiple_of(self.order.panel() as usize);
        (rows * self.code_words, rows * self.side_words)
    }

    /// Returns the number of bytes of codes and of the side buffer for `rows` rows, rounded up to
    /// whole panels.
    pub fn bytes(&self, rows: usize) -> (u64, u64) {
        let (codes, side) = self.words(rows);
        (4 * codes as u64, 4 * side as u64)
    }

    /// Packs some rows of a matrix for kernels. Rows that fill up the last panel are zeros, which
    /// no kernel reads.
    ///
    /// # Panics
    /// Panics if `rows` reaches past the end of the matrix, or if the matrix has another layout.
    pub fn pack(&self, packed: &PackedWeights, rows: Range<usize>) -> DeviceImage {
        let count = rows.len();
        let by_rows = self.pack_rows(packed, rows);
        let panel = self.order.panel() as usize;
        if panel == 1 {
            return by_rows;
        }
        let (codes, side) = self.words(count);
        let mut image = DeviceImage { codes: vec![0; codes], side: vec![0; side] };
        for row in 0..count.min(self.geometry.filled_rows()) {
            for b in 0..self.blocks {
                let (from, to) =
                    (row * self.code_words + b * self.block_words, self.code_at(row, b));
                image.codes[to..][..self.block_words]
                    .copy_from_slice(&by_rows.codes[from..][..self.block_words]);
            }
            for i in 0..self.side_words {
                image.side[self.side_at(row, i)] = by_rows.side[row * self.side_words + i];
            }
        }
        image
    }

    /// Returns the first `rows` rows of an image in the order [`RowOrder::Rows`], without the rows
    /// that fill up the last panel.
    ///
    /// # Errors
    /// Returns [`FormatError::WrongLength`] if a buffer does not hold exactly `rows` rows.
    pub fn by_rows(&self, image: &DeviceImage, rows: usize) -> Result<DeviceImage, FormatError> {
        let (codes, side) = self.words(rows);
        for (part, need, have) in
            [("codes", codes, image.codes.len()), ("the side buffer", side, image.side.len())]
        {
            if need != have {
                return Err(FormatError::WrongLength { part, need, have });
            }
        }
        let mut out = DeviceImage { codes: Vec::new(), side: Vec::new() };
        for row in 0..if self.geometry.k == 0 { 0 } else { rows } {
            for b in 0..self.blocks {
                out.codes.extend(&image.codes[self.code_at(row, b)..][..self.block_words]);
            }
            out.side.extend((0..self.side_words).map(|i| image.side[self.side_at(row, i)]));
        }
        Ok(out)
    }

    /// Returns the index of the first word of block `b` of a row.
    fn code_at(&self, row: usize, b: usize) -> usize {
        let panel = self.order.panel() as usize;
        ((row / panel * self.blocks + b) * panel + row % panel) * self.block_words
    }

    /// Returns the index of word `i` of a row of the side buffer.
    fn side_at(&self, row: usize, i: usize) -> usize {
        let panel = self.order.panel() as usize;
        (row / panel * self.side_words + i) * panel + row % panel
    }

    /// Packs some rows in the order [`RowOrder::Rows`], whatever the order of this layout is.
    ///
    /// # Panics
    /// Panics under the same conditions as [`pack`](Self::pack).
    pub fn pack_rows(&self, packed: &PackedWeights, rows: Range<usize>) -> DeviceImage {
        let geometry = self.geometry;
        assert_eq!(geometry, *packed.geometry());
        let mut codes = Vec::with_capacity(rows.len() * self.code_words);
        let mut side = Vec::with_capacity(rows.len() * self.side_words);
        let low_bits = geometry.format.code_type().low_bits();
        for row in if geometry.k == 0 { 0..0 } else { rows } {
            let padding = match geometry.groups {
                0 => 0,
                groups => packed.zero(row, groups - 1) as u32,
            };
            let (low, planes) = self.split_codes(packed, row, padding);
            codes.extend(low.iter().map(|&w| interleave(w, low_bits)));
            let start = side.len();
            let meta = geometry.meta_words;
            side.extend_from_slice(&packed.metadata()[row * meta..][..meta]);
            side.resize(start + self.plane_at, META_FILL * 0x1111_1111);
            side.extend(planes);
            side.resize(start + self.side_words, 0);
            self.pack_side(packed, row, &mut side[start..]);
        }
        DeviceImage { codes, side }
    }

    /// Returns the low bits of a row's codes as a string of bits, and its planes.
    fn split_codes(
        &self,
        packed: &PackedWeights,
        row: usize,
        padding: u32,
    ) -> (Vec<u32>, Vec<u32>) {
        let geometry = self.geometry;
        let code_type = geometry.format.code_type();
        let (bits, low_bits) = (code_type.bits(), code_type.low_bits());
        let canonical = &packed.codes()[row * geometry.code_words..][..geometry.code_words];
        let stored = self.code_words * 32 / low_bits as usize;
        let mut low = vec![0; self.code_words];
        let mut planes = vec![0; self.plane_words * self.blocks];
        if self.plane_words == 0 {
            low[..geometry.code_words].copy_from_slice(canonical);
            let mask = u32::MAX >> (32 - bits);
            let word = (0..32 / bits).fold(0, |word, i| word | (padding & mask) << (i * bits));
            low[geometry.code_words..].fill(if code_type.is_integer() { word } else { 0 });
            return (low, planes);
        }
        for at in 0..stored {
            let code = if at < geometry.stored {
                get_bits(canonical, at * bits as usize, bits)
            } else {
                padding
            };
            put_bits(&mut low, at * low_bits as usize, low_bits, code);
            let (word, shift) = plane_bit(at, self.plane_words);
            planes[word] |= (code >> low_bits) << shift;
        }
        (low, planes)
    }

    /// Writes everything of a row's side row that follows metadata and planes.
    fn pack_side(&self, packed: &PackedWeights, row: usize, side: &mut [u32]) {
        let geometry = self.geometry;
        let format = geometry.format;
        let Parts { scales, minima, codebook, .. } = packed.parts();
        if scales.is_empty() {
            return;
        }
        let bits = format.scale_type().bits();
        for group in 0..geometry.groups {
            let index = geometry.scale_index(row, group);
            for (which, of) in [scales, minima].into_iter().enumerate() {
                if !of.is_empty() {
                    let at = self.entry_at(group, which);
                    put_bits(&mut side[self.scale_at..], at, bits, of.bits(index));
                }
            }
            let zero = packed.zero(row, group) as u32;
            match format.offset() {
                Offset::ZeroPoint => put_bits(&mut side[self.zero_at..], 8 * group, 8, zero),
                Offset::ZeroPoint4 => put_bits(&mut side[self.zero_at..], 4 * group, 4, zero),
                _ => {}
            }
        }
        for (which, of) in [scales, minima].into_iter().enumerate() {
            match of {
                Scales::Int8Super { supers, .. } => {
                    for (i, value) in
                        supers[row * geometry.supers..][..geometry.supers].iter().enumerate()
                    {
                        let at = self.upper_bit(i, which);
                        put_bits(&mut side[self.upper_at..], at, 16, value.to_bits().into());
                    }
                }
                Scales::E4m3Tensor { tensor, .. } => side[self.upper_at] = tensor.to_bits(),
                _ => {}
            }
        }
        for (word, value) in side[self.table_at..].iter_mut().zip(codebook) {
            *word = value.to_bits();
        }
    }

    /// Returns the first bit of a group's scale (`which` = 0) or minimum (1), from `scale_at` on.
    fn entry_at(&self, group: usize, which: usize) -> usize {
        let format = self.geometry.format;
        let bits = format.scale_type().bits() as usize;
        (group * if format.has_minima() { 2 } else { 1 } + which) * bits
    }

    /// Returns the first bit of the upper level of super-block `i` for scales (`which` = 0) or minima
    /// (1), from `upper_at` on.
    fn upper_bit(&self, i: usize, which: usize) -> usize {
        16 * (i * if self.geometry.format.has_minima() { 2 } else { 1 } + which)
    }

    /// Converts all rows back to the canonical layout. The image must be in the order
    /// [`RowOrder::Rows`]; see [`by_rows`](Self::by_rows). `order` is the order of columns
    /// ([`PackedWeights::order`]), which is not in the image; it is empty if columns are not
    /// permuted.
    ///
    /// # Errors
    /// Returns [`FormatError::WrongLength`] if a buffer has the wrong length, and every error of
    /// [`PackedWeights::from_parts`].
    pub fn unpack(&self, image: &DeviceImage, order: &[u32]) -> Result<PackedWeights, FormatError> {
        let geometry = self.geometry;
        for (part, need, have) in [
            ("codes", geometry.n * self.code_words, image.codes.len()),
            ("the side buffer", geometry.n * self.side_words, image.side.len()),
        ] {
            if need != have {
                return Err(FormatError::WrongLength { part, need, have });
            }
        }
        let format = geometry.format;
        let (code_type, n) = (format.code_type(), geometry.n);
        let low_bits = code_type.low_bits();
        let mut codes = Vec::with_capacity(n * geometry.code_words);
        let mut metadata = Vec::with_capacity(n * geometry.meta_words);
        for row in 0..geometry.filled_rows() {
            let words = &image.codes[row * self.code_words..][..self.code_words];
            let low: Vec<u32> = words.iter().map(|&w| deinterleave(w, low_bits)).collect();
            let side = &image.side[row * self.side_words..][..self.side_words];
            metadata.extend_from_slice(&side[..geometry.meta_words]);
            if self.plane_words == 0 {
                codes.extend_from_slice(&low[..geometry.code_words]);
                continue;
            }
            let start = codes.len();
            codes.resize(start + geometry.code_words, 0);
            let bits = code_type.bits();
            for at in 0..geometry.stored {
                let (word, shift) = plane_bit(at, self.plane_words);
                let high = side[self.plane_at + word] >> shift & ((1 << (bits - low_bits)) - 1);
                let code = get_bits(&low, at * low_bits as usize, low_bits) | high << low_bits;
                put_bits(&mut codes[start..], at * bits as usize, bits, code);
            }
        }
        let side = |row: usize| &image.side[row * self.side_words..][..self.side_words];
        let entries = |which: usize| {
            let place = move |index: usize| match format.granularity() {
                Granularity::Tensor => (0, 0),
                _ => (index / geometry.groups, index % geometry.groups),
            };
            let bits = (0..geometry.scales).map(place).map(move |(row, group)| {
                let at = self.entry_at(group, which);
                get_bits(&side(row)[self.scale_at..], at, format.scale_type().bits())
            });
            match format.scale_type() {
                ScaleType::F32 => Scales::F32(bits.map(f32::from_bits).collect()),
                ScaleType::F16 => Scales::F16(bits.map(|b| f16::from_bits(b as u16)).collect()),
                ScaleType::E8m0 => Scales::E8m0(bits.map(|b| b as u8).collect()),
                ScaleType::Int8Super => Scales::Int8Super {
                    groups: bits.map(|b| b as u8 as i8).collect(),
                    supers: (0..geometry.upper())
                        .map(|i| (i / geometry.supers, i % geometry.supers))
                        .map(|(row, i)| {
                            let at = self.upper_bit(i, which);
                            f16::from_bits(get_bits(&side(row)[self.upper_at..], at, 16) as u16)
                        })
                        .collect(),
                },
                ScaleType::E4m3Tensor => Scales::E4m3Tensor {
                    groups: bits.map(|b| b as u8).collect(),
                    tensor: match geometry.scales {
                        0 => 1.0,
                        _ => f32::from_bits(image.side[self.upper_at]),
                    },
                },
            }
        };
        let mut zeros = vec![0; geometry.zeros];
        let zero_bits = if format.offset() == Offset::ZeroPoint4 { 4 } else { 8 };
        if geometry.zeros > 0 {
            for index in 0..geometry.scales {
                let (row, group) = match format.granularity() {
                    Granularity::Tensor => (0, 0),
                    _ => (index / geometry.groups, index % geometry.groups),
                };
                let value =
                    get_bits(&side(row)[self.zero_at..], zero_bits * group, zero_bits as u32);
                if zero_bits == 8 {
                    zeros[index] = value as u8;
                } else {
                    zeros[row * geometry.groups.div_ceil(2) + group / 2] |=
                        (value as u8) << (4 * (group % 2));
                }
            }
        }
        let codebook = match code_type {
            CodeType::Codebook if geometry.scales > 0 => {
                image.side[self.table_at..][..16].iter().map(|&w| f32::from_bits(w)).collect()
            }
            CodeType::Codebook => vec![0.0; 16],
            _ => Vec::new(),
        };
        let scales = entries(0);
        let minima = if format.has_minima() { entries(1) } else { Scales::default() };
        let order = order.to_vec();
        let parts = Parts { codes, metadata, scales, zeros, minima, codebook, order };
        PackedWeights::new(format, n, geometry.k, parts)
    }
}

/// Returns the word of a row's planes, and the bit of that word, that the planes of code `at` start
/// at. The planes of a block have `words` words, as many as they have bits of each code.
fn plane_bit(at: usize, words: usize) -> (usize, u32) {
    let (block, within) = (at / BLOCK_K, at % BLOCK_K);
    let (column, quad) = (within % 4, within / 4);
    // A byte has its column of 8 quads in a plane of one bit, or of 4 quads in one of two bits.
    let quads = 8 / words;
    (block * words + quad / quads, (8 * column + quad % quads * words) as u32)
}

/// Puts the codes of a word, which are in ascending order, into the order in which kernels take them
/// apart: byte j holds code j, code 4 + j and so on from its lowest bits on.
fn interleave(word: u32, bits: u32) -> u32 {
    reorder(word, bits, |i| (i % 4, i / 4))
}

/// Returns the inverse of [`interleave`].
fn deinterleave(word: u32, bits: u32) -> u32 {
    let per_byte = if bits < 8 { 8 / bits } else { return word };
    reorder(word, bits, |i| {
        let code = i % per_byte * 4 + i / per_byte;
        (code / per_byte, code % per_byte)
    })
}

/// Moves code i of a word to place `to(i)`: a byte, and a code within that byte.
fn reorder(word: u32, bits: u32, to: impl Fn(u32) -> (u32, u32)) -> u32 {
    if bits >= 8 {
        return word;
    }
    (0..32 / bits).fold(0, |out, i| {
        let (byte, within) = to(i);
        out | (word >> (bits * i) & ((1 << bits) - 1)) << (8 * byte + bits * within)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{random_weights, sample_formats};

    #[test]
    fn codes_interleave() {
        assert_eq!(interleave(0x7654_3210, 4), 0x7362_5140);
        assert_eq!(interleave(0x7654_3210, 4) & 0x0f0f_0f0f, 0x0302_0100);
        // Codes 0, 1, 2, 3 four times, then moved so that code i % 4 is in byte i % 4.
        assert_eq!(interleave(0xe4e4_e4e4, 2), 0xffaa_5500);
        for bits in [2, 4, 8, 16, 32] {
            assert_eq!(deinterleave(interleave(0xdead_beef, bits), bits), 0xdead_beef);
        }
    }

    /// Every code of planes is where kernels look for it.
    #[test]
    fn planes_by_hand() {
        for (name, low_mask) in [("int3-channel", 3), ("int5-channel", 15), ("int6-channel", 15)] {
            let packed = random_weights(name.parse().unwrap(), 2, 70, 1, false).unwrap();
            let layout = DeviceLayout::new(packed.format(), 2, 70, RowOrder::Rows).unwrap();
            let image = layout.pack(&packed, 0..2);
            let (low_bits, plane_bits) =
                (packed.format().code_type().low_bits(), layout.plane_words as u32);
            for (row, at) in (0..2).flat_map(|row| (0..70).map(move |at| (row, at))) {
                let (block, quad, column) = (at / 32, at % 32 / 4, (at % 4) as u32);
                let per_word = 8 / low_bits as usize;
                let codes = &image.codes[row * layout.code_words + block * layout.block_words..];
                let low = codes[quad / per_word] >> (low_bits * (quad % per_word) as u32);
                let planes = &image.side
                    [row * layout.side_words + layout.plane_at + block * layout.plane_words..];
                let per_word = 8 / plane_bits as usize;
                let high = planes[quad / per_word] >> (plane_bits * (quad % per_word) as u32);
                let code = low >> (8 * column) & low_mask
                    | (high >> (8 * column) & ((1 << plane_bits) - 1)) << low_bits;
                assert_eq!(code as i32, packed.code(row, at), "{name} {row} {at}");
            }
        }
    }

    /// Random valid parts survive packing and unpacking, both in one image and in two halves.
    #[test]
    fn pack_and_unpack() {
        for (seed, format) in (0..).zip(sample_formats()) {
            let shapes = [(0, 5), (3, 0), (1, 1), (5, 31), (4, 32), (3, 33), (2, 72), (1, 300)];
            for (n, k) in shapes.into_iter().skip(seed as usize % 2).step_by(2) {
                let layout = DeviceLayout::new(format, n, k, RowOrder::Rows).unwrap();
                let packed = random_weights(format, n, k, seed, true).unwrap();
                let name = format.to_string();
                let whole = layout.pack(&packed, 0..n);
                assert_eq!(whole.codes.len(), n * layout.code_words);
                assert_eq!(whole.side.len(), n * layout.side_words);
                let again = layout.unpack(&whole, packed.order()).unwrap();
                if format.code_type() == CodeType::Codebook && n * k == 0 {
                    // A matrix without weights has no side row that could hold the codebook.
                } else {
                    assert_eq!(again, packed, "{name} {n}×{k}");
                }
                let (mut a, b) = (layout.pack(&packed, 0..n / 2), layout.pack(&packed, n / 2..n));
                a.codes.extend(b.codes);
                a.side.extend(b.side);
                assert_eq!(a, whole);
                // Panels hold the same rows.
                let panels = DeviceLayout::new(format, n, k, RowOrder::Panels).unwrap();
                let image = panels.pack(&packed, 0..n);
                assert_eq!((image.codes.len(), image.side.len()), panels.words(n));
                assert_eq!(panels.by_rows(&image, n).unwrap(), whole, "{name} {n}×{k}");
            }
        }
    }
}
