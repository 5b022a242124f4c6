use super::bound::{Sum, scalings, small_numbers};
use super::row::{Weight, decode_row};
use super::sweep::{dot, sweep};
use super::{Expected, OutputType, ReferenceError, check_finite, check_length, room_for};
use crate::format::PackedWeights;

/// One matmul `Y = X · Wᵀ (+ bias)` with f32 accumulation.
#[derive(Clone, Copy, Debug)]
pub struct MatmulCase<'a> {
    /// The inputs, `[m, K]` row-major, as the kernel sees them: f16 inputs are widened, which is
    /// exact.
    pub x: &'a [f32],
    /// Number of rows of X.
    pub m: usize,
    /// The packed weights, `[N, K]`.
    pub weights: &'a PackedWeights,
    /// The bias `[N]`, if there is one.
    pub bias: Option<&'a [f32]>,
    /// The type that results are written as.
    pub output: OutputType,
    /// Whether the kernel computes `s·(Σcx − z·Σx)`. The bound is then looser, because of
    /// cancellation. The kernel's sums must not include pruned weights.
    pub zero_folded: bool,
}

impl MatmulCase<'_> {
    /// Checks that lengths are correct and that all inputs are finite.
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

/// A decoded row of weights as dense columns, and the quantities that its bounds need.
pub(super) struct DenseRow {
    /// `[K]` weights, 0 if pruned.
    values: Vec<f64>,
    /// `[K]` magnitudes that the rounding of a folded kernel is relative to. Empty if the zero
    /// point is not folded.
    folded: Vec<f64>,
    /// The number of products that can differ from 0.
    terms: usize,
    /// A of the derivation without Σ|x|, in units of η.
    flushes: f64,
    /// V of the derivation.
    small_numbers: f64,
}

impl DenseRow {
    /// Writes the decoded weights of row `row` into their columns.
    ///
    /// # Errors
    /// Returns [`ReferenceError::NonFinite`] if a weight is not finite.
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
            small_numbers: 0.0,
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
            dense.small_numbers = dense.small_numbers.max(small_numbers(weight));
            if zero_folded {
                dense.folded[weight.column] = magnitude;
            }
        }
        Ok(dense)
    }

    /// Returns the exact dot product with one row of X, and the magnitude that roundings are
    /// relative to.
    pub fn dot(&self, x: &[f64]) -> (f64, f64) {
        let (value, magnitude) = dot(&self.values, x);
        let folded = !self.folded.is_empty();
        (value, if folded { dot(&self.folded, x).1 } else { magnitude })
    }
}

/// Returns whether the bound of the folded case applies: if the kernel folds the zero point, or if
/// minima are added.
pub(super) fn is_folded(weights: &PackedWeights, zero_folded: bool) -> bool {
    zero_folded || weights.format().has_minima()
}

/// Returns what one weight contributes to A of the derivation, in units of η.
pub(super) fn flushes(weight: &Weight, zero_folded: bool) -> f64 {
    let scale = weight.scale.abs().max(weight.minimum.abs()).max(1.0);
    if zero_folded { 2.0 * weight.folded + 8.0 * scale } else { weight.value.abs() + 3.0 * scale }
}

/// Returns the expected outputs `[m, N]` of a matmul: the exact values with their error bounds.
///
/// Results whose magnitude exceeds the range of f32 are outside the contract, and so is the order
/// in which a kernel would reach them: an infinite f32 output never passes
/// [`check`](super::check()).
///
/// ```
/// use lowbit::compress::quantize;
/// use lowbit::format::{Granularity, WeightFormat};
/// use lowbit::reference::{MatmulCase, OutputType, matmul};
/// let int8 = WeightFormat::int8(Granularity::Channel);
/// let weights = quantize(&[127.0, -64.0, 3.0, 127.0], 2, 2, &int8)?;
/// let expected = matmul(&MatmulCase {
///     x: &[1.0, 2.0],
///     m: 1,
///     weights: &weights,
///     bias: Some(&[0.5, 0.0]),
///     output: OutputType::F32,
///     zero_folded: false,
/// })?;
/// assert_eq!(expected[0].value, 127.0 - 2.0 * 64.0 + 0.5);
/// assert_eq!(expected[1].value, 3.0 + 2.0 * 127.0);
/// assert!(expected[1].bound < 2e-4); // four roundings of 2⁻²³ each
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns a [`ReferenceError`] if a length is wrong, an input or a weight is not finite, or a sum
/// has more terms than [`MAX_ROUNDINGS`](super::MAX_ROUNDINGS) allows.
pub fn matmul(case: &MatmulCase) -> Result<Vec<Expected>, ReferenceError> {
    case.check()?;
    let weights = case.weights;
    let k = weights.k();
    // For each row of X: the number of non-zero x, and Σ|x|.
    let mut inputs = room_for(case.m, 1)?;
    inputs.extend((0..case.m).map(|m| {
        let row = &case.x[m * k..][..k];
        let sum: f64 = row.iter().map(|&x| f64::from(x).abs()).sum();
        (row.iter().filter(|&&x| x != 0.0).count(), sum)
    }));
    let folded = is_folded(weights, case.zero_folded);
    let prepare = |row| {
        let mut kept = Vec::new();
        decode_row(weights, row, &mut kept)?;
        DenseRow::new(weights, row, &kept, folded)
    };
    sweep(case, prepare, |dense, row, m, x| {
        let (nonzero, sum_x) = inputs[m];
        let (value, magnitude) = dense.dot(x);
        let bias = case.bias.map_or(0.0, |bias| f64::from(bias[row]));
        let sum = Sum {
            terms: dense.terms.min(nonzero),
            scalings: scalings(&weights.format()),
            bias: case.bias.is_some(),
            folded_groups: folded.then_some(weights.geometry().groups),
            magnitude: magnitude + bias.abs(),
            flushes: dense.flushes + (1.0 + dense.small_numbers) * sum_x,
        };
        Ok(Expected::new(value + bias, sum.bound()?, case.output))
    })
}
