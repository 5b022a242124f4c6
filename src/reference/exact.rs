use super::matmul::DenseRow;
use super::row::decode_row;
use super::sweep::sweep;
use super::{MatmulCase, ReferenceError, f64_to_f16};
use crate::format::PackedWeights;

/// Why a case may round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inexact {
    /// An x with a fractional part.
    #[error("an x is no integer")]
    FractionalInput,
    /// A scale with more than one bit set.
    #[error("a scale is no power of two")]
    ScaleNotPowerOfTwo,
    /// Some partial sum may need more than 24 bits.
    #[error("partial sums may reach 2^24 units")]
    TooLarge,
    /// Sums, in f32, may become subnormal or infinite.
    #[error("the unit of the sums is too small or too large for f32")]
    OutOfRange,
}

/// The only right answer for one output, as f32 and rounded to f16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// The value, representable in f32.
    pub f32: f32,
    /// The bits of the f16 nearest to it, ties to even.
    pub f16: u16,
}

impl Exact {
    /// Whether an f32 output has this value; the sign of zero is free.
    pub fn is_f32(&self, got: f32) -> bool {
        got == self.f32
    }

    /// Whether an f16 output has this value; the sign of zero is free.
    pub fn is_f16(&self, bits: u16) -> bool {
        bits == self.f16 || (bits | self.f16) & 0x7fff == 0
    }
}

/// 2²⁴: integers below it, and their sums below it, are exact in f32.
const LIMIT: f64 = 16_777_216.0;

/// A row of weights, each an integer multiple of one power of two.
struct ExactRow {
    dense: DenseRow,
    unit: f64,
    bias: f64,
    /// Σ of the weights' magnitudes, as partial sums meet them.
    magnitude: f64,
}

impl ExactRow {
    /// The unit of a row is its least scale (a float's lowest set bit, and the bias's), so
    /// that every partial sum is an integer in that unit, scaled or not: an unscaled sum
    /// is one in units of 1, with scale/unit ≥ 1 times less room taken.
    fn new(
        weights: &PackedWeights,
        row: usize,
        bias: Option<&[f32]>,
        zero_folded: bool,
    ) -> Result<Result<Self, Inexact>, ReferenceError> {
        let mut kept = Vec::new();
        decode_row(weights, row, &mut kept)?;
        let dense = DenseRow::new(weights, row, &kept, zero_folded)?;
        let integer = weights.format().code_type().is_integer();
        let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
        let (mut unit, mut magnitude) = (lowest_bit(bias), 0.0);
        for weight in &kept {
            if integer && lowest_bit(weight.scale) != weight.scale {
                return Ok(Err(Inexact::ScaleNotPowerOfTwo));
            }
            unit = unit.min(lowest_bit(if integer { weight.scale } else { weight.value }));
            magnitude += if zero_folded { weight.folded } else { weight.value.abs() };
        }
        if unit == f64::INFINITY {
            unit = 1.0;
        }
        let fits = unit >= f64::from(f32::MIN_POSITIVE) && unit * LIMIT <= f64::from(f32::MAX);
        Ok(if fits { Ok(Self { dense, unit, bias, magnitude }) } else { Err(Inexact::OutOfRange) })
    }
}

/// The value of the lowest set bit; infinite for 0.
fn lowest_bit(value: f64) -> f64 {
    let bits = value.abs().to_bits();
    if bits == 0 {
        return f64::INFINITY;
    }
    // Clearing the lowest set bit of the fraction leaves a number that differs by just it;
    // without one, the number is itself a power of two. All inputs are normal in f64.
    let fraction = bits & ((1 << 52) - 1);
    if fraction == 0 {
        return f64::from_bits(bits);
    }
    f64::from_bits(bits) - f64::from_bits(bits & (bits - 1))
}

/// The outputs, `[m, N]`, of a matmul that any kernel must get exactly, in any order of
/// summation, fused or not: X small integers, scales powers of two, every partial sum
/// below 2²⁴ units of the row's least scale. One wrong code, column or scale then shows,
/// however large K is. For f16 outputs the sum is exact and rounded once.
///
/// # Errors
/// [`ReferenceError::NotExact`] where the case does not meet that; else as
/// [`matmul`](super::matmul).
pub fn matmul_exact(case: &MatmulCase) -> Result<Vec<Exact>, ReferenceError> {
    case.check()?;
    let k = case.weights.k();
    if let Some(at) = case.x.iter().position(|x| x.fract() != 0.0) {
        return Err(ReferenceError::NotExact { m: at / k, n: 0, why: Inexact::FractionalInput });
    }
    let prepare = |row| {
        ExactRow::new(case.weights, row, case.bias, case.zero_folded)?
            .map_err(|why| ReferenceError::NotExact { m: 0, n: row, why })
    };
    sweep(case, prepare, |exact, row, m, x| {
        // Below the limit these f64 sums are exact too, and they pass it if the true ones do.
        let (sum, magnitude) = exact.dense.dot(x);
        if (magnitude + exact.bias.abs()) / exact.unit >= LIMIT {
            return Err(ReferenceError::NotExact { m, n: row, why: Inexact::TooLarge });
        }
        let sum = sum + exact.bias;
        Ok(Exact { f32: sum as f32, f16: f64_to_f16(sum) })
    })
}

/// The largest |x| for which [`matmul_exact`] accepts every X of integers; 0 where it
/// accepts none. Dense int16 at K = 4096 needs small codes: 512 full ones fill 2²⁴.
///
/// # Errors
/// [`ReferenceError`]: a bias of the wrong length, non-finite weights or bias.
pub fn exact_limit(
    weights: &PackedWeights,
    bias: Option<&[f32]>,
    zero_folded: bool,
) -> Result<u32, ReferenceError> {
    if let Some(bias) = bias {
        super::check_length("bias", weights.n(), bias.len())?;
        super::check_finite("bias", weights.n(), bias)?;
    }
    let mut limit = LIMIT - 1.0;
    for row in 0..weights.n() {
        let Ok(exact) = ExactRow::new(weights, row, bias, zero_folded)? else {
            return Ok(0);
        };
        let units = exact.magnitude / exact.unit;
        // Not LIMIT itself: sums stay below it.
        let room = LIMIT - 1.0 - exact.bias.abs() / exact.unit;
        limit = limit.min(if units > 0.0 { (room / units).floor() } else { limit });
    }
    Ok(limit.max(0.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_bits() {
        for (value, bit) in
            [(1.0, 1.0), (6.0, 2.0), (-0.75, 0.25), (1.0 + UNIT, UNIT), (96.0, 32.0)]
        {
            assert_eq!(lowest_bit(value), bit);
        }
        assert_eq!(lowest_bit(0.0), f64::INFINITY);
        assert_eq!(lowest_bit(-0.0), f64::INFINITY);
        assert_eq!(lowest_bit(f64::from(f32::from_bits(6))), f64::from(f32::from_bits(2)));
    }
    const UNIT: f64 = super::super::UNIT;
}
