use super::matmul::{DenseRow, is_folded};
use super::row::decode_row;
use super::sweep::sweep;
use super::{MatmulCase, ReferenceError, f64_to_f16};
use crate::format::PackedWeights;

/// The reason why a case may need rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inexact {
    /// An x has a fractional part.
    #[error("an input x is not an integer")]
    FractionalInput,
    /// A scale is not a power of two.
    #[error("a scale is not a power of two")]
    ScaleNotPowerOfTwo,
    /// A partial sum may need more than 24 bits.
    #[error("partial sums may reach 2^24 units")]
    TooLarge,
    /// Sums may be subnormal or infinite in f32.
    #[error("the unit of the sums is too small or too large for f32")]
    OutOfRange,
}

/// The only correct result for one output, as f32 and rounded to f16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// The value, which f32 represents exactly.
    pub f32: f32,
    /// The bits of the f16 nearest to it, with ties to even.
    pub f16: u16,
}

impl Exact {
    /// Returns whether an f32 output has this value. Zeros of either sign are equal.
    pub fn is_f32(&self, got: f32) -> bool {
        got == self.f32
    }

    /// Returns whether an f16 output has this value. Zeros of either sign are equal.
    pub fn is_f16(&self, bits: u16) -> bool {
        bits == self.f16 || (bits | self.f16) & 0x7fff == 0
    }
}

/// 2²⁴. Integers below it are exact in f32, and so are sums of integers if they stay below it.
const LIMIT: f64 = 16_777_216.0;

/// A row of weights that are all integer multiples of one power of two.
struct ExactRow {
    dense: DenseRow,
    unit: f64,
    bias: f64,
    /// Σ of the magnitudes of the weights, as they contribute to partial sums.
    magnitude: f64,
}

impl ExactRow {
    /// Prepares a row. Its unit is the least of its scales (for floats: of the lowest set bits of
    /// the weights) and of the lowest set bit of the bias. Every partial sum is then an integer in
    /// that unit, whether it is scaled or not: an unscaled sum has the unit 1 instead, and it takes
    /// up less room by the factor scale/unit ≥ 1.
    fn new(
        weights: &PackedWeights,
        row: usize,
        bias: Option<&[f32]>,
        zero_folded: bool,
    ) -> Result<Result<Self, Inexact>, ReferenceError> {
        let mut kept = Vec::new();
        decode_row(weights, row, &mut kept)?;
        let zero_folded = is_folded(weights, zero_folded);
        let dense = DenseRow::new(weights, row, &kept, zero_folded)?;
        let code_type = weights.format().code_type();
        let (scaled, integer) = (code_type.has_scales(), code_type.is_integer());
        let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
        let (mut unit, mut magnitude) = (lowest_bit(bias), 0.0);
        for weight in &kept {
            let scale = weight.scale.abs();
            if scaled && scale != 0.0 && lowest_bit(scale) != scale {
                return Ok(Err(Inexact::ScaleNotPowerOfTwo));
            }
            // A sum of integers is scaled as a whole, whatever its zero point; the numbers of other
            // codes have bits of their own.
            let number = if integer { 1.0 } else { lowest_bit(weight.number) };
            let own = if scaled && scale != 0.0 { number * scale } else { f64::INFINITY };
            let own = if scaled { own } else { lowest_bit(weight.value) };
            unit = unit.min(own).min(lowest_bit(weight.minimum));
            magnitude += if zero_folded { weight.folded } else { weight.value.abs() };
        }
        if unit == f64::INFINITY {
            unit = 1.0;
        }
        let fits = unit >= f64::from(f32::MIN_POSITIVE) && unit * LIMIT <= f64::from(f32::MAX);
        Ok(if fits { Ok(Self { dense, unit, bias, magnitude }) } else { Err(Inexact::OutOfRange) })
    }
}

/// Returns the value of the lowest set bit, or infinity for 0.
fn lowest_bit(value: f64) -> f64 {
    let bits = value.abs().to_bits();
    if bits == 0 {
        return f64::INFINITY;
    }
    // Clearing the lowest set bit of the fraction gives a number that is smaller by that bit's
    // value. If no bit of the fraction is set, the number itself is a power of two. All inputs are
    // normal in f64.
    let fraction = bits & ((1 << 52) - 1);
    if fraction == 0 {
        return f64::from_bits(bits);
    }
    f64::from_bits(bits) - f64::from_bits(bits & (bits - 1))
}

/// Computes the outputs `[m, N]` of a matmul that every kernel must compute exactly, in any order
/// of summation, with or without fused operations.
///
/// This needs an X of small integers and scales that are powers of two, and every partial sum must
/// be less than 2²⁴ units of the row's least scale. One wrong code, column or scale then changes
/// the result, however large K is. f16 outputs are the exact sum, rounded once.
///
/// # Errors
/// Returns [`ReferenceError::NotExact`] if the case does not meet these conditions, and otherwise
/// the errors of [`matmul`](super::matmul()).
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
        // Below the limit, these f64 sums are exact as well, and they exceed it if the true sums
        // do.
        let (sum, magnitude) = exact.dense.dot(x);
        if (magnitude + exact.bias.abs()) / exact.unit >= LIMIT {
            return Err(ReferenceError::NotExact { m, n: row, why: Inexact::TooLarge });
        }
        let sum = sum + exact.bias;
        Ok(Exact { f32: sum as f32, f16: f64_to_f16(sum) })
    })
}

/// Returns the largest |x| for which [`matmul_exact`] accepts every X of integers, or 0 if it
/// accepts none. Dense int16 at K = 4096 needs small codes, because 512 products of full codes
/// reach 2²⁴.
///
/// # Errors
/// Returns a [`ReferenceError`] if the bias has the wrong length, or if weights or bias are not
/// finite.
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
        // The limit itself is excluded, because sums must stay below it.
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
