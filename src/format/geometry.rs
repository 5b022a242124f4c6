use super::{CodeType, FormatError, Granularity, ScaleType, WeightFormat};

/// The canonical layout of one packed matrix: every count that its parts follow from.
///
/// - codes: `[n, code_words]` of `u32`, low nibble or low byte first along K, each
///   row padded with the code of zero;
/// - metadata (2:4): `[n, meta_words]`, 4 bits a quad, low nibble first;
/// - scales and zero points: `[n, groups]`, or one for per-tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The format.
    pub format: WeightFormat,
    /// Rows of `W`.
    pub n: usize,
    /// Columns of `W`.
    pub k: usize,
    /// Codes stored a row: K, or 2⌈K/4⌉ under 2:4.
    pub stored: usize,
    /// `u32` words of codes a row.
    pub code_words: usize,
    /// Groups of four a row: ⌈K/4⌉ under 2:4, else 0.
    pub quads: usize,
    /// `u32` words of metadata a row.
    pub meta_words: usize,
    /// k in a group; K (at least 1) for per-channel and per-tensor.
    pub group_size: usize,
    /// Groups a row: ⌈K/group_size⌉.
    pub groups: usize,
    /// Scales stored: 0 for floats, at most 1 for per-tensor, else n·groups.
    pub scales: usize,
    /// Zero points stored: as many as scales where asymmetric, else 0.
    pub zeros: usize,
}

impl Geometry {
    pub(super) fn new(format: WeightFormat, n: usize, k: usize) -> Result<Self, FormatError> {
        format.check()?;
        let too_large = || FormatError::TooLarge { n, k, format };
        let quads = if format.is_sparse() { k.div_ceil(4) } else { 0 };
        let stored = if format.is_sparse() { 2 * quads } else { k };
        let code_words = stored.div_ceil(format.code_type().per_word() as usize);
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
            zeros: if format.is_symmetric() { 0 } else { scales },
        };
        // Every later product (elements, bytes, f32 bytes of the dense matrix) and sum (the words
        // of a row, even where there is none) is bounded by this one, so checking it once makes
        // them all safe.
        let words = k.checked_add(64).and_then(|k| k.checked_mul(n.max(1)));
        let words = words.and_then(|words| words.checked_mul(16));
        words.filter(|&bytes| bytes <= isize::MAX as usize).ok_or_else(too_large)?;
        Ok(geometry)
    }

    /// Rows that hold anything: none where there are no columns. A file that is tiny may say that
    /// there are 2³¹ such rows, which nothing should count one by one.
    pub(crate) fn filled_rows(&self) -> usize {
        if self.k == 0 { 0 } else { self.n }
    }

    /// The group of column `k`.
    pub fn group_of(&self, k: usize) -> usize {
        k / self.group_size
    }

    /// Where the scale (and zero point) of a row's group stands in the canonical arrays.
    pub fn scale_index(&self, row: usize, group: usize) -> usize {
        match self.format.granularity() {
            Granularity::Tensor => 0,
            _ => row * self.groups + group,
        }
    }

    /// Exact sizes in bytes.
    pub fn sizes(&self) -> Sizes {
        let scale_bytes = match self.format.scale_type() {
            ScaleType::F32 => 4,
            ScaleType::F16 => 2,
        };
        Sizes {
            weights: self.n * self.k,
            codes: self.n * self.code_words * 4,
            metadata: self.n * self.meta_words * 4,
            scales: self.scales * scale_bytes,
            zeros: self.zeros,
        }
    }
}

/// Exact sizes of a packed matrix, in bytes, and the weights it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Weights of the uncompressed matrix: N·K.
    pub weights: usize,
    /// Bytes of codes.
    pub codes: usize,
    /// Bytes of 2:4 metadata.
    pub metadata: usize,
    /// Bytes of scales.
    pub scales: usize,
    /// Bytes of zero points.
    pub zeros: usize,
}

impl Sizes {
    /// All parts together, in bytes.
    pub fn total(&self) -> usize {
        self.codes + self.metadata + self.scales + self.zeros
    }

    /// Bits per original weight; 0 for an empty matrix.
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
