use super::bound::Sum;
use super::row::{Weight, decode_row};
use super::sweep::{dot, sweep};
use super::{Expected, OutputType, ReferenceError, check_finite, check_length, room_for};
use crate::format::PackedWeights;

/// One matmul, `Y = X · Wᵀ (+ bias)`, with f32 accumulation.
#[derive(Clone, Copy, Debug)]
pub struct MatmulCase<'a> {
    /// `[m, K]` row-major, the values that the kernel sees: f16 inputs widened exactly.
    pub x: &'a [f32],
    /// Rows of X.
    pub m: usize,
    /// `[N, K]`, packed.
    pub weights: &'a PackedWeights,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// What results are written as.
    pub output: OutputType,
    /// Whether the kernel computes `s·(Σcx − z·Σx)`: a looser bound, since it cancels.
    /// Its sums must leave pruned weights out.
    pub zero_folded: bool,
}

impl MatmulCase<'_> {
    /// Checks lengths and finiteness.
    pub(super) fn check(&self) -> Result<(), ReferenceError> {
        let (n, k) = (self.weights.n(), self.weights.k());
        let too_large = ReferenceError::TooLarge { rows: self.m, columns: k };
        check_length("x", self.m.checked_mul(k).ok_or(too_large)?, self.x.len())?;
        check_finite("x", k, self.x)?;
        if let Some(bias) = self.bias {
            check_length("bias", n, bias.len())?;
            check_finite("bias", n, bias)?;
        }
        Ok(())
    }
}

/// A decoded row of weights as dense columns, and what its bounds need.
pub(super) struct DenseRow {
    /// `[K]`, 0 where pruned.
    values: Vec<f64>,
    /// `[K]`: magnitudes relative to which a folded kernel rounds; else empty.
    folded: Vec<f64>,
    /// Products that can be other than 0.
    terms: usize,
    /// A of the derivation without Σ|x|, in units of η.
    flushes: f64,
}

impl DenseRow {
    /// Spreads the decoded weights of row `row`.
    ///
    /// # Errors
    /// [`ReferenceError::NonFinite`].
    pub fn new(
        weights: &PackedWeights,
        row: usize,
        kept: &[Weight],
        zero_folded: bool,
    ) -> Result<Self, ReferenceError> {
        let mut dense = Self {
            values: vec![0.0; weights.k()],
            folded: vec![0.0; if zero_folded { weights.k() } else { 0 }],
            terms: 0,
            flushes: 3.0,
        };
        for weight in kept {
            if !weight.value.is_finite() {
                let column = weight.column;
                return Err(ReferenceError::NonFinite { role: "weights", row, column });
            }
            dense.values[weight.column] = weight.value;
            let magnitude = if zero_folded { weight.folded } else { weight.value.abs() };
            dense.terms += usize::from(magnitude != 0.0);
            dense.flushes += flushes(weight, zero_folded);
            if zero_folded {
                dense.folded[weight.column] = magnitude;
            }
        }
        Ok(dense)
    }

    /// The exact sum with one row of X, and the magnitude that roundings are relative to.
    pub fn dot(&self, x: &[f64]) -> (f64, f64) {
        let (value, magnitude) = dot(&self.values, x);
        let folded = !self.folded.is_empty();
        (value, if folded { dot(&self.folded, x).1 } else { magnitude })
    }
}

/// What one weight adds to A of the derivation, in units of η.
pub(super) fn flushes(weight: &Weight, zero_folded: bool) -> f64 {
    let scale = weight.scale.max(1.0);
    if zero_folded { 2.0 * weight.folded + 8.0 * scale } else { weight.value.abs() + 3.0 * scale }
}

/// Every output of a matmul, `[m, N]`, with its bound.
///
/// Magnitudes past f32's range are outside the contract, as is the order in which a
/// kernel meets them: an infinite f32 output never passes [`check`](super::check()).
///
/// # Errors
/// [`ReferenceError`]: lengths that do not fit, non-finite inputs or weights, more terms
/// a sum than [`MAX_ROUNDINGS`](super::MAX_ROUNDINGS) allows.
pub fn matmul(case: &MatmulCase) -> Result<Vec<Expected>, ReferenceError> {
    case.check()?;
    let weights = case.weights;
    let k = weights.k();
    // Of each row of X: how many x are not 0, and Σ|x|.
    let mut inputs = room_for(case.m, 1)?;
    inputs.extend((0..case.m).map(|m| {
        let row = &case.x[m * k..][..k];
        let sum: f64 = row.iter().map(|&x| f64::from(x).abs()).sum();
        (row.iter().filter(|&&x| x != 0.0).count(), sum)
    }));
    let prepare = |row| {
        let mut kept = Vec::new();
        decode_row(weights, row, &mut kept)?;
        DenseRow::new(weights, row, &kept, case.zero_folded)
    };
    sweep(case, prepare, |dense, row, m, x| {
        let (nonzero, sum_x) = inputs[m];
        let (value, magnitude) = dense.dot(x);
        let bias = case.bias.map_or(0.0, |bias| f64::from(bias[row]));
        let sum = Sum {
            terms: dense.terms.min(nonzero),
            scaled: weights.format().code_type().is_integer(),
            bias: case.bias.is_some(),
            folded_groups: case.zero_folded.then_some(weights.geometry().groups),
            magnitude: magnitude + bias.abs(),
            flushes: dense.flushes + sum_x,
        };
        Ok(Expected::new(value + bias, sum.bound()?, case.output))
    })
}
