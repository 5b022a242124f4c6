use super::rows::each_row;
use super::{CompressError, check_length, check_weights, flushed};
use crate::format::{META_FILL, Mask24, WeightFormat};

/// Computes the 2:4 mask that keeps the two weights of greatest magnitude of every four consecutive
/// columns. This is the one-shot rule of Mishra et al., *Accelerating Sparse Deep Neural Networks*
/// (2021), arXiv:2104.08378.
///
/// `w` is `[n, k]` in row-major order. Among equal magnitudes, the lowest columns are kept. f32
/// subnormals count as 0. Positions past K rank below every weight and are filled from the lowest
/// index, as in [`Mask24::from_fn`].
///
/// ```
/// use lowbit::compress::{compress24, expand24, prune_magnitude};
/// let w = [1.0, -4.0, 2.0, 3.0, 0.5, 0.0, -0.25, 0.0];
/// let mask = prune_magnitude(&w, 2, 4)?;
/// assert_eq!(mask.kept(0, 0), [1, 3]);
/// let values = compress24(&w, &mask)?;
/// assert_eq!(values, [-4.0, 3.0, 0.5, -0.25]);
/// assert_eq!(expand24(&values, &mask)?, [0.0, -4.0, 0.0, 3.0, 0.5, 0.0, -0.25, 0.0]);
/// # Ok::<(), lowbit::compress::CompressError>(())
/// ```
///
/// [`Mask24`] has an example with a mask of one's own.
///
/// # Errors
/// Returns [`CompressError::Format`] if a size overflows, [`CompressError::WrongLength`] if `w`
/// does not have `n · k` weights, and [`CompressError::NonFinite`] if a weight is not finite.
pub fn prune_magnitude(w: &[f32], n: usize, k: usize) -> Result<Mask24, CompressError> {
    let geometry = WeightFormat::f32().two_four().geometry(n, k)?;
    check_weights(w, n, k)?;
    let mut words = vec![META_FILL * 0x1111_1111; n * geometry.meta_words];
    each_row(&mut words, geometry.meta_words, |row, words| {
        for (quad, weights) in w[row * k..][..k].chunks(4).enumerate() {
            let shift = quad % 8 * 4;
            words[quad / 8] = words[quad / 8] & !(0xf << shift) | largest_two(weights) << shift;
        }
    });
    Ok(Mask24::from_words(n, k, words)?)
}

/// Returns the metadata nibble of the two largest of up to four finite weights.
fn largest_two(weights: &[f32]) -> u32 {
    let mut magnitudes = [-1.0; 4];
    for (magnitude, &x) in magnitudes.iter_mut().zip(weights) {
        *magnitude = flushed(x).abs();
    }
    let first = largest(magnitudes);
    magnitudes[first] = f32::NEG_INFINITY;
    let second = largest(magnitudes);
    (first.min(second) | first.max(second) << 2) as u32
}

/// Returns the lowest index of the greatest value.
fn largest(values: [f32; 4]) -> usize {
    (1..4).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// Extracts the kept weights of a dense `[n, k]` matrix: values `[n, 2⌈k/4⌉]` in order of columns,
/// bit for bit. A position past K yields +0.0.
///
/// # Errors
/// Returns [`CompressError::WrongLength`] if `w` does not have the shape of the mask.
pub fn compress24(w: &[f32], mask: &Mask24) -> Result<Vec<f32>, CompressError> {
    let (n, k) = (mask.n(), mask.k());
    check_length(n * k, w.len())?;
    let mut values = Vec::with_capacity(n * 2 * k.div_ceil(4));
    for row in 0..n {
        let weights = &w[row * k..][..k];
        for quad in 0..k.div_ceil(4) {
            values.extend(mask.kept(row, quad).map(|k| weights.get(k).copied().unwrap_or(0.0)));
        }
    }
    Ok(values)
}

/// Writes values `[n, 2⌈k/4⌉]` back into a dense `[n, k]` matrix, bit for bit. This is the inverse
/// of [`compress24`], except that pruned weights become +0.0. Only the mask decides what is kept,
/// so a kept −0.0 stays −0.0. Values past K are dropped.
///
/// # Errors
/// Returns [`CompressError::WrongLength`] if `values` does not match the mask.
pub fn expand24(values: &[f32], mask: &Mask24) -> Result<Vec<f32>, CompressError> {
    let (n, k) = (mask.n(), mask.k());
    let quads = k.div_ceil(4);
    check_length(n * 2 * quads, values.len())?;
    let mut w = vec![0.0; n * k];
    for row in 0..n {
        let weights = &mut w[row * k..][..k];
        for quad in 0..quads {
            for (i, k) in mask.kept(row, quad).into_iter().enumerate() {
                if let Some(weight) = weights.get_mut(k) {
                    *weight = values[2 * (row * quads + quad) + i];
                }
            }
        }
    }
    Ok(w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FormatError;

    fn kept(w: &[f32]) -> [usize; 2] {
        prune_magnitude(w, 1, w.len()).unwrap().kept(0, 0)
    }

    #[test]
    fn keeps_the_largest() {
        assert_eq!(kept(&[1.0, -4.0, 2.0, -3.0]), [1, 3]);
        assert_eq!(kept(&[4.0, 3.0, 2.0, 1.0]), [0, 1]);
        assert_eq!(kept(&[1.0, 2.0, 3.0, 4.0]), [2, 3]);
        assert_eq!(kept(&[f32::MIN, 1.0, 2.0, f32::MAX]), [0, 3]);
    }

    #[test]
    fn ties_keep_the_lowest() {
        assert_eq!(kept(&[1.0, -1.0, 1.0, -1.0]), [0, 1]);
        assert_eq!(kept(&[1.0, 2.0, -2.0, 2.0]), [1, 2]);
        assert_eq!(kept(&[1.0, -1.0, 1.0, 2.0]), [0, 3]);
        assert_eq!(kept(&[0.0, -0.0, 0.0, 0.0]), [0, 1]);
    }

    #[test]
    fn subnormals_count_as_zero() {
        assert_eq!(kept(&[0.0, 0.0, 1e-39, -1e-39]), [0, 1]);
        assert_eq!(kept(&[0.0, 0.0, 1e-39, f32::MIN_POSITIVE]), [0, 3]);
    }

    /// Positions past K rank below even zeros, and the lowest free ones are kept.
    #[test]
    fn ragged_quads_are_normalised() {
        assert_eq!(kept(&[0.0]), [0, 1]);
        assert_eq!(kept(&[0.0, 5.0]), [0, 1]);
        assert_eq!(kept(&[0.0, 5.0, 1.0]), [1, 2]);
        assert_eq!(kept(&[0.0, 0.0, 1.0]), [0, 2]);
        for k in 0..11 {
            let w: Vec<f32> = (0..2 * k).map(|i| ((i * 7 + 3) % 5) as f32).collect();
            let mask = prune_magnitude(&w, 2, k).unwrap();
            let again = Mask24::from_fn(2, k, |row, k| mask.keeps(row, k)).unwrap();
            assert_eq!(mask, again, "K = {k}");
        }
    }

    #[test]
    fn many_quads_land_in_their_words() {
        let (n, k) = (3, 70);
        let w: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
        let mask = prune_magnitude(&w, n, k).unwrap();
        for row in 0..n {
            for quad in 0..k / 4 {
                let w = &w[row * k + 4 * quad..][..4];
                let (kept, pruned): (Vec<usize>, Vec<usize>) =
                    (0..4).partition(|&i| mask.keeps(row, 4 * quad + i));
                assert_eq!(kept.len(), 2);
                assert!(
                    kept.iter().all(|&a| pruned.iter().all(|&b| w[a].abs() >= w[b].abs())),
                    "{w:?}"
                );
            }
        }
    }

    #[test]
    fn bad_input_is_refused() {
        let mut w = [1.0; 10];
        w[7] = f32::NEG_INFINITY;
        let error = CompressError::NonFinite { row: 1, col: 2, value: f32::NEG_INFINITY };
        assert_eq!(prune_magnitude(&w, 2, 5), Err(error));
        w[6] = f32::NAN;
        let got = prune_magnitude(&w, 2, 5);
        assert!(
            matches!(got, Err(CompressError::NonFinite { row: 1, col: 1, value }) if value.is_nan())
        );
        let short = CompressError::WrongLength { need: 12, have: 10 };
        assert_eq!(prune_magnitude(&w, 2, 6), Err(short));
        let got = prune_magnitude(&w, usize::MAX, 2);
        assert!(matches!(got, Err(CompressError::Format(FormatError::TooLarge { .. }))));
    }

    #[test]
    fn compress_and_expand() {
        let mask = Mask24::from_fn(2, 5, |row, k| k == 4 || k == row || k == 3).unwrap();
        let w = [-0.0, 1.0, 2.0, f32::NAN, 4.0, 5.0, -0.0, 7.0, 1e-40, 9.0];
        let values = compress24(&w, &mask).unwrap();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&[-0.0, f32::NAN, 4.0, 0.0, -0.0, 1e-40, 9.0, 0.0]));
        let dense = expand24(&values, &mask).unwrap();
        let pruned = [-0.0, 0.0, 0.0, f32::NAN, 4.0, 0.0, -0.0, 0.0, 1e-40, 9.0];
        assert_eq!(bits(&dense), bits(&pruned));

        let need = |need, have| Err(CompressError::WrongLength { need, have });
        assert_eq!(compress24(&w[1..], &mask), need(10, 9));
        assert_eq!(expand24(&values[1..], &mask), need(8, 7));
        let empty = Mask24::first_two(3, 0).unwrap();
        assert_eq!(compress24(&[], &empty), Ok(vec![]));
        assert_eq!(expand24(&[], &empty), Ok(vec![]));
        assert_eq!(expand24(&[1.0], &empty), need(0, 1));
    }
}
