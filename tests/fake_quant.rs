//! Tests of fake quantization and its gradients on the device, against the definition.

use half::f16;
use lowbit::format::{ActivationGranularity, Granularity, Scales, WeightFormat};
use lowbit::gpu::KernelDesc;
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec, FloatType,
    PlanError, QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec,
    RecordError, Role, SubBuffer,
};
use lowbit::reference::{
    FakeQuantCase, FakeQuantGradients, OutputType, check_fake_gradients, check_fake_quantize,
    check_fake_ranges, check_fake_straight_through,
};
use pollster::block_on;

/// A word that is NaN as f32 and as either f16.
const HOLE: u32 = 0x7fc5_7fc5;

/// The offsets of the data in bytes. They are not multiples of a binding's alignment.
const X_AT: u64 = 32;
const Y_AT: u64 = 12;
const DY_AT: u64 = 48;
const DX_AT: u64 = 20;

const FORMATS: [&str; 18] = [
    "int16-tensor",
    "int16-channel",
    "int16-g5",
    "int8-tensor",
    "int8-tensor-asym",
    "int8-channel",
    "int8-channel-asym",
    "int8-g32",
    "int8-g6",
    "int8-g3-asym",
    "int8-g48-asym-f16s",
    "int4-tensor-f16s",
    "int4-tensor-asym",
    "int4-channel-asym-f16s",
    "int4-g1",
    "int4-g7-asym",
    "int4-g128-asym",
    "int4-g300",
];

const FLOATS: [FloatType; 2] = [FloatType::F32, FloatType::F16];

fn output(float: FloatType) -> OutputType {
    match float {
        FloatType::F16 => OutputType::F16,
        _ => OutputType::F32,
    }
}

fn rounded(float: FloatType, values: Vec<f32>) -> Vec<f32> {
    let round = |x: f32| match float {
        FloatType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    };
    values.into_iter().map(round).collect()
}

/// Rows in a buffer that is otherwise full of holes, which are NaN.
#[derive(Clone, Copy)]
struct Rows {
    float: FloatType,
    at: u64,
    stride: u32,
    k: u32,
}

impl Rows {
    fn words(&self, rows: u32) -> usize {
        let bytes = u64::from(rows) * u64::from(self.stride.max(self.k)) * self.float.bytes();
        ((self.at + bytes) / 4 + 9) as usize
    }

    fn first(&self, row: usize) -> usize {
        (self.at / self.float.bytes()) as usize + row * self.stride as usize
    }

    fn lay(&self, rows: u32, values: &[f32]) -> Vec<u32> {
        let mut words = vec![HOLE; self.words(rows)];
        for (row, values) in values.chunks(self.k.max(1) as usize).enumerate() {
            for (i, &value) in (self.first(row)..).zip(values) {
                match self.float {
                    FloatType::F16 => {
                        bytemuck::cast_slice_mut(&mut words)[i] = f16::from_f32(value).to_bits();
                    }
                    _ => words[i] = value.to_bits(),
                }
            }
        }
        words
    }

    /// Returns the values of `m` rows, after checking that nothing around them changed.
    fn take(&self, words: &[u32], m: u32) -> Vec<f32> {
        let mut words = words.to_vec();
        let mut values = Vec::new();
        for row in 0..m as usize {
            for i in self.first(row)..self.first(row) + self.k as usize {
                match self.float {
                    FloatType::F16 => {
                        let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut words);
                        values.push(f16::from_bits(halves[i]).to_f32());
                        halves[i] = HOLE as u16;
                    }
                    _ => {
                        values.push(f32::from_bits(words[i]));
                        words[i] = HOLE;
                    }
                }
            }
        }
        assert!(words.iter().all(|&w| w == HOLE), "something else was written");
        values
    }
}

#[derive(Clone)]
struct Job {
    spec: FakeQuantSpec,
    m: u32,
    x: Vec<f32>,
    dy: Vec<f32>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

/// The results of a forward and a backward pass.
#[derive(Clone, Debug)]
struct Results {
    y: Vec<f32>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
    gradients: FakeQuantGradients<f32>,
}

impl Job {
    fn new(spec: FakeQuantSpec, m: u32, x: Vec<f32>, seed: u64) -> Self {
        let mut random = crate::common::Random(seed);
        let dy = x.iter().map(|_| random.float()).collect();
        let (x, dy) = (rounded(spec.input, x), rounded(spec.output, dy));
        let groups = spec.scales(m) as usize;
        let (qmin, qmax) = spec.codes();
        let symmetric = spec.format.is_symmetric();
        // A part of every group is clipped. The magnitudes of the rows are those of `normal`.
        let row_scales = (groups / m.max(1) as usize).max(1);
        let scale = |group| {
            let range = 2.0 * size(group / row_scales) / (qmax - qmin) as f32;
            range * (1.0 + 0.5 * random.float())
        };
        let scales = (0..groups).map(scale).collect();
        let mut random = crate::common::Random(!seed);
        // Some zero points are slightly outside the range of codes and are clamped to its ends.
        let middle = (qmin + qmax) as f32 / 2.0;
        let zero = |_| middle + 0.55 * (qmax - qmin) as f32 * random.float();
        let zeros = (0..if symmetric { 0 } else { groups }).map(zero).collect();
        Self { spec, m, x, dy, scales, zeros }
    }

    fn case<'a>(&'a self, scales: &'a [f32], zeros: &'a [f32]) -> FakeQuantCase<'a> {
        let (format, k) = (&self.spec.format, self.spec.k as usize);
        FakeQuantCase { format, x: &self.x, k, scales, zeros }
    }

    fn run(&self, host: &Host) -> Results {
        let (spec, m) = (&self.spec, self.m);
        let plan = block_on(FakeQuantPlan::new(host.kernels(), spec)).unwrap();
        let rows = |float, at, stride| Rows { float, at, stride, k: spec.k };
        let x = rows(spec.input, X_AT, spec.x_stride);
        let y = rows(spec.output, Y_AT, spec.y_stride);
        let dy = rows(spec.output, DY_AT, spec.y_stride);
        let dx = rows(spec.input, DX_AT, spec.x_stride);
        let groups = spec.scales(m) as usize;
        let most = spec.scales(spec.max_m) as usize;
        // Scales and the like start after one or two words and are followed by holes.
        let side = |values: &[f32], at: usize| {
            let mut words = vec![HOLE; most + at + 9];
            words[at..at + values.len()].copy_from_slice(bytemuck::cast_slice(values));
            host.storage(&words).unwrap()
        };
        let given = |values| if spec.given { values } else { &[][..] };
        let asymmetric = !spec.format.is_symmetric();
        let at = |buffer, offset| SubBuffer { buffer, offset };
        let x_buffer = host.storage(&x.lay(spec.max_m, &self.x)).unwrap();
        let y_buffer = host.storage(&y.lay(spec.max_m, &[])).unwrap();
        let scales = side(given(&self.scales), 1);
        let zeros = side(given(&self.zeros), 2);
        let bound = block_on(plan.bind(FakeQuantArgs {
            input: at(&x_buffer, X_AT),
            scales: at(&scales, 4),
            zeros: asymmetric.then(|| at(&zeros, 8)),
            output: at(&y_buffer, Y_AT),
        }))
        .unwrap();
        host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();

        let dy_buffer = host.storage(&dy.lay(spec.max_m, &self.dy)).unwrap();
        let dx_buffer = host.storage(&dx.lay(spec.max_m, &[])).unwrap();
        let (ds, dz) = (side(&[], 3), side(&[], 1));
        let bound = block_on(plan.bind_backward(FakeQuantBackwardArgs {
            input: at(&x_buffer, X_AT),
            scales: at(&scales, 4),
            zeros: asymmetric.then(|| at(&zeros, 8)),
            output_gradient: at(&dy_buffer, DY_AT),
            input_gradient: at(&dx_buffer, DX_AT),
            scale_gradients: spec.given.then(|| at(&ds, 12)),
            zero_gradients: (spec.given && asymmetric).then(|| at(&dz, 4)),
        }))
        .unwrap();
        host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();

        let read =
            |buffer: &wgpu::Buffer| host.read(buffer, 0, (buffer.size() / 4) as usize).unwrap();
        let numbers = |buffer: &wgpu::Buffer, first: usize, count: usize| {
            let words = read(buffer);
            let (inner, after) = words[first..].split_at(count);
            assert!(words[..first].iter().chain(after).all(|&w| w == HOLE), "{spec:?}: beside");
            inner.iter().map(|&w| f32::from_bits(w)).collect::<Vec<_>>()
        };
        let zero_count = if asymmetric { groups } else { 0 };
        let learned = |count| if spec.given { count } else { 0 };
        Results {
            y: y.take(&read(&y_buffer), m),
            scales: numbers(&scales, 1, groups),
            zeros: numbers(&zeros, 2, zero_count),
            gradients: FakeQuantGradients {
                x: dx.take(&read(&dx_buffer), m),
                scales: numbers(&ds, 3, learned(groups)),
                zeros: numbers(&dz, 1, learned(zero_count)),
            },
        }
    }

    /// Returns the first fault in the results of a run, if there is one.
    fn fault(&self, got: &Results) -> Option<String> {
        let spec = &self.spec;
        let case = self.case(&got.scales, &got.zeros);
        if !spec.given {
            let ranges = check_fake_ranges(&case).unwrap();
            let y = check_fake_quantize(&case, output(spec.output), &got.y).unwrap();
            let dx = &got.gradients.x;
            let dx = check_fake_straight_through(&case, &self.dy, output(spec.input), dx).unwrap();
            return ranges.and(y).and(dx).fault;
        }
        let kept =
            |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
        assert!(kept(&got.scales, &self.scales) && kept(&got.zeros, &self.zeros));
        let y = check_fake_quantize(&case, output(spec.output), &got.y).unwrap();
        let (gain, float) = (spec.gradient_scale, output(spec.input));
        y.and(check_fake_gradients(&case, &self.dy, gain, float, &got.gradients).unwrap()).fault
    }

    fn check(&self, host: &Host) -> Results {
        let got = self.run(host);
        assert_eq!(self.fault(&got), None, "{:?}, m = {}", self.spec, self.m);
        got
    }
}

fn hosts() -> Vec<&'static Host> {
    // The small host splits rows into several bindings and folds grids.
    crate::common::large_and_small(64 << 10, 5)
}

/// Returns the factor that a row of `normal` is multiplied by.
fn size(row: usize) -> f32 {
    [1.0, 1e-2, 300.0][row % 3]
}

/// Returns bell-shaped rows of very different magnitudes.
fn normal(m: u32, k: u32, seed: u64) -> Vec<f32> {
    let mut random = crate::common::Random(seed);
    let mut bell = || (0..4).map(|_| random.float()).sum::<f32>();
    (0..m * k).map(|i| bell() * size((i / k.max(1)) as usize)).collect()
}

fn format(name: &str) -> WeightFormat {
    name.parse().unwrap()
}

/// Tests every format with static and dynamic scales, with and without gradient scale, for all
/// types, ragged shapes, strides and two devices.
#[test]
fn everything_is_within_its_contract() {
    let shapes = [
        (0, 8),
        (3, 0),
        (1, 1),
        (2, 31),
        (3, 32),
        (5, 33),
        (7, 100),
        (4, 384),
        (2, 2081),
        (40, 700),
        (1, 9001),
        (2, 8196),
    ];
    for host in hosts() {
        for (i, name) in FORMATS.into_iter().enumerate() {
            for (j, (m, k)) in shapes.into_iter().enumerate() {
                for (n, (input, output)) in
                    FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))).enumerate()
                {
                    let wide = (k + 10) as u64 * 4 > host.kernels().caps().max_binding;
                    // Long rows are tested with one pair of types per format.
                    if wide || (k > 2000 && n != (i + j) % 4) {
                        continue;
                    }
                    let packed =
                        FakeQuantSpec::new(m + 2, k, format(name)).with_types(input, output);
                    let gap = [(0, 0), (4, 2), (2, 8)][(i + j + n) % 3];
                    let (x, y) = (packed.x_stride + gap.0, packed.y_stride + gap.1);
                    let mut spec = packed.with_strides(x, y);
                    let values = normal(m, k, (i * 100 + j) as u64);
                    Job::new(spec.clone(), m, values.clone(), j as u64).check(host);
                    spec = spec.with_given_scales();
                    if (i + j + n) % 2 == 0 {
                        spec = spec.with_gradient_scale();
                    }
                    Job::new(spec, m, values, j as u64).check(host);
                }
            }
        }
    }
}

/// The order of sums is fixed, so two runs give the same bits, whatever else differs.
#[test]
fn sums_are_the_same_again() {
    let Some(host) = crate::common::host() else { return };
    for name in ["int8-tensor-asym", "int8-channel-asym", "int4-g7-asym"] {
        let spec = FakeQuantSpec::new(60, 9000, format(name)).with_given_scales();
        let job = Job::new(spec, 40, normal(40, 9000, 4), 5);
        let bits = |results: &Results| -> Vec<u32> {
            let g = &results.gradients;
            g.scales.iter().chain(&g.zeros).chain(&g.x).map(|v| v.to_bits()).collect()
        };
        let first = bits(&job.check(host));
        for _ in 0..3 {
            assert_eq!(bits(&job.run(host)), first, "{name}");
        }
    }
}

/// Tests ties, ends of the range, zeros of both signs, subnormals and the largest numbers.
#[test]
fn values_that_are_odd() {
    for host in hosts() {
        for name in FORMATS {
            let k = 96;
            let row = |fill: fn(u32) -> f32| (0..k).map(fill).collect::<Vec<f32>>();
            let rows = [
                row(|_| 0.0),
                row(|i| if i % 2 == 0 { 0.0 } else { -0.0 }),
                row(|_| 7.0),
                row(|i| -1.0 - i as f32),
                row(|i| if i == 95 { f32::MAX } else { -f32::MAX }),
                row(|i| if i == 0 { f32::MIN_POSITIVE } else { 0.0 }),
                row(f32::from_bits),
                row(|i| -f32::from_bits(0x007f_ffff - i)),
                row(|i| 1e-30 * i as f32),
                row(|i| if i == 0 { 127.0 } else { i as f32 - 48.5 }),
            ];
            for x in rows.iter().chain([&rows.concat()]) {
                let m = x.len() as u32 / k;
                let spec = FakeQuantSpec::new(m, k, format(name));
                Job::new(spec.clone(), m, x.clone(), 1).check(host);
                // Steps of 1 and ½ make quotients exact. The others include the smallest and the
                // largest scale that can divide.
                for scale in [1.0, 0.5, f32::MIN_POSITIVE, 2.0f32.powi(126), 3e-30] {
                    let mut job = Job::new(spec.clone().with_given_scales(), m, x.clone(), 2);
                    job.scales.fill(scale);
                    job.zeros.iter_mut().for_each(|zero| *zero = zero.floor() + 0.5);
                    job.check(host);
                }
            }
        }
    }
}

/// NaN and infinities in x, dy, scales and zero points must show where the definition says, and
/// nowhere else. The reference knows which values share a group.
#[test]
fn what_is_not_finite_shows() {
    for host in hosts() {
        for name in FORMATS {
            let (m, k) = (3, 96);
            let spec = FakeQuantSpec::new(m, k, format(name));
            let clean = Job::new(spec.clone().with_given_scales(), m, normal(m, k, 3), 7);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 40, 95] {
                    let at = k as usize + at;
                    let mut job = Job::new(spec.clone(), m, normal(m, k, 3), 7);
                    job.x[at] = bad;
                    let got = job.check(host);
                    assert!(got.y[at].is_nan() && got.scales.iter().any(|s| s.is_nan()));
                    let mut job = clean.clone();
                    job.x[at] = bad;
                    let got = job.check(host);
                    assert_eq!(got.y[at].is_nan(), bad.is_nan(), "{name}");
                    assert_eq!(got.gradients.x[at].is_nan(), bad.is_nan(), "{name}");
                    assert_eq!(got.gradients.scales.iter().any(|g| g.is_nan()), bad.is_nan());
                    let mut job = clean.clone();
                    job.dy[at] = bad;
                    let got = job.check(host);
                    assert_eq!(got.gradients.scales.iter().filter(|g| g.is_nan()).count(), 1);
                }
                let mut job = clean.clone();
                if let Some(zero) = job.zeros.last_mut() {
                    *zero = bad;
                    assert!(job.check(host).y.last().unwrap().is_nan());
                }
            }
            for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1e-40, f32::MAX] {
                let mut job = clean.clone();
                *job.scales.last_mut().unwrap() = bad;
                let got = job.check(host);
                assert!(got.y.last().unwrap().is_nan(), "{name} {bad}");
                assert!(got.gradients.scales.last().unwrap().is_nan(), "{name} {bad}");
                assert!(name.contains("tensor") || !got.y[0].is_nan(), "{name} {bad}");
            }
        }
    }
}

/// Returns the distance of a quotient from a rounding tie.
fn from_tie(x: f32, scale: f32) -> f64 {
    let ratio = f64::from(x) / f64::from(scale);
    (ratio - ratio.floor() - 0.5).abs()
}

/// Fake-quantizing weights with the scales of [`Host::compress`] gives the weights that
/// [`Host::dequantize`] returns, except near ties.
#[test]
fn it_agrees_with_compressed_weights() {
    let Some(host) = crate::common::host() else { return };
    for name in [
        "int16-channel",
        "int8-channel",
        "int8-tensor-asym",
        "int8-g40",
        "int4-channel",
        "int4-g20",
        "int4-g64-asym",
        "int4-g48-asym-f16s",
        "int8-g32-f16s",
    ] {
        let (n, k) = (9u32, 200u32);
        let format = format(name);
        let w = normal(n, k, 11).iter().map(|w| w.signum() * w.abs().max(0.02)).collect::<Vec<_>>();
        let weights = host.compress(&w, n as usize, k as usize, &format).unwrap();
        let dequantized = host.dequantize(&weights).unwrap();
        let packed = host.download(&weights).unwrap();
        let scales: Vec<f32> = match packed.scales() {
            Scales::F32(scales) => scales.clone(),
            Scales::F16(scales) => scales.iter().map(|s| s.to_f32()).collect(),
            other => panic!("fake quantization has no {:?} scales", other.scale_type()),
        };
        let groups = scales.len();
        let columns = match format.granularity() {
            Granularity::Group(g) => g.get() as usize,
            _ => k as usize,
        };
        let scale_of = |at: usize| match format.granularity() {
            Granularity::Tensor => 0,
            _ => at / k as usize * (k as usize).div_ceil(columns) + at % k as usize / columns,
        };
        let made = host.fake_quantize(&w, n as usize, k as usize, &format).unwrap();
        assert_eq!(made.scales.len(), groups);
        // Dynamic scales are accurate to floating-point rounding. f16 scales may round to the other
        // neighbor.
        let near = if name.ends_with("f16s") { 1.0 / 1024.0 } else { 6.0 / 8_388_608.0 };
        for (a, b) in made.scales.iter().zip(&scales) {
            assert!((a - b).abs() <= near * b, "{name}: {a}, not {b}");
        }
        let zeros = if format.is_symmetric() { &[][..] } else { &made.zeros };
        let y =
            host.fake_quantize_with(&w, n as usize, k as usize, &format, (&scales, zeros)).unwrap();
        let mut ties = 0;
        for (at, (&a, &b)) in y.iter().zip(&dequantized).enumerate() {
            if (a - b).abs() > 2.0 / 8_388_608.0 * b.abs() {
                let tie = from_tie(w[at], scales[scale_of(at)]);
                let ratio = f64::from(w[at] / scales[scale_of(at)]).abs();
                assert!(tie <= 3.5 / 8_388_608.0 * ratio, "{name}: {a}, not {b}");
                ties += 1;
            }
        }
        assert!(ties < 5, "{name}: {ties}");
    }
}

/// With the scale and zero point of quantized activations, the results are the values that their
/// codes represent.
#[test]
fn it_agrees_with_quantized_activations() {
    let Some(host) = crate::common::host() else { return };
    for symmetric in [true, false] {
        let (m, k) = (6u32, 160u32);
        let mut token = lowbit::format::ActivationFormat::int8(ActivationGranularity::Token);
        let mut format = WeightFormat::int8(Granularity::Channel);
        if !symmetric {
            (token, format) = (token.asymmetric(), format.asymmetric());
        }
        let x = normal(m, k, 21);
        let plan = block_on(QuantizeActivationsPlan::new(
            host.kernels(),
            &QuantizeActivationsSpec::new(m, k, token),
        ))
        .unwrap();
        let input = host.storage(bytemuck::cast_slice(&x)).unwrap();
        let codes = host.zeros(plan.output_bytes(m)).unwrap();
        let bound = block_on(plan.bind(QuantizeActivationsArgs {
            activations: (&input).into(),
            given: None,
            output: (&codes).into(),
        }))
        .unwrap();
        host.submit(|pass| bound.record(pass, m).unwrap()).unwrap();
        let layout = *plan.layout();
        let words = host.read(&codes, 0, (plan.output_bytes(m) / 4) as usize).unwrap();
        let records: Vec<_> = words.chunks(layout.row_words).collect();
        let scales: Vec<_> = records.iter().map(|r| f32::from_bits(r[layout.scale_at])).collect();
        let zeros: Vec<_> = records.iter().map(|r| r[layout.zero_at] as i32 as f32).collect();
        let given = (&scales[..], if symmetric { &[][..] } else { &zeros[..] });
        let y = host.fake_quantize_with(&x, m as usize, k as usize, &format, given).unwrap();
        for (at, &y) in y.iter().enumerate() {
            let (row, column) = (at / k as usize, at % k as usize);
            let code = records[row][column / 4].to_le_bytes()[column % 4] as i8;
            let want = (f32::from(code) - zeros[row]) * scales[row];
            // Those codes are computed with a reciprocal: 4 ulp of at most 255 steps.
            let tie = from_tie(x[at], scales[row]) <= 255.0 * 4.0 / 8_388_608.0;
            assert!((y - want).abs() <= 2.0 / 8_388_608.0 * want.abs() || tie, "{at}: {y} {want}");
        }
        // Its own ranges give the same scales.
        let made = host.fake_quantize(&x, m as usize, k as usize, &format).unwrap();
        for (a, b) in made.scales.iter().zip(&scales) {
            assert!((a - b).abs() <= 6.0 / 8_388_608.0 * b);
        }
        assert!(symmetric || made.zeros == zeros);
    }
}

/// Tests the calls that take and return slices, and their gradients.
#[test]
fn the_host_does_both_passes() {
    let Some(host) = crate::common::host() else { return };
    let (m, k) = (4, 50);
    let format = format("int4-g20-asym");
    let spec = FakeQuantSpec::new(m, k, format).with_given_scales().with_gradient_scale();
    let job = Job::new(spec, m, normal(m, k, 31), 32);
    let (given, shape) = ((&job.scales[..], &job.zeros[..]), (m as usize, k as usize));
    let y = host.fake_quantize_with(&job.x, shape.0, shape.1, &format, given).unwrap();
    let case = job.case(&job.scales, &job.zeros);
    assert_eq!(check_fake_quantize(&case, OutputType::F32, &y).unwrap().fault, None);
    let pair = (&job.x[..], &job.dy[..]);
    let g = host.fake_quantize_backward(pair, shape.0, shape.1, &format, given, true).unwrap();
    let g = FakeQuantGradients { x: g.x, scales: g.scales, zeros: g.zeros };
    let fault = check_fake_gradients(&case, &job.dy, true, OutputType::F32, &g).unwrap();
    assert_eq!(fault.fault, None);
    let wrong = check_fake_gradients(&case, &job.dy, false, OutputType::F32, &g).unwrap();
    assert_ne!(wrong.fault, None);
    assert!(host.fake_quantize(&job.x, shape.0, shape.1 + 1, &format).is_err());
    assert!(host.fake_quantize(&job.x, shape.0, shape.1, &WeightFormat::f16()).is_err());
    let few = (&job.scales[1..], &job.zeros[..]);
    assert!(host.fake_quantize_with(&job.x, shape.0, shape.1, &format, few).is_err());
}

struct Fault {
    name: &'static str,
    /// The start of the kernel's name.
    kernel: &'static str,
    format: &'static str,
    given: bool,
    replace: (&'static str, &'static str),
}

const fn fault(
    name: &'static str,
    kernel: &'static str,
    format: &'static str,
    given: bool,
    replace: (&'static str, &'static str),
) -> Fault {
    Fault { name, kernel, format, given, replace }
}

const FAULTS: [Fault; 22] = [
    fault("a zero point kept", "fake_forward", "int8-tensor-asym", true, ("(q - s.zero)", "q")),
    fault("truncation", "fake_forward", "int4-channel", true, ("round(ratios(", "trunc(ratios(")),
    fault(
        "a code too many",
        "fake_forward",
        "int8-channel",
        true,
        ("vec4<f32>(p.qmin), vec4<f32>(p.qmax)", "vec4<f32>(p.qmin - 1.0), vec4<f32>(p.qmax)"),
    ),
    fault(
        "a scale of the neighbouring group",
        "fake_forward",
        "int8-g6",
        true,
        ("columns / vec4<u32>(p.group_size)", "vec4<u32>(column) / vec4<u32>(p.group_size)"),
    ),
    fault(
        "a zero point not rounded",
        "fake_forward",
        "int4-g7-asym",
        true,
        (
            "clamp(round(bitcast<f32>(zero)), p.qmin, p.qmax)",
            "clamp(bitcast<f32>(zero), p.qmin, p.qmax)",
        ),
    ),
    fault(
        "a zero point not clamped",
        "fake_forward",
        "int4-g7-asym",
        true,
        ("clamp(round(bitcast<f32>(zero)), p.qmin, p.qmax)", "round(bitcast<f32>(zero))"),
    ),
    fault(
        "a scale not rounded to f16",
        "fake_forward",
        "int8-g48-asym-f16s",
        true,
        ("if (p.f16_scales == 0u)", "if (true)"),
    ),
    fault(
        "a skipped last column",
        "fake_dynamic",
        "int8-channel",
        false,
        ("4u * q < to_column", "4u * q + 4u < to_column"),
    ),
    fault(
        "a skipped ragged group",
        "fake_dynamic",
        "int8-g48-asym-f16s",
        false,
        ("(end + p.group_size - 1u) / p.group_size", "end / p.group_size"),
    ),
    fault(
        "a range of quads, not of groups",
        "fake_dynamic",
        "int8-g6",
        false,
        (
            "let live = from_here & (columns < vec4<u32>(to_column));",
            "let live = vec4<bool>(true);",
        ),
    ),
    fault(
        "a half of a team",
        "fake_dynamic",
        "int8-channel",
        false,
        ("p.team / 2u", "p.team / 4u"),
    ),
    fault(
        "a range of one sign",
        "fake_ranges",
        "int4-tensor-asym",
        false,
        ("atomicMax(&ranges[1], range.low)", "atomicMax(&ranges[1], 0u)"),
    ),
    fault("a range that stays", "fake_scale", "int8-tensor", false, ("ranges[0] = 0u", "")),
    fault(
        "a gradient outside",
        "fake_groups",
        "int8-g32",
        true,
        ("select(vec4<f32>(0.0), dy, inside)", "dy"),
    ),
    fault("no −x/s", "fake_groups", "int8-g32", true, ("rounded - ratio", "rounded")),
    fault(
        "an edge without zero point",
        "fake_groups",
        "int4-g7-asym",
        true,
        ("vec4<f32>(p.qmin), below) - s.zero", "vec4<f32>(p.qmin), below)"),
    ),
    fault(
        "gradients of all but a ragged group",
        "fake_groups",
        "int8-g48-asym-f16s",
        true,
        ("(end + p.group_size - 1u) / p.group_size", "end / p.group_size"),
    ),
    fault(
        "a zero point's sign",
        "fake_groups",
        "int8-g3-asym",
        true,
        ("-scheme.scale * sums.outside", "scheme.scale * sums.outside"),
    ),
    fault(
        "no gradient scale",
        "fake_groups",
        "int8-g32",
        true,
        ("if (p.gain > 0.0)", "if (false)"),
    ),
    fault(
        "a gradient scale of whole groups",
        "fake_groups",
        "int8-g48-asym-f16s",
        true,
        ("vec2<u32>(to_column - from_column, 1u)", "vec2<u32>(p.group_size, 1u)"),
    ),
    fault(
        "a partial sum dropped",
        "fake_sums",
        "int8-tensor",
        true,
        ("i < partials", "i + 1u < partials"),
    ),
    fault(
        "a gradient outside, partial sums",
        "fake_backward",
        "int4-tensor-asym",
        true,
        ("select(vec4<f32>(0.0), dy, inside)", "dy"),
    ),
];

/// Every planted fault must be found, and the correct kernel must pass.
#[test]
fn planted_faults_are_found() {
    let Some(host) = crate::common::host() else { return };
    for fault in &FAULTS {
        // Groups of 48 leave a remainder of 4 columns, and others of 1 or more.
        let (m, k) = (6, 100);
        let mut spec = FakeQuantSpec::new(m, k, format(fault.format)).with_gradient_scale();
        spec.given = fault.given;
        let mut x = normal(m, k, 41);
        // The last column determines the range.
        for (row, x) in x.chunks_mut(k as usize).enumerate() {
            x[k as usize - 1] = 4.5 * size(row);
        }
        let job = Job::new(spec.clone(), m, x, 42);
        job.check(host);
        let faulty = Host::new().unwrap();
        let caps = faulty.kernels().caps();
        let mut shaders = spec.forward_shaders(caps);
        shaders.extend(spec.backward_shaders(caps));
        let of = |shader: &&KernelDesc| shader.id.split('.').next() == Some(fault.kernel);
        let shader = shaders.iter().find(of).unwrap_or_else(|| panic!("{}", fault.name));
        let text = shader.compose().unwrap().source;
        let (from, to) = fault.replace;
        assert_eq!(text.matches(from).count(), 1, "{}: the shader has changed", fault.name);
        block_on(faulty.kernels().plant(shader, &text.replace(from, to))).unwrap();
        // A range that is not reset shows in the second of two runs, whose x are smaller.
        let smaller = || {
            let plan = block_on(FakeQuantPlan::new(faulty.kernels(), &spec)).unwrap();
            twice(&faulty, &plan, &job)
        };
        let got = job.run(&faulty);
        let found = job.fault(&got).or_else(|| (fault.kernel == "fake_scale").then(smaller)?);
        let Some(found) = found else { panic!("{} was not found", fault.name) };
        eprintln!("found: {:40} {found}", fault.name);
    }
}

/// Records one binding twice, halves X in between, and returns the fault of the second run.
fn twice(host: &Host, plan: &FakeQuantPlan, job: &Job) -> Option<String> {
    let mut job = job.clone();
    let x = host.storage(bytemuck::cast_slice(&job.x)).unwrap();
    let (y, scales) = (host.zeros(4 * job.x.len() as u64).unwrap(), host.zeros(4).unwrap());
    let bound = block_on(plan.bind(FakeQuantArgs {
        input: (&x).into(),
        scales: (&scales).into(),
        zeros: None,
        output: (&y).into(),
    }))
    .unwrap();
    host.submit(|pass| bound.record(pass, job.m).unwrap()).unwrap();
    job.x.iter_mut().for_each(|x| *x /= 2.0);
    host.queue().write_buffer(&x, 0, bytemuck::cast_slice(&job.x));
    host.submit(|pass| bound.record(pass, job.m).unwrap()).unwrap();
    let scales: Vec<_> =
        host.read(&scales, 0, 1).unwrap().into_iter().map(f32::from_bits).collect();
    check_fake_ranges(&job.case(&scales, &[])).unwrap().fault
}

#[test]
fn a_tensor_is_ranged_anew_each_time() {
    let Some(host) = crate::common::host() else { return };
    let spec = FakeQuantSpec::new(6, 100, format("int8-tensor"));
    let plan = block_on(FakeQuantPlan::new(host.kernels(), &spec)).unwrap();
    assert_eq!(twice(host, &plan, &Job::new(spec, 6, normal(6, 100, 51), 52)), None);
}

#[test]
fn what_cannot_be_is_refused() {
    let spec = FakeQuantSpec::new(2, 64, format("int8-channel-asym"));
    for name in ["f16", "f32", "2:4+int8-channel"] {
        let format = format(name);
        let error = FakeQuantSpec::new(2, 64, format).check().unwrap_err();
        assert_eq!(error, PlanError::FakeQuantFormat { format });
    }
    let check = |spec: FakeQuantSpec| spec.check().unwrap_err();
    let no = WeightFormat::int16(Granularity::Tensor).asymmetric();
    assert!(matches!(check(FakeQuantSpec::new(2, 64, no)), PlanError::Format(_)));
    let (role, stride) = (Role::Output, 63);
    let error = PlanError::Stride { role, stride, need: 64 };
    assert_eq!(check(spec.clone().with_strides(64, 63)), error);
    let halves = spec.clone().with_types(FloatType::F16, FloatType::F32).with_strides(65, 64);
    assert!(matches!(check(halves), PlanError::OddStride { role: Role::Activations, .. }));
    assert!(matches!(
        check(FakeQuantSpec::new(1 << 20, 64, spec.format)),
        PlanError::TooLarge { .. }
    ));
    assert!(FakeQuantSpec::new(2, u32::MAX, spec.format).check().is_err());

    let Some(host) = crate::common::host() else { return };
    let given = spec.clone().with_given_scales();
    let plan = block_on(FakeQuantPlan::new(host.kernels(), &given)).unwrap();
    let dynamic = block_on(FakeQuantPlan::new(host.kernels(), &spec)).unwrap();
    let buffers: Vec<_> = (0..7).map(|_| host.zeros(512 + 32).unwrap()).collect();
    let small = host.zeros(32).unwrap();
    let at = |i: usize| SubBuffer::from(&buffers[i]);
    let forward = FakeQuantArgs { input: at(0), scales: at(1), zeros: Some(at(2)), output: at(3) };
    let bind = |args| block_on(plan.bind(args)).map(drop);
    assert_eq!(bind(forward), Ok(()));
    let part = |role, planned| Err(BindError::Part { role, planned });
    assert_eq!(bind(FakeQuantArgs { zeros: None, ..forward }), part(Role::Zeros, true));
    let aliased = |role| Err(BindError::Aliased { role });
    // In place is refused, because a dispatch must not read and write the same buffer.
    let in_place = FakeQuantArgs { output: at(0), ..forward };
    assert_eq!(bind(in_place), aliased(Role::Activations));
    assert_eq!(bind(FakeQuantArgs { output: at(1), ..forward }), aliased(Role::Scales));
    // Scales and zero points that are only read may share a buffer, but not if they are written.
    let shared =
        FakeQuantArgs { zeros: Some(SubBuffer { buffer: &buffers[1], offset: 8 }), ..forward };
    assert_eq!(bind(shared), Ok(()));
    assert!(matches!(block_on(dynamic.bind(shared)), Err(BindError::Aliased { .. })));
    let short = FakeQuantArgs { output: (&small).into(), ..forward };
    assert!(matches!(bind(short), Err(BindError::TooSmall { role: Role::Output, .. })));
    let odd = FakeQuantArgs { input: SubBuffer { buffer: &buffers[0], offset: 4 }, ..forward };
    assert!(matches!(bind(odd), Err(BindError::Misaligned { align: 16, .. })));

    let backward = FakeQuantBackwardArgs {
        input: at(0),
        scales: at(1),
        zeros: Some(at(2)),
        output_gradient: at(3),
        input_gradient: at(4),
        scale_gradients: Some(at(5)),
        zero_gradients: Some(at(6)),
    };
    let bind = |args| block_on(plan.bind_backward(args)).map(drop);
    assert_eq!(bind(backward), Ok(()));
    let none = FakeQuantBackwardArgs { scale_gradients: None, ..backward };
    assert_eq!(bind(none), part(Role::ScaleGradients, true));
    let none = FakeQuantBackwardArgs { zero_gradients: None, ..backward };
    assert_eq!(bind(none), part(Role::ZeroGradients, true));
    let aliased_dx = FakeQuantBackwardArgs { input_gradient: at(3), ..backward };
    assert_eq!(bind(aliased_dx), aliased(Role::OutputGradient));
    let bind = |args| block_on(dynamic.bind_backward(args)).map(drop);
    assert_eq!(bind(backward), part(Role::ScaleGradients, false));
    let straight =
        FakeQuantBackwardArgs { scale_gradients: None, zero_gradients: None, ..backward };
    assert_eq!(bind(straight), Ok(()));
    let bound = block_on(plan.bind(forward)).unwrap();
    let error = RecordError::MTooLarge { m: 3, max_m: 2 };
    host.submit(|pass| assert_eq!(bound.record(pass, 3), Err(error))).unwrap();
}
