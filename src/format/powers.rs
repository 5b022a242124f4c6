use super::{CodeType, Granularity, Offset, PackedWeights, Parts, Scales};
use half::f16;

impl PackedWeights {
    /// Multiplies each row by a power of two, exactly: scales change, or floats that have none. `exponents`
    /// has one for each row.
    ///
    /// Returns `None` if that is not exact: if rows that are multiplied differently share a scale, or if a
    /// number would leave the range of its type. Also if there are not as many exponents as rows.
    pub fn times_powers_of_two(&self, exponents: &[i32]) -> Option<Self> {
        let g = *self.geometry();
        if exponents.len() != g.n {
            return None;
        }
        if exponents.iter().all(|&exponent| exponent == 0) {
            return Some(self.clone());
        }
        let format = self.format();
        let mut parts = self.parts().clone();
        match format.code_type() {
            CodeType::F32 => {
                for (at, word) in parts.codes.iter_mut().enumerate() {
                    *word = times(f32::from_bits(*word), exponents[at / g.code_words])?.to_bits();
                }
            }
            CodeType::F16 => {
                for (at, word) in parts.codes.iter_mut().enumerate() {
                    let exponent = exponents[at / g.code_words];
                    let half = |bits: u32| times_f16(f16::from_bits(bits as u16), exponent);
                    *word = u32::from(half(*word & 0xffff)?.to_bits())
                        | u32::from(half(*word >> 16)?.to_bits()) << 16;
                }
            }
            _ if format.granularity() == Granularity::Tensor => return None,
            _ => {
                let Parts { scales, minima, .. } = &mut parts;
                times_scales(scales, exponents)?;
                // A zero point that is a float is one of codes, and no number of its own.
                if format.offset() == Offset::Minimum {
                    times_scales(minima, exponents)?;
                }
            }
        }
        Self::new(format, g.n, g.k, parts).ok()
    }
}

/// Multiplies the scales of rows, of which each has as many.
fn times_scales(scales: &mut Scales, exponents: &[i32]) -> Option<()> {
    let rows = exponents.len().max(1);
    match scales {
        Scales::F32(scales) => each(scales, rows, |scale, row| times(scale, exponents[row])),
        Scales::F16(scales) | Scales::Int8Super { supers: scales, .. } => {
            each(scales, rows, |scale, row| times_f16(scale, exponents[row]))
        }
        Scales::E8m0(scales) => each(scales, rows, |scale, row| {
            // 255 is a NaN.
            let sum = i32::from(scale).checked_add(exponents[row])?;
            u8::try_from(sum).ok().filter(|&sum| sum < u8::MAX)
        }),
        // All rows share a factor.
        Scales::E4m3Tensor { .. } => None,
    }
}

/// Replaces each value, given the row that it is of.
fn each<T: Copy>(
    values: &mut [T],
    rows: usize,
    mut replace: impl FnMut(T, usize) -> Option<T>,
) -> Option<()> {
    let each = (values.len() / rows).max(1);
    for (at, value) in values.iter_mut().enumerate() {
        *value = replace(*value, at / each)?;
    }
    Some(())
}

/// Returns `value · 2^exponent` if that is exact.
fn times(value: f32, exponent: i32) -> Option<f32> {
    let factor = 2f32.powi(exponent);
    let product = value * factor;
    (product.is_finite() && product / factor == value).then_some(product)
}

fn times_f16(value: f16, exponent: i32) -> Option<f16> {
    let product = times(value.to_f32(), exponent)?;
    let half = f16::from_f32(product);
    (half.to_f32() == product).then_some(half)
}

#[cfg(test)]
mod tests {
    use crate::compress::dequantize;
    use crate::format::{WeightFormat, random_weights};

    /// Every number of every format that can is multiplied exactly, and the codes of integers stay.
    #[test]
    fn rows_are_multiplied_exactly() {
        let exponents = [0, 3, 8, 1, 5];
        let named = WeightFormat::named().map(|(_, format)| format);
        let more =
            ["f32", "f16", "int8-channel", "int4-g64-asym", "2:4+int8-g32", "2:4+f16", "nf4-g64"];
        let more = more.into_iter().map(|name| name.parse().unwrap());
        let mut done = 0;
        for format in named.chain(more) {
            let Ok(weights) = random_weights(format, 5, 256, 3, true) else { continue };
            let Some(times) = weights.times_powers_of_two(&exponents) else {
                assert!(format.to_string().contains("e4m3s"), "{format}");
                continue;
            };
            for (at, (new, old)) in dequantize(&times).iter().zip(dequantize(&weights)).enumerate()
            {
                assert_eq!(*new, old * 2f32.powi(exponents[at / 256]), "{format}, {at}");
            }
            if format.code_type().has_scales() {
                assert_eq!(times.codes(), weights.codes(), "{format}");
            }
            done += 1;
        }
        assert!(done > 15, "{done}");
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        let weights = |name: &str| random_weights(name.parse().unwrap(), 2, 64, 3, false).unwrap();
        let times = |name: &str, exponents: &[i32]| weights(name).times_powers_of_two(exponents);
        for name in ["f32", "f16", "int8-channel", "int8-tensor", "q4_1", "mxfp4"] {
            assert_eq!(times(name, &[0, 0]), Some(weights(name)), "{name}");
            assert_eq!(times(name, &[0]), None, "{name}");
            assert_eq!(times(name, &[0, 300]), None, "{name}");
            assert_eq!(times(name, &[-300, 0]), None, "{name}");
        }
        assert_eq!(times("int8-tensor", &[0, 1]), None);
        // Digits that an f16 loses below its range.
        assert_eq!(times("q4_1", &[-20, 0]), None);
        assert_eq!(times("f16", &[0, -20]), None);
    }
}
