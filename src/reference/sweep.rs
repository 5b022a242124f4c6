//! A loop over every output of a matmul that runs on all cores.

use super::{MatmulCase, ReferenceError, room_for};
use std::sync::Mutex;

/// The number of rows of weights that share one pass over X, so that X is read from the cache.
const BLOCK: usize = 4;

/// Computes the `[m, N]` outputs of a checked case. It calls `prepare(row)` once per row of
/// weights, and then `output(&prepared, row, m, x)` with each row of X in f64.
pub(super) fn sweep<R, T: Send + Clone>(
    case: &MatmulCase,
    prepare: impl Fn(usize) -> Result<R, ReferenceError> + Sync,
    output: impl Fn(&R, usize, usize, &[f64]) -> Result<T, ReferenceError> + Sync,
) -> Result<Vec<T>, ReferenceError> {
    let (n, k, m) = (case.weights.n(), case.weights.k(), case.m);
    let mut x = room_for(m, k)?;
    x.extend(case.x.iter().map(|&x| f64::from(x)));
    let mut by_row: Vec<Option<T>> = room_for(n, m)?;
    let mut out = room_for(m, n)?;
    by_row.resize(n * m, None);
    each_chunk(&mut by_row, BLOCK * m.max(1), |index, chunk| {
        let first = index * BLOCK;
        let rows =
            (first..first + chunk.len() / m.max(1)).map(&prepare).collect::<Result<Vec<_>, _>>()?;
        for m_at in 0..m {
            let x = &x[m_at * k..][..k];
            for (at, prepared) in rows.iter().enumerate() {
                chunk[at * m + m_at] = Some(output(prepared, first + at, m_at, x)?);
            }
        }
        Ok(())
    })?;
    out.extend((0..m).flat_map(|m_at| {
        (0..n).filter_map({
            let by_row = &by_row;
            move |row| by_row[row * m + m_at].clone()
        })
    }));
    Ok(out)
}

/// Returns Σab and Σ|ab|, computed in eight lanes that the compiler keeps in vector registers.
pub(super) fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
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

/// Runs `work(index, chunk)` over chunks of `items` on all cores. If threads are not available, as
/// on wasm, the calling thread does all the work.
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
                // The error of the first chunk is kept, whichever thread finds it.
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
