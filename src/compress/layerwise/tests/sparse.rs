use super::{Random, bits, diagonal, gram_of, hessian, inputs, inverse};
use crate::compress::layerwise::{
    Gram, LayerwiseError, Made, Mask, Options, Order, Pattern, Warning, magnitude, magnitude_from,
    magnitude_threshold, output_error, prune_and_round, sparse_gpt, wanda,
};
use crate::compress::{Scheme, dequantize, prune_magnitude, quantize, quantize_masked};
use crate::format::sample_formats;

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn made(w: &[f32], n: usize, gram: &Gram, how: &str, name: &str, options: &Options) -> Made {
    let k = gram.columns();
    let made = sparse_gpt(w, n, k, gram, &pattern(how), &scheme(name), options).unwrap();
    assert_eq!(bits(&made.kept), bits(&dequantize(&made.packed)));
    assert_eq!(output_error(gram, w, &made.kept, n), Ok(made.error));
    // Pruned weights are exactly 0.
    if let Some(mask) = &made.mask {
        let zero = |at: &usize| made.kept[*at] == 0.0 || mask.keeps(at / k, at % k);
        assert!((0..n * k).all(|at| zero(&at)), "{how} {name}");
    }
    made
}

/// Every pattern keeps as many weights as it says, in runs that the row cuts off too.
#[test]
fn counts() {
    let (n, k) = (3, 77);
    let w = Random(1).normals(n * k);
    let gram = gram_of(&inputs(150, k, 2), k);
    let norms = gram.diagonal();
    for of in 2..=16 {
        for keep in 1..of {
            let how = Pattern::OfM { keep: keep as u8, of: of as u8 };
            let pruned =
                sparse_gpt(&w, n, k, &gram, &how, &scheme("f32"), &Options::default()).unwrap();
            let masks = [
                magnitude(&w, n, k, &how).unwrap(),
                wanda(&w, n, k, &norms, &how).unwrap(),
                pruned.mask.unwrap(),
            ];
            for mask in masks {
                for row in 0..n {
                    for start in (0..k).step_by(of) {
                        let end = k.min(start + of);
                        let kept = (start..end).filter(|&column| mask.keeps(row, column)).count();
                        assert_eq!(kept, keep.min(end - start), "{how} {start}");
                    }
                }
            }
        }
    }
    for fraction in [0.0, 0.3, 0.5, 0.999] {
        let how = Pattern::Fraction(fraction);
        let pruned = |count: usize| (count as f64 * fraction) as usize;
        assert_eq!(magnitude(&w, n, k, &how).unwrap().kept(), n * k - pruned(n * k));
        assert_eq!(wanda(&w, n, k, &norms, &how).unwrap().kept(), n * (k - pruned(k)));
        let options = Options { block: 50, ..Options::default() };
        let got = sparse_gpt(&w, n, k, &gram, &how, &scheme("f32"), &options).unwrap();
        assert_eq!(got.mask.unwrap().kept(), n * k - pruned(n * 50) - pruned(n * 27));
    }
}

#[test]
fn masks_by_hand() {
    let w = [3.0, -1.0, 2.0, 1.0, 0.5, -4.0, 1.0, 1.0];
    let kept =
        |mask: &Mask| -> Vec<usize> { (0..8).filter(|at| mask.keeps(at / 4, at % 4)).collect() };
    let of = |how: &str| kept(&magnitude(&w, 2, 4, &pattern(how)).unwrap());
    assert_eq!(of("2:4"), [0, 2, 5, 6]);
    assert_eq!(of("1:2"), [0, 2, 5, 6]);
    assert_eq!(of("3:4"), [0, 1, 2, 5, 6, 7]);
    // Four weights have the magnitude 1: the lowest two of them stay.
    assert_eq!(of("0.375"), [0, 1, 2, 3, 5]);
    assert_eq!(of("0.5"), [0, 1, 2, 5]);
    assert_eq!(of("dense").len(), 8);
    let norms = [1.0, 100.0, 1.0, 0.0];
    let by_norm = |how: &str| kept(&wanda(&w, 2, 4, &norms, &pattern(how)).unwrap());
    assert_eq!(by_norm("2:4"), [0, 1, 5, 6]);
    assert_eq!(by_norm("0.75"), [1, 5]);
    assert_eq!(by_norm("0.25"), [0, 1, 2, 4, 5, 6]);
}

#[test]
fn magnitude_is_that_of_two_four() {
    for k in [1, 4, 30, 64, 75] {
        let mut w = Random(k as u64).normals(5 * k);
        w.iter_mut().step_by(3).for_each(|x| *x = x.round());
        w[0] = 1e-39;
        let want = prune_magnitude(&w, 5, k).unwrap();
        let mask = magnitude(&w, 5, k, &Pattern::TWO_FOUR).unwrap();
        assert_eq!(mask.to_mask24().unwrap(), want);
    }
}

#[test]
fn thresholds_over_layers() {
    let (a, b) = ([1.0, -2.0, 3.0], [0.5, 2.0, -2.0, 8.0, 1e-40]);
    let threshold = |fraction| magnitude_threshold(&[&a, &b], fraction);
    assert_eq!(threshold(0.0), Ok(0.0));
    assert_eq!(threshold(0.25), Ok(1.0));
    assert_eq!(threshold(0.5), Ok(2.0));
    assert_eq!(threshold(0.99), Ok(8.0));
    let mask = magnitude_from(&b, 1, 5, 2.0).unwrap();
    assert_eq!((0..5).filter(|&c| mask.keeps(0, c)).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(threshold(1.0).is_err() && threshold(-0.1).is_err() && threshold(f64::NAN).is_err());
    assert_eq!(magnitude_threshold(&[], 0.5), Err(LayerwiseError::Nothing("weights")));
    let error = magnitude_threshold(&[&a, &[1.0, f32::NAN]], 0.5).unwrap_err();
    assert!(matches!(error, LayerwiseError::NonFinite { row: 1, column: 1, .. }));
}

/// If columns do not depend on each other and are alike, SparseGPT prunes by magnitude and rounds, bit for
/// bit, in every format that can.
#[test]
fn diagonal_is_magnitude() {
    let (n, k) = (7, 60);
    let w = Random(3).normals(n * k);
    let gram = diagonal(&vec![3.0; k]);
    let (mut count, options) = (0, Options::default());
    for format in sample_formats() {
        let rounded = quantize(&w, n, k, &format);
        let how = if format.is_sparse() { "2:4" } else { "3:8" };
        let got = sparse_gpt(&w, n, k, &gram, &pattern(how), &format.into(), &options);
        let Ok(want) = rounded else {
            assert!(got.is_err(), "{format}");
            continue;
        };
        if format.has_minima() {
            assert!(matches!(got, Err(LayerwiseError::Unsupported { .. })), "{format}");
            continue;
        }
        let got = got.unwrap_or_else(|error| panic!("{format}: {error}"));
        let mask = magnitude(&w, n, k, &pattern(how)).unwrap();
        assert_eq!(got.mask.as_ref(), Some(&mask), "{format}");
        if format.is_sparse() {
            assert_eq!(got.packed, want, "{format}");
        }
        let plain = prune_and_round(&w, n, k, &mask, &format.into()).unwrap();
        assert_eq!(plain.packed, got.packed, "{format}");
        assert_eq!(got.error, got.error_before);
        count += 1;
    }
    assert!(count > 100, "{count}");
    let fraction = made(&w, n, &gram, "0.4", "f32", &Options { block: k, ..options });
    assert_eq!(fraction.mask, Some(magnitude(&w, n, k, &pattern("0.4")).unwrap()));
}

/// `quantize_masked` and rounding without pruning are the same functions by other code.
#[test]
fn rounding_by_a_mask() {
    let (n, k) = (70, 66);
    let w = Random(4).normals(n * k);
    let mask24 = prune_magnitude(&w, n, k).unwrap();
    let mask = Mask::from(&mask24);
    for name in ["2:4+int4-g32-asym", "2:4+int8-channel-f16s", "2:4+f16", "2:4+int4-tensor"] {
        let want = quantize_masked(&w, &mask24, &scheme(name).format()).unwrap();
        let got = prune_and_round(&w, n, k, &mask, &scheme(name)).unwrap();
        assert_eq!(got.packed, want, "{name}");
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        assert_eq!(got.error, w.iter().zip(&got.kept).map(square).sum::<f64>());
    }
    let all = Mask::from_fn(n, k, |_, _| true).unwrap();
    for name in ["int4-g32-asym", "int3-g64-min", "nf4", "nvfp4", "e5m2-tensor", "f32"] {
        let want = quantize(&w, n, k, &scheme(name).format()).unwrap();
        assert_eq!(prune_and_round(&w, n, k, &all, &scheme(name)).unwrap().packed, want, "{name}");
    }
    for name in ["int4-g32-min", "q4_k", "q4_1", "iq4_nl"] {
        let refused = prune_and_round(&w, n, k, &mask, &scheme(name));
        assert!(matches!(refused, Err(LayerwiseError::Unsupported { .. })), "{name}");
    }
    let refused = prune_and_round(&w, n, k, &all, &scheme("2:4+f16"));
    assert!(matches!(refused, Err(LayerwiseError::Format(_))));
    assert!(prune_and_round(&w, k, n, &mask, &scheme("f32")).is_err());
}

/// On correlated inputs: magnitude far above Wanda, Wanda not below SparseGPT.
#[test]
fn the_order_of_methods() {
    let (n, k) = (40, 256);
    // Columns of very different norms, which magnitude does not know.
    let mut x = inputs(600, k, 5);
    for (at, x) in x.iter_mut().enumerate() {
        *x *= [0.2, 1.0, 3.0, 0.5, 8.0][at % k % 5];
    }
    let gram = gram_of(&x, k);
    let w = Random(6).normals(n * k);
    for how in ["2:4", "6:8", "1:4", "3:7", "0.5"] {
        let got = made(&w, n, &gram, how, "f32", &Options::default());
        let mask = wanda(&w, n, k, &gram.diagonal(), &pattern(how)).unwrap();
        let kept = prune_and_round(&w, n, k, &mask, &scheme("f32")).unwrap().kept;
        let by_wanda = output_error(&gram, &w, &kept, n).unwrap();
        assert!(by_wanda < 0.75 * got.error_before, "{how}: {by_wanda} {}", got.error_before);
        assert!(got.error < 0.75 * by_wanda, "{how}: {} {by_wanda}", got.error);
    }
    let error = |how: &str| made(&w, n, &gram, how, "f32", &Options::default()).error;
    assert!(error("6:8") < 0.75 * error("2:4") && error("2:4") < 0.75 * error("1:4"));
    // Pruning and quantizing in one pass is better than one after the other without updates.
    for (how, name) in [
        ("2:4", "2:4+int4-g64-asym"),
        ("2:4", "2:4+int8-channel"),
        ("6:8", "int4-g32"),
        ("0.5", "nf4"),
        ("2:4", "q4_0"),
        ("2:4", "q6_k"),
        ("0.3", "nvfp4"),
        ("5:9", "mxfp4"),
    ] {
        let got = made(&w, n, &gram, how, name, &Options::default());
        assert!(got.error < 0.75 * got.error_before, "{how} {name}");
        assert_eq!(got.packed.format().is_sparse(), name.starts_with("2:4"));
    }
    let order = Order::ByDiagonal { static_groups: true };
    let got = made(&w, n, &gram, "0.5", "int4-g32", &Options { order, ..Options::default() });
    assert!(got.error < 0.75 * got.error_before);
}

/// Another implementation gives the same: H⁻¹ loses a row and a column in each step, and 2:4 is chosen on
/// updated weights.
#[test]
fn equals_removal_by_the_formula() {
    let (n, k) = (6, 12);
    for seed in 0..20 {
        let gram = gram_of(&inputs(30, k, seed), k);
        let w = Random(50 + seed).normals(n * k);
        let h = hessian(&gram, 0.01);
        for block in [1, 3, 10, 128] {
            let got = made(&w, n, &gram, "2:4", "f32", &Options { block, ..Options::default() });
            for (row, w) in w.chunks(k).enumerate() {
                let mut w: Vec<f64> = w.iter().map(|&x| x.into()).collect();
                let (mut left, mut keep) = (inverse(&h, k), vec![true; k]);
                for p in 0..k {
                    if p % 4 == 0 {
                        // The diagonal of H⁻¹ after the removal of all columns before, as in the loop:
                        // for columns behind the first it is that of later steps.
                        let mut later = left.clone();
                        let mut scores = vec![];
                        for q in p..p + 4 {
                            scores.push((w[q] * w[q] / later[q * k + q], q));
                            later = without(&later, k, q);
                        }
                        scores.sort_by(|a, b| a.0.total_cmp(&b.0));
                        scores[..2].iter().for_each(|&(_, q)| keep[q] = false);
                    }
                    let value = if keep[p] { f64::from(w[p] as f32) } else { 0.0 };
                    let step = (w[p] - value) / left[p * k + p];
                    (0..k).for_each(|j| w[j] -= step * left[p * k + j]);
                    w[p] = value;
                    left = without(&left, k, p);
                    assert_eq!(got.mask.as_ref().unwrap().keeps(row, p), keep[p], "{seed}");
                    let kept = f64::from(got.kept[row * k + p]);
                    assert!((kept - w[p]).abs() < 1e-6, "{kept} {}", w[p]);
                }
            }
        }
    }
}

/// H⁻¹ without column p.
fn without(left: &[f64], k: usize, p: usize) -> Vec<f64> {
    let mut out = left.to_vec();
    for i in 0..k {
        for j in 0..k {
            out[i * k + j] -= left[i * k + p] * left[p * k + j] / left[p * k + p];
        }
    }
    out
}

/// Runs that blocks and groups cut, with masks and scales that do not depend on the block.
#[test]
fn blocks_do_not_matter() {
    let (n, k) = (9, 300);
    let gram = gram_of(&inputs(400, k, 21), k);
    let w = Random(8).normals(n * k);
    for (how, name) in [("2:4", "2:4+int4-g48-asym"), ("5:7", "int4-g20"), ("6:16", "q6_k")] {
        let all: Vec<Made> = [300, 128, 50, 10]
            .iter()
            .map(|&b| made(&w, n, &gram, how, name, &Options { block: b, ..Options::default() }))
            .collect();
        for one in &all[1..] {
            let (a, b) = (&one.kept, &all[0].kept);
            let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
            assert!(differ <= 2, "{how} {name}: {differ}");
        }
    }
}

#[test]
fn zeros_and_dead_columns() {
    let (n, k) = (3, 8);
    let mut x = inputs(40, k, 9);
    x.iter_mut().step_by(8).for_each(|x| *x = 0.0);
    let gram = gram_of(&x, k);
    let got = made(&[0.0; 24], n, &gram, "2:4", "2:4+int4-channel", &Options::default());
    assert_eq!((got.error, got.error_before), (0.0, 0.0));
    let mask = got.mask.unwrap();
    assert!((0..n).all(|row| (0..k).all(|c| mask.keeps(row, c) == (c % 4 < 2))));
    // A dead column is 0 and pruned first.
    let got = made(&[1.0; 24], n, &gram, "2:4", "f32", &Options::default());
    assert_eq!(got.warnings, [Warning::DeadColumns { count: 1, first: 0 }]);
    assert!(!got.mask.unwrap().keeps(0, 0));
}

#[test]
fn singular() {
    let unit = 1i128 << 72;
    let wrong = Gram::from_parts(2, 1, vec![unit, 5 * unit, unit]).unwrap();
    let w = [0.3, -0.9, 0.7, 0.2];
    let got = made(&w, 2, &wrong, "1:2", "int4-channel", &Options::default());
    assert_eq!(got.warnings, [Warning::Rounded { damping: 1.0 }]);
    let mask = magnitude(&w, 2, 2, &pattern("1:2")).unwrap();
    let plain = prune_and_round(&w, 2, 2, &mask, &scheme("int4-channel")).unwrap();
    assert_eq!((got.packed, got.mask), (plain.packed, Some(mask)));
}

#[test]
fn what_is_refused() {
    let (n, k) = (2, 8);
    let gram = gram_of(&inputs(20, k, 1), k);
    let w = Random(1).normals(n * k);
    let run = |how: Pattern, name: &str, order| {
        let options = Options { order, ..Options::default() };
        sparse_gpt(&w, n, k, &gram, &how, &scheme(name), &options).map(drop)
    };
    let unsupported = |result| matches!(result, Err(LayerwiseError::Unsupported { .. }));
    let by_diagonal = Order::ByDiagonal { static_groups: true };
    assert!(unsupported(run(Pattern::TWO_FOUR, "f32", by_diagonal)));
    for how in [Pattern::Dense, pattern("0.5"), pattern("4:8"), pattern("3:4")] {
        assert!(unsupported(run(how, "2:4+f16", Order::AsIs)), "{how}");
    }
    run(pattern("1:4"), "2:4+f16", Order::AsIs).unwrap();
    run(Pattern::Dense, "q4_k", Order::AsIs).unwrap();
    for name in ["q4_k", "int4-g4-min", "q4_1", "iq4_nl"] {
        assert!(unsupported(run(Pattern::TWO_FOUR, name, Order::AsIs)), "{name}");
    }
    for bad in
        [Pattern::Fraction(1.0), Pattern::Fraction(f64::NAN), Pattern::OfM { keep: 4, of: 4 }]
    {
        assert!(matches!(run(bad, "f32", Order::AsIs), Err(LayerwiseError::Pattern(_))));
        assert!(magnitude(&w, n, k, &bad).is_err());
    }
    let norms = vec![1.0; k];
    assert!(wanda(&w, n, k, &norms[1..], &Pattern::TWO_FOUR).is_err());
    let mut negative = norms.clone();
    negative[3] = -1.0;
    assert!(wanda(&w, n, k, &negative, &Pattern::TWO_FOUR).is_err());
    let mut nan = w.clone();
    nan[9] = f32::NAN;
    assert!(wanda(&nan, n, k, &norms, &Pattern::TWO_FOUR).is_err());
    assert!(magnitude_from(&nan, n, k, 0.5).is_err());
    assert_eq!(magnitude(&[], 0, 8, &Pattern::TWO_FOUR).unwrap().kept(), 0);
    assert_eq!(magnitude(&[], 8, 0, &pattern("0.5")).unwrap().kept(), 0);
}
