use super::{CodeType, FormatError, Granularity, Offset, SUPER_K, ScaleType, WeightFormat};

/// The canonical layout of one packed matrix, with all counts that determine its parts:
///
/// - codes: `[n, code_words]` of `u32`, a row being a string of bits: the first column along K has
///   the lowest bits of the first word, a code of 3, 5 or 6 bits may reach from one word into the
///   next, and each row is padded with the code of zero;
/// - metadata (2:4): `[n, meta_words]`, 4 bits per group of four columns, the first in the low
///   nibble;
/// - scales, minima and zero points: `[n, groups]`, or one each for per-tensor granularity. Two zero
///   points of 4 bits share a byte, the first in its low half, and each row starts a byte;
/// - the upper level of scales and minima of two levels: `[n, supers]`, or one for the tensor;
/// - the codebook, 16 entries, if each matrix has its own;
/// - the order of columns, if they are permuted: K entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The format.
    pub format: WeightFormat,
    /// Number of rows of `W`.
    pub n: usize,
    /// Number of columns of `W`.
    pub k: usize,
    /// Number of codes stored per row: K, or 2⌈K/4⌉ for 2:4 formats.
    pub stored: usize,
    /// Number of `u32` words of codes per row.
    pub code_words: usize,
    /// Number of groups of four per row: ⌈K/4⌉ for 2:4 formats, 0 for dense ones.
    pub quads: usize,
    /// Number of `u32` words of metadata per row.
    pub meta_words: usize,
    /// Number of columns per group. For per-channel and per-tensor formats it is K, but at least 1.
    pub group_size: usize,
    /// Number of groups per row: ⌈K/group_size⌉.
    pub groups: usize,
    /// Number of stored scales: 0 for floats, at most 1 for per-tensor granularity, otherwise
    /// n·groups.
    pub scales: usize,
    /// Number of bytes of stored zero points: 0 if none are stored.
    pub zeros: usize,
    /// Number of stored minima: the number of scales if the format has minima (or zero points that
    /// are floats), otherwise 0.
    pub minima: usize,
    /// Number of super-blocks per row if scales have a level for each: ⌈K/256⌉; otherwise 0.
    pub supers: usize,
}

impl Geometry {
    pub(super) fn new(format: WeightFormat, n: usize, k: usize) -> Result<Self, FormatError> {
        format.check()?;
        let too_large = || FormatError::TooLarge { n, k, format };
        let quads = if format.is_sparse() { k.div_ceil(4) } else { 0 };
        let stored = if format.is_sparse() { 2 * quads } else { k };
        // In blocks of 32 codes, `bits` words each, so that no product overflows.
        let bits = format.code_type().bits() as usize;
        let whole = (stored / 32).checked_mul(bits).ok_or_else(too_large)?;
        let code_words = whole + (stored % 32 * bits).div_ceil(32);
        let meta_words = quads.div_ceil(8);
        let group_size = match format.granularity() {
            Granularity::Group(g) => g.get() as usize,
            _ => k.max(1),
        };
        let groups = k.div_ceil(group_size);
        let scales = match (format.code_type(), format.granularity()) {
            (CodeType::F32 | CodeType::F16, _) => 0,
            (_, Granularity::Tensor) => groups.min(n),
            _ => n.checked_mul(groups).ok_or_else(too_large)?,
        };
        let geometry = Self {
            format,
            n,
            k,
            stored,
            code_words,
            quads,
            meta_words,
            group_size,
            groups,
            scales,
            zeros: match (format.offset(), format.granularity()) {
                (Offset::ZeroPoint, _) => scales,
                (Offset::ZeroPoint4, Granularity::Tensor) => scales,
                (Offset::ZeroPoint4, _) => n * groups.div_ceil(2),
                _ => 0,
            },
            minima: if format.has_minima() { scales } else { 0 },
            supers: match format.scale_type() {
                ScaleType::Int8Super => k.div_ceil(SUPER_K),
                _ => 0,
            },
        };
        // This product bounds every later one (weights, bytes of every part, bytes of the dense
        // matrix in f32) and every sum (the words of a row, even if there are no rows), so that
        // checking it once makes them all safe.
        let words = k.checked_add(64).and_then(|k| k.checked_mul(n.max(1)));
        let words = words.and_then(|words| words.checked_mul(16));
        words.filter(|&bytes| bytes <= isize::MAX as usize).ok_or_else(too_large)?;
        Ok(geometry)
    }

    /// Returns the number of rows that hold data, which is 0 if there are no columns. A tiny file
    /// may claim 2³¹ rows without columns, and no loop should run over them.
    pub(crate) fn filled_rows(&self) -> usize {
        if self.k == 0 { 0 } else { self.n }
    }

    /// Returns the group of column `k`.
    pub fn group_of(&self, k: usize) -> usize {
        k / self.group_size
    }

    /// Returns the index of the scale (and zero point) of a row's group in the canonical arrays.
    pub fn scale_index(&self, row: usize, group: usize) -> usize {
        match self.format.granularity() {
            Granularity::Tensor => 0,
            _ => row * self.groups + group,
        }
    }

    /// Returns the index of the entry of the upper level that a row's group belongs to.
    pub fn super_index(&self, row: usize, group: usize) -> usize {
        match self.format.scale_type() {
            ScaleType::Int8Super => row * self.supers + group * self.group_size / SUPER_K,
            _ => 0,
        }
    }

    /// Returns the number of entries of the upper level of scales, or of minima.
    pub fn upper(&self) -> usize {
        match self.format.scale_type() {
            ScaleType::Int8Super => self.n * self.supers,
            ScaleType::E4m3Tensor => usize::from(self.scales > 0),
            _ => 0,
        }
    }

    /// Returns the exact sizes in bytes.
    pub fn sizes(&self) -> Sizes {
        let scale_type = self.format.scale_type();
        let upper = self.upper() * if scale_type == ScaleType::Int8Super { 2 } else { 4 };
        let bytes = |count: usize| match count {
            0 => 0,
            count => count * scale_type.bits() as usize / 8 + upper,
        };
        let codebook = self.format.code_type() == CodeType::Codebook && self.scales > 0;
        let order = if self.format.is_permuted() { 4 * self.k } else { 0 };
        Sizes {
            weights: self.n * self.k,
            codes: self.n * self.code_words * 4,
            metadata: self.n * self.meta_words * 4,
            scales: bytes(self.scales),
            zeros: self.zeros,
            minima: bytes(self.minima),
            tables: if codebook { 64 } else { 0 } + order,
        }
    }
}

/// The exact sizes of a packed matrix in bytes, and the number of weights it represents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Number of weights of the uncompressed matrix: N·K.
    pub weights: usize,
    /// Bytes of codes.
    pub codes: usize,
    /// Bytes of 2:4 metadata.
    pub metadata: usize,
    /// Bytes of scales.
    pub scales: usize,
    /// Bytes of zero points.
    pub zeros: usize,
    /// Bytes of minima, or of zero points that are floats.
    pub minima: usize,
    /// Bytes of a codebook and of the order of columns.
    pub tables: usize,
}

impl Sizes {
    /// Returns the size of all parts together, in bytes.
    pub fn total(&self) -> usize {
        self.codes + self.metadata + self.scales + self.zeros + self.minima + self.tables
    }

    /// Returns the number of bits per original weight, or 0 for an empty matrix.
    pub fn bits_per_weight(&self) -> f64 {
        if self.weights == 0 { 0.0 } else { 8.0 * self.total() as f64 / self.weights as f64 }
    }
}

impl std::ops::Add for Sizes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            codes: self.codes + other.codes,
            metadata: self.metadata + other.metadata,
            scales: self.scales + other.scales,
            zeros: self.zeros + other.zeros,
            minima: self.minima + other.minima,
            tables: self.tables + other.tables,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(g: u32) -> Granularity {
        Granularity::group(g).unwrap()
    }

    #[test]
    fn bits_per_weight_of_numerics() {
        let bits = |f: WeightFormat| f.geometry(4096, 4096).unwrap().sizes().bits_per_weight();
        assert_eq!(bits(WeightFormat::f16().two_four()), 9.0);
        let int8 = WeightFormat::int8(Granularity::Channel).two_four();
        assert_eq!(bits(int8), 5.0 + 32.0 / 4096.0);
        let int4 = WeightFormat::int4(group(128)).with_scales(ScaleType::F16).two_four();
        assert_eq!(bits(int4), 3.125);
    }

    /// The bits a weight of the formats of other projects, by hand.
    #[test]
    fn bits_per_weight_of_other_projects() {
        for (name, bits) in [
            ("q4_0", 4.5),
            ("q4_1", 5.0),
            ("q5_0", 5.5),
            ("q5_1", 6.0),
            ("q8_0", 8.5),
            ("q2_k", 2.0 + 16.0 / 16.0 + 32.0 / 256.0),
            ("q3_k", 3.0 + 8.0 / 16.0 + 16.0 / 256.0),
            ("q4_k", 4.0 + 16.0 / 32.0 + 32.0 / 256.0),
            ("q5_k", 5.0 + 16.0 / 32.0 + 32.0 / 256.0),
            ("q6_k", 6.0 + 8.0 / 16.0 + 16.0 / 256.0),
            ("iq4_nl", 4.5),
            ("iq4_xs", 4.0 + 8.0 / 32.0 + 16.0 / 256.0),
            ("nf4", 4.5),
            ("mxfp4", 4.25),
            ("nvfp4", 4.5 + 32.0 / (512.0 * 4096.0)),
        ] {
            let format: WeightFormat = name.parse().unwrap();
            let sizes = format.geometry(512, 4096).unwrap().sizes();
            assert_eq!(sizes.bits_per_weight(), bits, "{name}");
        }
        let packed = WeightFormat::int4(group(128)).with_offset(Offset::ZeroPoint4);
        let sizes = packed.geometry(3, 640).unwrap().sizes();
        assert_eq!((sizes.zeros, sizes.scales), (3 * 3, 3 * 5 * 4));
    }

    #[test]
    fn ragged_shapes() {
        let g = WeightFormat::int4(group(4)).two_four().asymmetric().geometry(3, 9).unwrap();
        assert_eq!((g.quads, g.stored, g.code_words, g.meta_words), (3, 6, 1, 1));
        assert_eq!((g.groups, g.scales, g.zeros), (3, 9, 9));
        let g = WeightFormat::int8(Granularity::Tensor).geometry(0, 5).unwrap();
        assert_eq!((g.scales, g.sizes().total()), (0, 0));
        let g = WeightFormat::int8(Granularity::Tensor).geometry(7, 5).unwrap();
        assert_eq!((g.scales, g.sizes().codes), (1, 7 * 8));
        let g = WeightFormat::int8(group(3)).geometry(7, 0).unwrap();
        assert_eq!((g.scales, g.sizes().total(), g.sizes().bits_per_weight()), (0, 0, 0.0));
    }

    #[test]
    fn overflow_is_an_error() {
        for (n, k) in
            [(usize::MAX, usize::MAX), (1 << 40, 1 << 40), (1, usize::MAX), (usize::MAX, 1)]
        {
            let got = WeightFormat::int4(group(1)).geometry(n, k);
            assert!(matches!(got, Err(FormatError::TooLarge { .. })), "{n}×{k}: {got:?}");
        }
    }
}
