use lowbit::format::*;
use lowbit::ops::matmul::*;
use lowbit::ops::*;
mod common;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
#[test]
fn smoke() {
    let host = lowbit::host::Host::new().unwrap();
    for name in [
        "f32",
        "f16",
        "int8-channel",
        "int4-g32-asym",
        "int4-g6-asym-f16s",
        "2:4+int8-channel",
        "2:4+f16",
        "2:4+int4-g6-asym-f16s",
    ] {
        let format: WeightFormat = name.parse().unwrap();
        let (m, n, k) = (8, 64, 64);
        let w: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let packed = lowbit::compress::quantize(&w, n, k, &format).unwrap();
        let dev = host.upload(&packed).unwrap();
        for s in Schedule::all(64) {
            let t = cpu();
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
            let t1 = cpu();
            host.submit(|p| b.record(p, m as u32).unwrap()).unwrap();
            eprintln!("{:40} plan {:.2} first {:.2}", plan.kernel(8).name(), t1 - t, cpu() - t1);
        }
    }
}
