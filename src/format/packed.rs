use super::{CodeType, FormatError, Geometry, Mask24, ScaleType, WeightFormat};
use half::f16;

/// Scales as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// f32 scales.
    F32(Vec<f32>),
    /// f16 scales; widened exactly where they are used.
    F16(Vec<f16>),
}

impl Scales {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(scales) => scales.len(),
            Self::F16(scales) => scales.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How they are stored.
    pub fn scale_type(&self) -> ScaleType {
        match self {
            Self::F32(_) => ScaleType::F32,
            Self::F16(_) => ScaleType::F16,
        }
    }

    /// Scale `index`, widened to f32.
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

/// A packed matrix in the canonical layout ([`Geometry`]): what files hold, what the
/// oracle reads and what kernel layouts derive from.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedWeights {
    geometry: Geometry,
    codes: Vec<u32>,
    metadata: Vec<u32>,
    scales: Scales,
    zeros: Vec<u8>,
}

impl PackedWeights {
    /// Takes the parts of a packed matrix and checks every length and value.
    ///
    /// `metadata` is empty for dense formats, `zeros` for symmetric ones, `scales` for
    /// floats. A zero point is one byte: int4's 0…15, int8's −128…127 as two's
    /// complement. Codes that stand for no weight (the rest of a row's last word, 2:4
    /// positions past K) are rewritten as the code of zero, so that a kernel may multiply
    /// them by 0.
    ///
    /// # Errors
    /// [`FormatError`]: a bad format, a wrong length, a scale that is not a positive
    /// normal number of its type, a zero point outside the codes, bad 2:4 metadata.
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
        let element = self.format().code_type();
        let per = element.per_word() as usize;
        // Only the last quad of a 2:4 row reaches past K.
        let first = if k.is_multiple_of(4) { stored } else { stored.saturating_sub(2) };
        for row in 0..self.geometry.filled_rows() {
            let zero = match (element, groups) {
                (CodeType::F32 | CodeType::F16, _) | (_, 0) => 0,
                _ => self.zero(row, groups - 1) as u32,
            };
            for at in first..code_words * per {
                if at >= stored || self.column(row, at) >= k {
                    let word = &mut self.codes[row * code_words + at / per];
                    let shift = (at % per) as u32 * element.bits();
                    let mask = (u32::MAX >> (32 - element.bits())) << shift;
                    *word = *word & !mask | zero << shift & mask;
                }
            }
        }
    }

    /// The layout of the parts.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The format.
    pub fn format(&self) -> WeightFormat {
        self.geometry.format
    }

    /// Rows of `W` (output channels).
    pub fn n(&self) -> usize {
        self.geometry.n
    }

    /// Columns of `W` (input channels).
    pub fn k(&self) -> usize {
        self.geometry.k
    }

    /// Codes, `[n, code_words]`.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// 2:4 metadata, `[n, meta_words]`; empty for dense formats.
    pub fn metadata(&self) -> &[u32] {
        &self.metadata
    }

    /// Scales, `[n, groups]` or one; empty for floats.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Zero points as stored, one byte each; empty for symmetric formats.
    pub fn zeros(&self) -> &[u8] {
        &self.zeros
    }

    /// The raw code at position `at < stored` of a row: the bits of a float, or the
    /// integer code sign-extended as its element says.
    pub fn code(&self, row: usize, at: usize) -> i32 {
        let element = self.format().code_type();
        let per = element.per_word() as usize;
        let word = self.codes[row * self.geometry.code_words + at / per];
        let shift = (at % per) as u32 * element.bits();
        match element {
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

    /// The code of zero of a row's group.
    pub fn zero(&self, row: usize, group: usize) -> i32 {
        if self.format().is_symmetric() {
            self.format().symmetric_zero()
        } else {
            self.zero_at(self.geometry.scale_index(row, group))
        }
    }

    /// The scale of a row's group; 1 for floats.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        if self.scales.is_empty() {
            1.0
        } else {
            self.scales.get(self.geometry.scale_index(row, group))
        }
    }

    /// The column that position `at < stored` of a row stands for; under 2:4 it may be K
    /// or more in the last quad.
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
