use super::bound::Sum;
use super::row::{Weight, decode_row};
use super::{Expected, Output, ReferenceError, check_finite, check_length, room_for};
use crate::format::PackedWeights;
use std::sync::Mutex;

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
    pub output: Output,
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
    pub fn new(
        weights: &PackedWeights,
        row: usize,
        zero_folded: bool,
        scratch: &mut Vec<Weight>,
    ) -> Result<Self, ReferenceError> {
        decode_row(weights, row, scratch)?;
        let mut dense = Self {
            values: vec![0.0; weights.k()],
            folded: vec![0.0; if zero_folded { weights.k() } else { 0 }],
            terms: 0,
            flushes: 3.0,
        };
        for weight in scratch.iter() {
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
}

/// What one weight adds to A of the derivation, in units of η.
pub(super) fn flushes(weight: &Weight, zero_folded: bool) -> f64 {
    let scale = weight.scale.max(1.0);
    if zero_folded { 2.0 * weight.folded + 8.0 * scale } else { weight.value.abs() + 3.0 * scale }
}

/// X in f64, and what the bounds need of each row.
struct Inputs {
    x: Vec<f64>,
    /// Non-zero x, and Σ|x|, a row.
    rows: Vec<(usize, f64)>,
}

impl Inputs {
    fn new(case: &MatmulCase) -> Result<Self, ReferenceError> {
        let k = case.weights.k();
        let mut x = room_for(case.m, k)?;
        x.extend(case.x.iter().map(|&x| f64::from(x)));
        let mut rows = room_for(case.m, 1)?;
        rows.extend((0..case.m).map(|m| {
            let row = &x[m * k..][..k];
            (row.iter().filter(|&&x| x != 0.0).count(), row.iter().map(|x| x.abs()).sum())
        }));
        Ok(Self { x, rows })
    }
}

/// Rows of weights that share one pass over X, so that X comes from the cache.
const BLOCK: usize = 4;

/// Every output of a matmul, `[m, N]`, with its bound.
///
/// # Errors
/// [`ReferenceError`]: lengths that do not fit, non-finite inputs or weights, more terms
/// a sum than [`MAX_ROUNDINGS`](super::MAX_ROUNDINGS) allows.
pub fn matmul(case: &MatmulCase) -> Result<Vec<Expected>, ReferenceError> {
    case.check()?;
    let n = case.weights.n();
    let inputs = Inputs::new(case)?;
    let nothing = Expected { value: 0.0, bound: 0.0, overflow: false };
    let mut by_row = room_for(n, case.m)?;
    let mut out = room_for(case.m, n)?;
    by_row.resize(n * case.m, nothing);
    each_chunk(&mut by_row, BLOCK * case.m.max(1), |index, chunk| {
        block(case, &inputs, index * BLOCK, chunk)
    })?;
    out.extend(
        (0..case.m)
            .flat_map(|m| (0..n).map(move |row| (m, row)))
            .map(|(m, row)| by_row[row * case.m + m]),
    );
    Ok(out)
}

/// Up to [`BLOCK`] rows of weights against all of X; `out` is `[rows, m]`.
fn block(
    case: &MatmulCase,
    inputs: &Inputs,
    first: usize,
    out: &mut [Expected],
) -> Result<(), ReferenceError> {
    let k = case.weights.k();
    let mut scratch = Vec::new();
    let rows = (first..first + out.len() / case.m.max(1))
        .map(|row| DenseRow::new(case.weights, row, case.zero_folded, &mut scratch))
        .collect::<Result<Vec<_>, _>>()?;
    for (m, &(nonzero, sum_x)) in inputs.rows.iter().enumerate() {
        let x = &inputs.x[m * k..][..k];
        for (at, row) in rows.iter().enumerate() {
            let (mut value, mut magnitude) = dot(&row.values, x);
            if case.zero_folded {
                magnitude = dot(&row.folded, x).1;
            }
            if let Some(bias) = case.bias {
                let bias = f64::from(bias[first + at]);
                value += bias;
                magnitude += bias.abs();
            }
            let sum = Sum {
                terms: row.terms.min(nonzero),
                scaled: case.weights.format().element().is_integer(),
                bias: case.bias.is_some(),
                folded_groups: case.zero_folded.then_some(case.weights.geometry().groups),
                magnitude,
                flushes: row.flushes + sum_x,
            };
            out[at * case.m + m] = Expected::new(value, sum.bound()?, case.output);
        }
    }
    Ok(())
}

/// Σab and Σ|ab|, in eight lanes that the compiler keeps in vector registers.
fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    const LANES: usize = 8;
    let (mut sums, mut magnitudes) = ([0.0; LANES], [0.0; LANES]);
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (i, (a, b)) in a_chunks.remainder().iter().zip(b_chunks.remainder()).enumerate() {
        sums[i] = a * b;
        magnitudes[i] = (a * b).abs();
    }
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            let product = a[i] * b[i];
            sums[i] += product;
            magnitudes[i] += product.abs();
        }
    }
    (sums.iter().sum(), magnitudes.iter().sum())
}

/// Runs `work(index, chunk)` over chunks of `items`, on all cores. Where threads cannot
/// be had, as on wasm, the caller's does everything.
fn each_chunk<T: Send>(
    items: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) -> Result<(), ReferenceError> + Sync,
) -> Result<(), ReferenceError> {
    let chunks = items.len().div_ceil(size);
    let queue = Mutex::new(items.chunks_mut(size).enumerate());
    let failure = Mutex::new(None);
    let worker = || {
        loop {
            let next = queue.lock().map_or(None, |mut queue| queue.next());
            let Some((index, chunk)) = next else { return };
            if let Err(error) = work(index, chunk)
                && let Ok(mut failure) = failure.lock()
                && failure.as_ref().is_none_or(|&(at, _)| index < at)
            {
                // The first chunk's error, whichever thread met it.
                *failure = Some((index, error));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(chunks);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if std::thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    match failure.into_inner() {
        Ok(Some((_, error))) => Err(error),
        _ => Ok(()),
    }
}
