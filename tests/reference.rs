//! Tests of the reference against identities, hand-computed cases, the crate's own accessors, and
//! f32 arithmetic in many orders.

use half::f16;
use lowbit::format::{
    CodeType, Granularity, Mask24, PackedWeights, ScaleType, Scales, WeightFormat,
};
use lowbit::reference::{
    ETA, Exact, Expected, Inexact, MatmulCase, OutputType, ReferenceError, UNIT, check, decode_row,
    dequantize, dequantize_f64, exact_limit, f16_to_f64, gather, matmul, matmul_exact, one_hot,
};
use proptest::prelude::*;

/// A small generator that gives the same cases everywhere.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.bits() % limit
    }

    fn between(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low + 1) as u32) as i32
    }

    fn unit(&mut self) -> f32 {
        self.bits() as f32 / 2f32.powi(31)
    }

    /// Returns a roughly normal number: the sum of twelve uniform ones.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    /// Returns a normal number, which is a thousand times larger in one of a hundred cases.
    fn outlier(&mut self) -> f32 {
        let scale = if self.below(100) == 0 { 1000.0 } else { 1.0 };
        self.normal() * scale
    }
}

fn format(name: &str) -> WeightFormat {
    name.parse().unwrap()
}

/// Packs codes (the bits of floats) in the canonical layout. `code(row, column)` is called for the
/// kept columns, and all other positions get the zero point.
fn pack(
    format: WeightFormat,
    (n, k): (usize, usize),
    code: impl Fn(usize, usize) -> u32,
    keep: impl Fn(usize, usize) -> bool,
    scale: impl Fn(usize) -> f32,
    zero: impl Fn(usize) -> i32,
) -> PackedWeights {
    let g = format.geometry(n, k).unwrap();
    let (bits, per) = (format.code_type().bits(), 32 / format.code_type().bits() as usize);
    let zero_of = |row: usize, column: usize| {
        if !format.code_type().is_integer() {
            0
        } else if format.is_symmetric() {
            format.symmetric_zero()
        } else {
            match format.granularity() {
                Granularity::Tensor => zero(0),
                _ => zero(row * g.groups + column.min(k - 1) / g.group_size),
            }
        }
    };
    let mask = format.is_sparse().then(|| Mask24::from_fn(n, k, keep).unwrap());
    let mut words = vec![0u32; n * g.code_words];
    for row in 0..n {
        for at in 0..g.code_words * per {
            let column = match &mask {
                Some(mask) if at < g.stored => mask.kept(row, at / 2)[at % 2],
                Some(_) => usize::MAX,
                None => at,
            };
            let value = if column < k { code(row, column) } else { zero_of(row, column) as u32 };
            let low = if bits == 32 { value } else { value & ((1 << bits) - 1) };
            words[row * g.code_words + at / per] |= low << (at % per * bits as usize);
        }
    }
    let scales = match format.scale_type() {
        ScaleType::F32 => Scales::F32((0..g.scales).map(scale).collect()),
        _ => Scales::F16((0..g.scales).map(|i| f16::from_f32(scale(i))).collect()),
    };
    let zeros = (0..g.zeros).map(|i| zero(i) as u8).collect();
    let metadata = mask.map_or(vec![], Mask24::into_words);
    PackedWeights::from_parts(format, n, k, words, metadata, scales, zeros).unwrap()
}

/// Returns weights with random valid codes, scales of 0.5…1.5 (or powers of two from ¼ to 2), zero
/// points and masks.
fn random(format: WeightFormat, n: usize, k: usize, seed: u64, powers: bool) -> PackedWeights {
    let g = format.geometry(n, k).unwrap();
    let mut noise = Noise(seed);
    let (low, high) = format.code_range().unwrap_or((0, 0));
    let codes: Vec<u32> = (0..n * k)
        .map(|_| match format.code_type() {
            CodeType::F32 => noise.normal().to_bits(),
            CodeType::F16 => f16::from_f32(noise.normal()).to_bits().into(),
            _ => noise.between(low, high) as u32,
        })
        .collect();
    let scales: Vec<f32> = (0..g.scales)
        .map(|_| if powers { 2f32.powi(noise.between(-2, 1)) } else { 0.5 + noise.unit() })
        .collect();
    let zeros: Vec<i32> = (0..g.zeros).map(|_| noise.between(low, high)).collect();
    let mask: Vec<u32> = (0..n * k.div_ceil(4)).map(|_| noise.below(6)).collect();
    let keep = |row: usize, column: usize| {
        let pairs = [0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100u32];
        pairs[mask[row * k.div_ceil(4) + column / 4] as usize] >> (column % 4) & 1 == 1
    };
    pack(format, (n, k), |r, c| codes[r * k + c], keep, |i| scales[i], |i| zeros[i])
}

fn case<'a>(x: &'a [f32], m: usize, weights: &'a PackedWeights) -> MatmulCase<'a> {
    MatmulCase { x, m, weights, bias: None, output: OutputType::F32, zero_folded: false }
}

fn values(expected: &[Expected]) -> Vec<f64> {
    expected.iter().map(|e| e.value).collect()
}

const FORMATS: [&str; 22] = [
    "f32",
    "2:4+f32",
    "f16",
    "2:4+f16",
    "int16-channel",
    "int16-g32",
    "2:4+int16-g5",
    "int8-tensor",
    "int8-tensor-asym",
    "int8-channel",
    "int8-channel-asym-f16s",
    "int8-g32-asym",
    "int8-g7",
    "2:4+int8-channel",
    "2:4+int8-g6-asym",
    "int4-tensor-asym",
    "int4-channel",
    "int4-g32-asym-f16s",
    "int4-g7-asym",
    "int4-g1-asym",
    "2:4+int4-g32-asym",
    "2:4+int4-g3-f16s",
];

const SHAPES: [(usize, usize); 9] =
    [(0, 5), (3, 0), (1, 1), (2, 2), (5, 31), (4, 32), (3, 33), (2, 72), (7, 131)];

// --- decoding -----------------------------------------------------------------------

/// The decoding of the reference and the accessors of the crate always agree.
#[test]
fn decoding_matches_the_accessors() {
    for name in FORMATS {
        for (n, k) in SHAPES {
            let weights = random(format(name), n, k, 1 + k as u64, false);
            let g = *weights.geometry();
            let mut row_weights = Vec::new();
            for row in 0..n {
                decode_row(&weights, row, &mut row_weights).unwrap();
                let mut decoded = row_weights.iter();
                for at in 0..g.stored {
                    let column = weights.column(row, at);
                    if column >= k {
                        continue;
                    }
                    let weight = decoded.next().unwrap();
                    assert_eq!(weight.column, column, "{name} {n}×{k} row {row}");
                    assert_eq!(weight.code, weights.code(row, at), "{name} {n}×{k} row {row}");
                    if g.format.code_type().is_integer() {
                        let group = g.group_of(column);
                        assert_eq!(weight.zero, weights.zero(row, group), "{name}");
                        assert_eq!(weight.scale, f64::from(weights.scale(row, group)), "{name}");
                    }
                }
                assert_eq!(decoded.next(), None);
            }
            let row = decode_row(&weights, n, &mut row_weights);
            assert_eq!(row, Err(ReferenceError::OutOfRange { role: "row", index: n, limit: n }));
        }
    }
}

#[test]
fn hand_computed_int8() {
    // −2, 127, −128, 5 | −1: five columns, with one incomplete word, and g = 3.
    let words = vec![u32::from_le_bytes([0xfe, 0x7f, 0x80, 5]), 0xff];
    let scales = Scales::F32(vec![0.5, 4.0]);
    let symmetric = format("int8-g3");
    let weights =
        PackedWeights::from_parts(symmetric, 1, 5, words.clone(), vec![], scales.clone(), vec![]);
    assert_eq!(dequantize_f64(&weights.unwrap()).unwrap(), [-1.0, 63.5, -64.0, 20.0, -4.0]);
    // z = −3 and 5 as bytes.
    let weights = PackedWeights::from_parts(
        symmetric.asymmetric(),
        1,
        5,
        words,
        vec![],
        scales,
        vec![0xfd, 5],
    );
    assert_eq!(dequantize_f64(&weights.unwrap()).unwrap(), [0.5, 65.0, -62.5, 0.0, -24.0]);
}

#[test]
fn hand_computed_int4() {
    // The nibbles 0 8 15 1 | 7 in two rows, reversed in the second row, and one scale per row.
    let words = vec![0x8887_1f80, 0x8880_8f17];
    let scales = Scales::F16(vec![f16::from_f32(0.5), f16::from_f32(2.0)]);
    let channel = format("int4-channel-f16s");
    let weights =
        PackedWeights::from_parts(channel, 2, 5, words.clone(), vec![], scales.clone(), vec![]);
    assert_eq!(
        dequantize_f64(&weights.unwrap()).unwrap(),
        [-4.0, 0.0, 3.5, -3.5, -0.5, -2.0, -14.0, 14.0, 0.0, -16.0]
    );
    let weights = PackedWeights::from_parts(
        channel.asymmetric(),
        2,
        5,
        words.clone(),
        vec![],
        scales,
        vec![0, 15],
    );
    assert_eq!(
        dequantize_f64(&weights.unwrap()).unwrap(),
        [0.0, 4.0, 7.5, 0.5, 3.5, -16.0, -28.0, 0.0, -14.0, -30.0]
    );
    let tensor = format("int4-tensor-asym");
    let scales = Scales::F32(vec![3.0]);
    let weights = PackedWeights::from_parts(tensor, 2, 5, words, vec![], scales, vec![7]);
    assert_eq!(
        dequantize_f64(&weights.unwrap()).unwrap(),
        [-21.0, 3.0, 24.0, -18.0, 0.0, 0.0, -18.0, 24.0, 3.0, -21.0]
    );
}

#[test]
fn hand_computed_floats_and_int16() {
    let parts = |name: &str, words: Vec<u32>, scales: Vec<f32>| {
        let scales = Scales::F32(scales);
        let w = PackedWeights::from_parts(format(name), 1, 3, words, vec![], scales, vec![]);
        dequantize_f64(&w.unwrap()).unwrap()
    };
    let words = [1.5f32, -0.1, f32::from_bits(1)].map(f32::to_bits).to_vec();
    assert_eq!(parts("f32", words, vec![]), [1.5, f64::from(-0.1f32), 2f64.powi(-149)]);
    // 1, −2 | the least subnormal.
    assert_eq!(parts("f16", vec![0xc000_3c00, 1], vec![]), [1.0, -2.0, 2f64.powi(-24)]);
    let words = vec![0x8001_7fff, 0x0000_fffe];
    assert_eq!(parts("int16-channel", words, vec![0.5]), [16383.5, -16383.5, -1.0]);
}

/// The groups of four keep (1, 3), (0, 2) and, past K = 9, (0, 3), whose second index is out of
/// bounds.
#[test]
fn hand_computed_two_four() {
    let metadata = vec![0x4444_4c8d];
    let dense = [0.0, -4.0, 0.0, -3.5, 0.0, 0.0, 1.0, 0.0, 2.0];
    // The nibbles 1 2 8 10 15 and one past K.
    let words = vec![0x888f_a821];
    let scales = Scales::F32(vec![0.5, 0.5, 0.5]);
    let weights = PackedWeights::from_parts(
        format("2:4+int4-g4-asym"),
        1,
        9,
        words,
        metadata,
        scales,
        vec![9, 8, 11],
    )
    .unwrap();
    assert_eq!(dequantize_f64(&weights).unwrap(), dense);
    // Pruned columns and the padding do not contribute.
    let x: Vec<f32> = (0..9).map(|i| 10f32.powi(i)).collect();
    let y = matmul(&case(&x, 1, &weights)).unwrap();
    assert_eq!(y[0].value, -40.0 - 3500.0 + 1e6 + 2e8);
    let hot = one_hot(&weights, &[(0, 1.0), (1, 1.0)], None, OutputType::F32, false).unwrap();
    assert_eq!((hot[0].value, hot[0].bound, hot[1].value), (0.0, 0.0, -4.0));
}

// --- identities ---------------------------------------------------------------------

/// W = s·I returns X, in every format.
#[test]
fn identity_weights() {
    for name in FORMATS {
        let format = format(name);
        let k = 37;
        let one = match format.code_type() {
            CodeType::F32 => 1f32.to_bits(),
            CodeType::F16 => 0x3c00,
            CodeType::Int4 => 9,
            _ => 1,
        };
        let off = if format.code_type() == CodeType::Int4 { 8 } else { 0 };
        let weights = pack(
            format,
            (k, k),
            |row, column| if row == column { one } else { off },
            |row, column| row == column,
            |_| 1.0,
            |_| off as i32,
        );
        let mut noise = Noise(5);
        let x: Vec<f32> = (0..3 * k).map(|_| noise.normal()).collect();
        let y = matmul(&case(&x, 3, &weights)).unwrap();
        for (y, x) in y.iter().zip(&x) {
            assert_eq!(y.value, f64::from(*x), "{name}");
            // Only one product is not 0, so there are at most two roundings.
            assert!(y.bound <= 2.001 * UNIT * y.value.abs() + 1e-30, "{name}");
        }
        let bias: Vec<f32> = (0..k).map(|i| i as f32).collect();
        let y = matmul(&MatmulCase { bias: Some(&bias), ..case(&x, 3, &weights) }).unwrap();
        for (i, y) in y.iter().enumerate() {
            assert_eq!(y.value, f64::from(x[i]) + f64::from(bias[i % k]), "{name}");
        }
    }
}

/// The result equals that of three nested loops over the dense f64 matrix, is linear in X, and has
/// the layout [M, N].
#[test]
fn matmul_is_the_triple_loop() {
    for name in FORMATS {
        for (n, k) in SHAPES {
            let weights = random(format(name), n, k, 9, false);
            let dense = dequantize_f64(&weights).unwrap();
            let mut noise = Noise(3);
            let m = 5;
            let x: Vec<f32> = (0..m * k).map(|_| noise.normal()).collect();
            let bias: Vec<f32> = (0..n).map(|_| noise.normal()).collect();
            for zero_folded in [false, true] {
                let case = MatmulCase { bias: Some(&bias), zero_folded, ..case(&x, m, &weights) };
                let y = matmul(&case).unwrap();
                assert_eq!(y.len(), m * n);
                for (i, y) in y.iter().enumerate() {
                    let (row, out) = (i / n, i % n);
                    let terms = (0..k).map(|c| f64::from(x[row * k + c]) * dense[out * k + c]);
                    let sum = terms.sum::<f64>() + f64::from(bias[out]);
                    assert!((y.value - sum).abs() <= 1e-12 * (1.0 + y.bound / UNIT), "{name}");
                    assert!(y.bound > 0.0);
                }
                let doubled: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
                let plain = matmul(&MatmulCase { bias: None, ..case }).unwrap();
                let twice = matmul(&MatmulCase { bias: None, x: &doubled, ..case }).unwrap();
                for (a, b) in plain.iter().zip(&twice) {
                    assert_eq!(2.0 * a.value, b.value);
                }
            }
        }
    }
}

#[test]
fn bad_input_is_refused() {
    let weights = random(format("int8-channel"), 2, 4, 1, false);
    let x = [1.0; 8];
    let short = matmul(&case(&x[..7], 2, &weights));
    assert_eq!(short, Err(ReferenceError::WrongLength { role: "x", need: 8, have: 7 }));
    let bias = MatmulCase { bias: Some(&x[..1]), ..case(&x, 2, &weights) };
    let need = ReferenceError::WrongLength { role: "bias", need: 2, have: 1 };
    assert_eq!(matmul(&bias), Err(need.clone()));
    assert_eq!(matmul_exact(&bias), Err(need.clone()));
    assert_eq!(exact_limit(&weights, Some(&x[..1]), false), Err(need));
    let mut bad = x;
    bad[6] = f32::NAN;
    let nan = ReferenceError::NonFinite { role: "x", row: 1, column: 2 };
    assert_eq!(matmul(&case(&bad, 2, &weights)), Err(nan));
    assert!(matches!(
        matmul(&case(&x, usize::MAX, &weights)),
        Err(ReferenceError::TooLarge { .. })
    ));
    let none = random(format("int8-channel"), 2, 0, 1, false);
    assert!(matches!(matmul(&case(&[], usize::MAX, &none)), Err(ReferenceError::TooLarge { .. })));
    let column = one_hot(&weights, &[(4, 1.0)], None, OutputType::F32, false);
    assert_eq!(column, Err(ReferenceError::OutOfRange { role: "column", index: 4, limit: 4 }));
    assert!(gather(&weights, &[2], OutputType::F32).is_err());
    let infinite = pack(
        WeightFormat::f16(),
        (5, 3),
        |_, c| if c == 1 { 0x7c00 } else { 0 },
        |_, _| true,
        |_| 1.0,
        |_| 0,
    );
    let error = ReferenceError::NonFinite { role: "weights", row: 0, column: 1 };
    assert_eq!(matmul(&case(&x[..3], 1, &infinite)), Err(error.clone()));
    assert_eq!(dequantize(&infinite, OutputType::F32), Err(error));
    assert_eq!(dequantize_f64(&infinite).unwrap()[1], f64::INFINITY);
}

// --- gather -------------------------------------------------------------------------

#[test]
fn gathers_rows() {
    for name in FORMATS {
        let weights = random(format(name), 7, 131, 4, false);
        let dense = dequantize_f64(&weights).unwrap();
        let all = dequantize(&weights, OutputType::F32).unwrap();
        assert_eq!(values(&all), dense);
        let picked = gather(&weights, &[6, 0, 6], OutputType::F32).unwrap();
        assert_eq!(picked[..131], all[6 * 131..]);
        assert_eq!(picked[131..262], all[..131]);
        assert_eq!(picked[262..], all[6 * 131..]);
        for e in &all {
            // Every f32 kernel rounds once, to a neighbor. Zeros stay zeros.
            assert!(check(e, e.value as f32).passes());
            assert_eq!(e.bound == 0.0, e.value == 0.0 || !format(name).code_type().is_integer());
        }
        for e in dequantize(&weights, OutputType::F16).unwrap() {
            assert!(check(&e, f16::from_f32(e.value as f32).to_f32()).passes(), "{name} {e:?}");
            assert!(e.value != 0.0 || e.bound == 0.0);
        }
    }
    let tiny = pack(WeightFormat::f32(), (1, 1), |_, _| 7, |_, _| true, |_| 1.0, |_| 0);
    let e = dequantize(&tiny, OutputType::F32).unwrap()[0];
    assert!(check(&e, 0.0).passes() && check(&e, f32::from_bits(7)).passes());
    assert!(e.bound < ETA);
}

// --- bounds against real f32 arithmetic -----------------------------------------------

/// The orders of summation and the places of scaling that kernels use.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// One accumulator, with each weight scaled separately.
    Sequential { fused: bool, reversed: bool },
    /// A binary tree over scaled products.
    Pairwise,
    /// `lanes` accumulators over scaled products with a stride of `lanes`, and then a tree.
    Lanes { lanes: usize },
    /// Sums over parts of a group, each scaled once.
    Blocks { size: usize, fused: bool },
    /// `s·(Σcx − z·Σx)` for each part of a group.
    Folded { size: usize },
    /// `acc += s·Σcx; acc −= (s·z)·Σx` for each group.
    FoldedApart,
    /// `(c·s − z·s)·x` for each weight.
    FoldedWeight { fused: bool },
}

fn tree(values: &[f32]) -> f32 {
    match values {
        [] => 0.0,
        [value] => *value,
        _ => {
            let (a, b) = values.split_at(values.len() / 2);
            tree(a) + tree(b)
        }
    }
}

fn add(fused: bool, a: f32, b: f32, c: f32) -> f32 {
    if fused { a.mul_add(b, c) } else { a * b + c }
}

fn simulate(weights: &PackedWeights, row: usize, x: &[f32], bias: f32, order: Order) -> f32 {
    let mut kept = Vec::new();
    decode_row(weights, row, &mut kept).unwrap();
    let integer = weights.format().code_type().is_integer();
    let group_size = weights.geometry().group_size;
    let scaled = |w: &lowbit::reference::Weight| {
        if integer { (w.code - w.zero) as f32 * w.scale as f32 } else { w.value as f32 }
    };
    let products = || kept.iter().map(|w| scaled(w) * x[w.column]).collect::<Vec<_>>();
    let pieces = |size: usize| {
        kept.chunk_by(move |a, b| {
            (a.column / group_size, a.column % group_size / size)
                == (b.column / group_size, b.column % group_size / size)
        })
    };
    match order {
        Order::Sequential { fused, reversed } => {
            let step = |acc, w: &lowbit::reference::Weight| add(fused, scaled(w), x[w.column], acc);
            if reversed {
                kept.iter().rev().fold(bias, step)
            } else {
                kept.iter().fold(0.0, step) + bias
            }
        }
        Order::Pairwise => tree(&products()) + bias,
        Order::Lanes { lanes } => {
            let mut acc = vec![0.0; lanes];
            for (i, p) in products().into_iter().enumerate() {
                acc[i % lanes] += p;
            }
            tree(&acc) + bias
        }
        Order::Blocks { size, fused } => pieces(size).fold(bias, |acc, piece| {
            let sum = piece.iter().fold(0.0, |sum, w| {
                let q = if integer { (w.code - w.zero) as f32 } else { w.value as f32 };
                add(fused, q, x[w.column], sum)
            });
            add(fused, piece[0].scale as f32, sum, acc)
        }),
        Order::Folded { size } => {
            pieces(size).fold(0.0, |acc, piece| {
                let sum = piece.iter().fold(0.0, |sum, w| w.code as f32 * x[w.column] + sum);
                let sum_x: f32 = piece.iter().map(|w| x[w.column]).sum();
                acc + piece[0].scale as f32 * (sum - piece[0].zero as f32 * sum_x)
            }) + bias
        }
        Order::FoldedApart => pieces(group_size).fold(bias, |acc, piece| {
            let sum = piece.iter().fold(0.0, |sum, w| w.code as f32 * x[w.column] + sum);
            let sum_x: f32 = piece.iter().map(|w| x[w.column]).sum();
            let scale = piece[0].scale as f32;
            acc + scale * sum - scale * piece[0].zero as f32 * sum_x
        }),
        Order::FoldedWeight { fused } => kept.iter().fold(bias, |acc, w| {
            let scale = w.scale as f32;
            let value = add(fused, w.code as f32, scale, -(w.zero as f32 * scale));
            acc + value * x[w.column]
        }),
    }
}

const PLAIN: [Order; 10] = [
    Order::Sequential { fused: false, reversed: false },
    Order::Sequential { fused: true, reversed: false },
    Order::Sequential { fused: false, reversed: true },
    Order::Sequential { fused: true, reversed: true },
    Order::Pairwise,
    Order::Lanes { lanes: 64 },
    Order::Blocks { size: usize::MAX, fused: false },
    Order::Blocks { size: 32, fused: false },
    Order::Blocks { size: 32, fused: true },
    Order::Blocks { size: 1, fused: false },
];

const FOLDED: [Order; 5] = [
    Order::Folded { size: usize::MAX },
    Order::Folded { size: 32 },
    Order::FoldedApart,
    Order::FoldedWeight { fused: false },
    Order::FoldedWeight { fused: true },
];

/// Returns the largest error / bound of some orders, over all outputs.
fn worst(case: &MatmulCase, orders: &[Order]) -> f64 {
    let expected = matmul(case).unwrap();
    let (n, k) = (case.weights.n(), case.weights.k());
    let mut worst = 0.0f64;
    for (i, e) in expected.iter().enumerate() {
        let x = &case.x[i / n * k..][..k];
        let bias = case.bias.map_or(0.0, |bias| bias[i % n]);
        for &order in orders {
            let y = simulate(case.weights, i % n, x, bias, order);
            let y = match case.output {
                OutputType::F32 => y,
                OutputType::F16 => f16::from_f32(y).to_f32(),
            };
            let ratio = check(e, y).error_over_bound;
            assert!(ratio <= 1.0, "{order:?}: {y} is not {e:?} ({ratio})");
            worst = worst.max(ratio);
        }
    }
    worst
}

/// Every order that kernels use stays within the bound, for small and large K. With a few columns,
/// the error reaches a good part of the bound, so the bound is not much too large.
#[test]
fn bounds_hold_in_any_order() {
    for name in FORMATS {
        if !format(name).code_type().is_integer() {
            continue;
        }
        let mut report = String::new();
        for (n, k, m) in [(64, 2, 32), (16, 8, 32), (8, 131, 8), (4, 2053, 4)] {
            let weights = random(format(name), n, k, k as u64, false);
            for outliers in [false, true] {
                let mut noise = Noise(11);
                let x: Vec<f32> = (0..m * k)
                    .map(|_| if outliers { noise.outlier() } else { noise.normal() })
                    .collect();
                let bias: Vec<f32> = (0..n).map(|_| noise.outlier()).collect();
                let plain = MatmulCase { bias: Some(&bias), ..case(&x, m, &weights) };
                let folded = MatmulCase { zero_folded: true, ..plain };
                let half = MatmulCase { output: OutputType::F16, ..plain };
                let ratios = (worst(&plain, &PLAIN), worst(&folded, &FOLDED));
                worst(&half, &PLAIN);
                report += &format!(" K={k}: {:.4}/{:.4}", ratios.0, ratios.1);
                if k == 2 {
                    // Rounding to nearest causes at most half of the error that WGSL allows.
                    assert!((0.05..=0.5).contains(&ratios.0), "{name} {ratios:?}");
                }
            }
        }
        println!("{name}: error/bound, plain/folded:{report}");
    }
}

#[test]
fn bounds_hold_for_floats() {
    for name in ["f32", "2:4+f32", "f16", "2:4+f16"] {
        for (n, k, m) in [(64, 2, 32), (8, 131, 8), (4, 2053, 4)] {
            let weights = random(format(name), n, k, k as u64, false);
            let mut noise = Noise(12);
            let x: Vec<f32> = (0..m * k).map(|_| noise.outlier()).collect();
            let ratio = worst(&case(&x, m, &weights), &PLAIN);
            println!("{name} K={k}: {ratio:.4}");
        }
    }
}

/// Results near and below the least normal f32, which a device may flush. Flushing is simulated for
/// x, every product and every partial sum.
#[test]
fn bounds_cover_flushed_subnormals() {
    let flush = |v: f32| if v.is_subnormal() { 0.0 } else { v };
    for scale in [f32::MIN_POSITIVE, 0.3, 1.0, 3.0] {
        for k in [1, 2, 7, 64] {
            let mut noise = Noise(k as u64);
            let codes: Vec<u32> = (0..k).map(|_| noise.between(-127, 127) as u32).collect();
            let weights = pack(
                format("int8-channel"),
                (1, k),
                |_, c| codes[c],
                |_, _| true,
                |_| scale,
                |_| 0,
            );
            for exponent in [-149, -140, -130, -127, -126, -120] {
                let x: Vec<f32> = (0..k).map(|_| noise.normal() * 2f32.powi(exponent)).collect();
                let e = matmul(&case(&x, 1, &weights)).unwrap()[0];
                let code = |c: usize| codes[c] as i32 as f32;
                for size in [1, 2, k] {
                    let mut acc = 0.0;
                    for start in (0..k).step_by(size) {
                        let sum = (start..k.min(start + size))
                            .fold(0.0, |sum, c| flush(sum + flush(code(c) * flush(x[c]))));
                        acc = flush(acc + flush(sum * scale));
                    }
                    assert!(check(&e, acc).passes(), "{scale} {k} {exponent} {e:?} {acc:e}");
                }
                let one = (0..k)
                    .fold(0.0, |acc, c| flush(acc + flush(flush(code(c) * scale) * flush(x[c]))));
                assert!(check(&e, one).passes(), "{scale} {k} {exponent} {e:?} {one:e}");
            }
        }
    }
}

/// The bound is as small as possible: if every operation rounds up, as WGSL allows, and adds a
/// little to a sum of 1, the error is nearly the whole bound and never exceeds it.
#[test]
fn worst_rounding_fills_the_bound() {
    let up = |v: f64| if f64::from(v as f32) < v { (v as f32).next_up() } else { v as f32 };
    for k in [2, 100, 4096] {
        let weights = pack(
            format("int8-channel"),
            (1, k),
            |_, c| if c == 0 { 127 } else { 1 },
            |_, _| true,
            |_| 1.1,
            |_| 0,
        );
        let x: Vec<f32> = (0..k).map(|c| if c == 0 { 0.00717 } else { 1e-12 }).collect();
        let bias = [1e-12];
        let e = matmul(&MatmulCase { bias: Some(&bias), ..case(&x, 1, &weights) }).unwrap()[0];
        let mut worst = 0.0f64;
        for scaled_once in [false, true] {
            let (inner, outer) = if scaled_once { (1.0, 1.1f32) } else { (1.1f32, 1.0) };
            let mut acc = 0.0f32;
            for (c, x) in x.iter().enumerate() {
                let code = if c == 0 { 127.0 } else { 1.0 };
                let weight = up(f64::from(inner) * code);
                let product = up(f64::from(weight) * f64::from(*x));
                acc = up(f64::from(acc) + f64::from(product));
            }
            let scaled = up(f64::from(acc) * f64::from(outer));
            let got = up(f64::from(scaled) + f64::from(bias[0]));
            worst = worst.max(check(&e, got).error_over_bound);
        }
        println!("K={k}: {worst:.4}");
        assert!(worst <= 1.0 && worst >= if k > 2 { 0.9 } else { 0.5 }, "{k}: {worst}");
    }
}

// --- exact patterns -------------------------------------------------------------------

fn integers(count: usize, limit: u32, seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    (0..count).map(|_| noise.between(-(limit as i32), limit as i32) as f32).collect()
}

/// With the largest X that is allowed, every order gives the reference value bit for bit.
#[test]
fn exact_cases_are_exact_in_every_order() {
    for name in FORMATS {
        if !format(name).code_type().is_integer() {
            continue;
        }
        // 512 full int16 codes with one scale reach 2²⁴. The scales and biases here take up 8 times
        // as much.
        let k = if format(name).code_type() == CodeType::Int16 { 53 } else { 2053 };
        let weights = random(format(name), 4, k, 8, true);
        let bias: Vec<f32> = integers(4, 1000, 2).iter().map(|b| b / 4.0).collect();
        for (zero_folded, orders) in [(false, &PLAIN[..]), (true, &FOLDED[..])] {
            let limit = exact_limit(&weights, Some(&bias), zero_folded).unwrap();
            assert!(limit >= 1, "{name} {limit}");
            let x = integers(3 * k, limit.min(1000), 77);
            let case = MatmulCase { bias: Some(&bias), zero_folded, ..case(&x, 3, &weights) };
            let exact = matmul_exact(&case).unwrap();
            let bounded = matmul(&case).unwrap();
            for (i, (exact, bounded)) in exact.iter().zip(&bounded).enumerate() {
                assert_eq!(f64::from(exact.f32), bounded.value, "{name}");
                assert_eq!(exact.f16, f16::from_f32(exact.f32).to_bits());
                for &order in orders {
                    let x = &x[i / 4 * k..][..k];
                    let got = simulate(&weights, i % 4, x, bias[i % 4], order);
                    assert!(exact.is_f32(got), "{name} {order:?}: {got} is not {exact:?}");
                }
            }
            // One more than the limit, everywhere, is refused.
            let x = vec![limit as f32 + 1.0; 3 * k];
            let case = MatmulCase { x: &x, ..case };
            assert!(matches!(
                matmul_exact(&case),
                Err(ReferenceError::NotExact { why: Inexact::TooLarge, .. })
            ));
        }
    }
}

#[test]
fn inexact_cases_are_refused() {
    let weights = random(format("int8-g32"), 2, 64, 8, false);
    let x = integers(64, 3, 1);
    let why = |x: &[f32], weights: &PackedWeights| match matmul_exact(&case(x, 1, weights)) {
        Err(ReferenceError::NotExact { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(&x, &weights), Inexact::ScaleNotPowerOfTwo);
    assert_eq!(exact_limit(&weights, None, false), Ok(0));
    let weights = random(format("int8-g32"), 2, 64, 8, true);
    assert_eq!(why(&vec![0.5; 64], &weights), Inexact::FractionalInput);
    assert_eq!(why(&vec![1e6; 64], &weights), Inexact::TooLarge);
    let huge =
        pack(format("int8-channel"), (1, 1), |_, _| 1, |_, _| true, |_| 2f32.powi(127), |_| 0);
    assert_eq!(why(&[1.0], &huge), Inexact::OutOfRange);
    let (zero, negative) = (Exact { f32: 0.0, f16: 0 }, Exact { f32: -1.0, f16: 0xbc00 });
    assert!(zero.is_f32(-0.0) && zero.is_f16(0x8000) && !zero.is_f16(1));
    assert!(negative.is_f16(0xbc00) && !negative.is_f16(0x3c00));
}

/// The reason for exact patterns: at K = 4096, a wrong nibble is far within the bound.
#[test]
fn one_wrong_code_at_4096() {
    let k = 4096;
    for (name, last) in [("int4-g128-asym", k - 1), ("int8-g128", k - 3), ("2:4+int4-g64", k - 4)] {
        let format = format(name);
        let good = random(format, 1, k, 21, true);
        // One code is wrong by one, at a kept column of the last group.
        let mut codes = good.codes().to_vec();
        let bits = format.code_type().bits() as usize;
        let per = 32 / bits;
        let at = good.geometry().stored - (k - last);
        let at = (at.saturating_sub(8)..=at).rev().find(|&at| good.code(0, at) < 7).unwrap();
        codes[at / per] += 1 << (at % per * bits);
        let bad = PackedWeights::from_parts(
            format,
            1,
            k,
            codes,
            good.metadata().to_vec(),
            good.scales().clone(),
            good.zeros().to_vec(),
        )
        .unwrap();
        let mut noise = Noise(2);
        let x: Vec<f32> = (0..k).map(|_| noise.normal()).collect();
        let e = matmul(&case(&x, 1, &good)).unwrap()[0];
        let got = simulate(&bad, 0, &x, 0.0, PLAIN[0]);
        let ratio = check(&e, got).error_over_bound;
        println!("{name}: one wrong code is {ratio:.4} of the bound");
        assert!(ratio < 1.0);
        let limit = exact_limit(&good, None, false).unwrap();
        let x: Vec<f32> = (0..k).map(|_| (1 + noise.below(limit.min(15))) as f32).collect();
        let exact = matmul_exact(&case(&x, 1, &good)).unwrap()[0];
        for order in PLAIN {
            assert!(exact.is_f32(simulate(&good, 0, &x, 0.0, order)));
            assert!(!exact.is_f32(simulate(&bad, 0, &x, 0.0, order)));
        }
        // One-hot rows also detect it.
        let column = bad.column(0, at);
        let hot = one_hot(&good, &[(column, 1.0)], None, OutputType::F32, false).unwrap()[0];
        let mut x = vec![0.0; k];
        x[column] = 1.0;
        assert!(check(&hot, simulate(&good, 0, &x, 0.0, PLAIN[0])).passes());
        assert!(!check(&hot, simulate(&bad, 0, &x, 0.0, PLAIN[0])).passes());
    }
}

/// Compares one-hot rows with the dense reference and every order.
#[test]
fn one_hot_rows() {
    for name in FORMATS {
        let (n, k) = (6, 75);
        let weights = random(format(name), n, k, 30, false);
        let dense = dequantize_f64(&weights).unwrap();
        let mut noise = Noise(6);
        let hot: Vec<(usize, f32)> = (0..k).map(|c| (c, noise.normal())).collect();
        let bias: Vec<f32> = (0..n).map(|_| noise.normal()).collect();
        let integer = format(name).code_type().is_integer();
        for (bias, zero_folded) in
            [(None, false), (Some(&bias[..]), false), (None, true), (Some(&bias[..]), true)]
        {
            let expected = one_hot(&weights, &hot, bias, OutputType::F32, zero_folded).unwrap();
            let mut x = vec![0.0; k * k];
            hot.iter().for_each(|&(c, v)| x[c * k + c] = v);
            let wide = MatmulCase { bias, zero_folded, ..case(&x, k, &weights) };
            let wide = matmul(&wide).unwrap();
            for (i, (e, wide)) in expected.iter().zip(&wide).enumerate() {
                let (m, row) = (i / n, i % n);
                assert_eq!(e.value, wide.value, "{name}");
                assert!(e.bound <= wide.bound, "{name} {e:?} {wide:?}");
                let product = dense[row * k + m] * f64::from(hot[m].1);
                if bias.is_none() && !zero_folded {
                    let roundings = if integer { 2.0 } else { 1.0 };
                    assert!(e.bound <= roundings * 1.0001 * UNIT * product.abs() + 1e-30);
                    assert_eq!(e.bound == 0.0, product == 0.0);
                }
                let orders = if zero_folded && integer { &FOLDED[..] } else { &PLAIN[..] };
                for &order in orders {
                    let b = bias.map_or(0.0, |bias| bias[row]);
                    let got = simulate(&weights, row, &x[m * k..][..k], b, order);
                    assert!(check(e, got).passes(), "{name} {order:?} {e:?} {got}");
                }
            }
        }
    }
}

// --- random shapes and formats ----------------------------------------------------------

fn any_format() -> impl Strategy<Value = WeightFormat> {
    let granularity = prop_oneof![
        Just("tensor".to_string()),
        Just("channel".to_string()),
        (1u32..70).prop_map(|g| format!("g{g}")),
    ];
    let element = prop_oneof![Just("int16"), Just("int8"), Just("int4")];
    (element, granularity, any::<[bool; 3]>()).prop_map(|(element, g, [sparse, asym, f16s])| {
        let (asym, f16s) = (asym && element != "int16", f16s && element != "int16");
        let sparse = if sparse { "2:4+" } else { "" };
        let (asym, f16s) = (if asym { "-asym" } else { "" }, if f16s { "-f16s" } else { "" });
        format(&format!("{sparse}{element}-{g}{asym}{f16s}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_shape_in_any_order(
        format in any_format(), n in 1usize..6, k in 0usize..200, m in 0usize..4,
        seed in any::<u64>(), outliers in any::<bool>(), powers in any::<bool>(),
    ) {
        let weights = random(format, n, k, seed, powers);
        let mut noise = Noise(!seed);
        let x: Vec<f32> = (0..m * k)
            .map(|_| if outliers { noise.outlier() } else { noise.normal() })
            .collect();
        let plain = case(&x, m, &weights);
        worst(&plain, &PLAIN);
        worst(&MatmulCase { zero_folded: true, ..plain }, &FOLDED);
    }

    #[test]
    fn decoding_matches_on_any_words(
        format in any_format(), n in 1usize..4, k in 0usize..100, seed in any::<u64>(),
    ) {
        let weights = random(format, n, k, seed, false);
        let dense = dequantize_f64(&weights).unwrap();
        let g = *weights.geometry();
        for row in 0..n {
            let mut mine = vec![0.0; k];
            for at in 0..g.stored {
                let column = weights.column(row, at);
                if column < k {
                    let group = g.group_of(column);
                    let difference = weights.code(row, at) - weights.zero(row, group);
                    mine[column] = f64::from(difference) * f64::from(weights.scale(row, group));
                }
            }
            prop_assert_eq!(&dense[row * k..][..k], &mine[..]);
        }
    }

    #[test]
    fn f16_bits_widen(bits in any::<u16>()) {
        let (ours, theirs) = (f16_to_f64(bits), f16::from_bits(bits).to_f64());
        prop_assert!(ours == theirs || ours.is_nan() && theirs.is_nan());
    }
}

/// Measures the size that the runner uses: M = 128, N = K = 4096. Run it by name.
#[test]
#[ignore = "takes seconds; for timing"]
fn speed() {
    let k = 4096;
    let weights = random(format("int4-g64-asym"), k, k, 1, false);
    let mut noise = Noise(1);
    let x: Vec<f32> = (0..128 * k).map(|_| noise.normal()).collect();
    for zero_folded in [false, true] {
        let start = std::time::Instant::now();
        let y = matmul(&MatmulCase { zero_folded, ..case(&x, 128, &weights) }).unwrap();
        println!("folded {zero_folded}: {:?}, {}", start.elapsed(), y.len());
    }
    let weights = random(format("int4-g64-asym"), k, k, 1, true);
    let x = integers(128 * k, exact_limit(&weights, None, false).unwrap(), 1);
    let start = std::time::Instant::now();
    matmul_exact(&case(&x, 128, &weights)).unwrap();
    println!("exact: {:?}", start.elapsed());
}

/// The oracle, which decodes packed bytes and tables with code of its own, agrees with the crate's
/// accessors in every format: value by value within the rounding that `dequantize` states.
#[test]
fn every_format_decodes_like_the_crate() {
    for (seed, format) in (0..).zip(lowbit::format::sample_formats()) {
        let packed = lowbit::format::random_weights(format, 3, 600, seed, true).unwrap();
        let fast = lowbit::compress::dequantize(&packed);
        let expected = lowbit::reference::dequantize(&packed, OutputType::F32).unwrap();
        let exact = lowbit::reference::dequantize_f64(&packed).unwrap();
        assert!(exact.iter().any(|&value| value != 0.0), "{format}");
        for (at, (got, expected)) in fast.iter().zip(&expected).enumerate() {
            assert!(check(expected, *got).passes(), "{format} {at}: {got} for {expected:?}");
            assert_eq!(expected.value, exact[at]);
        }
    }
}
