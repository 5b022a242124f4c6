//! What `rotary` and `hadamard` compute, in f64, and how far a correct kernel may be off.
//!
//! # Bounds
//!
//! The model of arithmetic is that of `bound.rs`: u = 2⁻²³, η = 2⁻¹²⁶, γₙ = n·u/(1 − n·u). Division is off
//! by at most 2.5u and `inverseSqrt` by 2u. Each step takes values vᵢ that the kernel has with an error of
//! at most eᵢ, at first 0, or η for an x that is subnormal and may be flushed.
//!
//! **Norm** of d columns, r = 1/√(mean + ε). A square goes through one product and at most d − 1
//! additions; then come the division by d and the addition of ε: γ_{d+4}. Squares and sums that are flushed
//! cost 2dη before the division, and it and the addition cost 2η: at most 8η/ε of mean + ε, which is at
//! least ε. Both halve under the root, and inverseSqrt adds 2u; so r is off by less than ρ = γ_{d+6} + 8η/ε,
//! relatively. x·r, w + offset and their product are one rounding each. What is flushed (x, w + offset,
//! x·r, the product) costs η times the factors that follow it, each with an error of at most itself:
//!
//! ```text
//! e = |x r w'|·(γ_{d+9} + 8η/ε) + 2η·(r|w'| + |x|r + |w'| + 1),   w' = w + offset
//! ```
//!
//! A sum of squares past the largest f32 makes the head NaN.
//!
//! **Rotation** of v with v', y = v·c ∓ v'·s: one product and one sum each, with c and s as they are in the
//! table (flushed if they are subnormal, as v and v' may be). With V = |v| + e and V' = |v'| + e':
//!
//! ```text
//! e_y = |c|e + |s|e' + γ₂(|c|V + |s|V') + η(3 + |c| + |s| + V + V')
//! ```
//!
//! **Transform** of blocks of n = 2ᴸ columns: each is multiplied by 1/√n, which is rounded, and then goes
//! through L additions. Products and sums that are flushed cost η each, of which a result has 2n − 1, and
//! so does each column. With n = 1, nothing is computed.
//!
//! ```text
//! e_y = Σe/√n + γ_{L+2}·Σ(|v| + e)/√n + 3nη
//! ```
//!
//! The sums of this file are in f64, where n ≤ 4096 terms are off by 2⁻⁴¹ relatively: less than a
//! thousandth of u, which γ_{L+2} covers because no product of the kernel is off by more than u/2 and the
//! first bound counts u for the rounding of 1/√n.
//!
//! **Codes.** The largest of d columns A is known to E, the largest e. The scale is A/127 or A/7 within
//! 2.5u, so |s − A/127| ≤ 3u·A/127 + (1 + 3u)E/127. A code is the nearest integer to v̂/s, which division
//! leaves within 2.5u·127: it is within ½ + 2.5u·128 + e/s of v/s. If the quotient is next to η, the
//! scale may be 1 instead, and then all codes are 0.

use super::{
    ETA, Expected, Judgement, OutputType, ReferenceError, UNIT, check, check_length, f16_to_f64,
    gamma,
};
use crate::format::CacheFormat;

/// An RMSNorm of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadNormCase<'a> {
    /// The weights, one a column.
    pub weights: &'a [f32],
    /// The number that is added to the mean of the squares.
    pub epsilon: f32,
    /// The number that is added to each weight.
    pub offset: f32,
}

/// A head of queries, keys or values of one row, and what is done with it.
#[derive(Clone, Copy, Debug)]
pub struct HeadCase<'a> {
    /// The columns.
    pub x: &'a [f32],
    /// The norm, if there is one.
    pub norm: Option<HeadNormCase<'a>>,
    /// A cosine and a sine for each pair, of the position of the row; none if nothing is rotated.
    pub angles: &'a [[f32; 2]],
    /// Whether pairs are columns 2j and 2j + 1, and not j and `angles.len()` + j.
    pub adjacent: bool,
    /// Whether the head is transformed.
    pub transform: bool,
}

/// A value and the largest error of a correct kernel.
#[derive(Clone, Copy)]
struct Value {
    exact: f64,
    error: f64,
}

impl Value {
    fn reach(self) -> f64 {
        self.exact.abs() + self.error
    }
}

/// Returns the expected columns of a head, normalized, rotated and transformed. Where an input is not
/// finite, neither is what depends on it.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`] if there are more pairs of angles than pairs of columns, or not
/// as many weights as columns.
pub fn rotary_head(
    case: &HeadCase<'_>,
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    let d = case.x.len();
    if case.angles.len() > d / 2 {
        check_length("angles", d / 2, case.angles.len())?;
    }
    let mut head: Vec<Value> = case.x.iter().map(|&x| input(x)).collect();
    if let Some(norm) = case.norm {
        check_length("weights", d, norm.weights.len())?;
        normalize(&mut head, &norm);
    }
    let apart = if case.adjacent { 1 } else { case.angles.len() };
    for (pair, &[cosine, sine]) in case.angles.iter().enumerate() {
        let first = if case.adjacent { 2 * pair } else { pair };
        let (v, w) = (head[first], head[first + apart]);
        let (c, s) = (f64::from(cosine), f64::from(sine));
        head[first] = turned(v, w, c, s, v.exact * c - w.exact * s);
        head[first + apart] = turned(w, v, c, s, w.exact * c + v.exact * s);
    }
    if case.transform {
        let block = 1 << d.trailing_zeros().min(31);
        head.chunks_mut(block).for_each(transform);
    }
    Ok(expected(&head, output))
}

/// Returns the expected results of a transform of columns in blocks of a power of two. Where an input is
/// not finite, neither is what depends on it.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`] if `block` is not a power of two that divides their number.
pub fn hadamard(
    x: &[f32],
    block: usize,
    output: OutputType,
) -> Result<Vec<Expected>, ReferenceError> {
    let mut columns: Vec<Value> = x.iter().map(|&x| input(x)).collect();
    let whole = block.is_power_of_two() && x.len().is_multiple_of(block);
    if !whole {
        let need = x.len().next_multiple_of(block.max(1).next_power_of_two());
        return Err(ReferenceError::WrongLength { role: "x", need, have: x.len() });
    }
    columns.chunks_mut(block).for_each(transform);
    Ok(expected(&columns, output))
}

fn expected(values: &[Value], output: OutputType) -> Vec<Expected> {
    values.iter().map(|value| Expected::new(value.exact, value.error, output)).collect()
}

fn input(x: f32) -> Value {
    Value { exact: x.into(), error: if x.is_subnormal() { ETA } else { 0.0 } }
}

fn normalize(head: &mut [Value], norm: &HeadNormCase<'_>) {
    let d = head.len();
    let squares: f64 = head.iter().map(|v| v.exact * v.exact).sum();
    let finite = squares <= f64::from(f32::MAX) * (1.0 - gamma(d));
    let epsilon = f64::from(norm.epsilon);
    let r = 1.0 / (squares / d as f64 + epsilon).sqrt();
    let relative = gamma(d + 9) + 8.0 * ETA / epsilon;
    for (v, &weight) in head.iter_mut().zip(norm.weights) {
        let w = f64::from(weight) + f64::from(norm.offset);
        let exact = if finite { v.exact * r * w } else { f64::NAN };
        let flushed = r * w.abs() + v.exact.abs() * r + w.abs() + 1.0;
        *v = Value { exact, error: exact.abs() * relative + 2.0 * ETA * flushed };
    }
}

/// Returns a column after a rotation: `exact`, made of its own value and that of its pair.
fn turned(own: Value, other: Value, c: f64, s: f64, exact: f64) -> Value {
    let (c, s) = (c.abs(), s.abs());
    let inherited = c * own.error + s * other.error;
    let rounded = gamma(2) * (c * own.reach() + s * other.reach());
    let flushed = ETA * (3.0 + c + s + own.reach() + other.reach());
    Value { exact, error: inherited + rounded + flushed }
}

/// Multiplies a block by the matrix, entry by entry.
fn transform(block: &mut [Value]) {
    let n = block.len();
    if n <= 1 {
        return;
    }
    let root = (n as f64).sqrt();
    let roundings = n.trailing_zeros() as usize + 2;
    let error = block.iter().map(|v| v.error + gamma(roundings) * v.reach()).sum::<f64>() / root
        + 3.0 * n as f64 * ETA;
    let sum = |row: usize| -> f64 {
        let signed = |(column, v): (usize, &Value)| {
            if (row & column).count_ones() % 2 == 1 { -v.exact } else { v.exact }
        };
        block.iter().enumerate().map(signed).sum()
    };
    let sums: Vec<f64> = (0..n).map(sum).collect();
    for (v, sum) in block.iter_mut().zip(sums) {
        *v = Value { exact: sum / root, error };
    }
}

/// Checks a head of a cache of keys or values: the words of its numbers, and the word of its scale if the
/// format has scales. `expected` is what [`rotary_head`] returns for f32.
///
/// - Floats must be within their bounds. Where an expected value is not finite, neither may the number be.
/// - The scale must be that of the exact columns within its bound, 1 if it would not be a normal number,
///   and NaN if a column is not finite.
/// - A code must be the nearest integer to the exact column divided by the scale that was written, or next
///   to it if both are about as near.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`] if `words` does not hold as many numbers.
pub fn check_cached_head(
    format: CacheFormat,
    expected: &[Expected],
    words: &[u32],
    scale: Option<u32>,
) -> Result<Judgement, ReferenceError> {
    let need = (expected.len() * format.bits()).div_ceil(32);
    check_length("words", need, words.len())?;
    let mut judged = Judgement::default();
    let most = match format {
        CacheFormat::Int8 => 127.0,
        CacheFormat::Int4 => 7.0,
        _ => {
            for (column, expected) in expected.iter().enumerate() {
                let (expected, got) = match format {
                    CacheFormat::F16 => {
                        let half = (words[column / 2] >> (16 * (column % 2))) as u16;
                        let f16 = Expected::new(expected.value, expected.bound, OutputType::F16);
                        (f16, f16_to_f64(half) as f32)
                    }
                    _ => (*expected, f32::from_bits(words[column])),
                };
                if !see_float(&mut judged, column, &expected, got) {
                    break;
                }
            }
            return Ok(judged);
        }
    };
    let Some(scale) = scale.map(f32::from_bits) else {
        return Err(ReferenceError::WrongLength { role: "scale", need: 1, have: 0 });
    };
    if expected.iter().any(|e| !e.value.is_finite()) {
        if !scale.is_nan() {
            judged.refuse(format!("the scale is {scale}, but must be NaN: a column is not finite"));
        }
        return Ok(judged);
    }
    let largest = expected.iter().fold(0.0, |largest, e| f64::max(largest, e.value.abs()));
    let error = expected.iter().fold(0.0, |largest, e| f64::max(largest, e.bound));
    let s = f64::from(scale);
    let near = 3.0 * UNIT;
    let may_be_dead = (largest - error) / most < ETA * (1.0 + near);
    let must_be_dead = (largest + error) / most < ETA * (1.0 - near);
    let dead = scale == 1.0 && may_be_dead;
    if must_be_dead && !dead {
        judged.refuse(format!("the scale is {scale}, but must be 1 for a head of zeros"));
        return Ok(judged);
    }
    if !dead {
        let want = largest / most;
        let bound = near * want + (1.0 + near) * error / most;
        let off = (s - want).abs() / bound;
        if !judged.see(off, || format!("the scale is {scale}, but must be near {want}")) {
            return Ok(judged);
        }
    }
    for (column, expected) in expected.iter().enumerate() {
        let code = code(format, words, column);
        let real = if dead { 0.0 } else { (expected.value / s).clamp(-most, most) };
        let tie = 0.5 + 2.5 * UNIT * 128.0 + expected.bound / s;
        let off = if dead { f64::from(code).abs() * 2.0 } else { (f64::from(code) - real).abs() };
        let fault = || format!("column {column}: the code is {code}, but must be near {real}");
        if !judged.see(off / tie, fault) {
            break;
        }
    }
    Ok(judged)
}

/// Checks columns that were written as floats. Where an expected value is not finite, neither may the
/// column be.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`] if there are not as many.
pub fn check_head(expected: &[Expected], got: &[f32]) -> Result<Judgement, ReferenceError> {
    check_length("columns", expected.len(), got.len())?;
    let mut judged = Judgement::default();
    for (column, (expected, &got)) in expected.iter().zip(got).enumerate() {
        if !see_float(&mut judged, column, expected, got) {
            break;
        }
    }
    Ok(judged)
}

fn see_float(judged: &mut Judgement, column: usize, expected: &Expected, got: f32) -> bool {
    let off = match (expected.value.is_finite(), got.is_finite()) {
        (true, _) => check(expected, got).error_over_bound,
        (false, true) => f64::INFINITY,
        (false, false) => 0.0,
    };
    judged.see(off, || format!("column {column} is {got}, but must be near {}", expected.value))
}

/// Returns the code of a column. Of eight int4 codes, those of the last four columns are the high halves.
fn code(format: CacheFormat, words: &[u32], column: usize) -> i32 {
    if format == CacheFormat::Int8 {
        return i32::from((words[column / 4] >> (8 * (column % 4))) as u8 as i8);
    }
    let bit = 8 * (column % 4) + if column % 8 < 4 { 0 } else { 4 };
    (words[column / 8] >> bit & 15) as i32 - 8
}
