//! Properties of pruning and quantizing, tested with random matrices of every format.

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

/// Generates weights within the range of f16, including zeros of both signs, ties and subnormals.
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

/// Returns a mask that is unrelated to magnitudes. Some groups of four keep fewer than two weights.
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

/// Returns `max |c − z|` of a format, which is the number of steps that its range may span.
fn steps(format: &WeightFormat) -> f64 {
    let (low, high) = format.code_range().unwrap();
    f64::from(if format.is_symmetric() { high - format.symmetric_zero() } else { high - low })
}

/// Returns the kept weights of a group.
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

/// Checks scales and zero points with their formulas in f64. f64 is precise enough to round a sum
/// or quotient of two f32 correctly (53 ≥ 2·24 + 2).
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

/// Checks codes with their formula, and bounds the difference between weights and restored weights.
///
/// Let u = 2⁻²⁴, let s be the scale and L = [`steps`]:
///
/// - the quotient has an error of at most (L + 1)·u, rounding it adds ½, and the product `(c −
///   z)·s` has an error of (L + 1)·u steps. This is ½ + 2(L + 1)u in total if nothing is clamped;
/// - clamping cuts off at most the amount by which the range exceeds L steps of the stored scale.
///   The sum, the quotient and the f16 rounding of the scale have errors of u, u and 2⁻¹¹, which is
///   L·(2u + 2⁻¹¹), and the quotient that gives the zero point adds L·u.
///
/// So ½ + L·2⁻¹¹ + 6(L + 1)u covers every weight. The f16 term applies only to f16 scales.
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

/// Checks that the rest of the last word of a row contains the zero point of the row's last group.
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
            // With these weights, only a group of tiny weights can lack an f16 scale.
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
        // The kernel layout pads with the same codes, so the conversion is lossless.
        let layout = DeviceLayout::new(format, m.n, m.k, RowOrder::Rows).unwrap();
        prop_assert_eq!(layout.unpack(&layout.pack(&packed, 0..m.n)).unwrap(), packed);
    }

    /// Quantizing weights that are exact multiples of a power-of-two scale changes nothing.
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
        // Normalizing again changes nothing, even past K.
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

    /// Any bits must give a result or an error that names the right weight, and never a panic.
    #[test]
    fn any_bits_are_handled(
        raw in prop::collection::vec(any::<u32>(), 24),
        format in format(),
        calm in any::<bool>(),
    ) {
        // Clearing the highest bit of the exponent makes every weight finite.
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
                prop_assert!(dequantize(&packed).iter().all(|x| x.is_finite()));
            }
        }
    }
}
