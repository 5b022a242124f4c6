//! Benchmarks of making weights on the host: quantizing, pruning, packing, and converting to the
//! kernel layout.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lowbit::compress::{compress24, prune_magnitude, quantize};
use lowbit::format::{DeviceLayout, RowOrder, WeightFormat};

fn host(c: &mut Criterion) {
    let (n, k) = (512, 1024);
    let w: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect();
    let names = ["f16", "int8-channel", "int8-g64-asym", "int4-g64-asym", "2:4+int4-g64-asym"];
    let formats = names.map(|name| name.parse::<WeightFormat>().expect("a format"));

    let mut group = c.benchmark_group("host quantize");
    group.throughput(Throughput::Bytes(4 * (n * k) as u64));
    for format in formats {
        group.bench_function(format.to_string(), |b| {
            b.iter(|| quantize(&w, n, k, &format).expect("finite weights"));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("host 2:4");
    group.throughput(Throughput::Bytes(4 * (n * k) as u64));
    group.bench_function("prune by magnitude", |b| {
        b.iter(|| prune_magnitude(&w, n, k).expect("finite weights"));
    });
    let mask = prune_magnitude(&w, n, k).expect("finite weights");
    group.bench_function("compress", |b| {
        b.iter(|| compress24(&w, &mask).expect("the mask fits"));
    });
    group.finish();

    let mut group = c.benchmark_group("host packing");
    group.throughput(Throughput::Elements((n * k) as u64));
    for format in formats {
        let packed = quantize(&w, n, k, &format).expect("finite weights");
        let layout = DeviceLayout::new(format, n, k, RowOrder::Rows).expect("a shape");
        group.bench_function(format.to_string(), |b| b.iter(|| layout.pack(&packed, 0..n)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = host
}
criterion_main!(benches);
