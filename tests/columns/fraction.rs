//! Tests of pruning a fraction of each block of columns.

use super::run::{Run, inputs, triangle};
use super::{as_gpu, format, given, objective, planted};
use crate::common::{floats, host, in_turn, some_of};
use lowbit::compress::layerwise::{Gram, Options, Pattern as Of, sparse_gpt};
use lowbit::compress::{Scheme, dequantize};
use lowbit::host::Gptq;
use lowbit::ops::{ColumnsSpec, Pattern};

fn scattered(k: usize) -> Vec<u32> {
    (0..k as u32).map(|i| (i * 7 + 3) % k as u32).collect()
}

/// Rows, columns, the fraction, the format and whether scales are given.
const CASES: [(usize, usize, f64, &str, bool); 12] = [
    (9, 300, 0.5, "", false),
    (70, 131, 0.5, "int4-g32-asym", false),
    (70, 150, 0.25, "int4-g128-asym-f16s", false),
    (66, 257, 0.9, "int8-channel", false),
    (6, 200, 0.7, "int3-g16-asym", true),
    (6, 200, 0.5, "int8-channel", true),
    (1, 40, 0.9, "", false),
    (1, 128, 0.5, "int6-channel-asym", false),
    (3, 7, 0.5, "int5-g32-f16s", false),
    (5, 129, 0.0, "", false),
    (5, 129, 0.999, "int4-g32", false),
    (1, 1, 0.5, "", false),
];

/// Every decision is that of f64, given the errors of the device in the columns before, and codes, scales and
/// errors follow from it. Some inputs are always 0.
#[test]
fn each_step_is_that_of_the_definition() {
    let Some(host) = host() else { return };
    let gpu = as_gpu(host);
    for (turn, &(n, k, fraction, name, is_given)) in CASES.iter().enumerate() {
        let mut x = inputs(k + 20, k);
        let mut w = floats(n * k, 3);
        if turn % 3 == 1 {
            for column in (2..k).step_by(5) {
                x.chunks_mut(k).for_each(|row| row[column] = 0.0);
                w.chunks_mut(k).for_each(|row| row[column] = 0.0);
            }
        }
        let gram = triangle(&x, k);
        let order = if turn % 2 == 0 { scattered(k) } else { (0..k as u32).collect() };
        // The permutation needs a number of columns that 7 does not divide.
        let order = if k.is_multiple_of(7) { (0..k as u32).collect() } else { order };
        let chosen = (!name.is_empty()).then(|| format(name));
        let spec = ColumnsSpec::new(n as u32, k as u32, chosen);
        let spec = spec.with_pattern(Pattern::Fraction(fraction));
        let spec = if is_given { spec.with_given_scales() } else { spec };
        let scales = if is_given { given(&spec, &w) } else { Vec::new() };
        let gpu = in_turn(turn, 3).then_some(&gpu);
        for host in [Some(host), gpu].into_iter().flatten() {
            Run::new(host, &spec, &w, &gram, &order, &scales).check(&w, &order);
        }
    }
}

/// XᵀX of inputs that have nothing in common, so that no weight is changed and all have the same U_ii.
fn apart(k: usize) -> Vec<i128> {
    let unit = |i: usize, j: usize| i128::from(i == j) << 72;
    (0..k).flat_map(|i| (i..k).map(move |j| unit(i, j))).collect()
}

/// Weights of few magnitudes, among them 0.
fn alike(count: usize) -> Vec<f32> {
    floats(count, 5).into_iter().map(|w| (w * 3.0).round() / 4.0).collect()
}

/// The mask of the reference.
fn reference(w: &[f32], n: usize, k: usize, gram: &[i128], fraction: f64) -> Vec<bool> {
    let gram = Gram::from_parts(k, 100, gram.to_vec()).unwrap();
    let scheme: Scheme = "f32".parse().unwrap();
    let made =
        sparse_gpt(w, n, k, &gram, &Of::Fraction(fraction), &scheme, &Options::default()).unwrap();
    let mask = made.mask.unwrap();
    (0..n * k).map(|at| mask.keeps(at / k, at % k)).collect()
}

/// Of equal scores the first are kept, as by the reference.
#[test]
fn ties_are_those_of_the_reference() {
    let Some(host) = host() else { return };
    let (n, k) = (70, 300);
    let (w, gram) = (alike(n * k), apart(k));
    let order: Vec<u32> = (0..k as u32).collect();
    for fraction in [0.0, 0.1, 0.3, 0.5, 0.77, 0.999] {
        let spec = ColumnsSpec::new(n as u32, k as u32, None);
        let spec = spec.with_pattern(Pattern::Fraction(fraction));
        let kept = Run::new(host, &spec, &w, &gram, &order, &[]).kept(&order);
        assert!(kept == reference(&w, n, k, &gram, fraction), "{fraction}");
    }
}

/// The objective is that of the reference within 0.5 %: of what is pruned, and of what is rounded in the same pass.
#[test]
fn objectives_are_those_of_the_reference() {
    let Some(host) = host() else { return };
    let (n, k) = (24, 200);
    let x = inputs(400, k);
    let w = floats(n * k, 11);
    let sums = host.gram(&x, k).unwrap();
    let gram = Gram::from_parts(k, 400, sums.clone()).unwrap();
    for (fraction, name) in [(0.5, "f32"), (0.8, "f32"), (0.5, "int4-channel"), (0.3, "int8-g64")] {
        let scheme: Scheme = name.parse().unwrap();
        let pattern = Of::Fraction(fraction);
        let want = sparse_gpt(&w, n, k, &gram, &pattern, &scheme, &Options::default()).unwrap();
        let how = Gptq { pattern: Some(Pattern::Fraction(fraction)), ..Gptq::default() };
        let got = if name == "f32" {
            host.sparse_gpt(&w, n, k, &sums, &how).unwrap()
        } else {
            dequantize(&host.gptq(&w, n, k, &sums, &scheme.format(), &how).unwrap())
        };
        let gone = got.iter().filter(|w| **w == 0.0).count();
        let least: usize =
            [128, 72].map(|width| ((n * width) as f64 * fraction) as usize).iter().sum();
        assert!(gone >= least, "{gone} weights are 0, not {least}");
        let (got, want) = (objective(&x, &w, &got, k), objective(&x, &w, &want.kept, k));
        eprintln!("{fraction} {name}: {got:.4}, by the reference {want:.4}");
        assert!((got / want - 1.0).abs() < 0.005, "{fraction} {name}: {got}, not {want}");
    }
}

/// Each of these mistakes in a kernel is found by the checks above.
#[test]
fn planted_faults_are_caught() {
    if host().is_none() {
        return;
    }
    let (n, k) = (9, 150);
    let gram = triangle(&inputs(170, k), k);
    let w = floats(n * k, 3);
    let order = scattered(k);
    let spec = ColumnsSpec::new(n as u32, k as u32, Some(format("int4-g32-asym")));
    let spec = spec.with_pattern(Pattern::Fraction(0.5));
    let faults = [
        // The threshold of the block before.
        ("columns_pick", "p.stage == BEGIN && local", "p.stage == BEGIN && p.first == 0u && local"),
        ("columns_pick", "= p.count;", "= p.count + 1u;"),
        ("columns_pick", "left - before <= own[i]", "left - before < own[i]"),
        ("columns_pick", "i < local; i", "i + 1u < local; i"),
        ("columns_pick", "masks[bins_at + i] = 0u;", "masks[bins_at + i] = own[i];"),
        ("columns_select", "u[at * (p.k + 1u)]", "u[0]"),
        ("columns_select", ">> p.shift) >> 8u", ">> p.shift) >> 9u"),
        ("columns_select", "min(32u, p.width - first)", "min(31u, p.width - first)"),
        ("columns_select", "p.stage != MASK && row < p.n", "p.stage != MASK && row < p.rows"),
        ("columns_select", "score < score_found", "score < (score_found >> 20u << 20u)"),
        // Bits of other rows, and of other columns.
        (
            "columns_r",
            "cut = ~(masks[column / 32u * p.stride + lane]",
            "cut = ~(masks[column / 32u * p.stride]",
        ),
        ("columns_r", ">> U(column % 32u))", ">> U((column + 1u) % 32u))"),
        // Scales of weights that are pruned.
        ("columns_r", "if (MASKED && j", "if (!MASKED && j"),
    ];
    for (kernel, from, to) in some_of(faults, 2) {
        let faulty = planted(&spec, kernel, from, to);
        let run = Run::new(&faulty, &spec, &w, &gram, &order, &[]);
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check(&w, &order)));
        assert!(checked.is_err(), "{from} → {to} was not caught");
    }
    // What matters only where scores are equal, as all are here.
    let signs = floats(n * k, 5).into_iter().map(|w| 0.5f32.copysign(w));
    let (w, gram) = (signs.collect::<Vec<f32>>(), apart(k));
    let order: Vec<u32> = (0..k as u32).collect();
    let spec = ColumnsSpec::new(n as u32, k as u32, None).with_pattern(Pattern::Fraction(0.5));
    let want = reference(&w, n, k, &gram, 0.5);
    for (kernel, from, to) in [
        ("columns_select", "p.n * p.width - 1u - (row", "(row"),
        ("columns_select", "row * p.width + first + c", "(first + c) * p.n + row"),
        ("columns_select", "place < place_found", "place <= place_found"),
        ("columns_pick", "place += lower + 1u", "place += lower"),
    ] {
        let faulty = planted(&spec, kernel, from, to);
        let kept = Run::new(&faulty, &spec, &w, &gram, &order, &[]).kept(&order);
        assert!(kept != want, "{from} → {to} was not caught");
    }
}
