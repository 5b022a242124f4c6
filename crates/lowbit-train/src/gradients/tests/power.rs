use super::normal;
use crate::gradients::{Method, PowerFactors, TensorId, Workers, orthonormalize};
use crate::random::{Purpose, Random};

fn factors(rank: usize, rows: usize, columns: usize) -> PowerFactors {
    PowerFactors::new(rank, rows, columns, &Random::new(1, Purpose::Factor(0)))
}

fn step(factors: &mut PowerFactors, matrix: &[f32]) -> Vec<f32> {
    let mut p = factors.project(matrix);
    orthonormalize(&mut p, factors.rank());
    let q = factors.project_back(matrix, &p);
    factors.restore(&p, &q)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

fn norm(a: &[f32]) -> f64 {
    distance(a, &vec![0.0; a.len()])
}

/// Three layers of 64×64 with a bias send 3 · (64 + 64 + 64) numbers, as torch's PowerSGD does.
#[test]
fn bytes_on_the_wire() {
    let method = Method::PowerSgd { rank: 1 };
    let layers = 3 * (method.bytes(64, 64) + method.bytes(1, 64));
    assert_eq!(layers, 4 * 576);
    let mut workers = Workers::new(method, true, 1, 2).unwrap();
    for number in 0..3 {
        let matrix = TensorId { number: 2 * number, rows: 64, columns: 64 };
        let bias = TensorId { number: 2 * number + 1, rows: 1, columns: 64 };
        for tensor in [matrix, bias] {
            let v = normal(tensor.rows * tensor.columns, u64::from(number));
            workers.reduce(tensor, &[v.clone(), v], 0).unwrap();
        }
    }
    assert_eq!(workers.bytes_sent(), 4 * 576);
}

/// With as many columns as the matrix has rows, P Pᵀ is the identity. Each of at most 12 products a
/// number, and P itself, is rounded to f32.
#[test]
fn full_rank_is_exact() {
    for (rows, columns) in [(12, 20), (7, 7), (1, 5)] {
        let matrix = normal(rows * columns, 4);
        let restored = step(&mut factors(rows, rows, columns), &matrix);
        let allowed = 16.0 * f64::from(f32::EPSILON) * norm(&matrix);
        assert!(distance(&restored, &matrix) <= allowed, "{rows}×{columns}");
    }
}

/// A matrix of rank 1 is restored in one step, and the warm start finds the greatest singular vectors of
/// another one: the error falls to that of the best approximation, √Σ σᵢ² of the others.
#[test]
fn low_rank_is_found() {
    let (rows, columns) = (30, 20);
    let (a, b) = (normal(rows, 1), normal(columns, 2));
    let outer = |scale: f32| -> Vec<f32> {
        (0..rows * columns).map(|at| scale * a[at / columns] * b[at % columns]).collect()
    };
    let restored = step(&mut factors(1, rows, columns), &outer(1.0));
    assert!(distance(&restored, &outer(1.0)) <= 1e-6 * norm(&outer(1.0)));

    // Orthogonal parts of lengths 8 and 1: entries in different rows and columns.
    let mut matrix = vec![0.0; rows * columns];
    (matrix[0], matrix[columns + 1]) = (8.0, 1.0);
    let mut factors = factors(1, rows, columns);
    let errors: Vec<f64> =
        (0..6).map(|_| distance(&step(&mut factors, &matrix), &matrix)).collect();
    assert!((errors[5] - 1.0).abs() < 1e-6, "{errors:?}");
}

#[test]
fn zeros_and_dependent_columns() {
    let mut factors = factors(3, 6, 5);
    assert!(step(&mut factors, &[0.0; 30]).iter().all(|&x| x == 0.0));
    // A step of zeros must not keep the next one from seeing anything.
    let mut matrix = vec![0.0; 30];
    matrix[7] = 2.0;
    assert!(distance(&step(&mut factors, &matrix), &matrix) < 1e-6);
    let mut columns = vec![1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, -2.0];
    orthonormalize(&mut columns, 2);
    let dot: f32 = columns.chunks(2).map(|row| row[0] * row[1]).sum();
    assert!(dot.abs() < 1e-6);
    let mut same = vec![1.0, 2.0, 1.0, 2.0];
    orthonormalize(&mut same, 2);
    assert_eq!([same[1], same[3]], [0.0, 0.0]);
}
