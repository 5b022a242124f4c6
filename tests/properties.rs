//! Random shapes and formats on a device, checked against the reference, with shrinking and for a
//! limited time. The case table (`conformance::table`) enumerates its cases. Here they are drawn at
//! random, with strides, offsets and batches, of which the table has only a few. Without a device,
//! only the conversions on the host are tested.

use crate::common::{Random, all_formats, host};
use lowbit::conformance::{self, Case, FakeScales, Op, Quantized, Status, Values};
use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, DeviceLayout, Granularity, Mask24,
    PackedWeights, RowOrder, ScaleType, WeightFormat,
};
use lowbit::host::Host;
use lowbit::ops::matmul::Schedule;
use lowbit::ops::{self, FloatType, MatmulArgs, MatmulPlan, MatmulSpec, Select, SubBuffer};
use lowbit::reference::{self, MatmulCase};
use pollster::block_on;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Returns how long each property runs on a device, where compiling a kernel takes tenths of a second.
fn time() -> Duration {
    Duration::from_secs(if crate::common::long() { 60 } else { 6 })
}

/// Runs a property until its time is over and prints the number of cases. Cases that fail are
/// shrunk.
fn check<S: Strategy>(
    what: &str,
    least: u32,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig {
        cases: 100_000,
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..ProptestConfig::default()
    };
    let (start, count, failed) = (Instant::now(), Cell::new(0), Cell::new(false));
    let result = TestRunner::new(config).run(&strategy, |value| {
        // A busy device must not make the test fail, so a minimum number of cases runs however long
        // it takes.
        if !failed.get() && start.elapsed() > time() && count.get() >= least {
            return Ok(());
        }
        count.set(count.get() + 1);
        let result = test(value);
        failed.set(failed.get() || matches!(result, Err(TestCaseError::Fail(_))));
        result
    });
    eprintln!("{what}: {} cases in {:?}", count.get(), start.elapsed());
    if let Err(error) = result {
        panic!("{what}: {error}");
    }
}

fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        (1u32..5).prop_map(|g| Granularity::group(32 * g).unwrap()),
        (1u32..70).prop_map(|g| Granularity::group(g).unwrap()),
    ]
}

/// Generates any format that exists.
fn format() -> impl Strategy<Value = WeightFormat> {
    let base = prop::sample::select(all_formats());
    (base, granularity()).prop_map(|(base, granularity)| {
        let mut format = match base.code_type().name() {
            "int16" => WeightFormat::int16(granularity),
            "int8" => WeightFormat::int8(granularity),
            "int4" => WeightFormat::int4(granularity),
            _ => return base,
        };
        // A short group of small weights may have no f16 scale.
        if base.scale_type() == ScaleType::F16 {
            return base;
        }
        if !base.is_symmetric() {
            format = format.asymmetric();
        }
        if base.is_sparse() { format.two_four() } else { format }
    })
}

/// Generates the formats that integer products support.
fn integer_format() -> impl Strategy<Value = WeightFormat> {
    let groups = prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        (1u32..5).prop_map(|g| Granularity::group(32 * g).unwrap()),
    ];
    (groups, any::<[bool; 3]>()).prop_map(|(groups, [narrow, asymmetric, sparse])| {
        let format = if narrow { WeightFormat::int4(groups) } else { WeightFormat::int8(groups) };
        let format = if asymmetric { format.asymmetric() } else { format };
        if sparse { format.two_four() } else { format }
    })
}

fn activation_format() -> impl Strategy<Value = ActivationFormat> {
    let granularity = prop_oneof![
        Just(ActivationGranularity::Tensor),
        Just(ActivationGranularity::Token),
        (1u32..5).prop_map(|g| {
            ActivationGranularity::Group(std::num::NonZeroU32::new(32 * g).unwrap())
        }),
    ];
    (granularity, any::<bool>()).prop_map(|(granularity, asymmetric)| {
        let format = ActivationFormat::int8(granularity);
        if asymmetric { format.asymmetric() } else { format }
    })
}

fn float() -> impl Strategy<Value = FloatType> {
    prop_oneof![Just(FloatType::F32), Just(FloatType::F16)]
}

fn size(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..most, 1 => Just(1), 1 => Just(most)]
}

fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    (prop_oneof![Just(1usize), 1usize..9, 9usize..70], size(70), size(260))
}

fn values() -> impl Strategy<Value = Values> {
    prop::sample::select(Values::ALL.to_vec())
}

prop_compose! {
    /// Generates any case that the runner of the case table can check.
    fn case()(
        weights in format(),
        integers in integer_format(),
        activations in activation_format(),
        types in (float(), float()),
        shape in shape(),
        values in values(),
        function in prop_oneof![
            3 => Just(ActivationFunction::Identity),
            1 => prop::sample::select(ActivationFunction::ALL.to_vec()),
        ],
        [bias, strided, flag] in any::<[bool; 3]>(),
        schedule in any::<prop::sample::Index>(),
        kind in 0usize..12,
    ) -> Case {
        let (m, n, k) = shape;
        let pick = |all: Vec<Schedule>| if flag { Some(*schedule.get(&all)) } else { None };
        let case = match kind {
            0..=3 => {
                let case = Case::matmul(weights, types, shape, values);
                Case { schedule: pick(Schedule::all(k as u32)), function, ..case }
            }
            4..=6 => {
                let output = if flag { types.0.into() } else { ops::Output::Float(FloatType::F32) };
                let quantized = Quantized { format: activations, output };
                let case = Case::integer(integers, quantized, shape, values);
                Case { schedule: pick(Schedule::integer(k as u32)), function, ..case }
            }
            7 => Case { op: Op::Compress, ..Case::matmul(weights, types, shape, values) },
            8 => Case { op: Op::Dequantize, m: n, ..Case::matmul(weights, types, shape, values) },
            9 => Case { op: Op::Gather, ..Case::matmul(weights, types, shape, values) },
            10 => {
                let given = flag && activations.granularity() == ActivationGranularity::Tensor;
                let op = Op::Quantize { format: activations, given };
                Case::of_x(op, WeightFormat::f32(), types, (m, k), values)
            }
            _ => {
                let dense = WeightFormat::int8(weights.granularity());
                let format = if flag { dense.asymmetric() } else { dense };
                let scales = *schedule.get(&FakeScales::ALL);
                Case::of_x(Op::FakeQuant(scales), format, types, (m, k), values)
            }
        };
        let bias = bias && matches!(case.op, Op::Matmul | Op::IntegerMatmul(_));
        Case { bias, strided, ..case }
    }
}

/// Results are within their bounds, integer sums and quantized weights are right bit for bit, and
/// nothing else is written.
#[test]
fn cases_pass() {
    let Some(host) = host() else { return };
    let hosts = std::slice::from_ref(host);
    let ran = Cell::new(0);
    check("random cases", 20, case(), |case| {
        let report = conformance::run(hosts, std::slice::from_ref(&case), &|_| ()).remove(0);
        let reason = report.reason.unwrap_or_default();
        match report.status {
            Status::Pass => ran.set(ran.get() + 1),
            Status::Skip => {}
            Status::Fail => {
                return Err(TestCaseError::fail(format!("{}: {reason}", report.id)));
            }
        }
        Ok(())
    });
    assert!(ran.get() >= 10, "{} random cases ran: the others hide everything", ran.get());
}

/// The positions of the rows of X and Y, counted in values.
#[derive(Clone, Debug)]
struct Places {
    batch: u32,
    /// The number of rows in the plan beyond those that are recorded.
    spare: u32,
    /// The number of unused values after each row and each batch of X and of Y.
    x: [u32; 2],
    y: [u32; 2],
    /// The offsets of X, Y and the bias, in units of 4 bytes.
    offsets: [u64; 3],
    /// Whether all batches share one X.
    shared: bool,
}

prop_compose! {
    fn places()(
        batch in prop_oneof![2 => Just(1u32), 1 => 2u32..4],
        spare in 0u32..4,
        x in [0u32..9, 0u32..9],
        y in [0u32..9, 0u32..9],
        offsets in [0u64..9, 0u64..9, 0u64..9],
        shared in prop::bool::weighted(0.2),
    ) -> Places {
        Places { batch, spare, x, y, offsets, shared }
    }
}

/// Returns random weights with magnitudes of at least 0.1. The last group of a row may be a single
/// weight, and its scale must not be too small for f16.
fn weights(format: WeightFormat, n: usize, k: usize, seed: u64) -> PackedWeights {
    let mut random = Random(seed);
    let mut float = || random.float();
    let w: Vec<f32> = (0..n * k).map(|_| float()).map(|w| w + 0.1f32.copysign(w)).collect();
    lowbit::compress::quantize(&w, n, k, &format).unwrap()
}

/// A word that no arithmetic produces.
const SENTINEL: u32 = 0x7fc5_7fc5;

/// Tests f32 X and Y with any strides and offsets: every result is within its bound, and no word
/// outside the rows of Y is written.
#[test]
fn strides_and_offsets() {
    let Some(host) = host() else { return };
    // There are few formats, so that the time is spent on layouts and not on compiling.
    let formats: Vec<WeightFormat> =
        ["int8-channel", "int4-g32-asym", "2:4+int8-g64"].map(|f| f.parse().unwrap()).into();
    let strategy = (
        prop::sample::select(formats),
        (1usize..20, size(40), prop_oneof![size(100), (1usize..25).prop_map(|k| 4 * k)]),
        places(),
        any::<bool>(),
        any::<u64>(),
    );
    check("strides and offsets", 40, strategy, |(format, shape, places, bias, seed)| {
        multiply(host, format, shape, &places, bias, seed).map_err(TestCaseError::fail)
    });
}

fn multiply(
    host: &Host,
    format: WeightFormat,
    (m, n, k): (usize, usize, usize),
    places: &Places,
    with_bias: bool,
    seed: u64,
) -> Result<(), String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let packed = weights(format, n, k, seed);
    let weights = host.upload(&packed).map_err(|e| text(&e))?;
    let max_m = m as u32 + places.spare;
    let (x_row, y_row) = (k as u32 + places.x[0], n as u32 + places.y[0]);
    let x_batch = if places.shared { 0 } else { x_row * max_m + places.x[1] };
    let mut spec = MatmulSpec::of(max_m, &weights)
        .with_batch(places.batch)
        .with_x_strides(x_row, x_batch)
        .with_y_strides(y_row, y_row * max_m + places.y[1])
        .with_any_x_offset();
    spec.bias = with_bias;
    let mut random = Random(seed);
    let [x_at, y_at, bias_at] = places.offsets.map(|words| words as usize);
    let words = |bytes: u64, at: usize| vec![SENTINEL; bytes as usize / 4 + at + 8];
    let mut x_words = words(spec.x_bytes(max_m), x_at);
    let mut x = Vec::new();
    for batch in 0..places.batch as usize {
        for row in 0..m {
            let start = x_at + batch * x_batch as usize + row * x_row as usize;
            for word in &mut x_words[start..start + k] {
                // Batches that share X find it already written.
                if *word == SENTINEL {
                    *word = random.float().to_bits();
                }
                x.push(f32::from_bits(*word));
            }
        }
    }
    let bias: Vec<f32> = (0..n).map(|_| 8.0 * random.float()).collect();
    let mut bias_words = vec![SENTINEL; bias_at];
    bias_words.extend(bias.iter().map(|b| b.to_bits()));
    let mut want = words(spec.y_bytes(max_m), y_at);
    let buffer = |words: &[u32]| host.storage(words).map_err(|e| text(&e));
    let (x_buffer, y_buffer, b_buffer) = (buffer(&x_words)?, buffer(&want)?, buffer(&bias_words)?);
    let at = |buffer, at: usize| SubBuffer { buffer, offset: 4 * at as u64 };
    let plan = MatmulPlan::new(host.kernels(), &spec, Select::Auto);
    let plan = block_on(plan).map_err(|e| text(&e))?;
    let bound = block_on(plan.bind(MatmulArgs {
        activations: at(&x_buffer, x_at),
        weights: &weights,
        bias: with_bias.then(|| at(&b_buffer, bias_at)),
        output: at(&y_buffer, y_at),
    }))
    .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit(|pass| recorded = bound.record(pass, m as u32)).map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read(&y_buffer, 0, want.len()).map_err(|e| text(&e))?;
    let expected = reference::matmul(&MatmulCase {
        x: &x,
        m: m * places.batch as usize,
        weights: &packed,
        bias: with_bias.then_some(&bias[..]),
        output: reference::OutputType::F32,
        zero_folded: false,
    })
    .map_err(|e| text(&e))?;
    let mut expected = expected.iter();
    for batch in 0..places.batch as usize {
        for row in 0..m {
            let start = y_at + batch * spec.y_batch_stride as usize + row * y_row as usize;
            for (column, place) in (start..start + n).enumerate() {
                let y = f32::from_bits(got[place]);
                let right = expected.next().ok_or("fewer results than outputs")?;
                if !reference::check(right, y).passes() {
                    let (value, bound) = (right.value, right.bound);
                    return Err(format!("y[{batch}, {row}, {column}] = {y}: {value} ± {bound:e}"));
                }
                want[place] = got[place];
            }
        }
    }
    match got.iter().zip(&want).position(|(got, want)| got != want) {
        Some(word) => Err(format!("word {word} of Y was written, between or past its rows")),
        None => Ok(()),
    }
}

/// Canonical weights are uploaded or repacked and then downloaded, which must return the same bits.
/// The host's layout must have the same contents.
#[test]
fn weights_come_back() {
    let Some(host) = host() else { return };
    let strategy = (format(), size(40), size(300), any::<u64>(), any::<bool>());
    check("weights on the device", 30, strategy, |(format, n, k, seed, repack)| {
        let packed = weights(format, n, k, seed);
        // Repacking compiles one kernel per format, and uploading compiles none.
        let weights = if repack { host.repack(&packed) } else { host.upload(&packed) };
        let weights = weights.map_err(|e| TestCaseError::fail(e.to_string()))?;
        let back = host.download(&weights).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&back, &packed);
        let rows = host.download_rows(&weights).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let layout = DeviceLayout::new(format, n, k, RowOrder::Rows).unwrap();
        prop_assert_eq!(&layout.pack(&packed, 0..n), &rows);
        Ok(())
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Both row orders, whole or split between any two rows, return the weights unchanged.
    #[test]
    fn layouts_are_lossless(
        format in format(),
        n in 0usize..20,
        k in 0usize..150,
        cut: prop::sample::Index,
        seed: u64,
    ) {
        let packed = weights(format, n, k, seed);
        let rows = DeviceLayout::new(format, n, k, RowOrder::Rows).unwrap();
        let panels = DeviceLayout::new(format, n, k, RowOrder::Panels).unwrap();
        let image = rows.pack(&packed, 0..n);
        prop_assert_eq!(&rows.unpack(&image, &[]).unwrap(), &packed);
        let other = panels.pack(&packed, 0..n);
        prop_assert_eq!((other.codes.len(), other.side.len()), panels.words(n));
        prop_assert_eq!(&panels.by_rows(&other, n).unwrap(), &image);
        let cut = cut.index(n + 1);
        let (mut first, second) = (rows.pack(&packed, 0..cut), rows.pack(&packed, cut..n));
        let part = panels.pack(&packed, cut..n);
        prop_assert_eq!(&panels.by_rows(&part, n - cut).unwrap(), &second);
        first.codes.extend(second.codes);
        first.side.extend(second.side);
        prop_assert_eq!(first, image);
    }

    /// A mask can be converted between its three forms without loss.
    #[test]
    fn masks_are_lossless(n in 0usize..9, k in 0usize..150, seed: u64) {
        let quads = k / 4 + 1;
        let mut random = Random(seed);
        let noise: Vec<u64> = (0..n * quads).map(|_| random.next()).collect();
        // Two of four are kept, or one or none.
        let keep = |row: usize, column: usize| {
            let noise = noise[row * quads + column / 4];
            let (a, b) = (noise % 4, noise / 4 % 4);
            let at = column as u64 % 4;
            (at == a && noise & 0x100 != 0) || (at == b && noise & 0x200 != 0)
        };
        let mask = Mask24::from_fn(n, k, keep).unwrap();
        for row in 0..n {
            for column in 0..k {
                prop_assert!(!keep(row, column) || mask.keeps(row, column));
            }
        }
        prop_assert_eq!(&mask.to_enumerative().to_mask().unwrap(), &mask);
        prop_assert_eq!(&mask.to_bitmask().to_mask().unwrap(), &mask);
        prop_assert_eq!(&Mask24::from_words(n, k, mask.clone().into_words()).unwrap(), &mask);
    }
}
