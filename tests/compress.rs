//! Properties of pruning and quantizing, over random matrices of every format.

use lowbit::compress::{
    CompressError, compress24, dequantize, expand24, prune_magnitude, quantize, quantize_masked,
};
use lowbit::format::{
    CodeType, DeviceLayout, Granularity, Mask24, PackedWeights, RowOrder, ScaleType, WeightFormat,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Matrix {
    n: usize,
    k: usize,
    w: Vec<f32>,
}

/// Weights within f16's range, with zeros of both signs, ties and subnormals among them.
fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -4.0f32..4.0,
        2 => (-8i32..=8).prop_map(|i| i as f32 / 2.0),
        1 => prop_oneof![Just(0.0f32), Just(-0.0), Just(1e-39), Just(-1e-45)],
        1 => -60000.0f32..60000.0,
    ]
}

fn matrix() -> impl Strategy<Value = Matrix> {
    (0usize..4, 0usize..40).prop_flat_map(|(n, k)| {
        prop::collection::vec(weight(), n * k).prop_map(move |w| Matrix { n, k, w })
    })
}

fn format() -> impl Strategy<Value = WeightFormat> {
    let granularity = prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        (1u32..12).prop_map(|g| Granularity::group(g).unwrap()),
    ];
    (0usize..5, granularity, any::<[bool; 3]>()).prop_map(|(element, granularity, flags)| {
        let [sparse, asymmetric, f16_scales] = flags;
        let mut format = match CodeType::ALL[element] {
            CodeType::F32 => WeightFormat::f32(),
            CodeType::F16 => WeightFormat::f16(),
            CodeType::Int16 => WeightFormat::int16(granularity),
            CodeType::Int8 => WeightFormat::int8(granularity),
            _ => WeightFormat::int4(granularity),
        };
        if matches!(format.code_type(), CodeType::Int8 | CodeType::Int4) {
            if asymmetric {
                format = format.asymmetric();
            }
            if f16_scales {
                format = format.with_scales(ScaleType::F16);
            }
        }
        if sparse { format.two_four() } else { format }
    })
}

/// A mask that has nothing to do with magnitudes; some quads ask for fewer than two.
fn random_mask(n: usize, k: usize, seed: u64) -> Mask24 {
    let pair = |row: usize, quad: usize| {
        let mixed = (seed ^ (row * 1009 + quad) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [mixed >> 60 & 3, mixed >> 50 & 3]
    };
    Mask24::from_fn(n, k, |row, k| pair(row, k / 4).contains(&(k as u64 % 4))).unwrap()
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 } else { x }
}

fn bits(w: &[f32]) -> Vec<u32> {
    w.iter().map(|x| x.to_bits()).collect()
}

/// `max |c − z|` of a format: how many steps of the scale its range may span.
fn steps(format: &WeightFormat) -> f64 {
    let (low, high) = format.code_range().unwrap();
    f64::from(if format.is_symmetric() { high - format.symmetric_zero() } else { high - low })
}

/// Every weight of a group, pruned ones left out.
fn members<'a>(
    packed: &'a PackedWeights,
    w: &'a [f32],
    row: usize,
    group: usize,
) -> impl Iterator<Item = f32> + 'a {
    let g = packed.geometry();
    let tensor = packed.format().granularity() == Granularity::Tensor;
    (0..g.n).filter(move |&r| tensor || r == row).flat_map(move |r| {
        let columns = (0..g.stored).map(move |at| packed.column(r, at));
        columns
            .filter(move |&k| k < g.k && g.group_of(k) == group)
            .map(move |k| flushed(w[r * g.k + k]))
    })
}

/// Scales and zero points from their formulas, in f64 where that is exact enough to
/// round once: a sum or quotient of two f32 does (53 ≥ 2·24 + 2).
fn check_scales(packed: &PackedWeights, w: &[f32]) -> Result<(), TestCaseError> {
    let (g, format) = (packed.geometry(), packed.format());
    for index in 0..g.scales {
        let (row, group) = (index / g.groups, index % g.groups);
        let low = members(packed, w, row, group).fold(0.0f32, f32::min);
        let high = members(packed, w, row, group).fold(0.0f32, f32::max);
        let range = match format.is_symmetric() {
            true => high.max(-low),
            false => (f64::from(high) - f64::from(low)) as f32,
        };
        let mut scale = (f64::from(range) / steps(&format)) as f32;
        if format.scale_type() == ScaleType::F16 {
            scale = half::f16::from_f32(scale).to_f32();
        }
        let scale = if range == 0.0 { 1.0 } else { scale };
        prop_assert_eq!(packed.scale(row, group), scale);
        if !format.is_symmetric() {
            let steps_below = (f64::from(-low) / f64::from(scale)) as f32;
            let zero = steps_below.round_ties_even().min(steps(&format) as f32);
            let lowest = format.code_range().unwrap().0;
            prop_assert_eq!(packed.zero(row, group), zero as i32 + lowest);
        }
    }
    Ok(())
}

/// Codes from their formula, and how far what they restore is from the weights.
///
/// With u = 2⁻²⁴, s the scale, L = [`steps`]:
///
/// - the quotient errs by at most (L + 1)·u, rounding it by ½, and the product
///   `(c − z)·s` by (L + 1)·u steps: ½ + 2(L + 1)u in all where nothing is clamped;
/// - clamping cuts off no more than the range exceeds L steps of the stored scale, whose
///   sum, quotient and f16 rounding err by u, u and 2⁻¹¹: L·(2u + 2⁻¹¹), and L·u more for
///   the quotient that gives the zero point.
///
/// So ½ + L·2⁻¹¹ + 6(L + 1)u covers every weight, the f16 term with f16 scales only.
fn check_codes(packed: &PackedWeights, w: &[f32]) -> Result<(), TestCaseError> {
    let (g, format) = (packed.geometry(), packed.format());
    let restored = dequantize(packed);
    let (low, high) = format.code_range().unwrap();
    let u = 2f64.powi(-24);
    let levels = steps(&format);
    let f16_scales = format.scale_type() == ScaleType::F16;
    let rounded_scale = if f16_scales { levels * 2f64.powi(-11) } else { 0.0 };
    for row in 0..g.n {
        for at in 0..g.stored {
            let (column, code) = (packed.column(row, at), packed.code(row, at));
            prop_assert!((low..=high).contains(&code), "code {code}");
            let group = if column < g.k { g.group_of(column) } else { g.groups - 1 };
            if column >= g.k {
                prop_assert_eq!(code, packed.zero(row, group));
                continue;
            }
            let index = row * g.k + column;
            let x = flushed(w[index]);
            if x == 0.0 {
                prop_assert_eq!(code, packed.zero(row, group));
            }
            let quotient = (f64::from(x) / f64::from(packed.scale(row, group))) as f32;
            let steps = quotient.round_ties_even() as i32;
            prop_assert_eq!(code, (steps + packed.zero(row, group)).clamp(low, high));
            let error = (f64::from(x) - f64::from(restored[index])).abs();
            let scale = f64::from(packed.scale(row, group));
            let mut bound = 0.5 + 2.0 * (levels + 1.0) * u;
            if code == low || code == high {
                bound += rounded_scale + 4.0 * (levels + 1.0) * u;
            }
            prop_assert!(error <= bound * scale, "{x}: off by {error}, scale {scale}");
        }
    }
    Ok(())
}

/// Whatever fills the last word of a row is the code of zero of its last group.
fn check_padding(packed: &PackedWeights) {
    let (g, format) = (packed.geometry(), packed.format());
    for row in 0..g.n {
        for at in g.stored..g.code_words * format.code_type().per_word() as usize {
            let zero =
                if format.code_type().is_integer() { packed.zero(row, g.groups - 1) } else { 0 };
            assert_eq!(packed.code(row, at), zero);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn quantizing_keeps_its_contract(m in matrix(), format in format(), seed: Option<u64>) {
        let mask = match seed {
            Some(seed) => random_mask(m.n, m.k, seed),
            None => prune_magnitude(&m.w, m.n, m.k).unwrap(),
        };
        let result = match (format.is_sparse(), seed) {
            (true, Some(_)) => quantize_masked(&m.w, &mask, &format),
            _ => quantize(&m.w, m.n, m.k, &format),
        };
        let packed = match result {
            // Only a group of tiny weights has no f16 scale, as the strategy goes.
            Err(CompressError::ScaleRange { low, high, scale_type, .. }) => {
                prop_assert_eq!(scale_type, ScaleType::F16);
                let scale = f64::from(high.max(-low)) / steps(&format);
                prop_assert!(scale < 6.2e-5, "{}…{}", low, high);
                return Ok(());
            }
            other => other.unwrap(),
        };
        if format.is_sparse() {
            prop_assert_eq!(packed.metadata(), mask.words());
        }
        check_padding(&packed);
        if format.code_type().is_integer() {
            check_scales(&packed, &m.w)?;
            check_codes(&packed, &m.w)?;
        } else {
            let narrow = |x: f32| match format.code_type() {
                CodeType::F16 => half::f16::from_f32(x).to_f32(),
                _ => x,
            };
            let kept: Vec<f32> = (0..m.w.len())
                .map(|i| match format.is_sparse() && !mask.keeps(i / m.k, i % m.k) {
                    true => 0.0,
                    false => narrow(m.w[i]),
                })
                .collect();
            prop_assert_eq!(bits(&dequantize(&packed)), bits(&kept));
        }
        // The kernel layout pads with the same zeros, so nothing is lost on the way.
        let layout = DeviceLayout::new(format, m.n, m.k, RowOrder::Rows).unwrap();
        prop_assert_eq!(layout.unpack(&layout.pack(&packed, 0..m.n)).unwrap(), packed);
    }

    /// A second pass with the scales' own values changes nothing, where they are exact.
    #[test]
    fn codes_of_a_power_of_two_scale_are_exact(
        codes in prop::collection::vec(-127i32..=127, 1..40),
        exponent in -14i32..15,
    ) {
        let mut codes = codes;
        codes[0] = 127;
        let scale = 2f32.powi(exponent);
        let w: Vec<f32> = codes.iter().map(|&c| c as f32 * scale).collect();
        for scales in [ScaleType::F32, ScaleType::F16] {
            let format = WeightFormat::int8(Granularity::Channel).with_scales(scales);
            let packed = quantize(&w, 1, w.len(), &format).unwrap();
            let got: Vec<i32> = (0..w.len()).map(|at| packed.code(0, at)).collect();
            prop_assert_eq!(&got, &codes);
            prop_assert_eq!(bits(&dequantize(&packed)), bits(&w));
        }
    }

    #[test]
    fn pruning_keeps_the_largest(m in matrix()) {
        let mask = prune_magnitude(&m.w, m.n, m.k).unwrap();
        // Normalising again changes nothing, past K either.
        let again = Mask24::from_fn(m.n, m.k, |row, k| mask.keeps(row, k)).unwrap();
        prop_assert_eq!(&mask, &again);
        for row in 0..m.n {
            for pruned in (0..m.k).filter(|&k| !mask.keeps(row, k)) {
                let size = |k: usize| flushed(m.w[row * m.k + k]).abs();
                let before = mask.kept(row, pruned / 4).into_iter().filter(|&k| {
                    size(k) > size(pruned) || (size(k) == size(pruned) && k < pruned)
                });
                prop_assert_eq!(before.count(), 2, "row {}, k {}", row, pruned);
            }
        }
    }

    #[test]
    fn compressing_and_expanding(m in matrix(), seed: u64) {
        let mask = random_mask(m.n, m.k, seed);
        let values = compress24(&m.w, &mask).unwrap();
        let dense = expand24(&values, &mask).unwrap();
        for (i, (&was, &is)) in m.w.iter().zip(&dense).enumerate() {
            let kept = mask.keeps(i / m.k, i % m.k);
            prop_assert_eq!(is.to_bits(), if kept { was.to_bits() } else { 0 });
        }
        prop_assert_eq!(bits(&compress24(&dense, &mask).unwrap()), bits(&values));
    }

    /// Any bits at all: an answer or an error that names what is there, never a panic.
    #[test]
    fn any_bits_are_handled(
        raw in prop::collection::vec(any::<u32>(), 24),
        format in format(),
        calm in any::<bool>(),
    ) {
        // Clearing the exponent's top bits makes every weight finite.
        let bits_of = |b: u32| f32::from_bits(if calm { b & 0xbfff_ffff } else { b });
        let w: Vec<f32> = raw.into_iter().map(bits_of).collect();
        let first = w.iter().position(|x| !x.is_finite());
        match (quantize(&w, 3, 8, &format), first) {
            (Err(CompressError::NonFinite { row, col, value }), Some(first)) => {
                prop_assert_eq!(row * 8 + col, first);
                prop_assert_eq!(value.to_bits(), w[first].to_bits());
            }
            (got, Some(_)) => prop_assert!(false, "a non-finite weight gave {:?}", got),
            (Err(CompressError::F16Overflow { row, col, value }), None) => {
                prop_assert_eq!(format.code_type(), CodeType::F16);
                prop_assert_eq!(value.to_bits(), w[row * 8 + col].to_bits());
                prop_assert!(value.abs() >= 65520.0);
            }
            (Err(error), None) => {
                prop_assert!(matches!(error, CompressError::ScaleRange { .. }), "{}", error)
            }
            (Ok(packed), None) => {
                // ±MAX itself may come back infinite.
                let max = w.iter().any(|x| x.abs() == f32::MAX);
                prop_assert!(max || dequantize(&packed).iter().all(|x| x.is_finite()));
            }
        }
    }
}
