use super::{CodeType, FormatError, Geometry, Mask24, ScaleType, WeightFormat};
use half::f16;

/// The scales of a packed matrix, as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// f32 scales.
    F32(Vec<f32>),
    /// f16 scales. They are widened to f32, which is exact, where they are used.
    F16(Vec<f16>),
}

impl Scales {
    /// Returns the number of scales.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(scales) => scales.len(),
            Self::F16(scales) => scales.len(),
        }
    }

    /// Returns whether there are no scales.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the type that the scales are stored as.
    pub fn scale_type(&self) -> ScaleType {
        match self {
            Self::F32(_) => ScaleType::F32,
            Self::F16(_) => ScaleType::F16,
        }
    }

    /// Returns scale `index`, widened to f32. Panics if there is no such scale.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(scales) => scales[index],
            Self::F16(scales) => scales[index].to_f32(),
        }
    }

    fn is_positive_normal(&self, index: usize) -> bool {
        match self {
            Self::F32(scales) => scales[index].is_normal() && scales[index] > 0.0,
            Self::F16(scales) => scales[index].is_normal() && scales[index] > f16::ZERO,
        }
    }
}

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
    codes: Vec<u32>,
    metadata: Vec<u32>,
    scales: Scales,
    zeros: Vec<u8>,
}

impl PackedWeights {
    /// Creates a packed matrix from its parts and checks every length and value.
    ///
    /// `metadata` must be empty for dense formats, `zeros` for symmetric formats and `scales` for
    /// floats. A zero point is one byte: 0…15 for int4, and −128…127 in two's complement for int8.
    /// Some codes belong to no weight: those after the last weight in a row's last word, and those
    /// of 2:4 positions past K. They are overwritten with the code of zero, so that a kernel may
    /// multiply them by 0.
    ///
    /// # Errors
    /// Returns a [`FormatError`] if the format is invalid, a part has the wrong length, a scale is
    /// not a positive normal number of its type, a zero point is outside the range of codes, or 2:4
    /// metadata is invalid.
    pub fn from_parts(
        format: WeightFormat,
        n: usize,
        k: usize,
        codes: Vec<u32>,
        metadata: Vec<u32>,
        scales: Scales,
        zeros: Vec<u8>,
    ) -> Result<Self, FormatError> {
        let geometry = format.geometry(n, k)?;
        let lengths = [
            ("codes", n * geometry.code_words, codes.len()),
            ("metadata", n * geometry.meta_words, metadata.len()),
            ("scales", geometry.scales, scales.len()),
            ("zeros", geometry.zeros, zeros.len()),
        ];
        for (part, need, have) in lengths {
            if need != have {
                return Err(FormatError::WrongLength { part, need, have });
            }
        }
        if geometry.scales > 0 && scales.scale_type() != format.scale_type() {
            let (need, have) = (format.scale_type(), scales.scale_type());
            return Err(FormatError::WrongScaleType { need, have });
        }
        if format.is_sparse() {
            Mask24::from_words(n, k, metadata.clone())?;
        }
        let mut packed = Self { geometry, codes, metadata, scales, zeros };
        for index in 0..geometry.scales {
            let (row, group) = (index / geometry.groups.max(1), index % geometry.groups.max(1));
            if !packed.scales.is_positive_normal(index) {
                let value = packed.scales.get(index);
                return Err(FormatError::BadScale { row, group, value });
            }
            if !format.is_symmetric() {
                let value = packed.zero_at(index);
                let (low, high) = format.code_range().unwrap_or((0, 0));
                if !(low..=high).contains(&value) {
                    return Err(FormatError::BadZeroPoint { row, group, value, low, high });
                }
            }
        }
        packed.normalise_padding();
        Ok(packed)
    }

    fn normalise_padding(&mut self) {
        let Geometry { k, stored, code_words, groups, .. } = self.geometry;
        let code_type = self.format().code_type();
        let per = code_type.per_word() as usize;
        // Only the last group of four of a 2:4 row can reach past K.
        let first = if k.is_multiple_of(4) { stored } else { stored.saturating_sub(2) };
        for row in 0..self.geometry.filled_rows() {
            let zero = match (code_type, groups) {
                (CodeType::F32 | CodeType::F16, _) | (_, 0) => 0,
                _ => self.zero(row, groups - 1) as u32,
            };
            for at in first..code_words * per {
                if at >= stored || self.column(row, at) >= k {
                    let word = &mut self.codes[row * code_words + at / per];
                    let shift = (at % per) as u32 * code_type.bits();
                    let mask = (u32::MAX >> (32 - code_type.bits())) << shift;
                    *word = *word & !mask | zero << shift & mask;
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

    /// Returns the codes, `[n, code_words]`.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Returns the 2:4 metadata, `[n, meta_words]`. It is empty for dense formats.
    pub fn metadata(&self) -> &[u32] {
        &self.metadata
    }

    /// Returns the scales: `[n, groups]`, or one per tensor. They are empty for floats.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Returns the zero points as they are stored, one byte each. They are empty for symmetric
    /// formats.
    pub fn zeros(&self) -> &[u8] {
        &self.zeros
    }

    /// Returns the raw code at position `at < stored` of a row: the bits of a float, or the integer
    /// code, which is sign-extended for the signed code types int16 and int8.
    pub fn code(&self, row: usize, at: usize) -> i32 {
        let code_type = self.format().code_type();
        let per = code_type.per_word() as usize;
        let word = self.codes[row * self.geometry.code_words + at / per];
        let shift = (at % per) as u32 * code_type.bits();
        match code_type {
            CodeType::F32 => word as i32,
            CodeType::F16 => (word >> shift & 0xffff) as i32,
            CodeType::Int16 => i32::from((word >> shift) as i16),
            CodeType::Int8 => i32::from((word >> shift) as i8),
            CodeType::Int4 => (word >> shift & 0xf) as i32,
        }
    }

    fn zero_at(&self, index: usize) -> i32 {
        match self.format().code_type() {
            CodeType::Int8 => i32::from(self.zeros[index] as i8),
            _ => i32::from(self.zeros[index]),
        }
    }

    /// Returns the zero point of a group of a row.
    pub fn zero(&self, row: usize, group: usize) -> i32 {
        if self.format().is_symmetric() {
            self.format().symmetric_zero()
        } else {
            self.zero_at(self.geometry.scale_index(row, group))
        }
    }

    /// Returns the scale of a group of a row, or 1 for floats.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        if self.scales.is_empty() {
            1.0
        } else {
            self.scales.get(self.geometry.scale_index(row, group))
        }
    }

    /// Returns the column of the weight at position `at < stored` of a row. In the last group of
    /// four of a 2:4 row, it may be K or more.
    pub fn column(&self, row: usize, at: usize) -> usize {
        if !self.format().is_sparse() {
            return at;
        }
        let (quad, which) = (at / 2, at % 2);
        let word = self.metadata[row * self.geometry.meta_words + quad / 8];
        let nibble = word >> (quad % 8 * 4) & 0xf;
        4 * quad + (nibble >> (2 * which) & 3) as usize
    }
}
