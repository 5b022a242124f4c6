//! Hadamard matrices: of powers of two by Sylvester's construction, of other orders by Paley's two
//! constructions, and Kronecker products of these.

/// The largest order that Paley's constructions are used for. A vector takes that many additions for each of
/// its elements.
const MOST_ORDER: usize = 1 << 12;

/// The matrix H/√n, where H has n rows of 1 and −1 that are orthogonal to each other. Every element of its first
/// row is 1/√n.
#[derive(Clone, Debug)]
pub struct Hadamard {
    n: usize,
    factors: Vec<Factor>,
}

/// A factor of a Kronecker product.
#[derive(Clone, Debug)]
enum Factor {
    /// Sylvester's matrix of this order, a power of two.
    Sylvester(usize),
    /// The elements of one of Paley's matrices, row by row.
    Paley { order: usize, elements: Vec<f64> },
}

impl Hadamard {
    /// Returns a matrix of `n` rows, or `None` if the constructions here give none of that order: n must be a
    /// power of two, or such a power times numbers of the form q + 1, for a prime q that is 3 modulo 4, and
    /// 2(q + 1), for a prime q that is 1 modulo 4.
    pub fn new(n: usize) -> Option<Self> {
        let factors = orders(n)?.into_iter().map(|order| {
            if order.is_power_of_two() {
                Factor::Sylvester(order)
            } else {
                Factor::Paley { order, elements: paley(order) }
            }
        });
        Some(Self { n, factors: factors.collect() })
    }

    /// Returns the closest orders below and above `n` for which there is a matrix.
    pub fn closest(n: usize) -> (Option<usize>, Option<usize>) {
        let known = |order: &usize| orders(*order).is_some();
        let above = n.checked_next_power_of_two().unwrap_or(n);
        ((1..n).rev().find(known), (n.saturating_add(1)..=above).find(known))
    }

    /// Returns the number of rows.
    pub fn order(&self) -> usize {
        self.n
    }

    /// Multiplies the matrix by each of the vectors of `n` elements that `x` has one after the other.
    pub fn multiply(&self, x: &mut [f64]) {
        self.run(x, false);
    }

    /// Multiplies the transposed matrix by each of the vectors of `n` elements that `x` has one after the other.
    pub fn multiply_transposed(&self, x: &mut [f64]) {
        self.run(x, true);
    }

    fn run(&self, x: &mut [f64], transposed: bool) {
        let root = (self.n as f64).sqrt();
        let mut inner = self.n;
        for factor in &self.factors {
            inner /= factor.order();
            factor.multiply(x, inner, transposed);
        }
        x.iter_mut().for_each(|x| *x /= root);
    }
}

impl Factor {
    fn order(&self) -> usize {
        match self {
            Self::Sylvester(order) | Self::Paley { order, .. } => *order,
        }
    }

    /// Multiplies the factor by vectors of which each lies in steps of `inner` elements.
    fn multiply(&self, x: &mut [f64], inner: usize, transposed: bool) {
        let order = self.order();
        match self {
            Self::Sylvester(_) => {
                // One factor of order 2 after the other; each adds and subtracts halves.
                let mut half = inner * order / 2;
                while half >= inner.max(1) {
                    for block in x.chunks_exact_mut(2 * half) {
                        let (upper, lower) = block.split_at_mut(half);
                        for (a, b) in upper.iter_mut().zip(lower) {
                            (*a, *b) = (*a + *b, *a - *b);
                        }
                    }
                    half /= 2;
                }
            }
            Self::Paley { elements, .. } => {
                let mut sums = vec![0.0; inner * order];
                for block in x.chunks_exact_mut(inner * order) {
                    for (row, sums) in sums.chunks_exact_mut(inner).enumerate() {
                        sums.fill(0.0);
                        for (column, x) in block.chunks_exact(inner).enumerate() {
                            let (i, j) = if transposed { (column, row) } else { (row, column) };
                            let element = elements.get(i * order + j).copied().unwrap_or_default();
                            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += element * x);
                        }
                    }
                    block.copy_from_slice(&sums);
                }
            }
        }
    }
}

/// Returns the orders of the factors of a matrix of `n` rows, the last of them a power of two.
fn orders(n: usize) -> Option<Vec<usize>> {
    if n.is_power_of_two() {
        return Some(vec![n]);
    }
    let fits = |order: &usize| n.is_multiple_of(*order) && prime_of(*order).is_some();
    (12..=n.min(MOST_ORDER)).step_by(4).filter(fits).find_map(|order| {
        let mut rest = orders(n / order)?;
        rest.insert(0, order);
        Some(rest)
    })
}

/// Returns the prime q of Paley's construction of an order, and whether it is the first of the two. Orders for
/// which Sylvester's does are left to that.
fn prime_of(order: usize) -> Option<(usize, bool)> {
    if order.is_power_of_two() || !order.is_multiple_of(4) {
        return None;
    }
    let (first, second) = (order - 1, order / 2 - 1);
    if is_prime(first) {
        // The order is a multiple of 4, so this prime is 3 modulo 4.
        Some((first, true))
    } else if is_prime(second) && second % 4 == 1 {
        Some((second, false))
    } else {
        None
    }
}

fn is_prime(q: usize) -> bool {
    q > 1 && (2..).take_while(|d| d * d <= q).all(|d| !q.is_multiple_of(d))
}

/// Returns the elements of Paley's matrix of an order for which there is one, so that the first row has only ones.
fn paley(order: usize) -> Vec<f64> {
    let Some((q, first)) = prime_of(order) else { return Vec::new() };
    let mut squares = vec![false; q];
    for root in 1..q {
        if let Some(square) = squares.get_mut(root * root % q) {
            *square = true;
        }
    }
    // 1 for a square other than 0 modulo q, −1 for what is none, and 0 for 0.
    let character = |difference: usize| match difference % q {
        0 => 0.0,
        d if squares.get(d) == Some(&true) => 1.0,
        _ => -1.0,
    };
    // The matrix of characters with a first row of ones, and a first column of ones or their negatives.
    let bordered = |row: usize, column: usize| match (row, column) {
        (0, 0) => 0.0,
        (0, _) => 1.0,
        (_, 0) => {
            if first {
                -1.0
            } else {
                1.0
            }
        }
        _ => character(row + q - column),
    };
    let element = |row: usize, column: usize| {
        if first {
            return bordered(row, column) + if row == column { 1.0 } else { 0.0 };
        }
        // [[1, 1], [1, −1]] for each of these elements, and [[1, −1], [−1, −1]] for each on the diagonal.
        let even = [row, column].map(|at| at.is_multiple_of(2));
        let sign = if even == [false, false] { -1.0 } else { 1.0 };
        let own = if even == [true, true] { 1.0 } else { -1.0 };
        let (i, j) = (row / 2, column / 2);
        let value = bordered(i, j) * sign + if i == j { own } else { 0.0 };
        // Without this the first row would have one −1, in the second column.
        if column == 1 { -value } else { value }
    };
    (0..order)
        .flat_map(|row| (0..order).map(move |column| (row, column)))
        .map(|(r, c)| element(r, c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the matrix times √n, a row for each unit vector that the transposed one is multiplied by.
    fn matrix(n: usize) -> Vec<Vec<f64>> {
        let hadamard = Hadamard::new(n).unwrap();
        let row = |at: usize| {
            let mut unit = vec![0.0; n];
            unit[at] = (n as f64).sqrt();
            hadamard.multiply_transposed(&mut unit);
            unit
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn rows_are_signs_and_orthogonal() {
        // Powers of two; Paley's first with q = 11, 19, 23, 59; the second with 13, 17; products.
        for n in [1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 48, 56, 60, 144, 240, 336, 576, 896] {
            let rows = matrix(n);
            for (i, a) in rows.iter().enumerate() {
                assert!(a.iter().all(|x| (x.abs() - 1.0).abs() < 1e-12), "{n}: row {i}");
                for (j, b) in rows.iter().enumerate().take(i) {
                    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert!(product.abs() < 1e-9, "{n}: rows {i} and {j}: {product}");
                }
            }
            assert!(rows[0].iter().all(|x| *x > 0.0), "{n}");
        }
    }

    #[test]
    fn products_are_those_of_the_matrix() {
        for n in [4, 12, 28, 48, 336] {
            let rows = matrix(n);
            let x: Vec<f64> = (0..2 * n).map(|i| ((i * i + 3 * i) % 17) as f64 - 8.0).collect();
            let (mut fast, mut turned) = (x.clone(), x.clone());
            let hadamard = Hadamard::new(n).unwrap();
            hadamard.multiply(&mut fast);
            hadamard.multiply_transposed(&mut turned);
            let root = (n as f64).sqrt();
            for vector in 0..2 {
                let x = &x[vector * n..][..n];
                for i in 0..n {
                    let row: f64 = rows[i].iter().zip(x).map(|(h, x)| h * x).sum();
                    let column: f64 = rows.iter().zip(x).map(|(row, x)| row[i] * x).sum();
                    // Some hundred additions of numbers below 10, each rounded by 2⁻⁵³ of a sum below 10⁴.
                    assert!((fast[vector * n + i] - row / root).abs() < 1e-9, "{n}: {i}");
                    assert!((turned[vector * n + i] - column / root).abs() < 1e-9, "{n}: {i}");
                }
            }
        }
    }

    #[test]
    fn orders_of_models_are_known_and_others_are_not() {
        for n in
            [384, 576, 640, 768, 896, 960, 1024, 1152, 1280, 1536, 1600, 2048, 2304, 2560, 2880]
        {
            assert!(Hadamard::new(n).is_some(), "{n}");
        }
        for n in [3072, 3584, 3840, 4096, 5120, 5376, 6144, 6656, 7168, 8192, 12288, 16384] {
            assert!(Hadamard::new(n).is_some(), "{n}");
        }
        assert_eq!(orders(576), Some(vec![12, 12, 4]));
        assert_eq!(orders(896), Some(vec![28, 32]));
        for n in [0, 3, 6, 10, 18, 30, 92, 1 << 12 | 1] {
            assert!(Hadamard::new(n).is_none(), "{n}");
        }
        assert_eq!(Hadamard::closest(30), (Some(28), Some(32)));
        assert_eq!(Hadamard::closest(92), (Some(88), Some(96)));
        assert_eq!(Hadamard::closest(3), (Some(2), Some(4)));
    }
}
