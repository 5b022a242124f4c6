//! What several tests need: every format, naga, adapters.
#![allow(dead_code)]

use lowbit::format::{RowOrder, WeightFormat};
use lowbit::gpu::{Caps, Feature, Fragment, KernelDesc};
use lowbit::host::Host;
use lowbit::ops::registry::{self, Kernel};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

/// Returns the shared device and, on the same device, kernels for a small one: without what a small
/// device lacks, and with lower limits of a binding and a grid. Returns nothing if there is no adapter.
/// Tests that ask for the same limits share their kernels.
pub fn large_and_small(max_binding: u64, max_groups: u32) -> Vec<&'static Host> {
    type Small = BTreeMap<(u64, u32), &'static Host>;
    static SMALL: Mutex<Small> = Mutex::new(Small::new());
    let Some(host) = host() else { return Vec::new() };
    let mut small = SMALL.lock().unwrap_or_else(PoisonError::into_inner);
    let small = small.entry((max_binding, max_groups)).or_insert_with(|| {
        let mut caps = host.kernels().caps().clone();
        (caps.int64, caps.subgroup, caps.exact_f16_unpack) = (false, 0, false);
        (caps.max_binding, caps.max_groups) = (max_binding, max_groups);
        let (info, device) = (host.adapter_info().clone(), host.device().clone());
        // As long as the process, like the shared device.
        Box::leak(Box::new(Host::with_caps(info, device, host.queue().clone(), &caps).unwrap()))
    });
    vec![host, small]
}

/// `x·Wᵀ + b` with rows of `k`, in eight partial sums, which the compiler turns into vectors.
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], k: usize) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| {
        let mut sums = [0.0; 8];
        for (x, w) in x.chunks(8).zip(w.chunks(8)) {
            for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
                *sum += x * w;
            }
        }
        sums.iter().sum::<f32>()
    };
    let rows = || weight.chunks_exact(k).zip(bias);
    x.chunks_exact(k).flat_map(|x| rows().map(move |(w, bias)| bias + dot(x, w))).collect()
}

/// Returns the same device with the other row order.
pub fn other_order(host: &Host) -> Host {
    let mut caps = host.kernels().caps().clone();
    caps.row_order = match caps.row_order {
        RowOrder::Rows => RowOrder::Panels,
        RowOrder::Panels => RowOrder::Rows,
    };
    let (info, device) = (host.adapter_info().clone(), host.device().clone());
    Host::with_caps(info, device, host.queue().clone(), &caps).unwrap()
}

/// Every format that exists, with groups that scales align with and groups that they do not.
pub fn all_formats() -> Vec<WeightFormat> {
    WeightFormat::all([32, 6])
}

/// Parses and validates a kernel with the features that its fragments declare and no others.
pub fn validate(kernel: &KernelDesc) -> (naga::Module, naga::valid::ModuleInfo) {
    use naga::valid::Capabilities;
    let wgsl = kernel.compose().unwrap_or_else(|error| panic!("{}: {error}", kernel.id));
    let features = kernel.features().unwrap();
    let has = |feature: Feature| features.contains(&feature);
    let converts = |f: &Fragment| f.name == "lib/half_pair_native";
    let mut capabilities = Capabilities::empty();
    for (capability, on) in [
        (Capabilities::SHADER_INT64, has(Feature::Int64)),
        (Capabilities::SUBGROUP, has(Feature::Subgroups)),
        (Capabilities::SHADER_FLOAT16, has(Feature::F16)),
        (Capabilities::COOPERATIVE_MATRIX, has(Feature::Matrix8) || has(Feature::Matrix16)),
        // Any device has unpack2x16float, but naga counts it as an extension.
        (Capabilities::SHADER_FLOAT16_IN_FLOAT32, kernel.resolve().unwrap().iter().any(converts)),
    ] {
        capabilities.set(capability, on);
    }
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let mut frontend = naga::front::wgsl::Frontend::new_with_options(options);
    let module = frontend.parse(&wgsl.source).unwrap_or_else(|error| {
        panic!("{}: {}", kernel.id, wgsl.explain(&error.emit_to_string(&wgsl.source)))
    });
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    let info = validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", kernel.id, error.emit_to_string(&wgsl.source)));
    (module, info)
}

/// Whether tests that draw at random or look for leaks run longer: `make test-all` asks for it.
pub fn long() -> bool {
    std::env::var_os("LOWBIT_SOAK").is_some_and(|value| value == "long")
}

/// Returns one of each `turns` items, another one for each `LOWBIT_SAMPLE`, so that the commits of a branch take turns;
/// or all of them if tests run [`long`].
pub fn some_of<T>(items: impl IntoIterator<Item = T>, turns: usize) -> Vec<T> {
    let taken = |(index, item)| in_turn(index, turns).then_some(item);
    items.into_iter().enumerate().filter_map(taken).collect()
}

/// Returns whether item `index` is one that [`some_of`] takes.
pub fn in_turn(index: usize, turns: usize) -> bool {
    long() || index % turns == sample() % turns
}

/// Returns `LOWBIT_SAMPLE`, or 0.
pub fn sample() -> usize {
    std::env::var("LOWBIT_SAMPLE").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// All kernels of the registry.
pub fn kernels() -> &'static [Kernel] {
    static KERNELS: LazyLock<Vec<Kernel>> = LazyLock::new(registry::all);
    &KERNELS
}

/// Those of the kernels whose shaders differ.
pub fn shaders() -> &'static [Kernel] {
    static SHADERS: LazyLock<Vec<Kernel>> =
        LazyLock::new(|| registry::distinct_shaders(kernels().to_vec()));
    &SHADERS
}

/// Chooses what a test takes of all shaders or kernels, whose fragments and constants are `parts`. By default
/// any two parts that occur together do so in one that is chosen. `LOWBIT_TARGETS=N` adds one of each N,
/// others for each `LOWBIT_SAMPLE`, as `make test-all` does; `LOWBIT_TARGETS=all` takes all of them.
pub fn chosen<T: Clone>(all: Vec<T>, parts: impl Fn(&T) -> Vec<String>) -> Vec<T> {
    let mut share = Vec::new();
    match std::env::var("LOWBIT_TARGETS").as_deref() {
        Ok("all") => return all,
        Ok(text) => {
            let every = text.parse().ok().filter(|&every| every > 0);
            let every: usize = every.expect("LOWBIT_TARGETS is `all` or a number from 1");
            share.extend(all.iter().skip(sample() % every).step_by(every).cloned());
        }
        Err(_) => {}
    }
    let mut chosen = lowbit::ops::registry::covering(all, parts);
    chosen.append(&mut share);
    chosen
}

/// Returns the path of a model or a text in `data/`, which `make TARGET` fetches. Where it is not there, says that
/// the test is skipped and returns `None`, or panics if `LOWBIT_REQUIRE_MODEL` is 1. Nothing requires what `make
/// model` does not fetch.
pub fn data(file: &str, target: &str) -> Option<PathBuf> {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = folders.find(|folder| folder.join("shaders").is_dir()).unwrap();
    let path = root.join("data").join(file);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("there is no data/{file}: run `make {target}`");
    let required = std::env::var_os("LOWBIT_REQUIRE_MODEL").is_some_and(|value| value == "1");
    assert!(!required || target != "model", "{missing}, and LOWBIT_REQUIRE_MODEL is set");
    skipped(missing);
    None
}

/// Says that a test, or a part of it, is skipped, and why. Unlike `eprintln!` this reaches the log even
/// if the test passes.
pub fn skipped(reason: impl std::fmt::Display) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // If stderr is closed, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Returns a device of the best adapter that all tests of this process share, so that each kernel is
/// compiled once. Where there is no adapter, says that the test is skipped and returns `None`, or
/// panics if `LOWBIT_REQUIRE_GPU` is set.
pub fn host() -> Option<&'static Host> {
    static HOST: OnceLock<Option<Host>> = OnceLock::new();
    HOST.get_or_init(own_host).as_ref().or_else(|| {
        skipped("there is no adapter");
        None
    })
}

/// Returns a device that no other test uses: for tests that measure what it has allocated or compiled,
/// or that lose it. Skips and panics as [`host`] does.
pub fn own_host() -> Option<Host> {
    match Host::new() {
        Ok(host) => {
            static ONCE: std::sync::Once = std::sync::Once::new();
            let info = host.adapter_info();
            ONCE.call_once(|| eprintln!("on {} ({} {})", info.name, info.driver, info.driver_info));
            Some(host)
        }
        Err(error) if std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() => {
            skipped(error);
            None
        }
        Err(error) => panic!("LOWBIT_REQUIRE_GPU is set, and {error}"),
    }
}

/// The best adapter, that [`host`] has a device of.
pub fn adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::default();
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    pollster::block_on(instance.request_adapter(&options)).unwrap()
}

/// A device of the same adapter with lower limits. The device has them, not only our
/// [`Caps`](lowbit::gpu::Caps): what exceeds them it refuses.
pub fn host_within(like: &Host, lower: impl FnOnce(&mut wgpu::Limits)) -> Host {
    let adapter = adapter();
    assert_eq!(adapter.get_info().name, like.adapter_info().name);
    let mut limits = adapter.limits();
    lower(&mut limits);
    Host::with_limits(&adapter, limits).unwrap()
}

/// A device that validates like any other and executes nothing.
pub struct Noop {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    errors: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Noop {
    /// A device with these limits and no features.
    pub fn new(limits: wgpu::Limits) -> Self {
        let noop = wgpu::NoopBackendOptions {
            enable: true,
            limits: Some(limits.clone()),
            ..Default::default()
        };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::NOOP,
            backend_options: wgpu::BackendOptions { noop, ..Default::default() },
            // Checking indirect dispatches, which there are none of, caps the size of buffers.
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_limits: limits,
            ..Default::default()
        }))
        .unwrap();
        assert_eq!(device.features(), wgpu::Features::empty());
        let errors = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let uncaptured = errors.clone();
        device.on_uncaptured_error(std::sync::Arc::new(move |error: wgpu::Error| {
            uncaptured.lock().unwrap().push(error.to_string());
        }));
        Self { device, queue, errors }
    }

    pub fn kernels(&self) -> lowbit::gpu::Kernels {
        self.kernels_with(|_| ())
    }

    /// Kernels that are told of lower limits than the device has. Rows lie one after the other,
    /// as on a GPU; tests/split.rs and the case table have them in panels.
    pub fn kernels_with(
        &self,
        change: impl FnOnce(&mut lowbit::gpu::Caps),
    ) -> lowbit::gpu::Kernels {
        let mut caps =
            Caps::new(&self.device.adapter_info(), &self.device.limits(), self.device.features());
        caps.row_order = RowOrder::Rows;
        change(&mut caps);
        let kernels = pollster::block_on(lowbit::gpu::Kernels::new(&self.device, &caps)).unwrap();
        let flag = kernels.lost_flag().clone();
        self.device.set_device_lost_callback(move |_, message| flag.set(message));
        kernels
    }

    /// A storage buffer.
    pub fn buffer(&self, size: u64) -> wgpu::Buffer {
        self.buffer_for(size, wgpu::BufferUsages::STORAGE)
    }

    pub fn buffer_for(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let label = None;
        let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    /// Records a pass, finishes and submits it, with no error scope around.
    pub fn submit(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        record(&mut encoder.begin_compute_pass(&Default::default()));
        self.queue.submit([encoder.finish()]);
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    /// What reached the uncaptured handler since the last call.
    pub fn uncaptured(&self) -> Vec<String> {
        std::mem::take(&mut *self.errors.lock().unwrap())
    }

    #[track_caller]
    pub fn assert_quiet(&self) {
        assert_eq!(self.uncaptured(), [] as [String; 0]);
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1…1, never 0.
    pub fn float(&mut self) -> f32 {
        ((self.next() >> 41) as f32 + 0.5) / (1u32 << 22) as f32 - 1.0
    }
}

/// Random weights in a format.
pub fn random_weights(
    format: WeightFormat,
    n: usize,
    k: usize,
    seed: u64,
) -> lowbit::format::PackedWeights {
    let mut random = Random(seed);
    let w: Vec<f32> = (0..n * k).map(|_| random.float()).collect();
    lowbit::compress::quantize(&w, n, k, &format).unwrap()
}

/// Random numbers in −1…1.
pub fn floats(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.float()).collect()
}

/// Uploads, multiplies and reads back: results must be within the proven bound of the oracle's.
/// What shows that a device works.
pub fn multiplies(host: &lowbit::host::Host) -> Result<(), lowbit::host::HostError> {
    let (m, n, k) = (3, 24, 64);
    let packed = random_weights("2:4+int4-g32-asym".parse().unwrap(), n, k, 1);
    let x = floats(m * k, 2);
    let y = host.matmul(&x, m, &host.upload(&packed)?, None)?;
    assert_within_bound(&packed, &x, m, &y);
    Ok(())
}

/// Y of `X · Wᵀ` against the oracle and its bound.
#[track_caller]
pub fn assert_within_bound(packed: &lowbit::format::PackedWeights, x: &[f32], m: usize, y: &[f32]) {
    use lowbit::reference;
    let expected = reference::matmul(&reference::MatmulCase {
        x,
        m,
        weights: packed,
        bias: None,
        output: reference::OutputType::F32,
        zero_folded: false,
    });
    let expected = expected.unwrap();
    assert_eq!(y.len(), expected.len());
    for (want, &got) in expected.iter().zip(y) {
        assert!(reference::check(want, got).passes(), "{got}, must be {}", want.value);
    }
}

/// The same with X quantized by rows on the device: a code is within half a step of its x, and 4 ulp
/// of at most 127 steps, since x is multiplied by a reciprocal. The products of codes are exact; what
/// follows has fewer roundings than the K products and sums whose bound the oracle gives, and loses
/// less than 10⁻⁴ of what the codes are off.
#[track_caller]
pub fn quantizes_and_multiplies(
    host: &lowbit::host::Host,
    packed: &lowbit::format::PackedWeights,
    x: &[f32],
    m: usize,
) -> Result<(), lowbit::host::HostError> {
    use lowbit::format::{ActivationFormat, ActivationFunction, ActivationGranularity};
    use lowbit::{format::Quantization, reference};
    let (n, k) = (packed.n(), packed.k());
    let format = ActivationFormat::int8(ActivationGranularity::Token);
    let (how, function) = (Quantization::Dynamic(format), ActivationFunction::Identity);
    let y = host.quantized_matmul(x, m, &host.upload(packed)?, None, how, function)?;
    let output = reference::OutputType::F32;
    let plain =
        reference::MatmulCase { x, m, weights: packed, bias: None, output, zero_folded: false };
    let expected = reference::matmul(&plain).unwrap();
    assert_eq!(y.len(), expected.len());
    let w = reference::dequantize_f64(packed).unwrap();
    for (at, (&got, want)) in y.iter().zip(&expected).enumerate() {
        let (row, column) = (at / n, at % n);
        let largest = x[row * k..][..k].iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let sum: f64 = w[column * k..][..k].iter().map(|w| w.abs()).sum();
        let off = (0.5 / 127.0 + 4.0 / 8_388_608.0) * f64::from(largest) * sum;
        let error = (f64::from(got) - want.value).abs();
        assert!(error <= 1.0001 * off + want.bound, "{got}, not {} ± {off}", want.value);
    }
    Ok(())
}

/// Fake quantization by the data's own ranges, and its gradients, against the oracle.
#[track_caller]
pub fn fakes(
    host: &lowbit::host::Host,
    format: &lowbit::format::WeightFormat,
    (x, dy): (&[f32], &[f32]),
    (m, k): (usize, usize),
) -> Result<(), lowbit::host::HostError> {
    use lowbit::reference::{self, FakeQuantCase, FakeQuantGradients, OutputType};
    let made = host.fake_quantize(x, m, k, format)?;
    let side = (&made.scales[..], &made.zeros[..]);
    let case = FakeQuantCase { format, x, k, scales: side.0, zeros: side.1 };
    assert_eq!(reference::check_fake_ranges(&case).unwrap().fault, None);
    assert_eq!(
        reference::check_fake_quantize(&case, OutputType::F32, &made.y).unwrap().fault,
        None
    );
    let back = host.fake_quantize_backward((x, dy), m, k, format, side, true)?;
    let back = FakeQuantGradients { x: back.x, scales: back.scales, zeros: back.zeros };
    let judged = reference::check_fake_gradients(&case, dy, true, OutputType::F32, &back);
    assert_eq!(judged.unwrap().fault, None);
    Ok(())
}
