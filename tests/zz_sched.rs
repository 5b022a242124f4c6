use lowbit::format::*;
use lowbit::ops::matmul::*;
use lowbit::ops::*;
#[test]
fn sched() {
    let host = lowbit::host::Host::new().unwrap();
    for (m, n, k) in
        [(1usize, 4096usize, 4096usize), (7, 1536, 384), (12, 1536, 384), (128, 1024, 1024)]
    {
        for name in ["f32", "int8-channel", "int4-g64-asym", "2:4+int8-channel"] {
            let format: WeightFormat = name.parse().unwrap();
            let w: Vec<f32> =
                (0..n * k).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
            let dev = host.compress(&w, n, k, &format).unwrap();
            let mut line = format!("{m}x{n}x{k} {name:20}");
            for s in Schedule::all(k as u32) {
                let spec = MatmulSpec::new(m as u32, n as u32, k as u32, format);
                let plan =
                    pollster::block_on(MatmulPlan::new(host.kernels(), &spec, Select::Pinned(s)))
                        .unwrap();
                let x = host.zeros(4 * (m * k) as u64).unwrap();
                let y = host.zeros(4 * (m * n) as u64).unwrap();
                let b = pollster::block_on(plan.bind(MatmulArgs {
                    activations: (&x).into(),
                    weights: &dev,
                    bias: None,
                    output: (&y).into(),
                }))
                .unwrap();
                host.submit(|p| b.record(p, m as u32).unwrap()).unwrap();
                let mut best = f64::MAX;
                for _ in 0..8 {
                    let t = std::time::Instant::now();
                    host.submit(|p| b.record(p, m as u32).unwrap()).unwrap();
                    best = best.min(t.elapsed().as_secs_f64());
                }
                line += &format!(
                    " {s}:{:.1}ms({:.1}G)",
                    best * 1e3,
                    2.0 * (m * n * k) as f64 / best / 1e9
                );
            }
            eprintln!("{line}");
        }
    }
}
