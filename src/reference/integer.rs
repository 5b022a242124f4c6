//! Matmuls of quantized X, computed from the bytes of both operands.

use super::bound::{ETA, gamma};
use super::row::{Weight, decode_row};
use super::{Expected, OutputType, ReferenceError, Verdict, check_length, room_for};
use crate::format::{ActivationLayout, PackedWeights};

/// One matmul of quantized X: `Y = Σ s_x s_w Σ (c_x − z_x)(c_w − z_w) + b`.
#[derive(Clone, Copy, Debug)]
pub struct IntegerCase<'a> {
    /// `[m, row_words]` words in the given layout: codes, scales and zero points.
    pub x: &'a [u32],
    /// Number of rows of X.
    pub m: usize,
    /// The layout of a row of X.
    pub layout: &'a ActivationLayout,
    /// The weights `[N, K]`, in int8 or int4.
    pub weights: &'a PackedWeights,
    /// The bias `[N]`, if there is one.
    pub bias: Option<&'a [f32]>,
}

impl IntegerCase<'_> {
    fn check(&self) -> Result<(), ReferenceError> {
        let too_large = ReferenceError::TooLarge { rows: self.m, columns: self.layout.row_words };
        let need = self.m.checked_mul(self.layout.row_words).ok_or(too_large)?;
        check_length("x", need, self.x.len())?;
        check_length("columns of x", self.weights.k(), self.layout.k)?;
        let ends = self.layout.sum_at.max(self.layout.zero_at.saturating_add(self.layout.groups));
        check_length(
            "words of a row of x",
            self.layout.row_words.max(ends),
            self.layout.row_words,
        )?;
        if let Some(bias) = self.bias {
            check_length("bias", self.weights.n(), bias.len())?;
        }
        Ok(())
    }

    /// Checks that no part of `part` columns reaches into two groups of W or X. A kernel with such
    /// parts is wrong, and the reference must not make the same mistake.
    fn check_parts(&self, part: usize) -> Result<(), ReferenceError> {
        let k = self.weights.k();
        for group in [self.weights.geometry().group_size, 32 * self.layout.group_blocks] {
            if group < k && !group.is_multiple_of(part) {
                return Err(ReferenceError::SpansGroups { columns: part, group });
            }
        }
        Ok(())
    }

    fn row(&self, m: usize) -> &[u32] {
        let row_words = self.layout.row_words;
        &self.x[m * row_words..][..row_words]
    }

    fn x_group(&self, column: usize) -> usize {
        column / 32 / self.layout.group_blocks.max(1)
    }

    /// Returns c_x − z_x.
    fn x_value(&self, row: &[u32], column: usize) -> i64 {
        let code = row[column / 4].to_le_bytes()[column % 4] as i8;
        let zero = row[self.layout.zero_at + self.x_group(column)] as i32;
        i64::from(code) - i64::from(zero)
    }
}

fn w_value(weight: &Weight) -> i64 {
    i64::from(weight.code) - i64::from(weight.zero)
}

/// Returns the exact sums `Σ (c_x − z_x)(c_w − z_w)` over each slice of `slice_blocks` blocks of 32
/// columns, as `[m, slices, N]`.
///
/// # Errors
/// Returns a [`ReferenceError`] if a length is wrong, or if a slice reaches into two groups.
pub fn integer_accumulators(
    case: &IntegerCase,
    slice_blocks: usize,
) -> Result<Vec<i64>, ReferenceError> {
    case.check()?;
    let (m, n, slice) = (case.m, case.weights.n(), 32 * slice_blocks.max(1));
    case.check_parts(slice)?;
    let slices = case.weights.k().div_ceil(slice);
    let mut sums = room_for(m * slices, n)?;
    sums.resize(m * slices * n, 0i64);
    let mut kept = Vec::new();
    for column in 0..n {
        decode_row(case.weights, column, &mut kept)?;
        for row in 0..m {
            let x = case.row(row);
            for weight in &kept {
                let at = (row * slices + weight.column / slice) * n + column;
                sums[at] += w_value(weight) * case.x_value(x, weight.column);
            }
        }
    }
    Ok(sums)
}

/// Returns the expected outputs `[m, N]` of a kernel that sums integers within parts of
/// `part_blocks` blocks of 32 columns, scales each sum separately, and adds the results in f32 in
/// any order. A part is a slice, or a single block if lanes split slices.
///
/// The integer sum `a` of a part is exact. Its conversion to a float, `s_x·s_w`, and the product of
/// both are one rounding each. P parts and the bias need P − 1 + \[bias\] additions. With u, η and γ
/// as in [`matmul`](super::matmul()), R = P + 2 + \[bias\] and
///
/// ```text
/// |ŷ − y| ≤ γ_R · (Σ s_x s_w |a| + |b|) + η · (Σ (|a| + 2) + 2) · (1 + γ_R)
/// ```
///
/// where P counts the parts whose sum is not 0, and |a| accounts for a flushed product of scales.
/// The usual γ_{G+4} follows if parts are groups.
///
/// # Errors
/// Returns a [`ReferenceError`] if a length is wrong, if a part reaches into two groups, or if
/// scales or the bias are not finite.
pub fn integer_matmul(
    case: &IntegerCase,
    part_blocks: usize,
) -> Result<Vec<Expected>, ReferenceError> {
    case.check()?;
    let (m, n, part) = (case.m, case.weights.n(), 32 * part_blocks.max(1));
    case.check_parts(part)?;
    let mut all = room_for(m, n)?;
    let mut kept = Vec::new();
    // The results are computed by columns of Y and then transposed.
    for column in 0..n {
        decode_row(case.weights, column, &mut kept)?;
        let bias = case.bias.map_or(0.0, |bias| f64::from(bias[column]));
        for row in 0..m {
            let x = case.row(row);
            let (mut value, mut magnitude, mut flushes, mut parts) = (bias, bias.abs(), 2.0, 0);
            for of_part in kept.chunk_by(|a, b| a.column / part == b.column / part) {
                let sum: i64 = of_part.iter().map(|w| w_value(w) * case.x_value(x, w.column)).sum();
                let Some(first) = of_part.first().filter(|_| sum != 0) else { continue };
                let group = case.x_group(first.column);
                let x_scale = f32::from_bits(x[case.layout.scale_at + group]);
                let scaled = f64::from(x_scale) * first.scale * sum as f64;
                value += scaled;
                magnitude += scaled.abs();
                flushes += sum.unsigned_abs() as f64 + 2.0;
                parts += 1;
            }
            if !magnitude.is_finite() {
                return Err(ReferenceError::NonFinite { role: "x", row, column });
            }
            let roundings = if parts == 0 { 0 } else { parts + 2 + usize::from(bias != 0.0) };
            let gamma = gamma(roundings);
            let own = (parts + 4) as f64 * f64::EPSILON;
            let bound = (gamma + own) * magnitude + ETA * flushes * (1.0 + gamma);
            let bound = if parts == 0 { ETA } else { bound };
            all.push(Expected::new(value, bound, OutputType::F32));
        }
    }
    Ok((0..m)
        .flat_map(|row| (0..n).map(move |column| column * m + row))
        .map(|at| all[at])
        .collect())
}

/// Checks the code that a result was stored as. The expected code is `clamp(f/s + z)` for some f
/// within its bound. The code may differ from it by 0.5 plus the rounding of the quotient, both in
/// units of codes.
pub fn check_code(
    expected: &Expected,
    scale: f32,
    zero: i32,
    symmetric: bool,
    code: i8,
) -> Verdict {
    let least = if symmetric { -127.0 } else { -128.0 };
    let real = (expected.value / f64::from(scale) + f64::from(zero)).clamp(least, 127.0);
    let tolerance = super::activations::TIE + expected.bound / f64::from(scale);
    let error = (f64::from(code) - real).abs();
    Verdict { error, error_over_bound: error / tolerance }
}
