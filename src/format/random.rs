use super::{
    CodeType, FormatError, Geometry, Granularity, Mask24, Offset, PackedWeights, Parts, ScaleType,
    Scales, WeightFormat,
};
use half::f16;

/// Creates a matrix of any format with pseudorandom codes, scales and everything else, for tests and
/// benches: also of formats that nothing quantizes to. Scales are between 2⁻⁷ and 2⁻⁶ (those of two
/// levels and of one byte up to 2), some of them negative if `signed`.
///
/// # Errors
/// Returns the errors of [`WeightFormat::geometry`].
#[doc(hidden)]
pub fn random_weights(
    format: WeightFormat,
    n: usize,
    k: usize,
    seed: u32,
    signed: bool,
) -> Result<PackedWeights, FormatError> {
    let geometry = format.geometry(n, k)?;
    let mut random = Random(seed.wrapping_mul(2_654_435_769) | 1);
    let mut codes: Vec<u32> = (0..n * geometry.code_words).map(|_| random.next()).collect();
    keep_finite(format.code_type(), &mut codes);
    let mask = if format.is_sparse() {
        let at = random.next() as usize % 4;
        Mask24::from_fn(n, k, |row, k| (k + row) % 4 == at || (k + 2 * row) % 4 == at)?.into_words()
    } else {
        Vec::new()
    };
    let scales = random.scales(&geometry, geometry.scales, signed);
    let (low, high) = format.code_range().unwrap_or((0, 0));
    let minima = match format.offset() {
        Offset::FloatZeroPoint => random.zero_points(&geometry, high),
        Offset::Minimum => random.scales(&geometry, geometry.minima, true),
        _ => Scales::default(),
    };
    let zero = |random: &mut Random| low + (random.next() % (high - low + 1) as u32) as i32;
    let nibbles = format.offset() == Offset::ZeroPoint4;
    let zeros = (0..geometry.zeros)
        .map(|_| {
            let high = if nibbles { zero(&mut random) << 4 } else { 0 };
            (zero(&mut random) | high) as u8
        })
        .collect();
    let codebook = match format.code_type() {
        CodeType::Codebook => (0..16).map(|_| random.float() * 4.0 - 2.0).collect(),
        _ => Vec::new(),
    };
    let mut order: Vec<u32> =
        if format.is_permuted() { (0..k as u32).collect() } else { Vec::new() };
    for at in (1..order.len()).rev() {
        order.swap(at, random.next() as usize % (at + 1));
    }
    let parts = Parts { codes, metadata: mask, scales, zeros, minima, codebook, order };
    PackedWeights::new(format, n, k, parts)
}

/// Changes codes that are NaN or infinite, and f32 and f16 codes to numbers of at most 2.
fn keep_finite(code_type: CodeType, codes: &mut [u32]) {
    for word in codes {
        match code_type {
            CodeType::F32 => *word = *word & 0x807f_ffff | 0x3f00_0000,
            CodeType::F16 => *word = *word & 0x83ff_83ff | 0x3800_3800,
            // The only NaN has all other bits set.
            CodeType::E4m3 => *word &= 0xfefe_fefe,
            // Infinities and NaNs have all five exponent bits set.
            CodeType::E5m2 => *word &= 0xbfbf_bfbf,
            _ => {}
        }
    }
}

/// A small linear congruential generator.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((self.0 >> ((self.0 >> 28) + 4)) ^ self.0).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }

    /// Returns a number between 0 and 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 24) as f32
    }

    /// Returns a number between 2⁻⁷ and 2⁻⁶, or its negative.
    fn small(&mut self, signed: bool) -> f32 {
        let value = (1.0 + self.float()) / 128.0;
        if signed && self.next() & 1 == 1 { -value } else { value }
    }

    /// Returns zero points that are floats between 0 and the highest code.
    fn zero_points(&mut self, geometry: &Geometry, high: i32) -> Scales {
        let all = (0..geometry.minima).map(|_| self.float() * high as f32);
        match geometry.format.scale_type() {
            ScaleType::F16 => Scales::F16(all.map(f16::from_f32).collect()),
            _ => Scales::F32(all.collect()),
        }
    }

    fn scales(&mut self, geometry: &Geometry, count: usize, signed: bool) -> Scales {
        let upper = geometry.upper();
        match geometry.format.scale_type() {
            ScaleType::F32 => Scales::F32((0..count).map(|_| self.small(signed)).collect()),
            ScaleType::F16 => {
                Scales::F16((0..count).map(|_| f16::from_f32(self.small(signed))).collect())
            }
            ScaleType::E8m0 => {
                Scales::E8m0((0..count).map(|_| 118 + (self.next() % 10) as u8).collect())
            }
            ScaleType::Int8Super => Scales::Int8Super {
                groups: (0..count)
                    .map(|_| {
                        (self.next() % 64) as i8
                            * if signed && self.next() & 1 == 1 { -1 } else { 1 }
                    })
                    .collect(),
                supers: (0..upper).map(|_| f16::from_f32(self.small(signed) / 32.0)).collect(),
            },
            ScaleType::E4m3Tensor => Scales::E4m3Tensor {
                groups: (0..count).map(|_| (self.next() % 0x70) as u8).collect(),
                tensor: if count > 0 { self.small(false) } else { 1.0 },
            },
        }
    }
}

/// Every format that [`WeightFormat::all`] has and others that between them have every code type,
/// every offset, every type of scales and permuted columns: for tests that go over all formats.
#[doc(hidden)]
pub fn sample_formats() -> Vec<WeightFormat> {
    let mut formats = WeightFormat::all([32, 6]);
    formats.extend(WeightFormat::named().map(|(_, format)| format));
    let [small, whole] = [20, 64].map(|g| match Granularity::group(g) {
        Ok(group) => group,
        Err(_) => Granularity::Channel,
    });
    for code_type in CodeType::ALL {
        for granularity in [Granularity::Tensor, Granularity::Channel, small, whole] {
            for offset in Offset::ALL {
                for scale_type in ScaleType::ALL {
                    let format = WeightFormat::new(code_type, granularity)
                        .with_offset(offset)
                        .with_scales(scale_type);
                    formats.extend([format, format.permuted()]);
                }
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    formats.retain(|format| format.check().is_ok() && seen.insert(*format));
    formats
}

/// Returns the formats of other projects, and others that between them have every two of code type,
/// granularity, offset and type of scales that go together, without those that [`WeightFormat::all`]
/// has: for lists of kernels and cases, which cannot go over all formats.
#[doc(hidden)]
pub fn other_formats() -> Vec<WeightFormat> {
    let groups = [16, 32, 64, 20].map(|g| Granularity::group(g).ok());
    let granularities: Vec<_> =
        [Some(Granularity::Channel)].into_iter().chain(groups).flatten().collect();
    let mut all = Vec::new();
    for code_type in CodeType::ALL {
        for &granularity in &granularities {
            for offset in Offset::ALL {
                for scale_type in ScaleType::ALL {
                    let format = WeightFormat::new(code_type, granularity)
                        .with_offset(offset)
                        .with_scales(scale_type);
                    if format.check().is_ok() && format.code_type().has_scales() {
                        all.push(format);
                    }
                }
            }
        }
    }
    let plain: std::collections::HashSet<_> =
        WeightFormat::all([32, 20]).into_iter().chain(WeightFormat::all([16, 64])).collect();
    let pairs = |f: &WeightFormat| {
        let facts = [
            format!("{:?}", f.code_type()),
            format!("{:?}", f.granularity()),
            format!("{:?}", f.offset()),
            format!("{:?}", f.scale_type()),
        ];
        (0..4)
            .flat_map(move |i| (0..i).map(move |j| (i, j)))
            .map(move |(i, j)| format!("{i}{}{j}{}", facts[i], facts[j]))
    };
    let mut formats: Vec<_> = WeightFormat::named().map(|(_, format)| format).collect();
    let mut seen = std::collections::HashSet::new();
    formats.iter().for_each(|format| seen.extend(pairs(format)));
    for format in all.into_iter().filter(|format| !plain.contains(format)) {
        if pairs(&format).any(|pair| !seen.contains(&pair)) {
            seen.extend(pairs(&format));
            formats.push(format);
        }
    }
    formats.retain(|format| !plain.contains(format));
    formats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_every_code_type_offset_and_scale() {
        for (list, most) in [(other_formats(), 200), (sample_formats(), 1500)] {
            assert!(list.len() < most, "{}", list.len());
            assert!(list.len() > 60, "{}", list.len());
            for offset in Offset::ALL {
                assert!(list.iter().any(|f| f.offset() == offset), "{offset:?}");
            }
            for scale_type in ScaleType::ALL {
                assert!(list.iter().any(|f| f.scale_type() == scale_type), "{scale_type:?}");
            }
            for code_type in CodeType::ALL.into_iter().filter(|code| code.bits() < 16) {
                assert!(list.iter().any(|f| f.code_type() == code_type), "{code_type:?}");
            }
        }
    }
}
