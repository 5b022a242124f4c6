//! Rows of floats among sentinels, and the judgement of outputs of ops that see whole rows.

use super::matmul::{SENTINEL, put, put_bits, rows, take};
use crate::format::{ActivationGranularity, StaticScale};
use crate::ops::{FloatType, Output};
use crate::reference::{self, Expected, Judgement};

/// A static scale that most results are within.
const STATIC: StaticScale = StaticScale { scale: 0.03125, zero_point: -17 };

/// Rows of floats in a buffer that is otherwise full of sentinels.
pub(super) struct Floats {
    pub float: FloatType,
    pub before: usize,
    pub batch_stride: u32,
    pub stride: u32,
}

impl Floats {
    pub fn starts(&self, batch: u32, m: usize) -> impl Iterator<Item = usize> {
        rows(batch, m, self.before as u32, self.batch_stride, self.stride)
    }

    pub fn offset(&self) -> u64 {
        self.before as u64 * self.float.bytes()
    }

    /// Returns the words of a buffer that `bytes` from its start take, with some words after them.
    pub fn words(&self, bytes: u64) -> Vec<u32> {
        vec![SENTINEL; (self.offset() + bytes).div_ceil(4) as usize + 8]
    }

    /// Returns such words with `[batch, m, k]` values in the rows.
    pub fn lay(&self, bytes: u64, (batch, m, k): (u32, usize, usize), values: &[f32]) -> Vec<u32> {
        let mut words = self.words(bytes);
        for (start, values) in self.starts(batch, m).zip(values.chunks(k.max(1))) {
            for (column, &value) in values.iter().enumerate() {
                put(&mut words, self.float, start + column, value);
            }
        }
        words
    }
}

/// The mark of a result that is not defined.
pub(super) const UNDEFINED: Expected =
    Expected { value: 0.0, bound: f64::INFINITY, overflow: true };

/// Judges the output of `[batch, m, k]`, and what is around its rows. Of the rows of codes only `known` are
/// judged.
pub(super) fn judge(
    output: Output,
    at: &Floats,
    shape: (u32, usize, usize),
    mut got: Vec<u32>,
    expected: &[Expected],
    known: &[bool],
) -> Result<Judgement, String> {
    let Output::Int8(format) = output else {
        return Ok(floats(at, shape, &got, expected, "y"));
    };
    let (batch, m, k) = shape;
    let layout = format.layout(k).map_err(|e| e.to_string())?;
    let (mut packed, mut kept) = (Vec::new(), Vec::new());
    let used = layout.sum_at + layout.blocks;
    let rows = at.starts(batch, m).zip(expected.chunks(k.max(1))).zip(known);
    for ((start, expected), &known) in rows {
        if known {
            packed.extend_from_slice(&got[start..start + used]);
            packed.resize(packed.len() + layout.row_words - used, 0);
            kept.extend_from_slice(expected);
        }
        got[start..start + used].fill(SENTINEL);
    }
    let fixed = scale(output).map(|scale| (scale.scale, scale.zero_point));
    let judged = reference::check_quantized(format, &layout, &kept, fixed, &packed);
    Ok(judged.map_err(|e| e.to_string())?.and(untouched(&got, "y")))
}

/// Returns the static scale of an output that needs one.
pub(super) fn scale(output: Output) -> Option<StaticScale> {
    let Output::Int8(format) = output else { return None };
    let zero_point = if format.is_symmetric() { 0 } else { STATIC.zero_point };
    let tensor = format.granularity() == ActivationGranularity::Tensor;
    tensor.then_some(StaticScale { zero_point, ..STATIC })
}

/// Judges rows of floats: NaN or an infinity where that is the value, else within the bound, and
/// sentinels around them.
pub(super) fn floats(
    at: &Floats,
    (batch, m, k): (u32, usize, usize),
    got: &[u32],
    expected: &[Expected],
    name: &str,
) -> Judgement {
    let mut rest = got.to_vec();
    let mut judged = Judgement::default();
    for (row, (start, expected)) in at.starts(batch, m).zip(expected.chunks(k.max(1))).enumerate() {
        for (column, want) in expected.iter().enumerate() {
            let value = take(got, at.float, start + column).1;
            put_bits(&mut rest, at.float, start + column, take(&[SENTINEL], at.float, 0).0);
            let exact = want.value;
            let off = if *want == UNDEFINED {
                0.0
            } else if exact.is_finite() {
                reference::check(want, value).error_over_bound
            } else if exact.is_nan() && value.is_nan() || exact == f64::from(value) {
                0.0
            } else {
                f64::INFINITY
            };
            if judged.fault.is_none() && !judged.see(off, String::new) {
                let bound = want.bound;
                judged.fault = Some(format!(
                    "row {row}: {name}[{column}] is {value}, must be {exact} ± {bound:.3e}"
                ));
            }
        }
    }
    judged.and(untouched(&rest, name))
}

/// Judges words that must all be sentinels.
fn untouched(words: &[u32], name: &str) -> Judgement {
    let mut judged = Judgement::default();
    if let Some(word) = words.iter().position(|&word| word != SENTINEL) {
        let fault = || format!("word {word} of {name}, outside of its rows, was overwritten");
        judged.see(f64::INFINITY, fault);
    }
    judged
}
