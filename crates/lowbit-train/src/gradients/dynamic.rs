//! Dynamic (tree) codes of 8 bits, a block at a time (Dettmers et al. 2022, arXiv 2110.02861).

use super::GradientError;
use super::check_finite;

/// Numbers that share a scale.
pub const BLOCK: usize = 2048;

/// 256 numbers within −1…1, or 0…1, in rising order. An exponent of tens takes as many bits as it has
/// zeros, and what is left over of the 8 bits divides 0.1…1 evenly: small numbers get a wide range, and
/// large ones fine steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    values: [f32; 256],
}

/// Numbers as codes, and the greatest magnitude of each block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantized {
    /// One code a number.
    pub codes: Vec<u8>,
    /// One scale a block of [`BLOCK`] numbers.
    pub scales: Vec<f32>,
}

impl Codes {
    /// The codes of numbers with a sign, for first moments.
    pub fn signed() -> Self {
        let mut values = vec![0.0, 1.0];
        for exponent in 0..7 {
            for mean in means(1 << exponent) {
                let value = mean * f64::powi(10.0, exponent - 6);
                values.extend([value, -value]);
            }
        }
        Self::sorted(values)
    }

    /// The codes of numbers that are not negative, for second moments.
    pub fn unsigned() -> Self {
        let mut values = vec![0.0, 1.0];
        for exponent in 0..7 {
            let scale = f64::powi(10.0, exponent - 6);
            values.extend(means(2 << exponent).map(|mean| mean * scale));
        }
        Self::sorted(values)
    }

    fn sorted(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { values: std::array::from_fn(|at| values[at] as f32) }
    }

    /// Returns the numbers.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// Returns the code of the nearest number; between two equally near ones, the lower.
    pub fn nearest(&self, x: f32) -> u8 {
        let above = self.values.partition_point(|&value| value < x).min(255);
        let below = above.saturating_sub(1);
        let nearer_below = x - self.values[below] <= self.values[above] - x;
        if nearer_below { below as u8 } else { above as u8 }
    }

    /// Quantizes blocks of numbers, each relative to its greatest magnitude. A block of zeros has a
    /// scale of 0. With `keep_nonzero`, a number that is not 0 does not get the code of 0 but that of
    /// the least number above: a second moment of 0 would divide its step by nothing but ε.
    ///
    /// # Errors
    /// Returns [`GradientError::NonFinite`].
    pub fn quantize(&self, x: &[f32], keep_nonzero: bool) -> Result<Quantized, GradientError> {
        check_finite(x)?;
        let zero = self.nearest(0.0);
        let mut quantized = Quantized::default();
        for block in x.chunks(BLOCK) {
            let scale = block.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            quantized.scales.push(scale);
            quantized.codes.extend(block.iter().map(|&x| {
                let code = if scale > 0.0 { self.nearest(x / scale) } else { zero };
                if keep_nonzero && code == zero && x > 0.0 { code + 1 } else { code }
            }));
        }
        Ok(quantized)
    }

    /// Returns the numbers that codes stand for.
    pub fn dequantize(&self, quantized: &Quantized) -> Vec<f32> {
        let blocks = quantized.codes.chunks(BLOCK).zip(&quantized.scales);
        blocks
            .flat_map(|(codes, &scale)| {
                codes.iter().map(move |&code| self.values[usize::from(code)] * scale)
            })
            .collect()
    }
}

/// Returns the middles of `count` equal parts of 0.1…1.
fn means(count: u32) -> impl Iterator<Item = f64> {
    let step = 0.9 / f64::from(count);
    (0..count).map(move |at| 0.1 + step * (f64::from(at) + 0.5))
}
