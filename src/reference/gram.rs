//! The Gram matrix of rows in f64, and the error bounds of kernels that sum it.

use super::bound::{ETA, gamma};
use super::{Expected, OutputType, ReferenceError, check_length, room_for};

/// Returns XᵀX of `x`, `[m, k]`: the upper triangle row by row. Kernels add the products of at most
/// `rows` rows in f32, `parts` times, and round each of these sums to a multiple of 2⁻⁷².
///
/// With the model of `bound.rs`, a sum of T products that are not 0 goes through T roundings a term: its
/// product and T − 1 additions. T is at most the number of rows that are added in f32. A part is then off by
/// γ_T·Σ|xᵢxⱼ|, by η·(|xᵢ| + |xⱼ| + 2) a term for what is flushed, and by half a unit where it becomes an
/// integer. Integers are added exactly:
///
/// ```text
/// |ĝ − g| ≤ γ_T·Σ|xᵢxⱼ| + η(1 + γ_T)·Σ(|xᵢ| + |xⱼ| + 2) + parts · 2⁻⁷³
/// ```
///
/// The sums here are f64, of products that f64 holds exactly: their error, (m + 4)·2⁻⁵³ of the magnitude, is
/// added. A NaN or an infinity among the values gives NaN.
///
/// # Errors
/// Returns [`ReferenceError::WrongLength`].
pub fn gram(
    x: &[f32],
    k: usize,
    rows: usize,
    parts: usize,
) -> Result<Vec<Expected>, ReferenceError> {
    let m = x.len() / k.max(1);
    check_length("x", m * k, x.len())?;
    let mut out = room_for(k, k.div_ceil(2) + 1)?;
    // η and half a unit.
    let half = 2f64.powi(-73);
    for i in 0..k {
        for j in i..k {
            let (mut value, mut size, mut flushes, mut terms) = (0.0, 0.0, 0.0, 0);
            for row in x.chunks(k) {
                let (a, b) = (f64::from(row[i]), f64::from(row[j]));
                value += a * b;
                size += (a * b).abs();
                flushes += a.abs() + b.abs() + 2.0;
                terms += usize::from(a * b != 0.0);
            }
            let relative = gamma(terms.min(rows));
            let own = (m + 4) as f64 * f64::EPSILON;
            let bound = (relative + own) * size + ETA * (1.0 + relative) * flushes;
            let bound = bound + parts as f64 * half;
            out.push(Expected::new(value, bound, OutputType::F32));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triangle_by_hand() {
        let x = [1.0, 2.0, 3.0, -1.0, 0.5, 4.0];
        let got = gram(&x, 3, 64, 1).unwrap();
        let values: Vec<f64> = got.iter().map(|e| e.value).collect();
        assert_eq!(values, [2.0, 1.5, -1.0, 4.25, 8.0, 25.0]);
        let size = 1.0 + 1.0;
        assert!(got[0].bound > gamma(2) * size && got[0].bound < gamma(3) * size);
        assert!(gram(&x, 4, 64, 1).is_err());
        assert!(gram(&[f32::NAN], 1, 64, 1).unwrap()[0].value.is_nan());
        assert_eq!(gram(&[], 0, 64, 1).unwrap(), []);
    }
}
