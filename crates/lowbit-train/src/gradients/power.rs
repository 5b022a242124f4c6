//! PowerSGD: a matrix M `[n, m]` is sent as P Qᵀ of r columns each, found by one step of subspace
//! iteration from the Q of the step before.
//!
//! ```text
//! P ← mean of M Q over ranks, made orthonormal        Q ← mean of Mᵀ P over ranks        M̂ = P Qᵀ
//! ```

use crate::random::Random;

/// The columns of a matrix whose length shrinks by more than this factor when earlier columns are
/// subtracted are dependent on them, up to the rounding of f32 (2⁻²⁴ a product).
const DEPENDENT: f64 = 1e-6;

/// Returns how many numbers are sent for a matrix: those of both factors, or of the matrix if it has no
/// more.
pub fn numbers(rank: usize, rows: usize, columns: usize) -> usize {
    (rank * (rows + columns)).min(rows * columns)
}

/// Returns whether factors are smaller than the matrix.
pub fn is_worth_it(rank: usize, rows: usize, columns: usize) -> bool {
    rank * (rows + columns) < rows * columns
}

/// The factor Q of one matrix, which the next step starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerFactors {
    rank: usize,
    rows: usize,
    columns: usize,
    /// `[columns, rank]`.
    q: Vec<f32>,
}

impl PowerFactors {
    /// Creates a factor of normally distributed numbers, the same on all ranks. The rank is at most that
    /// of the matrix.
    pub fn new(rank: usize, rows: usize, columns: usize, random: &Random) -> Self {
        let rank = rank.min(rows).min(columns);
        let q = (0..columns * rank).map(|at| random.normal(at as u64)).collect();
        Self { rank, rows, columns, q }
    }

    /// Returns M Q, `[rows, rank]`.
    pub fn project(&self, matrix: &[f32]) -> Vec<f32> {
        let mut p = Vec::with_capacity(self.rows * self.rank);
        for row in matrix.chunks_exact(self.columns.max(1)) {
            for r in 0..self.rank {
                let products = row
                    .iter()
                    .enumerate()
                    .map(|(at, &x)| f64::from(x) * f64::from(self.q[at * self.rank + r]));
                p.push(products.sum::<f64>() as f32);
            }
        }
        p
    }

    /// Returns Mᵀ P, `[columns, rank]`, for P `[rows, rank]`.
    pub fn project_back(&self, matrix: &[f32], p: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.columns * self.rank];
        for (row, p) in matrix.chunks_exact(self.columns.max(1)).zip(p.chunks(self.rank.max(1))) {
            for (sums, &x) in sums.chunks_mut(self.rank.max(1)).zip(row) {
                for (sum, &p) in sums.iter_mut().zip(p) {
                    *sum += f64::from(x) * f64::from(p);
                }
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }

    /// Returns P Qᵀ, and keeps Q for the next step. A column of zeros is not kept, since no later step
    /// could leave it: the column of the step before stays.
    pub fn restore(&mut self, p: &[f32], q: &[f32]) -> Vec<f32> {
        let mut matrix = Vec::with_capacity(self.rows * self.columns);
        for p in p.chunks_exact(self.rank.max(1)) {
            for q in q.chunks_exact(self.rank.max(1)) {
                let products = p.iter().zip(q).map(|(&p, &q)| f64::from(p) * f64::from(q));
                matrix.push(products.sum::<f64>() as f32);
            }
        }
        for r in 0..self.rank {
            if (0..self.columns).any(|at| q[at * self.rank + r] != 0.0) {
                (0..self.columns).for_each(|at| self.q[at * self.rank + r] = q[at * self.rank + r]);
            }
        }
        matrix
    }

    /// Returns the number of columns of the factors.
    pub fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn q(&self) -> &[f32] {
        &self.q
    }

    pub(super) fn q_mut(&mut self) -> &mut [f32] {
        &mut self.q
    }
}

/// Makes the columns of a matrix `[n, rank]` orthonormal (Gram and Schmidt, each column twice, since once
/// loses orthogonality). Columns that depend on earlier ones become zeros.
pub fn orthonormalize(matrix: &mut [f32], rank: usize) {
    let column = |matrix: &[f32], at: usize| -> Vec<f64> {
        matrix.iter().skip(at).step_by(rank.max(1)).map(|&x| f64::from(x)).collect()
    };
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut done: Vec<Vec<f64>> = Vec::new();
    for at in 0..rank {
        let mut own = column(matrix, at);
        let before = length(&own);
        for _ in 0..2 {
            for other in &done {
                let dot: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(other).for_each(|(x, o)| *x -= dot * o);
            }
        }
        let after = length(&own);
        let scale = if after > DEPENDENT * before { 1.0 / after } else { 0.0 };
        own.iter_mut().for_each(|x| *x *= scale);
        matrix.iter_mut().skip(at).step_by(rank).zip(&own).for_each(|(to, &x)| *to = x as f32);
        done.push(own);
    }
}
