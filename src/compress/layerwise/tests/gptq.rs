use super::{Random, bits, diagonal, gram_of, hessian, inputs, inverse, on_threads};
use crate::compress::layerwise::{
    Gram, LayerwiseError, Made, Options, Order, Warning, gptq, output_error,
};
use crate::compress::{CompressError, Scheme, dequantize, quantize, quantize_scheme};
use crate::format::{CodeType, WeightFormat, sample_formats};

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}

fn made(w: &[f32], n: usize, gram: &Gram, name: &str, options: &Options) -> Made {
    let made = gptq(w, n, gram.columns(), gram, &scheme(name), options).unwrap();
    assert_eq!(bits(&made.kept), bits(&dequantize(&made.packed)));
    assert_eq!(output_error(gram, w, &made.kept, n), Ok(made.error));
    made
}

const BY_DIAGONAL: Order = Order::ByDiagonal { static_groups: false };
const STATIC: Order = Order::ByDiagonal { static_groups: true };

/// If columns do not depend on each other, there is nothing to correct: the result is that of rounding
/// to nearest, bit for bit, in every format that has a rule.
#[test]
fn diagonal_is_rounding() {
    let (n, k) = (67, 80);
    let w = Random(7).normals(n * k);
    let gram = diagonal(&(0..k).map(|i| 1.0 + i as f64 / 7.0).collect::<Vec<_>>());
    let mut count = 0;
    for format in sample_formats().into_iter().filter(|format| !format.is_sparse()) {
        let Ok(want) = quantize(&w, n, k, &format) else { continue };
        for order in [Order::AsIs, STATIC] {
            let options = Options { order, ..Options::default() };
            let got = gptq(&w, n, k, &gram, &format.into(), &options).unwrap();
            assert_eq!(got.packed, want, "{format}");
            assert_eq!(got.error, got.error_before);
        }
        count += 1;
    }
    assert!(count > 100, "{count}");
}

/// On correlated inputs the objective is below that of rounding, by a margin, for every kind of format.
#[test]
fn better_than_rounding() {
    let (n, k) = (48, 576);
    let gram = gram_of(&inputs(2 * k, k, 11), k);
    let w = Random(5).normals(n * k);
    for (name, most) in [
        ("int4-g128-asym", 0.5),
        ("int4-g64", 0.5),
        ("int3-g32-asym-f16s", 0.5),
        ("int2-g128-asym", 0.7),
        ("int8-channel", 0.5),
        ("int6-tensor", 0.5),
        ("int16-channel", 0.5),
        ("int4-g32-min", 0.5),
        ("nf4", 0.6),
        ("fp4", 0.6),
        ("mxfp4", 0.6),
        ("nvfp4", 0.6),
        ("e4m3-channel", 0.6),
        ("q4_0", 0.5),
        ("q4_1", 0.5),
        ("q8_0", 0.5),
        ("q4_k", 0.6),
        ("q5_k", 0.6),
        ("q6_k", 0.6),
        ("iq4_nl", 0.6),
    ] {
        let plain = made(&w, n, &gram, name, &Options::default());
        let ratio = plain.error / plain.error_before;
        assert!(ratio < most, "{name}: {ratio}");
        let before = quantize_scheme(&w, n, k, &scheme(name)).unwrap();
        assert_eq!(plain.error_before, output_error(&gram, &w, &dequantize(&before), n).unwrap());
        let order = Options { order: STATIC, ..Options::default() };
        let ratio = made(&w, n, &gram, name, &order).error / plain.error_before;
        assert!(ratio < most, "{name} in order: {ratio}");
    }
}

/// A second implementation, of the formula for the removal of one column after the other (Frantar and
/// Alistarh 2022, "Optimal Brain Compression"): H⁻¹ loses a row and a column in each step.
fn by_removal(w: &[f32], k: usize, h: &[f64], round: impl Fn(usize, f32) -> f32) -> Vec<f32> {
    let mut w: Vec<f64> = w.iter().map(|&x| x.into()).collect();
    let mut kept = Vec::new();
    let mut left = inverse(h, k);
    for p in 0..k {
        let value = round(p, w[p] as f32);
        kept.push(value);
        let step = (w[p] - f64::from(value)) / left[p * k + p];
        (0..k).for_each(|j| w[j] -= step * left[p * k + j]);
        let before = left.clone();
        for i in 0..k {
            for j in 0..k {
                left[i * k + j] -= before[i * k + p] * before[p * k + j] / before[p * k + p];
            }
        }
    }
    kept
}

#[test]
fn equals_removal_by_the_formula() {
    let (n, k) = (5, 12);
    for seed in 0..20 {
        let gram = gram_of(&inputs(30, k, seed), k);
        let w = Random(100 + seed).normals(n * k);
        let h = hessian(&gram, 0.01);
        for block in [1, 5, 12, 128] {
            let options = Options { block, ..Options::default() };
            let got = made(&w, n, &gram, "int3-channel", &options);
            for (w, kept) in w.chunks(k).zip(got.kept.chunks(k)) {
                let scale = w.iter().fold(0f32, |most, x| most.max(x.abs())) / 3.0;
                let round = |_, x: f32| (x / scale).round_ties_even().clamp(-4.0, 3.0) * scale;
                assert_eq!(by_removal(w, k, &h, round), kept, "{seed} {block}");
            }
        }
    }
}

/// The update after a column is the one of least squares: of all changes of the columns behind, none
/// has a lower error.
#[test]
fn the_update_of_a_column_is_optimal() {
    let k = 6;
    let gram = gram_of(&inputs(40, k, 3), k);
    let w = Random(4).normals(k);
    // All columns but the first are copied as f32, so that they keep their updates.
    let h = hessian(&gram, 0.01);
    let round = |p: usize, x: f32| if p == 0 { 0.0 } else { x };
    let kept = by_removal(&w, k, &h, round);
    // The gradient with respect to each column behind the first is 0: (H d)_j = 0.
    let d: Vec<f64> = w.iter().zip(&kept).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    let gradient = |j: usize| (0..k).map(|i| h[j * k + i] * d[i]).sum::<f64>();
    let first = gradient(0).abs();
    assert!((1..k).all(|j| gradient(j).abs() < 1e-6 * first), "{d:?}");
    // And the same change comes from a mask that prunes the first column alone.
    let mask = crate::compress::layerwise::Mask::from_fn(1, k, |_, column| column > 0).unwrap();
    let factor = super::dense::factor(k, |i, j| h[i * k + j]).unwrap();
    let columns = crate::compress::layerwise::columns::Columns {
        w: &w,
        n: 1,
        k,
        factor: Some(&factor),
        dead: &[false; 6],
        order: None,
        static_groups: false,
        prune: crate::compress::layerwise::columns::Prune::Mask(&mask),
        block: 128,
    };
    let format = scheme("f32");
    let rounder = crate::compress::layerwise::rounder::Rounder::new(&format, 1, k, false).unwrap();
    let got = dequantize(&columns.run(rounder).unwrap().packed);
    for (a, b) in got.iter().zip(&kept) {
        assert!((a - b).abs() < 1e-6, "{got:?} {kept:?}");
    }
}

/// Groups that do not divide blocks, or reach across several, have the same codes whatever the block.
#[test]
fn blocks_do_not_matter() {
    let (n, k) = (9, 576);
    let gram = gram_of(&inputs(700, k, 21), k);
    let w = Random(6).normals(n * k);
    for name in ["int4-g128-asym", "int4-g48", "int3-g20-min", "int4-channel", "q4_k", "nvfp4"] {
        let all: Vec<Made> = [576, 128, 100, 64, 7]
            .iter()
            .map(|&block| made(&w, n, &gram, name, &Options { block, ..Options::default() }))
            .collect();
        for one in &all[1..] {
            // In f64 the order of sums changes hardly any code.
            let (a, b) = (&one.kept, &all[0].kept);
            let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
            assert!(differ <= 2, "{name}: {differ}");
            assert!((one.error / all[0].error - 1.0).abs() < 1e-3, "{name}");
        }
    }
}

/// Permuting the columns of W and X permutes the result, if groups do not depend on the order.
#[test]
fn columns_in_another_order() {
    let (n, k) = (7, 40);
    let x = inputs(100, k, 2);
    let w = Random(8).normals(n * k);
    let order: Vec<usize> = (0..k).map(|i| (i * 17 + 5) % k).collect();
    let permuted = |m: &[f32]| -> Vec<f32> {
        m.chunks(k).flat_map(|row| order.iter().map(|&i| row[i]).collect::<Vec<_>>()).collect()
    };
    for order in [BY_DIAGONAL, STATIC] {
        let options = Options { order, ..Options::default() };
        let one = made(&w, n, &gram_of(&x, k), "int4-channel-asym", &options);
        let two = made(&permuted(&w), n, &gram_of(&permuted(&x), k), "int4-channel-asym", &options);
        assert_eq!(permuted(&one.kept), two.kept);
        assert!(one.packed.order().is_empty());
    }
}

/// Act-order stores an order of columns with groups, and none with static groups or without groups.
#[test]
fn orders() {
    let (n, k) = (6, 64);
    let x = inputs(100, k, 12);
    let gram = gram_of(&x, k);
    let w = Random(9).normals(n * k);
    let options = |order| Options { order, ..Options::default() };
    let permuted = made(&w, n, &gram, "int4-g16-asym", &options(BY_DIAGONAL));
    let order = permuted.packed.order();
    let diagonal = gram.diagonal();
    assert!(order.windows(2).all(|o| diagonal[o[0] as usize] >= diagonal[o[1] as usize]));
    assert!(permuted.packed.format().is_permuted());
    let fixed = made(&w, n, &gram, "int4-g16-asym", &options(STATIC));
    assert_eq!(fixed.packed.format(), scheme("int4-g16-asym").format());
    // Static scales are those of rounding.
    let rounded = quantize(&w, n, k, &fixed.packed.format()).unwrap();
    assert_eq!(fixed.packed.scales(), rounded.scales());
    assert_eq!(fixed.packed.zeros(), rounded.zeros());
    // The permuted result is that of the permuted layer in its own order.
    let of = |m: &[f32]| -> Vec<f32> {
        m.chunks(k).flat_map(|r| order.iter().map(|&i| r[i as usize]).collect::<Vec<_>>()).collect()
    };
    let own = made(&of(&w), n, &gram_of(&of(&x), k), "int4-g16-asym", &options(Order::AsIs));
    assert_eq!(own.kept, of(&permuted.kept));
    assert_eq!(own.packed.codes(), permuted.packed.codes());
    let q4_0 = gptq(&w, n, k, &gram, &scheme("q4_0"), &options(BY_DIAGONAL));
    assert!(matches!(q4_0, Err(LayerwiseError::Unsupported { .. })));
}

/// Clipping lowers the error that it searches by, and with outliers at 3 bits that of outputs too.
#[test]
fn clipping() {
    let (n, k) = (16, 128);
    let gram = gram_of(&inputs(400, k, 13), k);
    let mut w = Random(14).normals(n * k);
    w.iter_mut().step_by(61).for_each(|x| *x *= 4.0);
    let same = diagonal(&vec![1.0; k]);
    let options = Options { clip: true, ..Options::default() };
    for name in
        ["int3-g64-asym", "int4-tensor", "nf4", "mxfp4", "nvfp4", "int4-g32-min", "e4m3-channel"]
    {
        let norm = |kept: &[f32]| {
            let off = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs().powf(2.4);
            w.iter().zip(kept).map(off).sum::<f64>()
        };
        let clip = norm(&made(&w, n, &same, name, &options).kept);
        let plain = norm(&made(&w, n, &same, name, &Options::default()).kept);
        // Half of a power of two is rarely better.
        assert!(clip < plain || name == "mxfp4" && clip == plain, "{name}: {clip} {plain}");
    }
    for name in ["int3-g64-asym", "int3-channel", "int3-tensor"] {
        let clip = made(&w, n, &gram, name, &options);
        let plain = made(&w, n, &gram, name, &Options::default());
        assert!(clip.error < plain.error, "{name}: {} {}", clip.error, plain.error);
    }
    let refused = gptq(&w, n, k, &gram, &scheme("q4_0"), &options);
    assert!(matches!(refused, Err(LayerwiseError::Unsupported { .. })));
}

#[test]
fn dead_columns() {
    let (n, k) = (4, 10);
    let mut x = inputs(60, k, 15);
    x.iter_mut().enumerate().filter(|(at, _)| [3, 7].contains(&(at % k))).for_each(|x| *x.1 = 0.0);
    let gram = gram_of(&x, k);
    let w = Random(16).normals(n * k);
    let got = made(&w, n, &gram, "int4-channel", &Options::default());
    assert_eq!(got.warnings, [Warning::DeadColumns { count: 2, first: 3 }]);
    for row in got.kept.chunks(k) {
        assert_eq!((row[3], row[7]), (0.0, 0.0));
    }
    // The others are what they are without the dead ones, but for scales, which are their own here.
    let alive = |m: &[f32]| -> Vec<f32> {
        m.iter().enumerate().filter(|(at, _)| ![3, 7].contains(&(at % k))).map(|x| *x.1).collect()
    };
    let without =
        made(&alive(&w), n, &gram_of(&alive(&x), k - 2), "int4-channel", &Options::default());
    assert_eq!(without.kept, alive(&got.kept));
    // Every column is dead.
    let nothing = gram_of(&[0.0; 20], k);
    let got = made(&w, n, &nothing, "int4-channel", &Options::default());
    assert!(got.kept.iter().all(|&x| x == 0.0));
}

/// Inputs that depend on each other need damping; without any, it is raised and said so.
#[test]
fn singular() {
    let k = 8;
    let row: Vec<f32> = (0..k).map(|i| 1.0 + i as f32).collect();
    let gram = gram_of(&row, k);
    let w = Random(17).normals(3 * k);
    // The error that is left is about that of the last column, whose input is the smallest.
    let options = Options { order: STATIC, ..Options::default() };
    let got = made(&w, 3, &gram, "int4-channel", &options);
    assert_eq!(got.warnings, []);
    assert!(got.error < 0.1 * got.error_before, "{} {}", got.error, got.error_before);
    let options = Options { damping: 0.0, ..Options::default() };
    let got = made(&w, 3, &gram, "int4-channel", &options);
    let damped =
        got.warnings.iter().any(|w| matches!(w, Warning::Damped { used, .. } if *used > 0.0));
    assert!(damped, "{:?}", got.warnings);
    // No Gram matrix of inputs looks like this one: rounding remains.
    let unit = 1i128 << 72;
    let wrong = Gram::from_parts(2, 1, vec![unit, 5 * unit, unit]).unwrap();
    let w = [0.3, -0.9, 0.7, 0.2];
    let got = made(&w, 2, &wrong, "int4-channel", &Options::default());
    assert_eq!(got.warnings, [Warning::Rounded { damping: 1.0 }]);
    assert_eq!(got.packed, quantize(&w, 2, 2, &scheme("int4-channel").format()).unwrap());
}

#[test]
fn small_and_empty() {
    let gram = gram_of(&[2.0, -1.0], 1);
    let got = made(&[0.3, -7.0], 2, &gram, "int4-g32", &Options::default());
    assert_eq!(got.packed, quantize(&[0.3, -7.0], 2, 1, &scheme("int4-g32").format()).unwrap());
    for name in ["int4-g32-asym", "int8-tensor", "nvfp4", "q4_k", "f16"] {
        let gram = gram_of(&inputs(9, 5, 1), 5);
        assert!(made(&[], 0, &gram, name, &Options::default()).kept.is_empty());
        let nothing = Gram::from_parts(0, 1, vec![]).unwrap();
        assert!(made(&[], 3, &nothing, name, &Options::default()).kept.is_empty());
        let zeros = made(&[0.0; 10], 2, &gram, name, &Options::default());
        assert!(zeros.kept.iter().all(|&x| x == 0.0), "{name}");
    }
}

#[test]
fn what_is_refused() {
    let (n, k) = (2, 4);
    let gram = gram_of(&inputs(9, k, 1), k);
    let w = [0.5; 8];
    let (int4, options) = (scheme("int4-channel"), Options::default());
    let run = |w: &[f32], gram: &Gram, name: &str, options: &Options| {
        gptq(w, n, k, gram, &scheme(name), options).unwrap_err()
    };
    let unsupported = |e: LayerwiseError| matches!(e, LayerwiseError::Unsupported { .. });
    assert!(unsupported(run(&w, &gram, "2:4+int4-channel", &options)));
    let length = LayerwiseError::WrongLength { what: "the matrix", need: 8, have: 7 };
    assert_eq!(run(&w[1..], &gram, "int4-channel", &options), length);
    let mut bad = w;
    bad[6] = f32::NAN;
    let error = run(&bad, &gram, "int4-channel", &options);
    assert!(matches!(error, LayerwiseError::NonFinite { row: 1, column: 2, .. }));
    let empty = Gram::new(k).unwrap();
    assert!(matches!(run(&w, &empty, "int4-channel", &options), LayerwiseError::Nothing(_)));
    let narrow = gram_of(&[1.0; 3], 3);
    assert_eq!(
        run(&w, &narrow, "int4-channel", &options),
        LayerwiseError::Columns { need: 4, have: 3 }
    );
    for damping in [-0.1, 1.5, f64::NAN] {
        let options = Options { damping, ..options };
        assert!(matches!(
            gptq(&w, n, k, &gram, &int4, &options),
            Err(LayerwiseError::Option { .. })
        ));
    }
    let none = Options { block: 0, ..options };
    assert!(matches!(gptq(&w, n, k, &gram, &int4, &none), Err(LayerwiseError::Option { .. })));
    let no_rule = run(&w, &gram, "int4-g4-perm", &options);
    assert!(matches!(no_rule, LayerwiseError::Compress(CompressError::NoRule { .. })), "{no_rule}");
    let format = WeightFormat::new(CodeType::Codebook, crate::format::Granularity::Channel);
    let refused = gptq(&w, n, k, &gram, &format.into(), &options);
    assert!(matches!(refused, Err(LayerwiseError::Compress(CompressError::NoRule { .. }))));
    let tiny = run(&[1e-40, 1e-9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &gram, "int4-g4-f16s", &options);
    assert!(matches!(tiny, LayerwiseError::Compress(CompressError::ScaleRange { .. })));
    let large = run(&[1e6; 8], &gram, "f16", &options);
    assert!(matches!(large, LayerwiseError::Compress(CompressError::F16Overflow { .. })));
}

#[test]
fn threads_do_not_matter() {
    let (n, k) = (150, 96);
    let gram = gram_of(&inputs(200, k, 18), k);
    let w = Random(19).normals(n * k);
    let run =
        |threads| on_threads(threads, || made(&w, n, &gram, "int3-g32-asym", &Options::default()));
    assert_eq!(run(1), run(5));
}
