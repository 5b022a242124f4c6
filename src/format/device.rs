use super::{
    CodeType, FormatError, Geometry, Granularity, META_FILL, PackedWeights, ScaleType, Scales,
    WeightFormat,
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
/// the code of zero. In canonical int4, a word holds the nibbles k0…k7 from low to high. Here byte
/// `j` holds `k_j` in its low nibble and `k_{4+j}` in its high nibble, so that `w & 0x0f0f0f0f` and
/// `(w >> 4) & 0x0f0f0f0f` are each four packed bytes in order.
///
/// **Side buffer**: `[n, side_words]`. Each row holds its 2:4 metadata (one word per block, with
/// the rest filled with [`META_FILL`]), then its scales (one per word if f32, two per word if f16,
/// the first in the low 16 bits), then its zero points (four bytes per word, the first in the low
/// byte). Unused 16-bit fields and bytes are 0. Per-tensor and per-channel formats store one scale
/// per row.
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
    /// Index of the first scale within a row of the side buffer, in words.
    pub scale_at: usize,
    /// Index of the first zero point within a row of the side buffer, in words.
    pub zero_at: usize,
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
        let block_words = stored / format.code_type().per_word() as usize;
        let groups = if format.code_type().is_integer() { geometry.groups } else { 0 };
        let meta = if format.is_sparse() { blocks } else { 0 };
        let scales = match format.scale_type() {
            ScaleType::F32 => groups,
            ScaleType::F16 => groups.div_ceil(2),
        };
        let zeros = if format.is_symmetric() { 0 } else { groups.div_ceil(4) };
        Ok(Self {
            geometry,
            blocks,
            block_words,
            code_words: blocks * block_words,
            scale_at: meta,
            zero_at: meta + scales,
            side_words: meta + scales + zeros,
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

    /// Returns the word of zero codes that pads a row.
    fn padding(&self, packed: &PackedWeights, row: usize) -> u32 {
        let zero = match self.geometry.groups {
            0 => 0,
            groups => packed.zero(row, groups - 1) as u32,
        };
        match self.geometry.format.code_type() {
            CodeType::F32 | CodeType::F16 | CodeType::Int16 => 0,
            CodeType::Int8 => (zero & 0xff) * 0x0101_0101,
            CodeType::Int4 => (zero & 0xf) * 0x1111_1111,
        }
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
        let reorder =
            if geometry.format.code_type() == CodeType::Int4 { interleave } else { |w| w };
        for row in if geometry.k == 0 { 0..0 } else { rows } {
            let start = codes.len();
            let canonical = &packed.codes()[row * geometry.code_words..][..geometry.code_words];
            codes.extend(canonical.iter().map(|&w| reorder(w)));
            codes.resize(start + self.code_words, reorder(self.padding(packed, row)));
            let start = side.len();
            let meta = geometry.meta_words;
            side.extend_from_slice(&packed.metadata()[row * meta..][..meta]);
            side.resize(start + self.scale_at, META_FILL * 0x1111_1111);
            side.resize(start + self.side_words, 0);
            let side_row = &mut side[start..];
            for group in 0..if packed.scales().is_empty() { 0 } else { geometry.groups } {
                let index = geometry.scale_index(row, group);
                match packed.scales() {
                    Scales::F32(scales) => {
                        side_row[self.scale_at + group] = scales[index].to_bits()
                    }
                    Scales::F16(scales) => {
                        side_row[self.scale_at + group / 2] |=
                            u32::from(scales[index].to_bits()) << (16 * (group % 2));
                    }
                }
                if !packed.zeros().is_empty() {
                    side_row[self.zero_at + group / 4] |=
                        u32::from(packed.zeros()[index]) << (8 * (group % 4));
                }
            }
        }
        DeviceImage { codes, side }
    }

    /// Converts all rows back to the canonical layout. The image must be in the order
    /// [`RowOrder::Rows`]; see [`by_rows`](Self::by_rows).
    ///
    /// # Errors
    /// Returns [`FormatError::WrongLength`] if a buffer has the wrong length, and every error of
    /// [`PackedWeights::from_parts`].
    pub fn unpack(&self, image: &DeviceImage) -> Result<PackedWeights, FormatError> {
        let geometry = self.geometry;
        for (part, need, have) in [
            ("codes", geometry.n * self.code_words, image.codes.len()),
            ("the side buffer", geometry.n * self.side_words, image.side.len()),
        ] {
            if need != have {
                return Err(FormatError::WrongLength { part, need, have });
            }
        }
        let reorder =
            if geometry.format.code_type() == CodeType::Int4 { deinterleave } else { |w| w };
        let mut codes = Vec::with_capacity(geometry.n * geometry.code_words);
        let mut metadata = Vec::with_capacity(geometry.n * geometry.meta_words);
        for row in 0..geometry.filled_rows() {
            let words = &image.codes[row * self.code_words..][..geometry.code_words];
            codes.extend(words.iter().map(|&w| reorder(w)));
            metadata.extend_from_slice(&image.side[row * self.side_words..][..geometry.meta_words]);
        }
        let place = |index: usize| match geometry.format.granularity() {
            Granularity::Tensor => (0, 0),
            _ => (index / geometry.groups, index % geometry.groups),
        };
        let word = |row: usize, at: usize| image.side[row * self.side_words + at];
        let scales = 0..geometry.scales;
        let scales = match geometry.format.scale_type() {
            ScaleType::F32 => Scales::F32(
                scales
                    .map(place)
                    .map(|(row, group)| f32::from_bits(word(row, self.scale_at + group)))
                    .collect(),
            ),
            ScaleType::F16 => Scales::F16(
                scales
                    .map(place)
                    .map(|(row, group)| {
                        let bits = word(row, self.scale_at + group / 2) >> (16 * (group % 2));
                        f16::from_bits(bits as u16)
                    })
                    .collect(),
            ),
        };
        let zeros = (0..geometry.zeros)
            .map(place)
            .map(|(row, group)| (word(row, self.zero_at + group / 4) >> (8 * (group % 4))) as u8)
            .collect();
        PackedWeights::from_parts(
            geometry.format,
            geometry.n,
            geometry.k,
            codes,
            metadata,
            scales,
            zeros,
        )
    }
}

/// Moves nibbles `j` and `4 + j` of a word into byte `j`.
fn interleave(word: u32) -> u32 {
    (0..4).fold(0, |out, j| {
        out | (word >> (4 * j) & 0xf) << (8 * j) | (word >> (4 * (j + 4)) & 0xf) << (8 * j + 4)
    })
}

/// Returns the inverse of [`interleave`].
fn deinterleave(word: u32) -> u32 {
    (0..4).fold(0, |out, j| {
        out | (word >> (8 * j) & 0xf) << (4 * j) | (word >> (8 * j + 4) & 0xf) << (4 * (j + 4))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_interleave() {
        assert_eq!(interleave(0x7654_3210), 0x7362_5140);
        assert_eq!(interleave(0x7654_3210) & 0x0f0f_0f0f, 0x0302_0100);
        assert_eq!(deinterleave(interleave(0xdead_beef)), 0xdead_beef);
    }

    fn noise(count: usize, seed: u32) -> Vec<u32> {
        let mut state = seed | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                (state >> 7) ^ state.rotate_left(13)
            })
            .collect()
    }

    /// Random valid parts survive packing and unpacking, both in one image and in two halves.
    #[test]
    fn pack_and_unpack() {
        for name in [
            "f32",
            "2:4+f32",
            "f16",
            "2:4+f16",
            "int16-g5",
            "int8-channel",
            "2:4+int8-g6-asym",
            "int8-tensor-asym",
            "int4-g7-asym-f16s",
            "2:4+int4-g32-asym",
            "int4-channel-f16s",
        ] {
            let format: WeightFormat = name.parse().unwrap();
            for (n, k) in [(0, 5), (3, 0), (1, 1), (5, 31), (4, 32), (3, 33), (2, 72)] {
                let layout = DeviceLayout::new(format, n, k, RowOrder::Rows).unwrap();
                let g = layout.geometry;
                let codes = noise(n * g.code_words, 7);
                let mask =
                    super::super::Mask24::from_fn(n, k, |row, k| (k + row) % 4 == 2).unwrap();
                let metadata = if format.is_sparse() { mask.into_words() } else { vec![] };
                let bits = noise(g.scales, 3).into_iter().map(|b| 1.0 + (b % 100) as f32);
                let scales = match format.scale_type() {
                    ScaleType::F32 => Scales::F32(bits.collect()),
                    ScaleType::F16 => Scales::F16(bits.map(f16::from_f32).collect()),
                };
                let zeros = noise(g.zeros, 5).into_iter().map(|b| b as u8 & 0xf).collect();
                let packed =
                    PackedWeights::from_parts(format, n, k, codes, metadata, scales, zeros)
                        .unwrap();
                let whole = layout.pack(&packed, 0..n);
                assert_eq!(whole.codes.len(), n * layout.code_words);
                assert_eq!(whole.side.len(), n * layout.side_words);
                assert_eq!(layout.unpack(&whole).unwrap(), packed, "{name} {n}×{k}");
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
