//! Real packed weights from fake-quantized ones.

use super::{FakeFormat, Given};
use half::f16;
use lowbit::format::{
    FormatError, Mask24, Offset, PackedWeights, Parts, ScaleType, Scales, WeightFormat,
};

/// The reason why weights cannot be packed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// The packed matrix is not valid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A weight or its scale is not finite.
    #[error(
        "weight ({row}, {column}) is {value} after quantization with a scale of {scale}: training has diverged"
    )]
    NonFinite {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// Its value.
        value: f32,
        /// The scale of its group.
        scale: f32,
    },
    /// The mask of a 2:4 format keeps three or four weights of four.
    #[error(
        "row {row} keeps {kept} weights of the four from column {column} on, but 2:4 keeps 2: train with the pattern 2:4"
    )]
    NotTwoFour {
        /// The row.
        row: usize,
        /// The first column.
        column: usize,
        /// How many are kept.
        kept: usize,
    },
}

/// Packs weights `[n, k]` by the scales and zero points that they were fake-quantized with. Every packed
/// weight is the fake-quantized one, bit for bit but for the sign of 0. A 2:4 format keeps the weights
/// that are not 0 in `w`.
///
/// # Errors
/// Returns [`FoldError`].
pub fn fold(
    w: &[f32],
    n: usize,
    k: usize,
    format: FakeFormat,
    given: Given<'_>,
) -> Result<PackedWeights, FoldError> {
    let packing = Packing { w, n, k, format, given };
    let mask = if format.format().is_sparse() { Some(packing.mask()?) } else { None };
    let geometry = format.format().geometry(n, k)?;
    let bits = geometry.format.code_type().bits();
    let mut codes = vec![0u32; n * geometry.code_words];
    for row in 0..n {
        for at in 0..geometry.stored {
            let column = mask.as_ref().map_or(at, |mask| mask.kept(row, at / 2)[at % 2]);
            // Positions past K get the code of zero from `PackedWeights`.
            let code = if column < k { packing.code(row, column)? } else { 0 };
            let words = &mut codes[row * geometry.code_words..][..geometry.code_words];
            put(words, at * bits as usize, bits, code);
        }
    }
    let parts = Parts {
        codes,
        metadata: mask.map(Mask24::into_words).unwrap_or_default(),
        scales: packing.scales(geometry.format),
        zeros: packing.zeros(geometry.groups),
        ..Parts::default()
    };
    Ok(PackedWeights::new(geometry.format, n, k, parts)?)
}

struct Packing<'a> {
    w: &'a [f32],
    n: usize,
    k: usize,
    format: FakeFormat,
    given: Given<'a>,
}

impl Packing<'_> {
    fn mask(&self) -> Result<Mask24, FoldError> {
        let keeps = |row: usize, column: usize| self.w[row * self.k + column] != 0.0;
        for row in 0..self.n {
            for column in (0..self.k).step_by(4) {
                let kept = (column..self.k.min(column + 4)).filter(|&at| keeps(row, at)).count();
                if kept > 2 {
                    return Err(FoldError::NotTwoFour { row, column, kept });
                }
            }
        }
        Ok(Mask24::from_fn(self.n, self.k, keeps)?)
    }

    /// Returns the index of the scale of a weight.
    fn scale_at(&self, row: usize, column: usize) -> usize {
        match self.format.scales(self.n, self.k) {
            [1, 1] => 0,
            [_, groups] => row * groups + column / self.format.group(self.k),
        }
    }

    /// Returns the zero point as an integer, as stored codes count it.
    fn zero(&self, at: usize) -> i32 {
        if self.format.is_symmetric() {
            return self.format.format().symmetric_zero();
        }
        let (low, high) = self.format.codes();
        (self.given.zeros[at].round_ties_even() as i32).clamp(low, high)
    }

    /// Returns the code of a weight, from its fake-quantized value: (c − z) · s / s is c − z, because the
    /// product of an integer of at most 16 bits and an f32 is off by 2⁻²⁴ of it at most.
    fn code(&self, row: usize, column: usize) -> Result<u32, FoldError> {
        let at = self.scale_at(row, column);
        let scale = self.format.stored(self.given.scales[at]);
        let x = self.w[row * self.k + column];
        let value = self.format.single(x, self.given, at);
        if !value.is_finite() {
            return Err(FoldError::NonFinite { row, column, value, scale });
        }
        Ok(((value / scale).round_ties_even() as i32 + self.zero(at)) as u32)
    }

    fn scales(&self, format: WeightFormat) -> Scales {
        let stored = self.given.scales.iter().map(|&scale| self.format.stored(scale));
        match format.scale_type() {
            ScaleType::F16 => Scales::F16(stored.map(f16::from_f32).collect()),
            _ => Scales::F32(stored.collect()),
        }
    }

    fn zeros(&self, groups: usize) -> Vec<u8> {
        let zeros = (0..self.given.zeros.len()).map(|at| self.zero(at) as u8);
        match self.format.format().offset() {
            Offset::ZeroPoint => zeros.collect(),
            Offset::ZeroPoint4 => {
                let zeros: Vec<u8> = zeros.collect();
                let pair = |pair: &[u8]| pair[0] & 15 | pair.get(1).copied().unwrap_or(0) << 4;
                zeros.chunks(groups.max(1)).flat_map(|row| row.chunks(2).map(pair)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Writes the low `count` bits of a code into a row, from bit `at` on.
fn put(words: &mut [u32], at: usize, count: u32, code: u32) {
    let (word, shift) = (at / 32, at as u32 % 32);
    let code = u64::from(code) & (u64::MAX >> (64 - count));
    let bits = code << shift;
    words[word] |= bits as u32;
    if shift + count > 32 {
        words[word + 1] |= (bits >> 32) as u32;
    }
}
