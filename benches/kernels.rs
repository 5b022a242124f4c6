//! Kernels on the best adapter: matmul by regime and format, making weights, undoing them.
//! Whole submissions, the wait counted in; `lowbit bench` sets them beside the adapter's
//! limits.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lowbit::conformance::{Extent, Op, table};
use lowbit::format::{PackedWeights, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::{
    DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, MakeArgs, MakePlan, MakeSpec,
    MatmulArgs, MatmulPlan, MatmulSpec, Select, SourceRows,
};
use pollster::block_on;
use std::collections::BTreeSet;

/// The formats of the case table whose groups align, f32 scales only: what is timed.
fn formats() -> Vec<WeightFormat> {
    let cases = table(Extent::Quick);
    let names: BTreeSet<_> = cases.iter().map(|case| case.format.to_string()).collect();
    let timed = |name: &&String| {
        !name.contains("f16s") && !name.contains("tensor") && !name.contains("-g6")
    };
    names.iter().filter(timed).filter_map(|name| name.parse().ok()).collect()
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

fn make(c: &mut Criterion, host: &Host) {
    let (n, k) = (1024, 1024);
    let w = weights(n, k);
    let source = host.storage(bytemuck::cast_slice(&w)).expect("W");
    let mut group = c.benchmark_group(format!("{}/n{n}k{k}", Op::Compress.name()));
    group.throughput(Throughput::Bytes(4 * (n * k) as u64));
    for format in formats() {
        let spec = MakeSpec::new(n as u32, k as u32, format);
        let plan = block_on(MakePlan::new(host.kernels(), &spec)).expect("plan");
        let output =
            block_on(DeviceWeights::allocate(host.kernels(), format, n, k)).expect("weights");
        let rows = [SourceRows { at: (&source).into(), rows: n }];
        let args = MakeArgs { source: &rows, mask: None, output: &output };
        let bound = block_on(plan.bind(args)).expect("bind");
        group.bench_function(format.to_string(), |b| {
            b.iter(|| host.submit(|pass| bound.record(pass)).expect("run"));
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
            b.iter(|| host.submit(|pass| bound.record(pass)).expect("run"));
        });
    }
    group.finish();
}

/// Canonical weights to the layout of kernels: on the device, and on one thread of the host.
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

/// All matmuls of a small encoder (MiniLM's shapes, up to 128 rows) on fresh kernels, planned,
/// bound and run once in each regime, since some drivers compile at the first dispatch: as the
/// driver compiles them, and with its pipeline cache of an earlier build. Mesa keeps a cache of
/// its own on disk: `MESA_SHADER_CACHE_DISABLE=true` shows both without it.
fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan/MiniLM");
    let cache = tempfile::tempdir().expect("a folder");
    // As `Host::new` asks for it.
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
        // SAFETY: the folder is fresh, and this process's own.
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

/// The matrices of a small encoder's layer on a device of their own.
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
    make(c, &host);
    dequantize(c, &host);
    repack(c, &host);
    plans(c);
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(10);
    targets = all
}
criterion_main!(kernels);
