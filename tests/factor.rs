//! Tests of factoring a Gram matrix on the device: residuals in f64, with bounds that follow from what the
//! device computed.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FactorArgs, FactorError, FactorPlan, FactorSpec, GramSpec, PlanError, Role,
};
use lowbit::reference::gamma;
use pollster::block_on;

/// What a factorization left: V, U (both upper triangles, `[k, k]`) and the status.
struct Factors {
    v: Vec<f64>,
    u: Vec<f64>,
    status: Vec<u32>,
}

/// Returns the words of sums, of which `sum(i, j)` is that of row i and column j ≥ i in units of 2⁻⁷².
fn words(k: u32, sum: impl Fn(u32, u32) -> i128) -> Vec<u32> {
    let spec = GramSpec::new(1, k);
    // What is not part of the triangle must not matter.
    let mut words = vec![0x5555_5555; (spec.sums_bytes() / 4) as usize];
    for i in 0..k {
        for j in i..k {
            let at = 4 * GramSpec::index(i, j) as usize;
            let value = sum(i, j) as u128;
            (0..4).for_each(|word| words[at + word] = (value >> (32 * word)) as u32);
        }
    }
    words
}

fn factor(host: &Host, spec: &FactorSpec, sums: &[u32], order: &[u32]) -> Factors {
    let k = spec.k as usize;
    let mut places = vec![0; k];
    order.iter().enumerate().for_each(|(place, &column)| places[column as usize] = place as u32);
    let plan = block_on(FactorPlan::new(host.kernels(), spec)).unwrap();
    let sums = host.storage(sums).unwrap();
    let order = host.storage(&[order, &places].concat()).unwrap();
    let hole = vec![f32::NAN.to_bits(); k * k];
    let (scratch, output) = (host.storage(&hole).unwrap(), host.storage(&hole).unwrap());
    let status = host.zeros(FactorSpec::STATUS_BYTES).unwrap();
    let diagonal = host.zeros(4 * (k as u64 + 1)).unwrap();
    let args = FactorArgs {
        sums: (&sums).into(),
        order: (&order).into(),
        scratch: &scratch,
        output: &output,
        diagonal: &diagonal,
        status: (&status).into(),
    };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, spec.k).unwrap()).unwrap();
    let read = |buffer| {
        let words = host.read(buffer, 0, k * k).unwrap();
        // Only the upper triangle is defined.
        let upper = |(at, word): (usize, u32)| {
            if at % k >= at / k { f64::from(f32::from_bits(word)) } else { 0.0 }
        };
        words.into_iter().enumerate().map(upper).collect()
    };
    Factors { v: read(&scratch), u: read(&output), status: host.read(&status, 0, 2).unwrap() }
}

/// The upper triangle of XᵀX of rows with columns of different sizes, some of which are nearly the same.
fn gram(k: usize, rows: usize, dead: &[usize]) -> Vec<i128> {
    let mut x = floats(rows * k, 7);
    for row in x.chunks_mut(k) {
        for j in 0..k {
            row[j] *= [1.0, 3.0, 0.25][j % 3];
            if j % 5 == 4 {
                row[j] = row[j - 1] + 0.1 * row[j];
            }
        }
        dead.iter().for_each(|&j| row[j] = 0.0);
    }
    let mut sums = Vec::new();
    for i in 0..k {
        for j in i..k {
            let sum: f64 = x.chunks(k).map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
            sums.push((sum * 2f64.powi(72)) as i128);
        }
    }
    sums
}

/// The matrix that is factored, in f64: divided by the mean of the diagonal, damped, in another order.
fn prepared(k: usize, triangle: &[i128], order: &[u32], damping: f64) -> Vec<f64> {
    let at = |i: usize, j: usize| {
        let (i, j) = (i.min(j), i.max(j));
        triangle[i * k - i * i.saturating_sub(1) / 2 + j - i] as f64
    };
    let index = |i: usize, j: usize| at(order[i] as usize, order[j] as usize);
    let live: Vec<f64> = (0..k).map(|i| index(i, i)).filter(|&d| d > 0.0).collect();
    let mean = if live.is_empty() { 1.0 } else { live.iter().sum::<f64>() / live.len() as f64 };
    let mut h = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..k {
            let dead = index(i, i) == 0.0 || index(j, j) == 0.0;
            let own = f64::from(u8::from(i == j));
            let value = if dead { own } else { index(i, j) / mean };
            h[i * k + j] = value + own * damping;
        }
    }
    h
}

/// A · B or, with `transposed`, A · Bᵀ.
fn product(k: usize, a: &[f64], b: &[f64], transposed: bool) -> Vec<f64> {
    let mut c = vec![0.0; k * k];
    for i in 0..k {
        for l in 0..k {
            let left = a[i * k + l];
            if left == 0.0 {
                continue;
            }
            for j in 0..k {
                c[i * k + j] += left * if transposed { b[j * k + l] } else { b[l * k + j] };
            }
        }
    }
    c
}

fn magnitudes(a: &[f64]) -> Vec<f64> {
    a.iter().map(|v| v.abs()).collect()
}

/// V · Vᵀ is H, and U · V is the identity.
///
/// With γₙ of the roundings of a path, an element of H goes through at most three roundings before it is
/// factored (its four words, the mean and the damping: six, with the division of the mean), and in a
/// factorization with exact triangular solves |V·Vᵀ − H| ≤ γ_(k+2)·|V||V|ᵀ. The panel above a block B of the
/// diagonal is multiplied with the computed inverse D of B instead, |D·B − I| ≤ γ_66·|D||B|. The inverse adds at
/// most γ_66·|H_panel||D|ᵀ|B|ᵀ and the product γ_64 of the same, which is γ_130·|V|·(|B||D||B|)ᵀ of each block, as
/// |H_panel| ≤ |V||B|ᵀ. An
/// inverse by blocks obeys |U·V − I| ≤ γ_(k+2)·|U||V||U||V| (its products each once).
fn check(k: usize, h: &[f64], factors: &Factors) {
    assert_eq!(factors.status, [0, 0]);
    let Factors { v, u, .. } = factors;
    assert!(v.iter().chain(u).all(|value| value.is_finite()));
    let (size_v, size_u) = (magnitudes(v), magnitudes(u));
    // |B||D| of the blocks of the diagonal.
    let mut growth = vec![0.0; k * k];
    for first in (0..k).step_by(64) {
        let end = k.min(first + 64);
        for i in first..end {
            for j in first..end {
                growth[i * k + j] =
                    (first..end).map(|l| size_v[i * k + l] * size_u[l * k + j]).sum();
            }
        }
    }
    // |B||D||B| in the place of B.
    let around = product(k, &size_v, &growth, true);
    let around = product(k, &around, &size_v, true);
    let (got, size) = (product(k, v, v, true), product(k, &size_v, &size_v, true));
    let mut worst = 0.0f64;
    for i in 0..k {
        for j in i..k {
            let at = i * k + j;
            let bound = gamma(k + 8) * size[at] + gamma(130) * around[at] + gamma(8) * h[at].abs();
            worst = worst.max((got[at] - h[at]).abs() / bound);
        }
    }
    assert!(worst <= 1.0, "k = {k}: V · Vᵀ is off by {worst} bounds");
    let got = product(k, u, v, false);
    let size = product(k, &size_u, &size_v, false);
    let size = product(k, &size, &size, false);
    let mut worst_inverse = 0.0f64;
    for i in 0..k {
        for j in i..k {
            let at = i * k + j;
            let own = f64::from(u8::from(i == j));
            worst_inverse = worst_inverse.max((got[at] - own).abs() / (gamma(k + 2) * size[at]));
        }
    }
    assert!(worst_inverse <= 1.0, "k = {k}: U · V is off by {worst_inverse} bounds");
    eprintln!("k = {k}: {worst:.4} and {worst_inverse:.4} of the bounds");
}

/// Blocks that end within, pairs without a partner, and several levels of them.
#[test]
fn residuals_are_within_their_bounds() {
    for (at, host) in large_and_small(1 << 20, 40).into_iter().enumerate() {
        for k in [1, 5, 63, 64, 65, 130, 200, 321, 384] {
            if at == 1 && k > 200 {
                continue;
            }
            let triangle = gram(k, 2 * k + 3, &[]);
            let spec = FactorSpec::new(k as u32);
            let mut sums = triangle.iter();
            let mut at = Vec::new();
            (0..k).for_each(|i| at.push((i..k).map(|_| *sums.next().unwrap()).collect::<Vec<_>>()));
            let words = words(k as u32, |i, j| at[i as usize][(j - i) as usize]);
            // Every column has another place.
            let order: Vec<u32> = (0..k as u32).map(|i| (i * 7 + 3) % k as u32).collect();
            let coprime = k % 7 != 0;
            let order = if coprime { order } else { (0..k as u32).rev().collect() };
            let factors = factor(host, &spec, &words, &order);
            check(k, &prepared(k, &triangle, &order, 0.01), &factors);
        }
    }
}

/// Columns that are always 0 get a 1, also if all are.
#[test]
fn dead_columns_stand_alone() {
    let Some(host) = host() else { return };
    let k = 70;
    let order: Vec<u32> = (0..k as u32).collect();
    let all: Vec<usize> = (0..k).collect();
    for dead in [&[0, 3, 64, 69][..], &all] {
        let triangle = gram(k, 100, dead);
        let at = |i: u32, j: u32| (0..i).map(|i| k as u32 - i).sum::<u32>() + j - i;
        let words = words(k as u32, |i, j| triangle[at(i, j) as usize]);
        let factors = factor(host, &FactorSpec::new(k as u32), &words, &order);
        check(k, &prepared(k, &triangle, &order, 0.01), &factors);
        for &i in dead {
            let alone = 1.0 / 1.01f64.sqrt();
            assert!((factors.u[i * k + i] - alone).abs() < 1e-6);
            assert!((0..k).all(|j| j == i || factors.u[i * k + j] == 0.0));
        }
    }
}

/// What is not positive definite is reported.
#[test]
fn failures_are_reported() {
    let Some(host) = host() else { return };
    for k in [3u32, 130] {
        let order: Vec<u32> = (0..k).collect();
        let spec = FactorSpec::new(k);
        // Off the diagonal, numbers are larger than on it.
        let words = words(k, |i, j| if i == j { 1 << 72 } else { 3 << 72 });
        let factors = factor(host, &spec, &words, &order);
        let error = spec.decode(&factors.status).unwrap_err();
        assert!(matches!(error, FactorError::NotPositive { .. }), "{error}");
    }
    let spec = FactorSpec::new(4);
    assert_eq!(spec.decode(&[5, 1]), Err(FactorError::Words(2)));
    assert_eq!(spec.decode(&[1, 5]), Err(FactorError::Words(2)));
    assert_eq!(spec.decode(&[0]), Err(FactorError::Words(1)));
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = FactorSpec::new(70);
    let damping = |value| spec.clone().with_damping(value).check();
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(damping(value), Err(PlanError::Number { name: "damping", .. })));
    }
    let large = FactorSpec::new(1 << 16).check();
    assert!(matches!(large, Err(PlanError::TooLarge { name: "k", .. })));
    let plan = block_on(FactorPlan::new(&kernels, &spec)).unwrap();
    let [sums, order, h, u, diagonal, status] =
        [3 * 65536, 560, 4 * 4900, 4 * 4900, 284, 16].map(|bytes| noop.buffer(bytes));
    let good = FactorArgs {
        sums: (&sums).into(),
        order: (&order).into(),
        scratch: &h,
        output: &u,
        diagonal: &diagonal,
        status: (&status).into(),
    };
    assert!(block_on(plan.bind(good)).is_ok());
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let same = FactorArgs { output: &h, ..good };
    assert_eq!(refuse(same), BindError::Aliased { role: Role::Scratch });
    let same = FactorArgs { sums: (&u).into(), ..good };
    assert!(matches!(refuse(same), BindError::TooSmall { role: Role::Sums, .. }));
    let short = FactorArgs { order: (&status).into(), ..good };
    assert!(matches!(refuse(short), BindError::TooSmall { role: Role::ColumnOrder, .. }));
    // A matrix that exceeds a binding is refused by name.
    let wide = FactorSpec::new(6000);
    let plan = block_on(FactorPlan::new(&kernels, &wide)).unwrap();
    let sums = noop.buffer(GramSpec::new(1, 6000).sums_bytes());
    let [order, h, u, diagonal] =
        [48000, 4 * 36_000_000, 4 * 36_000_000, 24004].map(|bytes| noop.buffer(bytes));
    let (sums, order) = ((&sums).into(), (&order).into());
    let args = FactorArgs { sums, order, scratch: &h, output: &u, diagonal: &diagonal, ..good };
    let error = block_on(plan.bind(args)).map(drop).unwrap_err();
    assert!(matches!(error, BindError::TooLarge { role: Role::Output, .. }), "{error}");
}
