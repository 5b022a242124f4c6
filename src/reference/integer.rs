//! Matmuls of quantized X, computed from the bytes of both operands.

use super::bound::{ETA, gamma, scalings};
use super::row::{Weight, decode_row};
use super::{Expected, OutputType, ReferenceError, Verdict, check_length, room_for};
use crate::format::{ActivationLayout, Offset, PackedWeights};

/// One matmul of quantized X: `Y = Σ s_x (s_w Σ (c_x − z_x)(c_w − z_w) + m Σ (c_x − z_x)) + b`, where m is
/// the minimum of W, or −z·s_w if its zero point z is a float.
#[derive(Clone, Copy, Debug)]
pub struct IntegerCase<'a> {
    /// `[m, row_words]` words in the given layout: codes, scales and zero points.
    pub x: &'a [u32],
    /// Number of rows of X.
    pub m: usize,
    /// The layout of a row of X.
    pub layout: &'a ActivationLayout,
    /// The weights `[N, K]`, whose codes are integers of at most 8 bits.
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

    /// Checks that no part of `part` columns reaches into two groups of `w_group` columns of W, or
    /// into two groups of X. A kernel with such parts is wrong, and the reference must not make the
    /// same mistake.
    fn check_parts(&self, part: usize, w_group: usize) -> Result<(), ReferenceError> {
        let k = self.weights.k();
        for group in [w_group, 32 * self.layout.group_blocks] {
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
/// Returns a [`ReferenceError`] if a length is wrong, or if a slice reaches into two groups. Groups of
/// 16 columns of W are an exception: a slice holds two of them.
pub fn integer_accumulators(
    case: &IntegerCase,
    slice_blocks: usize,
) -> Result<Vec<i64>, ReferenceError> {
    case.check()?;
    let (m, n, slice) = (case.m, case.weights.n(), 32 * slice_blocks.max(1));
    let w_group = case.weights.geometry().group_size;
    case.check_parts(slice, if w_group == 16 { 32 } else { w_group })?;
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
/// `part` columns, scales each sum separately, and adds the results in f32 in any order. A part is a
/// slice, 32 columns if lanes split slices, or 16 if those are the groups of W.
///
/// The integer sum `a` of the products of a part is exact. Its conversion to a float, `s_x·s_w`, and
/// the product of both are one rounding each. `s_w` itself takes one more if it is a product of two
/// levels that is rounded: W is then 2, otherwise 1.
///
/// If there are minima, a part has a second product: `s_x·m` times the sum e of its `c_x − z_x`. e is
/// exact as an integer and as a float, because |e| ≤ 2¹⁵ · 255 < 2²⁴. `s_x·m` and its product with e are
/// one rounding each, and so is m if it is −z·s_w: these are no more than those of `a`.
///
/// L products and the bias need L − 1 + \[bias\] additions, where L counts the products whose integer
/// and minimum are not 0. With u, η and γ as in [`matmul`](super::matmul()), R = L + 1 + W + \[bias\] and
///
/// ```text
/// |ŷ − y| ≤ γ_R · (Σ s_x (|s_w a| + |m e|) + |b|) + η · A · (1 + γ_R)
/// A = Σ (|a| (1 + s_x v) + 2) + Σ (|e| (1 + s_x w) + 2) + 2
/// ```
///
/// A product with an integer costs |a| or |e| if its product of scales is flushed, and 2 for the
/// product and an addition. Before that, `s_w` may be flushed where it is read or computed, which costs
/// v = 1, or v = 449 if it is an e4m3 float, which is at most 448, times an f32. A flushed minimum costs
/// w = 1; if it is −z·s_w, z and `s_w` may be flushed as well, and w = 1 + |s_w| + |z|.
/// The usual γ_{G+4} follows if parts are groups without minima.
///
/// # Errors
/// Returns a [`ReferenceError`] if a length is wrong, if a part reaches into two groups, or if
/// scales or the bias are not finite.
pub fn integer_matmul(case: &IntegerCase, part: usize) -> Result<Vec<Expected>, ReferenceError> {
    case.check()?;
    let (m, n, part) = (case.m, case.weights.n(), part.max(1));
    case.check_parts(part, case.weights.geometry().group_size)?;
    let mut all = room_for(m, n)?;
    let mut kept = Vec::new();
    let format = case.weights.format();
    let scalings = scalings(&format);
    let scale_flush = if scalings > 1 { 449.0 } else { 1.0 };
    // The results are computed by columns of Y and then transposed.
    for column in 0..n {
        decode_row(case.weights, column, &mut kept)?;
        let bias = case.bias.map_or(0.0, |bias| f64::from(bias[column]));
        for row in 0..m {
            let x = case.row(row);
            let (mut value, mut magnitude, mut flushes, mut leaves) = (bias, bias.abs(), 2.0, 0);
            for of_part in kept.chunk_by(|a, b| a.column / part == b.column / part) {
                let Some(first) = of_part.first() else { continue };
                let group = case.x_group(first.column);
                let x_scale = f64::from(f32::from_bits(x[case.layout.scale_at + group]));
                let mut add = |integer: i64, factor: f64, flush: f64| {
                    let scaled = x_scale * factor * integer as f64;
                    value += scaled;
                    magnitude += scaled.abs();
                    flushes += integer.unsigned_abs() as f64 * (1.0 + x_scale.abs() * flush) + 2.0;
                    leaves += 1;
                };
                let sum: i64 = of_part.iter().map(|w| w_value(w) * case.x_value(x, w.column)).sum();
                if sum != 0 {
                    add(sum, first.scale, scale_flush);
                }
                if first.minimum == 0.0 {
                    continue;
                }
                let total: i64 = of_part.iter().map(|w| case.x_value(x, w.column)).sum();
                if total != 0 {
                    let own = match format.offset() {
                        Offset::FloatZeroPoint => (first.minimum / first.scale).abs(),
                        _ => 0.0,
                    };
                    add(total, first.minimum, 1.0 + first.scale.abs() + own);
                }
            }
            if !magnitude.is_finite() {
                return Err(ReferenceError::NonFinite { role: "x", row, column });
            }
            let additions = leaves + usize::from(bias != 0.0);
            let gamma = gamma(if leaves == 0 { 0 } else { additions + 1 + scalings });
            let own = (leaves + 4) as f64 * f64::EPSILON;
            let bound = (gamma + own) * magnitude + ETA * flushes * (1.0 + gamma);
            let bound = if leaves == 0 { ETA } else { bound };
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
