//! The numbers of a case, which are the same on every machine.

use super::{Case, Values};
use crate::compress::{self, CompressError};
use crate::format::{CodeType, PackedWeights, Parts, Scales, WeightFormat, random_weights};
use crate::host::Host;
use crate::ops::{DeviceWeights, FloatType, texture_width};
use half::f16;

/// The random number generator SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Returns a number from a roughly normal distribution with deviation 1, which is the sum of
    /// four 16-bit uniform numbers. Its magnitude is at least 0.02, because the scale of a group
    /// with a few tiny weights would be too small for f16, which is an error.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: i64 = (0..4).map(|i| i64::from((bits >> (16 * i)) as u16)).sum();
        let v = (sum - 2 * 65535) as f32 / 37_837.0;
        v.abs().max(0.02).copysign(v)
    }
}

/// Returns `count` values of a pattern.
pub(super) fn values(pattern: Values, count: usize, random: &mut Random) -> Vec<f32> {
    (0..count)
        .map(|i| {
            let v = random.normal();
            match pattern {
                Values::Normal => v,
                Values::Outliers if random.below(64) == 0 => 100.0 * v,
                Values::Outliers => v,
                Values::SignedZeros => [v, v, 0.0, -0.0][random.below(4) as usize],
                Values::DeadGroups if i / 48 % 2 == 1 => 0.0,
                Values::DeadGroups => v,
                Values::Extreme => [1.5, -1.5][random.below(2) as usize],
                Values::Constant => 1.5,
                // The values are multiples of 2⁻⁸. If the range is ±127 steps of 2⁻⁷, every second
                // value is a tie.
                Values::Ties if i % 16 == 0 => 127.0 / 128.0,
                Values::Ties => match random.below(509) as f32 - 254.0 {
                    0.0 => 0.0,
                    // A row of one column must have a scale that f16 can hold, also with 255 steps.
                    steps => steps.abs().max(4.0).copysign(steps) / 256.0,
                },
                // The biased exponents are 0 to 7, so that a step is subnormal if a range has
                // 127 or 255 of them.
                Values::Tiny => f32::from_bits(random.below(1 << 26) as u32).copysign(v),
                Values::NotFinite if i == count / 3 => f32::NAN,
                Values::NotFinite if i == count / 2 => f32::INFINITY,
                Values::NotFinite if i + 1 == count => f32::NEG_INFINITY,
                Values::NotFinite => v,
            }
        })
        .collect()
}

/// Returns rows `[m, k]` of X in the pattern of the case, rounded to the type of X. The magnitudes
/// of the rows differ by powers of two, so that using the scale of another row shows up. In normal
/// rows, the last column determines the range.
pub(super) fn rows(case: &Case, random: &mut Random) -> Vec<f32> {
    let mut x = values(case.values, case.m * case.k, random);
    if case.values == Values::Normal {
        x.chunks_mut(case.k.max(1))
            .filter_map(|row| row.last_mut())
            .for_each(|v| *v = 4f32.copysign(*v));
    }
    let sized = x.into_iter().enumerate().map(|(at, v)| v * size(at / case.k));
    sized.map(|v| rounded(case.activations, v)).collect()
}

/// Returns the factor that a row of [`rows`] is multiplied by.
pub(super) fn size(row: usize) -> f32 {
    [1.0, 1.0 / 64.0, 16.0][row % 3]
}

/// Returns `value` rounded to a type.
pub(super) fn rounded(float: FloatType, value: f32) -> f32 {
    match float {
        FloatType::F32 => value,
        FloatType::F16 => f16::from_f32(value).to_f32(),
    }
}

/// Returns `count` activations as the kernel sees them, rounded if they are f16.
pub(super) fn activations(case: &Case, count: usize, random: &mut Random) -> Vec<f32> {
    // The weights carry the pattern. X contains zeros of both signs if the pattern is about them.
    let pattern = match case.values {
        Values::SignedZeros => Values::SignedZeros,
        Values::Outliers => Values::Outliers,
        _ => Values::Normal,
    };
    let mut x = values(pattern, count, random);
    if case.activations == FloatType::F16 {
        x.iter_mut().for_each(|v| *v = rounded(FloatType::F16, *v));
    }
    x
}

/// Returns the weights of a case, quantized on the host, or random ones if nothing quantizes to their
/// format, or if it is one of floats whose f16 scales would be too small for numbers of this size.
pub(super) fn weights(case: &Case, random: &mut Random) -> Result<PackedWeights, CompressError> {
    let w = values(case.values, case.n * case.k, random);
    match compress::quantize(&w, case.n, case.k, &case.format) {
        Err(error) if is_random(&error, &case.format) => {
            let seed = random.below(1 << 32) as u32;
            Ok(random_weights(case.format, case.n, case.k, seed, true)?)
        }
        quantized => quantized,
    }
}

fn is_random(error: &CompressError, format: &WeightFormat) -> bool {
    match error {
        CompressError::NoRule { .. } => true,
        CompressError::ScaleRange { .. } => !format.code_type().is_integer(),
        _ => false,
    }
}

/// Returns weights for the exact pattern. Scales are powers of two and floats are small multiples
/// of 1/8, so that sums of their products with integers are exact in any order.
pub(super) fn exact_weights(
    case: &Case,
    packed: &PackedWeights,
    random: &mut Random,
) -> Result<PackedWeights, CompressError> {
    let (format, n, k) = (case.format, case.n, case.k);
    if !format.code_type().has_scales() {
        let w: Vec<f32> = (0..n * k).map(|_| (random.below(17) as f32 - 8.0) / 8.0).collect();
        // Nothing quantizes to permuted columns, so the order is added.
        let plain = WeightFormat::new(format.code_type(), format.granularity());
        let plain = if format.is_sparse() { plain.two_four() } else { plain };
        let parts = compress::quantize(&w, n, k, &plain)?.into_parts();
        let order = packed.order().to_vec();
        return Ok(PackedWeights::new(format, n, k, Parts { order, ..parts })?);
    }
    let mut parts = packed.parts().clone();
    narrow_codes(format.code_type(), &mut parts.codes);
    // The scales of neighboring groups differ, so that using the scale of the wrong group shows up.
    let power = |index: usize| [1.0, 0.5, 2.0][index % 3];
    make_exact(&mut parts.scales, power, |super_block| [1.0, 0.5, 2.0, 4.0][super_block % 4]);
    make_exact(
        &mut parts.minima,
        |index| [3.0, -2.0, 5.0, 1.0][index % 4],
        |super_block| [1.0, -0.5, 2.0][super_block % 3],
    );
    let number = |index: usize| (index * index % 16) as f32 - 7.0;
    parts.codebook.iter_mut().enumerate().for_each(|(index, value)| *value = number(index));
    Ok(PackedWeights::new(format, n, k, parts)?)
}

/// Replaces codes by others whose numbers have few bits, so that the sums of 4096 products with
/// integers stay below 2²⁴ units.
fn narrow_codes(code_type: CodeType, codes: &mut [u32]) {
    for word in codes {
        *word = match code_type {
            // Only seven bits and the sign are kept.
            CodeType::Int16 => {
                let pair = [*word as u16 as i16, (*word >> 16) as i16].map(|c| c % 128);
                u32::from(pair[0] as u16) | u32::from(pair[1] as u16) << 16
            }
            // Numbers from 1 to less than 4, with a sign.
            CodeType::E4m3 => (*word & 0x8f8f_8f8f) + 0x3838_3838,
            CodeType::E5m2 => (*word & 0x8787_8787) + 0x3c3c_3c3c,
            _ => match code_type.table() {
                Some(table) => narrow_entries(*word, table),
                None => *word,
            },
        };
    }
}

/// Replaces codes of a table that has numbers with many bits by codes of its zeros and powers of two.
fn narrow_entries(word: u32, table: &[f32; 16]) -> u32 {
    let fraction = |value: f32| value.to_bits() & 0x007f_ffff;
    if table.iter().all(|&value| fraction(value).trailing_zeros() >= 12) {
        return word;
    }
    let short: Vec<u32> = (0..16).filter(|&code| fraction(table[code as usize]) == 0).collect();
    each_nibble(word, |code| short[code as usize % short.len().max(1)])
}

fn each_nibble(word: u32, code: impl Fn(u32) -> u32) -> u32 {
    (0..8).fold(0, |out, i| out | code(word >> (4 * i) & 15) << (4 * i))
}

/// Replaces scales (or minima) by numbers that are small multiples of powers of two, the lower level
/// by `lower` of its index and the upper one by `upper`.
fn make_exact(scales: &mut Scales, lower: impl Fn(usize) -> f32, upper: impl Fn(usize) -> f32) {
    match scales {
        Scales::F32(all) => all.iter_mut().enumerate().for_each(|(i, s)| *s = lower(i)),
        Scales::F16(all) => {
            all.iter_mut().enumerate().for_each(|(i, s)| *s = f16::from_f32(lower(i)));
        }
        Scales::E8m0(all) => all.iter_mut().enumerate().for_each(|(i, s)| {
            *s = [127, 126, 128][i % 3];
        }),
        Scales::Int8Super { groups, supers } => {
            // Halves are none of its numbers.
            groups.iter_mut().enumerate().for_each(|(i, s)| *s = (2.0 * lower(i)) as i8);
            supers.iter_mut().enumerate().for_each(|(i, s)| *s = f16::from_f32(upper(i)));
        }
        Scales::E4m3Tensor { groups, tensor } => {
            groups.iter_mut().enumerate().for_each(|(i, s)| *s = [0x38, 0x30, 0x40][i % 3]);
            *tensor = 0.5;
        }
    }
}

/// Uploads weights. Their codes are stored in textures if the case says so, even if that is slower.
pub async fn upload(
    host: &Host,
    case: &Case,
    packed: &PackedWeights,
) -> Result<DeviceWeights, String> {
    let weights = DeviceWeights::upload(host.kernels(), packed).await;
    let weights = weights.map_err(|e| e.to_string())?;
    let width = texture_width(&case.format, case.k as u32, host.kernels().caps());
    if case.textures && width > 0 {
        host.textured_async(&weights).await.map_err(|e| e.to_string())
    } else {
        Ok(weights)
    }
}
