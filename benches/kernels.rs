//! Benchmarks of kernels on the best adapter: matmuls by row range and format, of floats and of X
//! that is quantized in the same submission; quantizing and dequantizing weights; the ops that have only
//! X; and attention.
//!
//! Each measurement is a whole submission, including the wait. `lowbit bench` compares such times
//! with the limits of the adapter.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowbit::compress::calibrate::Observer;
use lowbit::conformance::{Extent, Op, table};
use lowbit::format::{ActivationFormat, CacheFormat, PackedWeights, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    Activations, AttentionArgs, AttentionPlan, AttentionSpec, BoundQuantizeActivations,
    DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, FakeQuantArgs,
    FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec, FormatUse, MatmulArgs, MatmulPlan,
    MatmulSpec, ObserveArgs, ObservePlan, ObserveSpec, QuantizeActivationsArgs,
    QuantizeActivationsPlan, QuantizeActivationsSpec, QuantizeWeightsArgs, QuantizeWeightsPlan,
    QuantizeWeightsSpec, Select, SourceRows,
};
use pollster::block_on;
use std::collections::BTreeSet;

/// Returns the formats to measure: those of the case table that the device makes from floats, with aligned
/// groups and f32 scales.
fn formats() -> Vec<WeightFormat> {
    let cases = table(Extent::Quick);
    let names: BTreeSet<_> = cases.iter().map(|case| case.format.to_string()).collect();
    let timed = |name: &&String| {
        !name.contains("f16s") && !name.contains("tensor") && !name.contains("-g6")
    };
    let formats = names.iter().filter(timed).filter_map(|name| name.parse().ok());
    formats.filter(|format| FormatUse::QuantizeWeights.check(format).is_ok()).collect()
}

fn weights(n: usize, k: usize) -> Vec<f32> {
    (0..n * k).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn matmul(c: &mut Criterion, host: &Host) {
    let (n, k) = (1024, 1024);
    let w = weights(n, k);
    for m in [1u32, 7, 33, 128] {
        let mut group = c.benchmark_group(format!("matmul/m{m}n{n}k{k}"));
        group.throughput(Throughput::Elements(2 * u64::from(m) * (n * k) as u64));
        for format in formats() {
            let weights = host.compress(&w, n, k, &format).expect("finite weights");
            let spec = MatmulSpec::of(m, &weights);
            let plan =
                block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).expect("plan");
            let x = host.zeros(spec.x_bytes(m)).expect("X");
            let y = host.zeros(spec.y_bytes(m)).expect("Y");
            let bound = block_on(plan.bind(MatmulArgs {
                activations: (&x).into(),
                weights: &weights,
                bias: None,
                output: (&y).into(),
            }))
            .expect("bind");
            let id = BenchmarkId::new(plan.kernel(m).schedule.to_string(), format);
            group.bench_function(id, |b| {
                b.iter(|| host.submit(|pass| drop(bound.record(pass, m))).expect("run"));
            });
        }
        group.finish();
    }
}

/// Returns a plan that quantizes X, bound to its own buffers, and the buffer of codes.
fn quantizing(
    host: &Host,
    x: &wgpu::Buffer,
    (m, k): (u32, u32),
    format: ActivationFormat,
) -> (BoundQuantizeActivations, wgpu::Buffer) {
    let spec = QuantizeActivationsSpec::new(m, k, format);
    let plan = block_on(QuantizeActivationsPlan::new(host.kernels(), &spec)).expect("plan");
    let codes = host.zeros(plan.output_bytes(m)).expect("codes");
    let args =
        QuantizeActivationsArgs { activations: x.into(), given: None, output: (&codes).into() };
    (block_on(plan.bind(args)).expect("bind"), codes)
}

fn activation_formats() -> impl Iterator<Item = ActivationFormat> {
    let names = ["int8-token", "int8-token-asym", "int8-tensor", "int8-g128"];
    names.into_iter().map(|name| name.parse().expect("a format"))
}

/// Measures integer matmuls with X quantized in the same submission.
fn integer_matmul(c: &mut Criterion, host: &Host) {
    let (n, k) = (1024usize, 1024usize);
    let w = weights(n, k);
    for m in [1u32, 7, 33, 128] {
        let mut group = c.benchmark_group(format!("int-matmul/m{m}n{n}k{k}"));
        group.throughput(Throughput::Elements(2 * u64::from(m) * (n * k) as u64));
        let x = host.storage(bytemuck::cast_slice(&weights(m as usize, k))).expect("X");
        for format in ["int8-channel", "int4-g64", "2:4+int8-channel", "2:4+int4-g64"] {
            let format: WeightFormat = format.parse().expect("a format");
            let weights = host.compress(&w, n, k, &format).expect("finite weights");
            for activations in activation_formats() {
                let spec =
                    MatmulSpec::of(m, &weights).with_activations(Activations::Int8(activations));
                let plan =
                    block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).expect("plan");
                let (quantize, codes) = quantizing(host, &x, (m, k as u32), activations);
                let y = host.zeros(spec.y_bytes(m)).expect("Y");
                let bound = block_on(plan.bind(MatmulArgs {
                    activations: (&codes).into(),
                    weights: &weights,
                    bias: None,
                    output: (&y).into(),
                }))
                .expect("bind");
                let schedule = plan.kernel(m).schedule.to_string();
                let id = BenchmarkId::new(schedule, format!("{format}, {activations}"));
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let record = |pass: &mut wgpu::ComputePass<'_>| {
                            drop(quantize.record(pass, m).and(bound.record(pass, m)));
                        };
                        host.submit(record).expect("run");
                    });
                });
            }
        }
        group.finish();
    }
}

/// Measures quantizing X, observing X, and both passes of fake quantization.
fn of_x(c: &mut Criterion, host: &Host) {
    let (m, k) = (128u32, 1024u32);
    let shape = format!("m{m}k{k}");
    let values = weights(m as usize, k as usize);
    let x = host.storage(bytemuck::cast_slice(&values)).expect("X");
    let bytes = Throughput::Bytes(4 * u64::from(m * k));

    let mut group = c.benchmark_group(format!("quantize/{shape}"));
    group.throughput(bytes.clone());
    for format in activation_formats() {
        let (bound, _codes) = quantizing(host, &x, (m, k), format);
        group.bench_function(format.to_string(), |b| {
            b.iter(|| host.submit(|pass| drop(bound.record(pass, m))).expect("run"));
        });
    }
    group.finish();

    let mut group = c.benchmark_group(format!("observe/{shape}"));
    group.throughput(bytes.clone());
    let columns = k as usize;
    for observer in [Observer::tensor("tensor", columns), Observer::channels("channels", columns)] {
        let spec = ObserveSpec::of(&observer, m).expect("a spec");
        let plan = block_on(ObservePlan::new(host.kernels(), &spec)).expect("plan");
        let output = host.zeros(4 * spec.words()).expect("an observation");
        let args = ObserveArgs { activations: (&x).into(), output: (&output).into() };
        let bound = block_on(plan.bind(args)).expect("bind");
        group.bench_function(observer.layer(), |b| {
            b.iter(|| host.submit(|pass| drop(bound.record(pass, m))).expect("run"));
        });
    }
    group.finish();

    let mut group = c.benchmark_group(format!("fake-quant/{shape}"));
    group.throughput(bytes);
    let [y, dx] = [(); 2].map(|()| host.zeros(4 * u64::from(m * k)).expect("a matrix"));
    for format in ["int8-tensor-asym", "int8-channel", "int4-g64-asym"] {
        let format: WeightFormat = format.parse().expect("a format");
        let spec = FakeQuantSpec::new(m, k, format).with_given_scales().with_gradient_scale();
        let plan = block_on(FakeQuantPlan::new(host.kernels(), &spec)).expect("plan");
        let groups = spec.scales(m);
        let scales = vec![0.02f32; groups as usize];
        let scales = host.storage(bytemuck::cast_slice(&scales)).expect("scales");
        let zeros = host.zeros(4 * groups).expect("zero points");
        let [ds, dz] = [(); 2].map(|()| host.zeros(4 * groups).expect("gradients"));
        let asymmetric = !format.is_symmetric();
        let forward = block_on(plan.bind(FakeQuantArgs {
            input: (&x).into(),
            scales: (&scales).into(),
            zeros: asymmetric.then(|| (&zeros).into()),
            output: (&y).into(),
        }))
        .expect("bind");
        let backward = block_on(plan.bind_backward(FakeQuantBackwardArgs {
            input: (&x).into(),
            scales: (&scales).into(),
            zeros: asymmetric.then(|| (&zeros).into()),
            output_gradient: (&y).into(),
            input_gradient: (&dx).into(),
            scale_gradients: Some((&ds).into()),
            zero_gradients: asymmetric.then(|| (&dz).into()),
        }))
        .expect("bind");
        group.bench_function(format!("{format}, forward"), |b| {
            b.iter(|| host.submit(|pass| drop(forward.record(pass, m))).expect("run"));
        });
        group.bench_function(format!("{format}, backward"), |b| {
            b.iter(|| host.submit(|pass| drop(backward.record(pass, m))).expect("run"));
        });
    }
    group.finish();
}

fn make(c: &mut Criterion, host: &Host) {
    let (n, k) = (1024, 1024);
    let w = weights(n, k);
    let source = host.storage(bytemuck::cast_slice(&w)).expect("W");
    let mut group = c.benchmark_group(format!("{}/n{n}k{k}", Op::Compress.name()));
    group.throughput(Throughput::Bytes(4 * (n * k) as u64));
    for format in formats() {
        let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format);
        let plan = block_on(QuantizeWeightsPlan::new(host.kernels(), &spec)).expect("plan");
        let output =
            block_on(DeviceWeights::allocate(host.kernels(), format, n, k)).expect("weights");
        let rows = [SourceRows { at: (&source).into(), rows: n }];
        let args = QuantizeWeightsArgs { source: &rows, mask: None, output: &output };
        let bound = block_on(plan.bind(args)).expect("bind");
        group.bench_function(format.to_string(), |b| {
            b.iter(|| host.submit(|pass| drop(bound.record(pass, n as u32))).expect("run"));
        });
    }
    group.finish();
}

fn dequantize(c: &mut Criterion, host: &Host) {
    let (n, k) = (1024, 1024);
    let w = weights(n, k);
    let mut group = c.benchmark_group(format!("{}/n{n}k{k}", Op::Dequantize.name()));
    group.throughput(Throughput::Bytes(4 * (n * k) as u64));
    for format in formats() {
        let weights = host.compress(&w, n, k, &format).expect("finite weights");
        let spec = DequantizeSpec::of(&weights);
        let plan = block_on(DequantizePlan::new(host.kernels(), &spec)).expect("plan");
        let output = host.zeros(spec.output_bytes(spec.rows())).expect("output");
        let args = DequantizeArgs { weights: &weights, indices: None, output: (&output).into() };
        let bound = block_on(plan.bind(args)).expect("bind");
        group.bench_function(format.to_string(), |b| {
            b.iter(|| host.submit(|pass| drop(bound.record(pass, n as u32))).expect("run"));
        });
    }
    group.finish();
}

/// Measures the conversion of canonical weights to the kernel layout, on the device and on one
/// thread of the host.
fn repack(c: &mut Criterion, host: &Host) {
    let (n, k) = (1024, 1024);
    let w = weights(n, k);
    let mut group = c.benchmark_group(format!("repack/n{n}k{k}"));
    for format in ["f16", "int8-channel", "int4-g64-asym", "2:4+int4-g64-asym"] {
        let format: WeightFormat = format.parse().expect("a format");
        let packed = PackedWeights::quantize(&w, n, k, &format).expect("finite weights");
        group.bench_function(format!("{format}, device"), |b| {
            b.iter(|| host.repack(&packed).expect("weights"));
        });
        group.bench_function(format!("{format}, host"), |b| {
            b.iter(|| host.upload(&packed).expect("weights"));
        });
    }
    group.finish();
}

/// Measures all matmuls of a small encoder (MiniLM's shapes, up to 128 rows) on fresh kernels. They
/// are planned, bound and run once per row range, because some drivers compile at the first
/// dispatch. This is done without and with the driver's pipeline cache of an earlier build. Mesa
/// also keeps a cache of its own on disk; `MESA_SHADER_CACHE_DISABLE=true` shows the times without
/// it.
fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan/MiniLM");
    let cache = tempfile::tempdir().expect("a folder");
    // The adapter is requested as `Host::new` does it.
    let adapter =
        block_on(wgpu::Instance::default().request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        }))
        .expect("the adapter that the host has");
    for format in ["f16", "int8-channel", "int4-g64-asym", "2:4+int8-channel"] {
        let format = format.parse().expect("a format");
        group.bench_function(format!("{format}, compiled"), |b| {
            b.iter_batched(
                || Matrices::new(Host::with_adapter(&adapter).expect("a host"), format),
                |matrices| matrices.run(),
                BatchSize::PerIteration,
            );
        });
        // SAFETY: the folder is new and belongs to this process.
        let cached = || unsafe { Host::with_pipelines_in(&adapter, cache.path()) };
        let first = Matrices::new(cached().expect("a host"), format);
        first.run();
        if !first.host.save_pipelines(cache.path()).expect("a file") {
            eprintln!("SKIPPED: the adapter has no pipeline cache");
            continue;
        }
        group.bench_function(format!("{format}, cached"), |b| {
            b.iter_batched(
                || Matrices::new(cached().expect("a host"), format),
                |matrices| matrices.run(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// The matrices of one layer of a small encoder, on a device of their own.
struct Matrices {
    host: Host,
    weights: Vec<DeviceWeights>,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl Matrices {
    fn new(host: Host, format: WeightFormat) -> Self {
        let shapes = [(384, 384), (1536, 384), (384, 1536)];
        let upload = |(n, k)| {
            let packed = PackedWeights::quantize(&weights(n, k), n, k, &format);
            host.upload(&packed.expect("finite weights")).expect("weights")
        };
        let [x, y, bias] = [128 * 1536 * 4, 128 * 1536 * 4, 1536 * 4]
            .map(|bytes| host.zeros(bytes).expect("a buffer"));
        Self { weights: shapes.map(upload).into(), host, x, y, bias }
    }

    fn run(&self) {
        for weights in &self.weights {
            let spec = MatmulSpec::of(128, weights).with_bias();
            let plan = block_on(MatmulPlan::new(self.host.kernels(), &spec, Select::Auto));
            let bound = block_on(plan.expect("plan").bind(MatmulArgs {
                activations: (&self.x).into(),
                weights,
                bias: Some((&self.bias).into()),
                output: (&self.y).into(),
            }))
            .expect("bind");
            for m in [1, 8, 64, 128] {
                self.host
                    .submit(|pass| bound.record(pass, m).expect("m is in range"))
                    .expect("run");
            }
        }
    }
}

/// Attention with the heads of SmolLM2-135M: one row over caches of 128 to 2048 tokens, and a prompt of
/// 512 rows, with the kernels that the adapter takes and those that need no subgroups.
fn attention(c: &mut Criterion, host: &Host) {
    for (m, slots) in [(1, 128), (1, 256), (1, 512), (1, 1024), (1, 2048), (512, 512)] {
        let mut group = c.benchmark_group(format!("attention/m{m}s{slots}"));
        for cache in CacheFormat::ALL {
            for plain in [false, true] {
                let spec = AttentionSpec::new(m, 9, 3, 64, slots).with_cache(cache);
                let spec = if plain { spec.plain() } else { spec };
                let plan = block_on(AttentionPlan::new(host.kernels(), &spec)).expect("plan");
                let bytes = plan.layout().bytes();
                group.throughput(Throughput::Bytes(2 * bytes));
                let rows: Vec<u32> =
                    (0..m).flat_map(|row| [row, slots - m + row, 0, slots - m + row + 1]).collect();
                let rows = host.storage(&rows).expect("rows");
                let zeros = |bytes| host.zeros(bytes).expect("memory");
                let (queries, output) = (zeros(spec.q_bytes(m)), zeros(spec.y_bytes(m)));
                let (keys, values) = (zeros(bytes), zeros(bytes));
                let bound = block_on(plan.bind(AttentionArgs {
                    queries: (&queries).into(),
                    keys: (&keys).into(),
                    values: (&values).into(),
                    rows: (&rows).into(),
                    bias: None,
                    output: (&output).into(),
                    scratch: None,
                }))
                .expect("bind");
                let kind = if plain { "plain" } else { "chosen" };
                group.bench_function(BenchmarkId::new(kind, cache), |b| {
                    b.iter(|| host.submit(|pass| drop(bound.record(pass, m))).expect("run"));
                });
            }
        }
    }
}

fn all(c: &mut Criterion) {
    let host = match Host::new() {
        Ok(host) => host,
        Err(error) if std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() => {
            eprintln!("SKIPPED: {error}");
            return;
        }
        Err(error) => panic!("LOWBIT_REQUIRE_GPU is set, and {error}"),
    };
    let info = host.adapter_info();
    eprintln!("on {} ({} {})", info.name, info.driver, info.driver_info);
    matmul(c, &host);
    integer_matmul(c, &host);
    of_x(c, &host);
    make(c, &host);
    dequantize(c, &host);
    repack(c, &host);
    attention(c, &host);
    plans(c);
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(10);
    targets = all
}
criterion_main!(kernels);
