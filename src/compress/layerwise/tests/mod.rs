//! Tests of the layer-wise methods, on small layers with correlated inputs.

mod awq;
mod gptq;
mod gram;
mod permute;
mod sparse;

use super::{Gram, dense};

/// Random numbers, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Nearly normal, with a variance of 1.
    fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

/// Inputs whose columns are sums of a few common factors and some noise of their own.
fn inputs(rows: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let factors = 1 + k / 4;
    let mix = random.normals(factors * k);
    let mut x = Vec::with_capacity(rows * k);
    for _ in 0..rows {
        let common = random.normals(factors);
        for j in 0..k {
            let shared: f32 = common.iter().enumerate().map(|(f, c)| c * mix[f * k + j]).sum();
            x.push(shared + 0.3 * random.normal());
        }
    }
    x
}

fn gram_of(x: &[f32], k: usize) -> Gram {
    let mut gram = Gram::new(k).unwrap();
    gram.add(x).unwrap();
    gram
}

/// A Gram matrix that is diagonal, with these sums of squares.
fn diagonal(squares: &[f64]) -> Gram {
    let k = squares.len();
    let mut sums = Vec::new();
    for (i, square) in squares.iter().enumerate() {
        sums.push((square * (1u128 << 72) as f64) as i128);
        sums.extend(vec![0; k - i - 1]);
    }
    Gram::from_parts(k, 1, sums).unwrap()
}

/// The damped H of a Gram matrix as the documentation defines it, dense.
fn hessian(gram: &Gram, damping: f64) -> Vec<f64> {
    let (k, diagonal) = (gram.columns(), gram.diagonal());
    let alive: Vec<f64> = diagonal.iter().copied().filter(|&x| x > 0.0).collect();
    let mean = alive.iter().sum::<f64>() / alive.len().max(1) as f64;
    let mut h = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..k {
            if diagonal[i] > 0.0 && diagonal[j] > 0.0 {
                h[i * k + j] = gram.value(i, j) / mean;
            }
        }
        h[i * k + i] += damping + if diagonal[i] > 0.0 { 0.0 } else { 1.0 };
    }
    h
}

/// The inverse of a matrix by Gauss and Jordan, with nothing in common with `dense`.
fn inverse(h: &[f64], k: usize) -> Vec<f64> {
    let (mut a, mut b) = (h.to_vec(), vec![0.0; k * k]);
    (0..k).for_each(|i| b[i * k + i] = 1.0);
    for pivot in 0..k {
        let most =
            (pivot..k).max_by(|&x, &y| a[x * k + pivot].abs().total_cmp(&a[y * k + pivot].abs()));
        let most = most.unwrap();
        for j in 0..k {
            a.swap(pivot * k + j, most * k + j);
            b.swap(pivot * k + j, most * k + j);
        }
        let by = a[pivot * k + pivot];
        (0..k).for_each(|j| (a[pivot * k + j] /= by, b[pivot * k + j] /= by).1);
        for i in (0..k).filter(|&i| i != pivot) {
            let by = a[i * k + pivot];
            for j in 0..k {
                a[i * k + j] -= by * a[pivot * k + j];
                b[i * k + j] -= by * b[pivot * k + j];
            }
        }
    }
    b
}

/// Runs a function on a number of threads, if there are threads.
fn on_threads<T: Send>(count: usize, f: impl FnOnce() -> T + Send) -> T {
    #[cfg(feature = "rayon")]
    return rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(f);
    #[cfg(not(feature = "rayon"))]
    (count > 0).then(f).unwrap()
}

fn bits(w: &[f32]) -> Vec<u32> {
    w.iter().map(|x| x.to_bits()).collect()
}

/// H⁻¹ = UᵀU with U upper triangular, within what f64 can do.
#[test]
fn factors_of_inverses() {
    for k in [1, 2, 7, 40, 130] {
        let h = hessian(&gram_of(&inputs(3 * k + 5, k, 4), k), 0.01);
        let u = dense::factor(k, |i, j| h[i * k + j]).unwrap();
        let want = inverse(&h, k);
        let scale = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for i in 0..k {
            assert!(u[i * k..][..i].iter().all(|&x| x == 0.0) && u[i * k + i] > 0.0);
            for j in 0..k {
                let got: f64 = (0..k).map(|r| u[r * k + i] * u[r * k + j]).sum();
                // The condition number is below 1e5 at this damping, f64 has 2^-53.
                assert!((got - want[i * k + j]).abs() < 1e-9 * scale, "{k} {i} {j}");
            }
        }
    }
    assert!(dense::factor(0, |_, _| 0.0).unwrap().is_empty());
    assert!(dense::factor(2, |i, j| if i == j { -1.0 } else { 0.0 }).is_none());
    assert!(dense::factor(2, |_, _| f64::NAN).is_none());
    assert!(dense::factor(2, |_, _| 1.0).is_none());
}
