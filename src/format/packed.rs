use super::{CodeType, FormatError, Geometry, Granularity, Mask24, Offset, Scales, WeightFormat};

/// A packed matrix in the canonical layout ([`Geometry`]).
///
/// Files store this layout, the reference implementation reads it, and the layout that kernels read
/// ([`DeviceLayout`](super::DeviceLayout)) is derived from it.
///
/// ```
/// use lowbit::compress::dequantize;
/// use lowbit::format::{Granularity, PackedWeights, Scales, WeightFormat};
/// // Two rows of four weights, quantized on the host.
/// let format = WeightFormat::int8(Granularity::Channel);
/// let w = [127.0, -2.0, 3.0, 4.0, 0.5, -63.5, 1.5, 2.0];
/// let packed = PackedWeights::quantize(&w, 2, 4, &format)?;
/// assert_eq!(packed.scale(0, 0), 1.0);
/// assert_eq!(packed.code(1, 1), -127);
/// assert_eq!(dequantize(&packed), w);
/// // The same matrix from its parts, as a file would hold them.
/// let codes = packed.codes().to_vec();
/// let scales = Scales::F32(vec![1.0, 0.5]);
/// let same = PackedWeights::from_parts(format, 2, 4, codes, vec![], scales, vec![])?;
/// assert_eq!(same, packed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PackedWeights {
    geometry: Geometry,
    parts: Parts,
}

/// The parts of a packed matrix in the canonical layout ([`Geometry`]). Parts that a format does not
/// have are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// The codes, `[n, code_words]`.
    pub codes: Vec<u32>,
    /// The 2:4 metadata, `[n, meta_words]`.
    pub metadata: Vec<u32>,
    /// The scales, `[n, groups]`, or one per tensor.
    pub scales: Scales,
    /// The integer zero points: one byte each, or 4 bits each, where each row starts a byte.
    pub zeros: Vec<u8>,
    /// The minima, or the zero points that are floats, in the type of the scales.
    pub minima: Scales,
    /// The 16 numbers of the codes of [`CodeType::Codebook`].
    pub codebook: Vec<f32>,
    /// Entry j is the column of `W` that the codes have at place j, if columns are permuted.
    pub order: Vec<u32>,
}

impl PackedWeights {
    /// Creates a packed matrix from the parts that formats with one level of scales and integer zero
    /// points have; see [`new`](Self::new).
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn from_parts(
        format: WeightFormat,
        n: usize,
        k: usize,
        codes: Vec<u32>,
        metadata: Vec<u32>,
        scales: Scales,
        zeros: Vec<u8>,
    ) -> Result<Self, FormatError> {
        Self::new(format, n, k, Parts { codes, metadata, scales, zeros, ..Parts::default() })
    }

    /// Creates a packed matrix from its parts and checks every length and value.
    ///
    /// A zero point of one byte is 0…2ᵇ−1, and −128…127 in two's complement for int8. Scales may be
    /// zero or negative. Some codes belong to no weight: those after the last weight in a row's last
    /// word, and those of 2:4 positions past K. They are overwritten with the code of zero, so that
    /// a kernel may multiply them by 0.
    ///
    /// # Errors
    /// Returns a [`FormatError`] if the format is invalid, a part has the wrong length or type, a
    /// scale, a minimum or an entry of the codebook is not finite, a zero point is outside the range
    /// of codes, 2:4 metadata is invalid, or the order of columns does not name each column once.
    pub fn new(
        format: WeightFormat,
        n: usize,
        k: usize,
        parts: Parts,
    ) -> Result<Self, FormatError> {
        let geometry = format.geometry(n, k)?;
        let g = &geometry;
        let codebook = if format.code_type() == CodeType::Codebook { 16 } else { 0 };
        let upper = |count: usize| if count > 0 { g.upper() } else { 0 };
        for (part, need, have) in [
            ("codes", n * g.code_words, parts.codes.len()),
            ("metadata", n * g.meta_words, parts.metadata.len()),
            ("scales", g.scales, parts.scales.len()),
            ("upper scales", upper(g.scales), parts.scales.upper_len()),
            ("zeros", g.zeros, parts.zeros.len()),
            ("minima", g.minima, parts.minima.len()),
            ("upper minima", upper(g.minima), parts.minima.upper_len()),
            ("codebook", codebook, parts.codebook.len()),
            ("order", if format.is_permuted() { k } else { 0 }, parts.order.len()),
        ] {
            if need != have {
                return Err(FormatError::WrongLength { part, need, have });
            }
        }
        for scales in [&parts.scales, &parts.minima] {
            if !scales.is_empty() && scales.scale_type() != format.scale_type() {
                let (need, have) = (format.scale_type(), scales.scale_type());
                return Err(FormatError::WrongScaleType { need, have });
            }
        }
        if format.is_sparse() {
            Mask24::from_words(n, k, parts.metadata.clone())?;
        }
        let mut packed = Self { geometry, parts };
        packed.check_values()?;
        packed.normalise_padding();
        Ok(packed)
    }

    /// Checks the values of scales, minima, zero points, the codebook and the order of columns.
    fn check_values(&self) -> Result<(), FormatError> {
        let Geometry { groups, format, .. } = self.geometry;
        let place = |index: usize| (index / groups.max(1), index % groups.max(1));
        let Parts { scales, minima, codebook, order, .. } = &self.parts;
        for (part, scales) in [("scale", scales), ("minimum", minima)] {
            if let Some((index, value)) = scales.first_bad() {
                let (row, group) = place(index);
                return Err(FormatError::BadScale { part, row, group, value });
            }
        }
        if format.has_zeros() {
            let (low, high) = format.code_range().unwrap_or((0, 0));
            for index in 0..self.geometry.scales {
                let (row, group) = place(index);
                let value = self.zero(row, group);
                if !(low..=high).contains(&value) {
                    return Err(FormatError::BadZeroPoint { row, group, value, low, high });
                }
            }
        }
        if let Some(index) = codebook.iter().position(|value| !value.is_finite()) {
            return Err(FormatError::BadCodebook { index, value: codebook[index] });
        }
        inverse_order(order).map(drop)
    }

    fn normalise_padding(&mut self) {
        let Geometry { k, stored, code_words, groups, .. } = self.geometry;
        if self.format().offset() == Offset::ZeroPoint4 && !groups.is_multiple_of(2) {
            // The last byte of each row has one zero point.
            let row = groups.div_ceil(2);
            self.parts
                .zeros
                .chunks_mut(row)
                .filter_map(|row| row.last_mut())
                .for_each(|b| *b &= 15);
        }
        let bits = self.format().code_type().bits();
        let per_row = code_words * 32 / bits as usize;
        // Only the last group of four of a 2:4 row can reach past K.
        let first = if k.is_multiple_of(4) { stored } else { stored.saturating_sub(2) };
        for row in 0..self.geometry.filled_rows() {
            let zero = match groups {
                0 => 0,
                _ => self.zero(row, groups - 1) as u32,
            };
            let words = &mut self.parts.codes[row * code_words..][..code_words];
            // Codes of 3, 5 and 6 bits may leave bits at the end that are no whole code.
            let last = per_row * bits as usize;
            if last < code_words * 32 {
                put_bits(words, last, code_words as u32 * 32 - last as u32, 0);
            }
            for at in first..per_row {
                let past = at >= stored || {
                    let quad = at / 2;
                    self.parts.metadata.get(row * self.geometry.meta_words + quad / 8).is_some_and(
                        |word| {
                            let nibble = word >> (quad % 8 * 4) & 0xf;
                            4 * quad + (nibble >> (2 * (at % 2)) & 3) as usize >= k
                        },
                    )
                };
                if past {
                    put_bits(words, at * bits as usize, bits, zero);
                }
            }
        }
    }

    /// Returns the layout of the parts.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns the format.
    pub fn format(&self) -> WeightFormat {
        self.geometry.format
    }

    /// Returns the number of rows of `W` (output channels).
    pub fn n(&self) -> usize {
        self.geometry.n
    }

    /// Returns the number of columns of `W` (input channels).
    pub fn k(&self) -> usize {
        self.geometry.k
    }

    /// Returns all parts.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns all parts and gives up the matrix.
    pub fn into_parts(self) -> Parts {
        self.parts
    }

    /// Returns the codes, `[n, code_words]`.
    pub fn codes(&self) -> &[u32] {
        &self.parts.codes
    }

    /// Returns the 2:4 metadata, `[n, meta_words]`. It is empty for dense formats.
    pub fn metadata(&self) -> &[u32] {
        &self.parts.metadata
    }

    /// Returns the scales: `[n, groups]`, or one per tensor. They are empty for floats.
    pub fn scales(&self) -> &Scales {
        &self.parts.scales
    }

    /// Returns the zero points as they are stored, in one byte or 4 bits each. They are empty for
    /// symmetric formats.
    pub fn zeros(&self) -> &[u8] {
        &self.parts.zeros
    }

    /// Returns the minima, or the zero points that are floats, as they are stored. They are empty
    /// for formats that have neither.
    pub fn minima(&self) -> &Scales {
        &self.parts.minima
    }

    /// Returns the order of columns: entry j is the column of `W` whose codes are at place j. It is
    /// empty if columns are not permuted.
    pub fn order(&self) -> &[u32] {
        &self.parts.order
    }

    /// Returns the 16 numbers that the codes of a codebook are, or `None` if codes are no indices.
    pub fn codebook(&self) -> Option<[f32; 16]> {
        let own = || self.parts.codebook.as_slice().try_into().ok();
        self.format().code_type().table().copied().or_else(own)
    }

    /// Returns the raw code at position `at < stored` of a row: the bits of a float, the index into
    /// a codebook, or the integer code, which is sign-extended for the signed code types int16 and
    /// int8.
    pub fn code(&self, row: usize, at: usize) -> i32 {
        let code_type = self.format().code_type();
        let bits = code_type.bits();
        let words = &self.parts.codes[row * self.geometry.code_words..];
        let code = get_bits(words, at * bits as usize, bits);
        if code_type.is_signed() {
            (code << (32 - bits)) as i32 >> (32 - bits)
        } else {
            code as i32
        }
    }

    /// Returns the integer zero point of a group of a row, or the fixed one. It is 0 for formats
    /// with minima or zero points that are floats.
    pub fn zero(&self, row: usize, group: usize) -> i32 {
        match self.format().offset() {
            Offset::ZeroPoint => {
                let byte = self.parts.zeros[self.geometry.scale_index(row, group)];
                match self.format().code_type() {
                    CodeType::Int8 => i32::from(byte as i8),
                    _ => i32::from(byte),
                }
            }
            Offset::ZeroPoint4 => {
                let tensor = matches!(self.format().granularity(), Granularity::Tensor);
                let row = if tensor { 0 } else { row };
                let byte = self.parts.zeros[row * self.geometry.groups.div_ceil(2) + group / 2];
                i32::from(byte >> (4 * (group % 2)) & 0xf)
            }
            _ => self.format().symmetric_zero(),
        }
    }

    /// Returns the scale of a group of a row, which is the product of both levels if there are two,
    /// or 1 for floats.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        self.parts.scales.of_group(&self.geometry, row, group)
    }

    /// Returns what is added to the weights of a group of a row: the minimum, or −z·s if the zero
    /// point z is a float, rounded to f32; 0 for all other formats.
    pub fn minimum(&self, row: usize, group: usize) -> f32 {
        match self.format().offset() {
            Offset::Minimum => self.parts.minima.of_group(&self.geometry, row, group),
            Offset::FloatZeroPoint => {
                let zero = self.parts.minima.of_group(&self.geometry, row, group);
                -(zero * self.scale(row, group))
            }
            _ => 0.0,
        }
    }

    /// Returns the number that the code at position `at < stored` of a row is, before it is scaled:
    /// v(c). `zero` is the zero point of its group.
    pub(crate) fn number(&self, row: usize, at: usize, zero: i32) -> f32 {
        self.format().code_type().number(self.code(row, at), zero, &self.parts.codebook)
    }

    /// Returns the place along K of the weight at position `at < stored` of a row, which determines
    /// its group. In the last group of four of a 2:4 row, it may be K or more.
    pub fn place(&self, row: usize, at: usize) -> usize {
        if !self.format().is_sparse() {
            return at;
        }
        let (quad, which) = (at / 2, at % 2);
        let word = self.parts.metadata[row * self.geometry.meta_words + quad / 8];
        let nibble = word >> (quad % 8 * 4) & 0xf;
        4 * quad + (nibble >> (2 * which) & 3) as usize
    }

    /// Returns the column of the weight at position `at < stored` of a row: its
    /// [`place`](Self::place), or the column that the order of columns has there. In the last group
    /// of four of a 2:4 row, it may be K or more.
    pub fn column(&self, row: usize, at: usize) -> usize {
        let place = self.place(row, at);
        self.parts.order.get(place).map_or(place, |&column| column as usize)
    }
}

/// Returns the inverse of an order of columns: the place of each column.
///
/// # Errors
/// Returns [`FormatError::BadOrder`] if the order does not name each column once.
pub(crate) fn inverse_order(order: &[u32]) -> Result<Vec<u32>, FormatError> {
    let k = order.len();
    // Columns that have no place yet.
    let mut places = vec![None; k];
    for (index, &value) in order.iter().enumerate() {
        match places.get_mut(value as usize) {
            Some(place @ None) => *place = Some(index as u32),
            _ => return Err(FormatError::BadOrder { index, value, k }),
        }
    }
    Ok(places.into_iter().flatten().collect())
}

/// Returns `count` bits (at most 32) of a string of bits, from bit `at` on.
pub(super) fn get_bits(words: &[u32], at: usize, count: u32) -> u32 {
    let (word, shift) = (at / 32, (at % 32) as u32);
    let low = u64::from(words[word]);
    let high = if shift + count > 32 { u64::from(words[word + 1]) } else { 0 };
    let bits = (high << 32 | low) >> shift;
    (bits & (u64::MAX >> (64 - count))) as u32
}

/// Writes the low `count` bits (at most 32) of `value` into a string of bits, from bit `at` on.
pub(crate) fn put_bits(words: &mut [u32], at: usize, count: u32, value: u32) {
    let (word, shift) = (at / 32, (at % 32) as u32);
    let mask = (u64::MAX >> (64 - count)) << shift;
    let value = (u64::from(value) << shift) & mask;
    words[word] = words[word] & !(mask as u32) | value as u32;
    if shift + count > 32 {
        words[word + 1] = words[word + 1] & !((mask >> 32) as u32) | (value >> 32) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ScaleType;
    use half::f16;

    #[test]
    fn strings_of_bits() {
        for count in [2, 3, 5, 6, 8, 32] {
            let mut words = [0xdead_beefu32; 7];
            for at in 0..6 {
                put_bits(&mut words, at * count as usize, count, (at as u32 * 13 + 1) | 1 << 31);
            }
            for at in 0..6 {
                let want = ((at as u32 * 13 + 1) | 1 << 31) & (u32::MAX >> (32 - count));
                assert_eq!(get_bits(&words, at * count as usize, count), want);
            }
            assert_eq!(words[6], 0xdead_beef);
        }
    }

    /// Q4_K by hand: two levels of scales and minima, a ragged row.
    #[test]
    fn two_levels_and_minima() {
        let format: WeightFormat = "q4_k".parse().unwrap();
        let g = format.geometry(1, 288).unwrap();
        assert_eq!((g.groups, g.supers, g.minima), (9, 2, 9));
        let two = |from: i8, d: f32| Scales::Int8Super {
            groups: (0..9).map(|i| from + i).collect(),
            supers: vec![f16::from_f32(d), f16::from_f32(2.0 * d)],
        };
        let codes = vec![0x7654_3210; g.code_words];
        let parts = Parts { codes, scales: two(1, 0.5), minima: two(0, -0.25), ..Parts::default() };
        let packed = PackedWeights::new(format, 1, 288, parts.clone()).unwrap();
        assert_eq!((packed.scale(0, 3), packed.minimum(0, 3)), (2.0, -0.75));
        assert_eq!((packed.scale(0, 8), packed.minimum(0, 8)), (9.0, -4.0));
        let w = crate::compress::dequantize(&packed);
        assert_eq!((w[3 * 32 + 5], w[287]), (5.0 * 2.0 - 0.75, 7.0 * 9.0 - 4.0));
        // The upper level has the wrong length.
        let short =
            Parts { minima: Scales::Int8Super { groups: vec![0; 9], supers: vec![] }, ..parts };
        assert_eq!(
            PackedWeights::new(format, 1, 288, short),
            Err(FormatError::WrongLength { part: "upper minima", need: 2, have: 0 })
        );
    }

    #[test]
    fn codes_across_words_permuted_columns_and_padding() {
        let format = WeightFormat::new(CodeType::Int3, Granularity::Channel).permuted();
        let mut codes = vec![u32::MAX; 2];
        (0..12).for_each(|at| put_bits(&mut codes, at * 3, 3, at as u32 % 8));
        let order: Vec<u32> = (0..12).map(|j| (j * 5 + 2) % 12).collect();
        let scales = Scales::F32(vec![0.5]);
        let parts = Parts { codes, scales, order, ..Parts::default() };
        let packed = PackedWeights::new(format, 1, 12, parts.clone()).unwrap();
        let w = crate::compress::dequantize(&packed);
        for j in 0..12 {
            assert_eq!(w[(j * 5 + 2) % 12], (j as f32 % 8.0 - 4.0) * 0.5);
        }
        // Padding is the code of zero, and the bits that are no whole code are 0.
        assert_eq!(get_bits(packed.codes(), 12 * 3, 3), 4);
        assert_eq!(packed.codes()[1] >> 31, 0);
        for (index, value) in [(3, 12), (3, 2)] {
            let mut bad = parts.clone();
            bad.order[3] = value;
            let error = FormatError::BadOrder { index, value, k: 12 };
            assert_eq!(PackedWeights::new(format, 1, 12, bad), Err(error));
        }
    }

    #[test]
    fn codebooks_and_small_floats() {
        let own = WeightFormat::new(CodeType::Codebook, Granularity::Channel);
        let codebook: Vec<f32> = (0..16).map(|i| (i * i) as f32).collect();
        let parts = Parts {
            codes: vec![0x0000_f310],
            scales: Scales::F32(vec![-2.0]),
            codebook,
            ..Parts::default()
        };
        let packed = PackedWeights::new(own, 1, 4, parts.clone()).unwrap();
        assert_eq!(crate::compress::dequantize(&packed), [-0.0, -2.0, -18.0, -450.0]);
        let mut bad = parts;
        bad.codebook[7] = f32::NAN;
        assert!(matches!(
            PackedWeights::new(own, 1, 4, bad),
            Err(FormatError::BadCodebook { index: 7, .. })
        ));
        let group = Granularity::group(4).unwrap();
        let e4m3 = WeightFormat::new(CodeType::E4m3, group).with_scales(ScaleType::E8m0);
        let parts =
            Parts { codes: vec![0xb838_7e01], scales: Scales::E8m0(vec![128]), ..Parts::default() };
        let packed = PackedWeights::new(e4m3, 1, 4, parts).unwrap();
        assert_eq!(crate::compress::dequantize(&packed), [1.0 / 256.0, 896.0, 2.0, -2.0]);
    }

    #[test]
    fn zero_points_of_four_bits() {
        let group = Granularity::group(2).unwrap();
        let format = WeightFormat::int4(group).with_offset(Offset::ZeroPoint4);
        let parts = Parts {
            codes: vec![0x55_5555, 0x55_5555],
            scales: Scales::F32(vec![1.0; 6]),
            zeros: vec![0x21, 0x03, 0x54, 0x06],
            ..Parts::default()
        };
        let packed = PackedWeights::new(format, 2, 6, parts).unwrap();
        let w = crate::compress::dequantize(&packed);
        assert_eq!(w, [4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0, -1.0, -1.0]);
    }
}
